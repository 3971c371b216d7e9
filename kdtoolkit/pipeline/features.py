"""The teachers' hidden states of the rows that the student learns from: what is needed, where it is, whether it fits.

Of an ensemble, the first member that has hidden states is the one that is read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .. import processes
from ..data.collate import Collator, TaskArrays
from ..data.features import FeatureSource, RowFeatures, check_lengths
from ..data.prepare import TaskRows
from ..data.rows import Rows
from ..errors import InputError
from ..example import Example
from ..feature_name import FeatureName, by_token
from ..files import read_json, write_json
from ..labels import default_store
from ..labels.features import MANIFEST, LiveFeatures, StoredFeatures, store_features, stored_bytes, text_lengths
from ..labels.labelling import Texts
from ..objectives.further import FurtherTerm
from ..progress import log
from ..recipe import Recipe
from ..recipe.pretrained import from_teacher
from ..shape import Shape
from ..student_folder import build_student, student_config
from ..tasks import Task
from ..teacher import Teacher
from ..tokenizers import Tokenizer, build_tokenizer
from .run_folder import RunFolder
from .student_data import StudentData
from .terms import feature_names, further_terms

Teachers = Mapping[str, Sequence[Teacher]]
FEW_PIECES = 16
SAMPLE_ROWS = 64
SIZED_TEXTS = 2000
"""Of more texts, so many are read to estimate what all take on the disk."""
ALIKE = 0.9
"""Of the tokens of `SAMPLE_ROWS`, so many must be the same piece: a text may hold a written-out special token."""


def teacher_of(teachers: Sequence[Teacher]) -> Teacher | None:
    """The member whose hidden states are read: the first that has any."""
    return next((teacher for teacher in teachers if teacher.shape is not None), None)


def shapes_of(teachers: Teachers) -> dict[str, Shape | None]:
    """The sizes of the teacher that is read, by task."""
    found = {name: teacher_of(some) for name, some in teachers.items()}
    return {name: None if teacher is None else teacher.shape for name, teacher in found.items()}


def terms_on_trial(
    recipe: Recipe, tasks: Sequence[Task], shapes: Mapping[str, Shape | None], teacher_source: str | None
) -> list[FurtherTerm]:
    """The terms as training will have them. Raises InputErrors if they do not fit."""
    if not recipe.objective.terms:
        return []
    section = from_teacher(recipe.student, teacher_source)
    config = student_config(
        section, tasks, vocab_size=FEW_PIECES, max_tokens=recipe.data.max_tokens, mixed=False, scaling={}
    )
    with torch.random.fork_rng(devices=()):
        return further_terms(recipe, build_student(config), tasks, shapes)


def refuse_terms(
    recipe: Recipe, data: Mapping[str, TaskRows], teachers: Teachers, folder: Path, *, teacher_source: str | None
) -> None:
    """Raises InputErrors if student or teachers cannot serve a term, or read other tokens where tokens are compared, or
    a teacher is to be sharded that cannot be.

    teachers: fine-tuned or not. folder: for what is tried out; nothing is left there.
    """
    tasks = [rows.task for rows in data.values()]
    terms = terms_on_trial(recipe, tasks, shapes_of(teachers), teacher_source)
    needed = feature_names(terms, tasks)
    if recipe.train.teacher_sharding == "fsdp":
        _all_shardable([teacher_of(teachers[name]) for name in needed])
    for name, names in needed.items():
        teacher = teacher_of(teachers[name])
        if teacher is not None and any(map(by_token, names)):
            _same_reading(recipe, data[name], teacher, folder, teacher_source)


class StoredSize(NamedTuple):
    """Of the hidden states of one task's texts: how many texts there are, which features, and bytes on the disk."""

    texts: int
    names: tuple[str, ...]
    bytes: int


def stored_sizes(
    recipe: Recipe,
    data: Mapping[str, TaskRows],
    generated: Mapping[str, int],
    teachers: Teachers,
    *,
    teacher_source: str | None,
) -> dict[str, StoredSize]:
    """What `store_hidden_states` will write, by task: exact for `SIZED_TEXTS` texts, beyond that counted like them.

    generated: rows that `augment` adds. teachers: fine-tuned or not, such as `refuse_terms` has let pass.
    """
    if not recipe.objective.terms or recipe.objective.hidden_states == "live":
        return {}
    tasks = [rows.task for rows in data.values()]
    terms = terms_on_trial(recipe, tasks, shapes_of(teachers), teacher_source)
    sizes = {}
    for name, names in feature_names(terms, tasks).items():
        teacher = teacher_of(teachers[name])
        if teacher is None or teacher.shape is None:
            continue
        texts = Texts.of([data[name].splits["train"]])
        every = np.arange(len(texts))
        read = texts.only(np.isin(every, np.linspace(0, len(texts) - 1, min(SIZED_TEXTS, len(texts))).astype(np.int64)))
        # A teacher that is yet to be made has no tokens, and terms that compare them have refused it.
        lengths = text_lengths(teacher, read) if any(map(by_token, names)) else np.ones(len(read), np.int64)
        count = len(texts) + generated.get(name, 0)
        sizes[name] = StoredSize(count, names, round(stored_bytes(names, teacher.shape, lengths) * count / len(read)))
    return sizes


def store_hidden_states(run: RunFolder, data: Mapping[str, TaskRows], teachers: Teachers, source: str | None) -> None:
    """Stores what the terms need, unless it is computed live, and notes for each task where it is.

    Of several processes all call this at the same place; each computes a share, and the first writes the notes.
    """
    if not run.recipe.objective.terms:
        return
    tasks = [rows.task for rows in data.values()]
    terms = terms_on_trial(run.recipe, tasks, shapes_of(teachers), source)
    needed = feature_names(terms, tasks)
    for name in teachers:
        note: dict[str, object] = {"names": list(needed.get(name, ())), "folder": None, "live": False}
        teacher = teacher_of(teachers[name])
        if name in needed and teacher is not None:
            note["live"] = run.recipe.objective.hidden_states == "live"
            if not note["live"]:
                root = default_store(run.recipe.store) if teacher.reusable else run.path / "labels"
                folder = store_features(teacher, _learned(data[name]), needed[name], root)
                teacher.close()
                note["folder"] = str(folder.resolve())
        if processes.is_first():
            write_json(_note(run, name), note)


def hidden_states_stored(run: RunFolder, data: Mapping[str, TaskRows]) -> bool:
    """Whether training can read all that its terms need without a teacher."""
    if not run.recipe.objective.terms:
        return True
    for name in data:
        if not run.recipe.teachers_of(name):
            continue
        if not _note(run, name).is_file():
            return False
        note = read_json(_note(run, name))
        if note["live"] or (note["folder"] is not None and not (Path(note["folder"]) / MANIFEST).is_file()):
            return False
    return True


def with_hidden_states(
    run: RunFolder, data: Mapping[str, TaskRows], tokens: StudentData, teachers: Teachers | None
) -> StudentData:
    """The rows with the hidden states that the terms read. teachers: ready ones, for those that are live."""
    if not run.recipe.objective.terms:
        return tokens
    sources: dict[str, FeatureSource] = {}
    for task in tokens.tasks:
        note = read_json(_note(run, task.name)) if _note(run, task.name).is_file() else {"names": []}
        if not note["names"]:
            continue
        rows = _learned(data[task.name])
        if note["live"]:
            teacher = teacher_of(teachers[task.name]) if teachers is not None else None
            assert teacher is not None
            sources[task.name] = LiveFeatures(teacher, rows, note["names"])
        else:
            sources[task.name] = StoredFeatures(Path(note["folder"]), rows.ids())
    return with_sources(tokens, sources)


def shard_teachers(tokens: StudentData) -> None:
    """Of teachers that are asked in every step, each of several processes keeps a part; all call it at the same place.

    Raises InputError for a teacher that cannot be sharded.
    """
    for array in tokens.arrays if processes.size() > 1 else ():
        if isinstance(array.features, LiveFeatures):
            array.features.shard()


def with_sources(tokens: StudentData, sources: Mapping[str, FeatureSource]) -> StudentData:
    """The rows with features; InputError for a row that student and teacher read with different numbers of tokens.

    A text that is nothing to the tokenizer is one unknown piece to the student and none to the teacher: where tokens
    are compared, such a row has no features.
    """
    arrays = list(tokens.arrays)
    joint = Collator(tokens.tasks, arrays, tokens.tokenizer.joint, pairs="joint").lengths()
    for position, task in enumerate(tokens.tasks):
        source = sources.get(task.name)
        if source is None:
            continue
        featured = None
        if any(map(by_token, source.names)):
            theirs, ours = source.lengths(), joint[position]
            nothing = _has_empty(arrays[position], tokens.tokenizer.unk)
            featured = theirs == ours
            odd = np.flatnonzero(~featured & ~nothing)
            check_lengths(task.name, odd, theirs[odd], ours[odd])
            if not featured.all():
                log.info("%s: %d rows with an empty text have no terms by token", task.name, int((~featured).sum()))
        arrays[position] = replace(arrays[position], features=source, featured=featured)
    shapes = {name: source.shape for name, source in sources.items()}
    return replace(tokens, arrays=tuple(arrays), shapes=shapes)


def with_blank_states(
    recipe: Recipe, tokens: StudentData, teachers: Teachers, teacher_source: str | None
) -> StudentData:
    """The rows with zeros for hidden states, for a dry step that is to cost what a real one costs."""
    shapes = shapes_of(teachers)
    terms = terms_on_trial(recipe, tokens.tasks, shapes, teacher_source)
    needed = feature_names(terms, tokens.tasks)
    joint = Collator(tokens.tasks, tokens.arrays, tokens.tokenizer.joint, pairs="joint").lengths()
    sources: dict[str, FeatureSource] = {}
    for position, task in enumerate(tokens.tasks):
        shape = shapes.get(task.name)
        if task.name in needed and shape is not None:
            sources[task.name] = BlankFeatures(needed[task.name], shape, joint[position])
    return with_sources(tokens, sources)


class BlankFeatures:
    """Zeros of the right shapes: a `data.features.FeatureSource`. lengths: (rows,) tokens of each row."""

    together = False

    def __init__(self, names: tuple[str, ...], shape: Shape, lengths: np.ndarray) -> None:
        self.names, self.shape, self._lengths = names, shape, lengths

    def lengths(self) -> np.ndarray:
        """(rows,) int64."""
        return self._lengths

    def of(self, rows: np.ndarray) -> RowFeatures:
        """Zeros for these rows."""
        lengths = self._lengths[rows]
        time = int(lengths.max(initial=1))
        values = {
            name: np.zeros((len(rows), *FeatureName.parse(name).shape(self.shape, time)), np.float32)
            for name in self.names
        }
        return RowFeatures(lengths, values)


def _learned(rows: TaskRows) -> Rows:
    """The rows that the student is trained on."""
    return rows.splits[rows.student_split]


def _note(run: RunFolder, task: str) -> Path:
    return run.data / task / "hidden-states.json"


def _has_empty(array: TaskArrays, unk: int) -> np.ndarray:
    """(rows,) whether a text of the row is the one unknown piece that stands for nothing."""
    tokens = array.tokens
    single = tokens.text_lengths() == 1
    firsts = tokens.ids[tokens.offsets[:-1]].reshape(single.shape)
    return (single & (firsts == unk)).any(1)


def _all_shardable(teachers: Sequence[Teacher | None]) -> None:
    """Raises InputError for teachers, those whose hidden states are read, that each process has to have whole."""
    if not teachers:
        cause = "no term reads the teachers' hidden states, so the steps ask none of them"
        raise InputError("train.teacher_sharding", cause, "leave it out")
    for teacher in teachers:
        if teacher is not None and not teacher.shardable:
            teacher.shard()  # which says so


def _same_reading(recipe: Recipe, rows: TaskRows, teacher: Teacher, folder: Path, teacher_source: str | None) -> None:
    """Raises InputError unless the student reads some rows of train as the teacher does."""
    place, name = "objective.terms", rows.task.name
    if recipe.tokenizer.name != "teacher":
        raise InputError(
            place,
            f"a term of '{name}' compares token by token, and the student's tokenizer is '{recipe.tokenizer.name}'",
            "set `tokenizer: {name: teacher}`, or use terms that compare whole texts (pkd, rkd, cosine with first)",
        )
    longest = getattr(teacher, "max_tokens", None)
    if longest != recipe.data.max_tokens:
        raise InputError(
            place,
            f"a term of '{name}' compares token by token, and texts are cut to {longest} tokens for the teacher and to "
            f"{recipe.data.max_tokens} for the student",
            f"set data.max_tokens: {longest}" if longest else "take a Hugging Face teacher",
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".try-", dir=folder) as temporary:
        tokenizer = build_tokenizer(
            recipe.tokenizer.model_copy(update={"vectors": None}), lambda: iter(()), seed=0, folder=Path(temporary),
            teacher_source=teacher_source,
        )  # fmt: skip
    train = rows.splits["train"]
    chosen = np.unique(np.linspace(0, len(train) - 1, min(SAMPLE_ROWS, len(train))).astype(np.int64))
    if not _alike(rows.task, train.examples(chosen), tokenizer, teacher, recipe.data.max_tokens):
        raise InputError(
            place,
            f"a term of '{name}' compares token by token, and the student's tokenizer gives other tokens than the "
            "teacher's",
            f"set tokenizer.source to the teacher's checkpoint, '{teacher.source}'",
        )


def _alike(task: Task, examples: Sequence[Example], tokenizer: Tokenizer, teacher: Teacher, max_tokens: int) -> bool:
    first = tokenizer.encode_batch([example.text for example in examples])
    second = tokenizer.encode_batch([example.second or "" for example in examples]) if task.pair else None
    collator = Collator.for_texts([task], tokenizer, pairs="joint", max_tokens=max_tokens)
    tokens = collator.batch_of(0, first, second).tokens
    pieces, mask = tokenizer.sources[tokens.ids.numpy()], tokens.mask.numpy()
    theirs = teacher.features(examples, ())
    same = total = 0
    for row in range(len(examples)):
        ours, other = pieces[row][mask[row]], theirs.ids[row][theirs.mask[row]]
        total += max(len(ours), len(other))
        same += int((ours == other).sum()) if len(ours) == len(other) else 0
    return same >= ALIKE * total
