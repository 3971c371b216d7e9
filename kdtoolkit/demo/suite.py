"""Writes the demo suite as files that any user could have brought.

For each task a folder with train.jsonl (GOLD rows with a label, then TRANSFER rows whose label is null), teacher.jsonl
(TEACHER labelled rows that only the teacher is trained on) and dev.jsonl (DEV labelled rows). No text of dev is in
train or teacher, no row is in two files or twice in one, and no sentence is paired with itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from ..files import atomic_file
from ..tasks import Task
from . import pairs, sentiment

GOLD, TRANSFER, TEACHER, DEV = 500, 3500, 4000, 600

SUITE: tuple[Task, ...] = (
    Task("demo_sentiment", text=("text",), label="label", labels=("negative", "positive"), metrics=("accuracy", "f1")),
    Task("demo_entailment", text=("premise", "hypothesis"), label="label",
         labels=("entailment", "neutral", "contradiction"), metrics=("accuracy", "macro_f1")),
    Task("demo_paraphrase", text=("sentence1", "sentence2"), label="label", labels=("different", "same"),
         metrics=("accuracy", "f1")),
    Task("demo_similarity", kind="regression", text=("sentence1", "sentence2"), label="label",
         metrics=("pearson", "spearman")),
)  # fmt: skip

_GRAMMARS: dict[str, Callable[[Random], tuple[Any, ...]]] = {
    "demo_sentiment": sentiment.review,
    "demo_entailment": pairs.entailment,
    "demo_paraphrase": pairs.paraphrase,
    "demo_similarity": pairs.similarity,
}


def write_suite(folder: Path, seed: int = 0) -> None:
    """Writes folder/TASK/{train,dev,teacher}.jsonl for every task of SUITE; the same bytes for the same seed.

    Raises InputError if the folder cannot be written, WorkError if the disk is full.
    """
    for task in SUITE:
        rows = suite_rows(task, seed)
        for split in ("train", "dev", "teacher"):
            with atomic_file(Path(folder) / task.name / f"{split}.jsonl") as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in rows[split]), encoding="utf-8")


def suite_rows(task: Task, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """The rows of one task by split, each a mapping of the task's text columns and "label"."""
    rng = Random(f"kdtoolkit demo {task.name} {seed}")
    names = (*task.text, "label")
    seen: set[tuple[str, ...]] = set()
    reported: set[str] = set()
    rows: dict[str, list[dict[str, Any]]] = {"dev": [], "train": [], "teacher": []}
    for split, count in (("dev", DEV), ("train", GOLD + TRANSFER), ("teacher", TEACHER)):
        while len(rows[split]) < count:
            values = _GRAMMARS[task.name](rng)
            texts = values[:-1]
            if texts in seen or len(set(texts)) < len(texts):
                continue
            if split != "dev" and any(text in reported for text in texts):
                continue
            seen.add(texts)
            if split == "dev":
                reported.update(texts)
            rows[split].append(dict(zip(names, values, strict=True)))
    for row in rows["train"][GOLD:]:
        row["label"] = None
    return rows
