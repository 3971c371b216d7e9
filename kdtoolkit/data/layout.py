"""Where the rows of a task are: files of a data folder, and the columns that hold texts and labels.

The tables below are all that is known of other people's names; a new layout is a new line, not a new branch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, did_you_mean
from ..recipe.schema import TaskData
from ..tasks import GLUE, Task, canonical_name
from .readers import DelimitedFile, Source, format_of, open_source, shown

# Names of a split, of a file or of a hub data set's split; the first is the toolkit's.
SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test",),
    "teacher": ("teacher",),
    "transfer": ("transfer", "unlabeled", "unlabelled"),
}
# Further names in the official files of single tasks, and splits that only they have.
TASK_SPLITS: dict[str, dict[str, tuple[str, ...]]] = {
    "mnli": {
        "dev": ("dev_matched", "validation_matched"),
        "dev_mismatched": ("dev_mismatched", "validation_mismatched"),
        "test": ("test_matched",),
    },
    "mrpc": {"train": ("msr_paraphrase_train",), "test": ("msr_paraphrase_test",)},
}
# Text and label columns of the official GLUE TSV files, where they are not those of the hub.
OFFICIAL: dict[str, tuple[tuple[str, ...], str]] = {
    "mrpc": (("#1 String", "#2 String"), "Quality"),
    "stsb": (("sentence1", "sentence2"), "score"),
    "qqp": (("question1", "question2"), "is_duplicate"),
    "mnli": (("sentence1", "sentence2"), "gold_label"),
}
# Official files without a header: their columns, and the values that the second column may have.
HEADLESS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "cola": (("source", "label", "star", "sentence"), frozenset("01")),
}
# Official files with rows torn by line ends inside a text; the hub leaves those rows out too.
TORN: dict[str, tuple[str, ...]] = {
    "qqp": ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
}
# Names that other people's files use, best first.
TEXTS: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"),
    ("text1", "text2"), ("text_a", "text_b"), ("text", "text_pair"), ("text", "second"), ("query", "document"),
    ("query", "passage"), ("question", "passage"), ("question", "context"), ("sentence_A", "sentence_B"),
    ("sentence_a", "sentence_b"), ("first", "second"),
    ("text",), ("sentence",), ("sentence1",), ("content",), ("review",), ("utterance",), ("question",), ("query",),
    ("document",), ("body",), ("message",), ("tweet",), ("comment",), ("title",),
)  # fmt: skip
LABELS: tuple[str, ...] = (
    "label", "labels", "gold_label", "target", "score", "class", "category", "is_duplicate", "Quality", "intent",
    "sentiment", "rating", "entailment_judgment", "relatedness_score", "similarity", "label_text",
)  # fmt: skip
# Columns that only number the rows.
NUMBERING = frozenset({"", "id", "idx", "index", "guid", "uid", "unnamed: 0", "__index_level_0__"})


@dataclass
class Columns:
    """The columns of one split: one or two texts, and the label column if there is one."""

    text: tuple[str, ...]
    label: str | None
    guessed: bool = False
    """Neither the recipe nor a layout of the task names them."""


@dataclass
class Split:
    """One split of a task: its sources (several where a hub data set is stored in shards) and its columns."""

    name: str
    sources: list[Source]
    columns: Columns
    notes: list[str] = field(default_factory=list)


def split_names(task: Task) -> dict[str, tuple[str, ...]]:
    """All names of each split of a task, the toolkit's name of the split as key."""
    own = TASK_SPLITS.get(task.name, {})
    names = {split: (*found, *own.get(split, ())) for split, found in SPLITS.items()}
    return names | {split: found for split, found in own.items() if split not in SPLITS}


def task_folder(folder: Path, task: Task, *, only_task: bool) -> Path:
    """The folder with the files of a task: TASK/ in any spelling, or `folder` itself if it is the only task.

    Raises InputError if there is none.
    """
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise InputError(f"data.folder {folder}", "is no folder", did_you_mean(folder.name, beside) if beside else None)
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    same = [path for path in inside if path.name == task.name]
    same = same or [path for path in inside if canonical_name(path.name) == task.name]
    same = same or [path for path in inside if path.name.casefold() == task.name.casefold()]
    if len(same) > 1:
        several = ", ".join(path.name for path in same)
        raise InputError(
            f"data.folder {folder}",
            f"has several folders for task '{task.name}': {several}",
            f"name the files with data.{task.name}.train",
        )
    if same:
        return same[0]
    if only_task and files_of(folder, split_names(task)["train"]):
        return folder
    raise InputError(f"data.folder {folder}", f"has no folder for task '{task.name}'",
                     did_you_mean(task.name, [path.name for path in inside]))  # fmt: skip


def files_of(folder: Path, names: Sequence[str]) -> list[Path]:
    """The file of a split, or all shards of it (train-00000-of-00002.parquet); empty if there is none.

    Raises InputError if several files could be meant.
    """
    stems: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if format_of(path) is not None and path.is_file():
            stem = path.name.split(".")[0]
            shard = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})", stem)
            if (shard[1] if shard else stem) in names:
                ending = path.name.removeprefix(stem)
                stems.setdefault(f"{shard[1]}-*-of-{shard[2]}{ending}" if shard else path.name, []).append(path)
    if len(stems) > 1:
        raise InputError(str(folder), f"several files could be the {names[0]} split: {', '.join(stems)}",
                         "remove all but one, or name the file in the recipe")  # fmt: skip
    return next(iter(stems.values()), [])


def local_splits(task: Task, section: TaskData, folder: Path | None, *, only_task: bool) -> dict[str, list[Path]]:
    """The files of each split: those of the data folder, then those the recipe names, which win.

    Splits without a file are absent. Raises InputError if a named file does not exist.
    """
    found: dict[str, list[Path]] = {}
    own: Path | None = None
    if folder is not None:
        try:
            own = task_folder(folder, task, only_task=only_task)
        except InputError:
            if not section.has_source or not folder.is_dir():
                raise
            own = None  # the recipe names the task's files, and the folder is that of other tasks
    if own is not None:
        found = {split: files for split, names in split_names(task).items() if (files := files_of(own, names))}
    for split in SPLITS:
        named = getattr(section, split)
        if named is not None:
            found[split] = [Path(named).expanduser()]
    return found


def open_files(task: Task, section: TaskData, files: Sequence[Path]) -> list[Source]:
    """Opens the files of a split, the official files without a header or with torn rows included."""
    sources = []
    for path in files:
        source = open_source(path, section.quoting)
        if isinstance(source, DelimitedFile) and not section.text:
            if task.name in HEADLESS:
                names, second_values = HEADLESS[task.name]
                if len(source.first) == len(names) and source.first[1] in second_values:
                    source = DelimitedFile(path, source.delimiter, section.quoting, header=names)
            if TORN.get(task.name) == source.columns:
                source = DelimitedFile(path, source.delimiter, section.quoting, ragged="skip")
        sources.append(source)
    return sources


def find_columns(task: Task, section: TaskData, source: Source, *, pair: bool | None, labelled: bool = True) -> Columns:
    """The columns of a source: those of the recipe, else the task's own, the official TSV's, or sensible names.

    pair: whether there are two texts, if that is known. labelled: the label column is asked for if the recipe names it.
    Raises InputError if a named column is missing, or if no text column is found.
    """
    given_text, given_label = _given(task, section)
    if given_text:
        for column in given_text:
            if column not in source.columns:
                raise source.missing_column(column)
    if given_label and labelled and given_label not in source.columns:
        raise source.missing_column(given_label)
    official = OFFICIAL.get(task.name)
    likely_labels = (task.label, official[1] if official else None)
    label = given_label or _first_label(source, [name for name in likely_labels if name])
    guessed_label = label is None
    label = label or _first_label(source, LABELS)
    if given_text:
        return Columns(given_text, label if label in source.columns else None, guessed_label and label is not None)
    arity = (1, 2) if pair is None else (2,) if pair else (1,)
    likely = [names for names in (task.text, official[0] if official else ()) if names]
    if task.name in GLUE:
        likely.append(("sentence1", "sentence2")[: arity[0]])
    text = _first_texts(source, likely, arity)
    if text is not None:
        return Columns(text, label, guessed_label and label is not None)
    text = _first_texts(source, TEXTS, arity) or _remaining(source, label, arity)
    if text is None:
        what = "two text columns" if pair else "text column"
        raise InputError(
            source.name, f"no {what} was found among its columns: {shown(source.columns)}",
            f"name the column with data.{task.name}.text" + _header_hint(source),
        )  # fmt: skip
    return Columns(text, label, True)


def _given(task: Task, section: TaskData) -> tuple[tuple[str, ...], str | None]:
    """Columns that the recipe names, by `data.TASK` or by the task's own section."""
    text = tuple(section.text or ())
    if len(text) > 2:
        raise InputError(f"data.{task.name}.text", f"{len(text)} text columns; one or two are supported")
    known = GLUE.get(task.name)
    if not text and task.text and (known is None or task.text != known.text):
        text = task.text
    label = section.label
    if label is None and task.label and (known is None or task.label != known.label):
        label = task.label
    return text, label


def _first_label(source: Source, names: Sequence[str]) -> str | None:
    folded = {column.casefold(): column for column in reversed(source.columns)}
    return next((folded[name.casefold()] for name in names if name.casefold() in folded), None)


def _first_texts(source: Source, candidates: Sequence[tuple[str, ...]], arity: Sequence[int]) -> tuple[str, ...] | None:
    folded = {column.casefold(): column for column in reversed(source.columns)}
    for names in candidates:
        if len(names) in arity and all(name.casefold() in folded for name in names):
            return tuple(name if name in source.columns else folded[name.casefold()] for name in names)
    return None


def _remaining(source: Source, label: str | None, arity: Sequence[int]) -> tuple[str, ...] | None:
    """The columns left beside the label and the numbering, if they can only be the text."""
    left = tuple(c for c in source.columns if c != label and c.casefold() not in NUMBERING)
    return left if label is not None and len(left) == 1 and 1 in arity else None


def _header_hint(source: Source) -> str:
    return ", and give the file a header line if it has none" if isinstance(source, DelimitedFile) else ""
