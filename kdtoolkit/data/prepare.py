"""From a recipe to the rows of each task on disk: found, read, checked, split, written once."""

from __future__ import annotations

import contextlib
import itertools
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..example import Example, example_id
from ..files import atomic_folder, read_json, write_json
from ..progress import track
from ..recipe.schema import Recipe
from ..tasks import Task
from .gold import GoldReader, LabelNames
from .layout import Split
from .plan import Plan, asked_for, find_inputs, open_inputs, together
from .readers import DelimitedFile, Source, shown
from .rows import Rows, RowWriter
from .split import Role, assign_roles

LONGEST_TEXT = 100_000
"""Characters of a text that are kept."""

LEAST_ROWS_TO_SPLIT = 10
"""A tenth of fewer labelled rows than this is no dev split."""

AUGMENTED = "augmented"
"""The split that `augment:` adds."""

ORDERED = ("entail", "contradict", "impl", "answer")
"""Parts of the names of labels that are about one text in the light of the other."""

FILES_GONE = "the files are not there any more; the rows prepared from them are used"


@dataclass
class TaskRows:
    """The rows of a task, split by split, and what its user should know about them.

    task: with columns, label names and `pair` known.
    splits: train (gold rows and transfer rows, in the order of the file), teacher, calibration, dev, test and further
    ones of the task; those that do not exist are absent. All rows but those of train have a gold label. Where a recipe
    generates text, `augmented` is added to them: train, then the generated rows, without labels.
    notes: sentences.
    """

    task: Task
    splits: dict[str, Rows]
    notes: list[str] = field(default_factory=list)

    @property
    def student_split(self) -> str:
        """The split that a student is distilled on: augmented if there is one, else train."""
        return AUGMENTED if AUGMENTED in self.splits else "train"

    def digest(self) -> str:
        """Hex digits of the task and of all rows with their labels, whatever files they came from."""
        digest = blake2b(json.dumps(self.task.to_dict(), sort_keys=True).encode(), digest_size=16)
        for split, rows in sorted(self.splits.items()):
            digest.update(f"{split} {len(rows)}".encode())
            digest.update(np.ascontiguousarray(rows.ids()).tobytes())
            digest.update(np.ascontiguousarray(rows.labels()).tobytes())
        return digest.hexdigest()


def prepare_task(task: Task, recipe: Recipe, folder: Path | str) -> TaskRows:
    """Reads and checks the data of one task and writes `folder`/SPLIT.arrow and `folder`/task.json.

    `folder` belongs to this function: it appears, or is replaced, as a whole. If it was made from the same files,
    recipe section and seed, or if those files are gone, it is opened as it is.
    Raises InputError for what is wrong in the data, with file and line.
    """
    plan = _plan_or_rows(task, recipe, Path(folder))
    return plan if isinstance(plan, TaskRows) else _write(plan, Path(folder))


def prepare_all(recipe: Recipe, folder: Path | str) -> dict[str, TaskRows]:
    """`prepare_task` for every task of the recipe, into `folder`/TASK; the problems of all tasks are reported together.

    All files are opened and their columns found before the first one is read through.
    """
    with together() as attempt:
        plans = {t.name: attempt(_plan_or_rows, t, recipe, Path(folder) / t.name) for t in recipe.task_list()}
    prepared: dict[str, TaskRows] = {}
    with together() as attempt:
        for name, plan in plans.items():
            prepared[name] = plan if isinstance(plan, TaskRows) else attempt(_write, plan, Path(folder) / name)
    return prepared


def _plan_or_rows(task: Task, recipe: Recipe, folder: Path) -> Plan | TaskRows:
    kept = read_json(folder / "task.json") if (folder / "task.json").is_file() else {}
    whole = all((folder / f"{split}.arrow").is_file() for split in kept.get("rows", ()))
    if kept.get("asked") != asked_for(task, recipe) or not whole:
        return open_inputs(find_inputs(task, recipe))
    # A run can be resumed and measured again where its data are no more: the prepared rows are all it needs.
    gone = recipe.data.folder is not None and not Path(recipe.data.folder).expanduser().is_dir()
    if not gone:
        inputs = find_inputs(task, recipe)
        gone = inputs.missing
        if not gone and inputs.state != kept["files"]:
            return open_inputs(inputs)
    task = Task.from_dict(kept["task"])
    splits = {split: Rows.open(folder / f"{split}.arrow", task) for split in kept["rows"]}
    return TaskRows(task, splits, [*kept["notes"], *([FILES_GONE] if gone else [])])


def _write(plan: Plan, folder: Path) -> TaskRows:
    names_found = _find_labels(plan)
    task = plan.task
    if plan.inputs.section.both_orders:
        _look_at_both_orders(plan)
    evaluated = ("dev", *task.splits, "test")
    with track(f"{task.name}: reading, all passes", None) as advance, atomic_folder(folder) as temporary:
        reading = _Reading(plan, names_found, advance)
        rows = reading.write_train(temporary)
        for split in ("teacher", *evaluated):
            if split in plan.splits:
                rows[split] = reading.write_gold(split, temporary)
                if not rows[split]:
                    del rows[split]
                    (temporary / f"{split}.arrow").unlink()
        _refuse_no_gold(plan, rows)
        written = {split: Rows.open(temporary / f"{split}.arrow", task) for split in rows}
        if "teacher" in written:
            _refuse_one_class(plan, "teacher", written["teacher"].labels())
        for split in evaluated:
            if split in written:
                plan.notes += _comparison(split, written)
        write_json(
            temporary / "task.json",
            {
                "asked": asked_for(plan.inputs.task, plan.inputs.recipe),
                "files": plan.inputs.state,
                "task": task.to_dict(),
                "rows": rows,
                "notes": plan.notes,
            },
        )
    return TaskRows(task, {split: Rows.open(folder / f"{split}.arrow", task) for split in rows}, plan.notes)


def _find_labels(plan: Plan) -> bool:
    """Completes the task's label names; returns whether they were found in the data."""
    task, train = plan.task, plan.splits["train"]
    if task.kind == "regression" or task.labels:
        return False
    labelled = [plan.splits[name] for name in ("train", "teacher") if name in plan.splits]
    labelled = [split for split in labelled if split.columns.label is not None]
    stored = {source.class_names(split.columns.label) for split in labelled for source in split.sources}  # type: ignore[arg-type]
    if task.kind == "classification" and len(stored) == 1 and (names := stored.pop()):
        plan.task = task.with_(labels=names)
        return False
    seen = LabelNames(task)
    for split in labelled:
        limit = plan.inputs.section.rows if split is train else None
        for source, number, (cell,) in itertools.islice(_records(split, (split.columns.label,)), limit):
            with _at(source, number):
                seen.see(cell, source.class_names(str(split.columns.label)))
    with _at(train.sources[0]):
        found = seen.names()
    place = train.sources[0].name
    if not found and next(_records(train, train.columns.text), None) is None:
        raise InputError(place, "has no rows")
    if not found:
        raise InputError(
            place,
            "has no gold label, so the names of the labels are unknown",
            f"name the label column with data.{task.name}.label, or the labels with `labels:` of the task; "
            f"the columns are {shown(train.sources[0].columns)}",
        )
    if len(found) == 1 and task.kind == "classification":
        raise InputError(place, f"one class only: every label is '{found[0]}'", "a classification task needs two")
    plan.task = task.with_(labels=found)
    if len(found) <= 20:
        plan.notes.append(f"labels found in the data: {', '.join(found)}")
    return True


@dataclass
class _Survey:
    """What a first reading finds: ids (rows,) 'S16'; labelled (rows,) bool; labels (rows,) float32, 0 if multilabel."""

    ids: np.ndarray
    labelled: np.ndarray
    labels: np.ndarray


@dataclass
class _Counts:
    rows: int = 0
    unlabelled: int = 0
    empty: int = 0
    cut: int = 0


class _Reading:
    """Reads the splits of a task; train twice, once for ids and labels and once to write rows where they belong."""

    def __init__(self, plan: Plan, names_found: bool, advance: Callable[..., None]) -> None:
        self.plan, self.task, self.section = plan, plan.task, plan.inputs.section
        self.names_found, self.advance = names_found, advance
        self.held: frozenset[bytes] = frozenset()
        """Ids that `write_train` held out of train."""
        self.measured: frozenset[bytes] = frozenset()
        """Ids of the rows of the files that are measured on; with `both_orders` alone."""
        self.turned = 0
        """Pairs of the split being written that were added the other way round."""

    def write_train(self, folder: Path) -> dict[str, int]:
        """Writes train and what is held out of it; returns the rows of each."""
        recipe, source = self.plan.inputs.recipe, self.plan.splits["train"].sources[0].name
        counts = _Counts()
        survey = self._survey("train", counts, self.section.rows)
        transfer = self._survey("transfer", _Counts()) if "transfer" in self.plan.splits else None
        hold_out_dev = "dev" not in self.plan.splits
        if not counts.rows:
            raise InputError(source, "has no rows")
        if counts.empty == counts.rows and not self.task.pair:
            columns = shown(self.plan.splits["train"].sources[0].columns)
            remedy = f"name the text column with data.{self.task.name}.text; the columns are {columns}"
            raise InputError(source, f"the text of every row is empty (column '{self.task.text[0]}')", remedy)
        if hold_out_dev and survey.labelled.sum() < LEAST_ROWS_TO_SPLIT:
            raise InputError(
                source,
                f"has {survey.labelled.sum()} labelled rows, too few to hold a dev split out of it",
                f"give a dev file with data.{self.task.name}.dev",
            )
        dev_serves = recipe.evaluate.split == "test" and (
            hold_out_dev or self.plan.splits["dev"].columns.label is not None
        )
        roles, held = assign_roles(
            survey.ids,
            survey.labelled,
            seed=recipe.seed,
            hold_out_dev=hold_out_dev,
            gold_rows=self.section.gold_rows,
            transfer_rows=self.section.transfer_rows,
            calibration_rows=0 if dev_serves else recipe.evaluate.calibration_rows,
        )
        self.held = _single(held)
        if self.section.both_orders:
            files = [split for split in ("dev", *self.task.splits, "test") if split in self.plan.splits]
            self.measured = frozenset().union(*(_single(self._survey(split, _Counts()).ids) for split in files))
        used = survey.labelled & ((roles == Role.GOLD) | (roles == Role.CALIBRATION))
        _refuse_one_class(self.plan, "train", survey.labels[used])
        with contextlib.ExitStack() as stack:

            def writer(split: str) -> RowWriter:
                return stack.enter_context(RowWriter(folder / f"{split}.arrow", self.task))

            writers = {"train": writer("train")}
            homes = {Role.GOLD: "train", Role.TRANSFER: "train", Role.DEV: "dev", Role.CALIBRATION: "calibration"}
            for example, role in zip(self._examples("train", _Counts(), self.section.rows), roles.tolist()):
                if role != Role.OUT:
                    home = homes[role]
                    if home not in writers:
                        writers[home] = writer(home)
                    example = _unlabelled(example) if role == Role.TRANSFER else example
                    writers[home].add(example)
                    if home == "train":
                        self._add_turned(example, writers["train"])
            if transfer is not None:
                outside = ~np.isin(transfer.ids, held)
                for example, wanted in zip(self._examples("transfer", counts), outside.tolist()):
                    if wanted:
                        writers["train"].add(example)
                        self._add_turned(example, writers["train"])
        rows = {split: writers[split].rows for split in writers}
        if not rows["train"]:
            raise InputError(source, "leaves no row to train on", f"see data.{self.task.name}.gold_rows")
        notes = self.plan.notes
        if transfer is not None:
            place = self.plan.splits["transfer"].sources[0].name
            notes.append(f"{int(outside.sum()):,} rows of transfer text come from {place}")
        if missing := int((~survey.labelled).sum()):
            notes.append(f"{missing:,} rows of the train file have no gold label and are transfer text")
        if "dev" in rows:
            notes.append(f"dev is a seeded tenth of train ({rows['dev']:,} rows), because there is no dev file")
        if "calibration" in rows:
            notes.append(f"{rows['calibration']:,} gold rows of train are kept apart to fit the temperature")
        self._note_texts("train", counts)
        self._note_turned("train")
        return rows

    def write_gold(self, split: str, folder: Path) -> int:
        """Writes the rows of a split that have a gold label, and returns how many there are.

        The teacher's rows are written without the texts that were held out of train.
        """
        counts, left_out = _Counts(), 0
        held = self.held if split == "teacher" else frozenset()
        with RowWriter(folder / f"{split}.arrow", self.task) as writer:
            for example in self._examples(split, counts):
                if held and example_id(example.text, example.second) in held:
                    left_out += 1
                elif example.label is not None:
                    writer.add(example)
                    if split == "teacher":
                        self._add_turned(example, writer)
        if left_out:
            self.plan.notes.append(
                f"{left_out:,} rows of {split} are left out, because their text is held out of train"
            )
        if counts.unlabelled:
            self.plan.notes.append(f"{counts.unlabelled:,} rows of {split} have no gold label and are left out")
        self._note_texts(split, counts)
        self._note_turned(split)
        return writer.rows

    def _add_turned(self, example: Example, writer: RowWriter) -> None:
        """With `both_orders`, the pair the other way round too, unless that is the same, or is measured or held out."""
        if not self.section.both_orders or example.second is None or example.second == example.text:
            return
        turned = Example(example.task, example.second, example.text, example.label)
        if turned.id not in self.held and turned.id not in self.measured:
            writer.add(turned)
            self.turned += 1

    def _note_turned(self, split: str) -> None:
        if self.turned:
            self.plan.notes.append(f"{self.turned:,} pairs of {split} are also there the other way round")
            self.turned = 0

    def _survey(self, split: str, counts: _Counts, limit: int | None = None) -> _Survey:
        ids, labelled, labels = bytearray(), bytearray(), array("f")
        for example in self._examples(split, counts, limit):
            ids += example_id(example.text, example.second)
            labelled.append(example.label is not None)
            labels.append(example.label if isinstance(example.label, (int, float)) else 0.0)
        return _Survey(np.frombuffer(ids, "S16"), np.frombuffer(labelled, bool), np.frombuffer(labels, np.float32))

    def _examples(self, name: str, counts: _Counts, limit: int | None = None) -> Iterator[Example]:
        """The rows of a split, texts cut to LONGEST_TEXT; those of the transfer split lose their labels."""
        split = self.plan.splits[name]
        label_column = split.columns.label if name != "transfer" else None
        columns = (*split.columns.text, label_column) if label_column is not None else split.columns.text
        readers: dict[int, GoldReader] = {}
        if label_column is not None:
            for source in split.sources:
                stored = source.class_names(label_column)
                readers[id(source)] = GoldReader(self.task, stored, found=self.names_found)
        for source, number, values in itertools.islice(_records(split, columns), limit):
            text = self._text(values[0], source, number, counts)
            second = self._text(values[1], source, number, counts) if self.task.pair else None
            label = None
            if label_column is not None:
                with _at(source, number):
                    label = readers[id(source)](values[-1])
            counts.rows += 1
            counts.unlabelled += label is None
            counts.empty += not text.strip() or (second is not None and not second.strip())
            if counts.rows % 1000 == 0:
                self.advance(1000)
            yield Example(self.task.name, text, second, label)
        self.advance(counts.rows % 1000)

    def _text(self, value: Any, source: Source, number: int, counts: _Counts) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            raise InputError(source.where(number), f"its text is {value!r:.60}, not a string")
        if len(value) > LONGEST_TEXT:
            value = value[:LONGEST_TEXT]
            counts.cut += 1
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise InputError(source.where(number), f"its text holds half a character ({error.reason})") from error
        return value

    def _note_texts(self, split: str, counts: _Counts) -> None:
        notes = self.plan.notes
        if counts.cut:
            notes.append(f"{counts.cut:,} texts of {split} were cut to {LONGEST_TEXT:,} characters")
        if counts.empty:
            notes.append(f"{counts.empty:,} rows of {split} have an empty text")
        for source in self.plan.splits[split].sources if split in self.plan.splits else ():
            if isinstance(source, DelimitedFile) and source.skipped:
                notes.append(f"{source.skipped:,} torn rows of {source.path.name} are left out, as in the hub's copy")


def _single(ids: np.ndarray) -> frozenset[bytes]:
    """The ids of an array as bytes; cut from the whole, because numpy drops trailing zero bytes of an element."""
    data = ids.tobytes()
    return frozenset(data[start : start + 16] for start in range(0, len(data), 16))


def _records(split: Split, columns: tuple[str | None, ...]) -> Iterator[tuple[Source, int, Any]]:
    wanted = [column for column in columns if column is not None]
    for source in split.sources:
        for number, values in source.records(wanted):
            yield source, number, values


def _unlabelled(example: Example) -> Example:
    return Example(example.task, example.text, example.second)


@contextlib.contextmanager
def _at(source: Source, number: int | None = None) -> Iterator[None]:
    """Gives the ValueError of a bad label its place."""
    try:
        yield
    except ValueError as error:
        raise InputError(source.name if number is None else source.where(number), str(error)) from error


def _look_at_both_orders(plan: Plan) -> None:
    """Raises InputError for single texts; notes labels that say that the order of two texts matters."""
    name, labels = plan.task.name, plan.task.labels
    if not plan.task.pair:
        raise InputError(f"data.{name}.both_orders", f"the rows of '{name}' are single texts", "leave it out")
    if ordered := [label for label in labels if any(part in label.casefold() for part in ORDERED)]:
        plan.notes.append(
            f"both_orders: that (a, b) is '{ordered[0]}' does not say that (b, a) is; the pairs that are added are "
            "likely to have wrong labels"
        )


def _refuse_no_gold(plan: Plan, rows: dict[str, int]) -> None:
    """Raises InputError if there is nothing to evaluate on, or a teacher split without a label."""
    wanted = plan.inputs.recipe.evaluate.split
    for split in (wanted, *(["teacher"] if "teacher" in plan.splits else [])):
        if split not in rows:
            there = plan.splits.get(split)
            raise InputError(
                there.sources[0].name if there else f"task '{plan.task.name}'",
                f"there is no {split} row with a gold label",
                f"give a labelled file with data.{plan.task.name}.{split}"
                + (", or set evaluate.split to dev" if split == "test" else ""),
            )


def _refuse_one_class(plan: Plan, split: str, labels: np.ndarray) -> None:
    """Raises InputError if the gold labels of a classification split, (rows,), are all the same."""
    present = np.unique(labels) if plan.task.kind == "classification" else labels[:0]
    if len(present) == 1:
        first = plan.inputs.section.gold_rows if split == "train" else None
        raise InputError(
            plan.splits[split].sources[0].name,
            f"one class only: every gold label is '{plan.task.labels[int(present[0])]}'"
            + (f" in the first {first:,} rows" if first else ""),
            "shuffle the file, or raise gold_rows" if first else "a classification task needs two",
        )


def _comparison(split: str, written: dict[str, Rows]) -> list[str]:
    """Notes on rows of a split for evaluation whose text is also trained on, and on classes that train lacks."""
    rows, notes = written[split], []
    for other in ("train", "teacher"):
        if other in written and (shared := int(np.isin(rows.ids(), written[other].ids()).sum())):
            notes.append(f"the text of {shared:,} of {len(rows):,} rows of {split} also stands in {other}")
    gold = written["train"].labels()
    if rows.task.kind == "classification" and not np.isnan(gold).all():
        unseen = np.setdiff1d(rows.labels(), gold[~np.isnan(gold)])
        if len(unseen):
            names = ", ".join(rows.task.labels[int(number)] for number in unseen)
            notes.append(f"{split} has rows of a class that no gold row of train has: {names}")
    return notes
