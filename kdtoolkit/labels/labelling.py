"""Runs a teacher over text once, and only over text it has not seen.

What is missing is put in order of length and id and cut into parts of whole batches. A finished part is a run of that
order, so what is still missing after a kill is cut in the same places: the same batches, and so the same bits.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..ahead import ahead
from ..errors import InputError
from ..example import Example
from ..memory import give_back
from ..progress import log, track
from ..teacher import Teacher
from .store import LabelStore, id_hex
from .values import floored

if TYPE_CHECKING:
    from ..data.rows import Rows

PART_ROWS = 1024
"""Texts that are stored together, about: what a kill can cost."""
CHECK_ROWS = 32


@dataclass(frozen=True)
class LabelReport:
    """What `label_rows` did.

    rows: different texts in all splits; labelled: those the teacher was run on now; already: those the store held.
    floored: log-probabilities raised to log 1e-7. seconds: wall time; cpu_seconds: of this process.
    """

    rows: int
    labelled: int
    already: int
    floored: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Texts:
    """The different texts of some splits, longest first: ids (n,) S16, the split and row where each first occurs, and
    how many characters it has, (n,) int32.

    Longest first, so that a batch too large for the memory fails in the first minute, not in the last.
    """

    splits: Sequence[Rows]
    ids: np.ndarray
    split: np.ndarray
    row: np.ndarray
    characters: np.ndarray

    @classmethod
    def of(cls, splits: Sequence[Rows]) -> Texts:
        """A pure function of the set of texts: neither their order nor their splits nor repeats matter to `ids`."""
        ids = np.concatenate([rows.ids() for rows in splits]) if splits else np.empty(0, "S16")
        unique, first = np.unique(ids, return_index=True)
        characters = (
            np.concatenate([rows.characters() for rows in splits])[first] if len(ids) else np.empty(0, np.int32)
        )
        order = np.argsort(-characters, kind="stable")  # `unique` is sorted, so equal lengths stay in order of id
        starts = np.cumsum([0, *(len(rows) for rows in splits)])
        split = np.searchsorted(starts, first, "right") - 1
        row = first - starts[split]
        return cls(splits, unique[order], split[order].astype(np.int32), row[order], characters[order])

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, mask: np.ndarray) -> Texts:
        """Those that `mask`, (n,) bool, selects, in the same order."""
        return Texts(self.splits, self.ids[mask], self.split[mask], self.row[mask], self.characters[mask])

    def examples(self, chosen: slice | np.ndarray) -> list[Example]:
        """The examples at some places, in their order, without gold labels: a teacher must not see them."""
        return unlabelled(self.splits, self.split[chosen], self.row[chosen])


def unlabelled(splits: Sequence[Rows], split: np.ndarray, row: np.ndarray) -> list[Example]:
    """The examples of some rows, by split and row, without gold labels: a teacher must not see them."""
    found: list[Example | None] = [None] * len(split)
    for number in np.unique(split):
        places = np.flatnonzero(split == number)
        for place, example in zip(places, splits[number].examples(row[places])):
            found[place] = Example(example.task, example.text, example.second)
    return [example for example in found if example is not None]


@dataclass(frozen=True)
class Part:
    """Texts that are labelled and stored together: ids (n,) S16, and the split and row of each, as in `Texts`."""

    ids: np.ndarray
    split: np.ndarray
    row: np.ndarray


class Batch(NamedTuple):
    """Texts that a teacher is asked about in one call, as it has read them."""

    rows: int
    read: Any
    ask: Callable[[Any], np.ndarray]

    @classmethod
    def of(cls, teacher: Teacher, examples: Sequence[Example]) -> Batch:
        """Raises InputError if the teacher cannot read them."""
        if not _reads(teacher):
            return cls(len(examples), examples, teacher.logits)
        return cls(len(examples), _said_by(teacher, len(examples), lambda: teacher.read(examples)), teacher.answer)


class Labeller:
    """Labels one part after another: the batches, and so the bits, are a function of the part alone."""

    def __init__(self, teacher: Teacher, splits: Sequence[Rows], store: LabelStore, batch_rows: int) -> None:
        self.teacher, self.splits, self.store, self.batch_rows = teacher, splits, store, batch_rows

    def read(self, part: Part) -> list[Batch]:
        """The part's texts as the teacher reads them, in batches; may run in another thread than `label`."""
        examples = unlabelled(self.splits, part.split, part.row)
        cut = [examples[start : start + self.batch_rows] for start in range(0, len(examples), self.batch_rows)]
        return [Batch.of(self.teacher, batch) for batch in cut]

    def read_ahead(
        self, parts: Sequence[Part], turns: Iterator[int], sharing: int = 1
    ) -> Iterator[tuple[int, list[Batch]]]:
        """The parts whose numbers `turns` gives, ascending: each number and what was read.

        A thread reads the next, and takes its turn no sooner than it has read the one before. sharing: so many
        processes take turns; of the last parts, two for each, those that are not taken by then are read when they are
        labelled, or one process would wait for another that has taken more than it works at.
        """
        border = len(parts) - 2 * sharing if sharing > 1 else len(parts)
        taken = -1

        def read_next(_: None) -> tuple[int, list[Batch]] | None:
            nonlocal taken
            if taken >= border or (taken := next(turns)) >= len(parts):
                return None
            return taken, self.read(parts[taken])

        for found in ahead(read_next, itertools.repeat(None), by=1):
            if found is None:
                break
            yield found
        while taken < len(parts) and (taken := next(turns)) < len(parts):
            yield taken, self.read(parts[taken])

    def label(
        self, part: Part, batches: Sequence[Batch] | None = None, advance: Callable[[int], object] = lambda rows: None
    ) -> None:
        """Stores the teacher's values for the part. batches: what `read` gave. advance: told of the rows of each."""
        values = []
        for batch in self.read(part) if batches is None else batches:
            values.append(teacher_values(self.teacher, batch, place_of(self.teacher)))
            advance(batch.rows)
        self.store.write(part_name(part.ids), part.ids, np.concatenate(values))
        give_back()  # batches of ever other sizes leave holes


class Engine(Protocol):
    """What labels parts elsewhere than in this process: see `workers` and `ray_engine`."""

    def label(self, labeller: Labeller, parts: Sequence[Part]) -> Iterator[tuple[int, int]]:
        """Stores all parts; yields (rows, log-probabilities raised) as they are done, in any order."""


def label_rows(
    teacher: Teacher,
    splits: Sequence[Rows],
    store: LabelStore,
    *,
    batch_rows: int | None = None,
    part_batches: int | None = None,
    turns: Callable[[], Iterator[int]] = itertools.count,
    sharing: int = 1,
    engine: Engine | None = None,
) -> LabelReport:
    """Stores the teacher's values for every text of the splits that the store does not hold yet.

    batch_rows: texts a call of the teacher; None: as many as it asks for. part_batches: such batches a part, which is
    what a kill can cost; None: `PART_ROWS` texts of them.
    turns: of several processes that label the same texts, `processes.turns`: the next part goes to whoever is free
    first. It is called once, when this process has seen what is missing. sharing: how many processes take turns.
    engine: what labels; None: this process, and those it takes turns with. The store is the same, bit for bit, whatever
    labels, and goes on with what another engine has left.
    Memory: at most 140 bytes a text; the texts themselves are read part by part.
    Raises InputError if the teacher lacks values for some texts, or gives NaN, +inf or a wrong shape.
    """
    wall, cpu = time.monotonic(), time.process_time()
    place = place_of(teacher)
    texts = Texts.of(splits)
    all_answered(teacher, splits)
    missing = store.missing(texts.ids)
    already = len(texts) - int(missing.sum())
    if already and not teacher.reusable:
        _same_as_stored(teacher, texts.only(~missing), store, place)

    batch_rows = teacher.call_rows if batch_rows is None else batch_rows
    part_rows = batch_rows * (max(PART_ROWS // batch_rows, 1) if part_batches is None else part_batches)
    todo = texts.only(missing)
    parts = [
        Part(todo.ids[start:stop], todo.split[start:stop], todo.row[start:stop])
        for start in range(0, len(todo), part_rows)
        for stop in [start + part_rows]
    ]
    floored_before, labelled = store.floored, 0
    labeller = Labeller(teacher, splits, store, batch_rows)
    with track(f"label {teacher.task.name}", len(todo)) as advance:
        if engine is None:
            following = 0
            for number, batches in labeller.read_ahead(parts, turns(), sharing):
                advance(_rows(parts[following:number]))  # those that other processes have
                labeller.label(parts[number], batches, advance)
                labelled += len(parts[number].ids)
                following = number + 1
            advance(_rows(parts[following:]))
        else:
            for rows, raised in engine.label(labeller, parts):
                store.floored += raised
                labelled += rows
                advance(rows)
    raised = store.floored - floored_before
    if raised:
        log.info("%s: %d log-probabilities below log 1e-7 were raised to it", place, raised)
    return LabelReport(
        len(texts), labelled, already, raised, time.monotonic() - wall, time.process_time() - cpu
    )  # fmt: skip


def _rows(parts: Sequence[Part]) -> int:
    return sum(len(part.ids) for part in parts)


def place_of(teacher: Teacher) -> str:
    """The teacher as messages name it."""
    return f"teacher {teacher.source}, task {teacher.task.name}"


def part_name(ids: np.ndarray) -> str:
    """The name of the part that holds these ids: two processes that label the same texts write the same file."""
    return blake2b(np.ascontiguousarray(ids, "S16").tobytes(), digest_size=8).hexdigest()


def teacher_values(teacher: Teacher, batch: Batch, place: str) -> np.ndarray:
    """The teacher's values for a batch, (rows, outputs) float32, of the right shape. Raises InputError if not."""
    values = _said_by(teacher, batch.rows, lambda: np.asarray(batch.ask(batch.read), dtype=np.float32))
    wanted = (batch.rows, teacher.task.outputs)
    if values.shape != wanted:
        raise InputError(
            place, f"`logits` gave an array of shape {values.shape} where {wanted} (rows, outputs) belongs"
        )
    return values


def _reads(teacher: Teacher) -> bool:
    """Whether `read` and `answer` say what `logits` does: not where a class, or the object, has another `logits`."""

    def depth(method: str) -> int:
        return next(number for number, owner in enumerate(type(teacher).__mro__) if method in vars(owner))

    return "logits" not in vars(teacher) and depth("answer") <= depth("logits")


def _said_by(teacher: Teacher, rows: int, ask: Callable[[], Any]) -> Any:
    """What a teacher says, with what goes wrong in it told as an error of its."""
    try:
        return ask()
    except (TypeError, ValueError) as error:
        raise InputError(place_of(teacher), f"`logits` failed on a batch of {rows} rows: {error}") from error


def all_answered(teacher: Teacher, splits: Sequence[Rows]) -> None:
    """Raises InputError if the teacher lacks values for some texts of the splits, and is not `partial`."""
    if teacher.partial or type(teacher).answers is Teacher.answers:
        return
    texts = Texts.of(splits)
    silent = ~teacher.answers(texts.ids)
    if silent.any():
        example = texts.examples(np.flatnonzero(silent)[:1])[0]
        raise InputError(
            f"teacher {teacher.source}, task {teacher.task.name}",
            f"has no values for {int(silent.sum())} of {len(texts)} texts, such as {shortened(example.text)} "
            f"(id {id_hex(texts.ids[silent.argmax()])})",
            "label them too, or set `partial: true`: rows without values then learn from gold labels alone",
        )


def _same_as_stored(teacher: Teacher, held: Texts, store: LabelStore, place: str) -> None:
    """Labels 32 stored rows again: a teacher whose fingerprint vouches for nothing may have changed."""
    chosen = np.unique(np.linspace(0, len(held) - 1, CHECK_ROWS).astype(np.int64))
    again = teacher_values(teacher, Batch.of(teacher, held.examples(chosen)), place)
    stored = store.read(held.ids[chosen])
    tolerance = 1e-2 if store.dtype == "float16" else 1e-4
    same = np.isclose(floored(again, store.kind)[0], stored, rtol=tolerance, atol=tolerance, equal_nan=True).all(1)
    if not same.all():
        example = held.examples(chosen[~same][:1])[0]
        raise InputError(
            place,
            f"gives other values for {int((~same).sum())} of {len(chosen)} texts than it did before, such as for "
            f"{shortened(example.text)}",
            f"give it a `version` that changes when it does, or delete {store.folder}",
        )


def shortened(text: str) -> str:
    """The start of a text, in quotes, for a message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
