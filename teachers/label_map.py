"""Reconciles a checkpoint's label names with a task's: by name, never by position."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdtoolkit.errors import InputError, did_you_mean

# Names that published GLUE checkpoints use for the hub's label names, both in folded form.
SYNONYMS: dict[str, str] = {
    "neg": "negative", "pos": "positive",
    "entail": "entailment", "entailed": "entailment",
    "contradict": "contradiction", "contradictory": "contradiction",
    "nonentailment": "notentailment", "notentailed": "notentailment", "noentailment": "notentailment",
    "paraphrase": "equivalent", "isparaphrase": "equivalent",
    "notparaphrase": "notequivalent", "nonparaphrase": "notequivalent", "notaparaphrase": "notequivalent",
    "isduplicate": "duplicate", "nonduplicate": "notduplicate", "isnotduplicate": "notduplicate",
    "grammatical": "acceptable", "ungrammatical": "unacceptable",
}  # fmt: skip
GENERIC = re.compile(r"LABEL_(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class LabelMap:
    """columns: for each task label, in the task's order, the checkpoint's columns that stand for it (one or more)."""

    columns: tuple[tuple[int, ...], ...]

    def apply(self, outputs: Tensor) -> Tensor:
        """(rows, checkpoint labels) to (rows, task labels); columns of one label are merged by log-sum-exp,

        which adds their probabilities: entailment | neutral + contradiction, for an MNLI model that teaches RTE.
        """
        if all(len(group) == 1 for group in self.columns):
            return outputs[:, [group[0] for group in self.columns]]
        return torch.stack([outputs[:, list(group)].logsumexp(1) for group in self.columns], 1)


def identity(outputs: int) -> LabelMap:
    """Each column as it is."""
    return LabelMap(tuple((column,) for column in range(outputs)))


def fold(name: str) -> str:
    """A label name without case, punctuation and known synonyms: "Not-Entailment" is "notentailment"."""
    folded = "".join(c for c in name.casefold() if c.isalnum()) or name.casefold()
    return SYNONYMS.get(folded, folded)


def generic(names: Sequence[str]) -> bool:
    """Whether the names are LABEL_0, LABEL_1, ...: what a checkpoint says when nobody named its labels."""
    return bool(names) and all(GENERIC.fullmatch(name) for name in names)


def reconcile(names: Sequence[str], labels: Sequence[str]) -> LabelMap | None:
    """The map when both sides have the same names (exactly, or folded where that keeps them apart), else None.

    LABEL_3 is the number 3: it matches a label whose name is that number, and no other name.
    """
    numbers = [match[1] if (match := GENERIC.fullmatch(name)) else name for name in names]
    for ours, theirs in (
        (list(labels), list(names)),
        (list(labels), numbers),
        ([fold(label) for label in labels], [fold(name) for name in names]),
    ):
        if len(set(ours)) == len(ours) == len(theirs) and set(ours) == set(theirs):
            return LabelMap(tuple((theirs.index(label),) for label in ours))
    return None


def explicit(
    names: Sequence[str], labels: Sequence[str], given: Mapping[str | int, str], place: str, *, merge: bool
) -> LabelMap:
    """The map that the user wrote: checkpoint label (its name, or its number) -> task label.

    Checkpoint labels that are left out are dropped; several may stand for one task label if `merge`.
    Raises InputError for an unknown name on either side and for a task label without a column.
    """
    key_of = {fold(label): label for label in labels}
    columns: dict[str, list[int]] = {label: [] for label in labels}
    for key, value in given.items():
        text = str(key)
        if text in names:
            column = list(names).index(text)
        elif text.isdigit() and int(text) < len(names):
            column = int(text)
        elif (match := GENERIC.fullmatch(text)) and int(match[1]) < len(names):
            column = int(match[1])
        else:
            raise InputError(place, f"the checkpoint has no label '{text}'", did_you_mean(text, names))
        label = str(value) if str(value) in columns else key_of.get(fold(str(value)))
        if label is None:
            raise InputError(place, f"the task has no label '{value}'", did_you_mean(str(value), labels))
        if columns[label] and not merge:
            raise InputError(place, f"two checkpoint labels stand for '{label}'")
        columns[label].append(column)
    empty = [label for label, group in columns.items() if not group]
    if empty:
        raise InputError(
            place,
            f"no checkpoint label stands for '{empty[0]}'",
            f"the checkpoint's labels are {', '.join(names)}",
        )
    used = [column for group in columns.values() for column in group]
    if len(set(used)) != len(used):
        raise InputError(place, "a checkpoint label is named twice")
    return LabelMap(tuple(tuple(group) for group in columns.values()))
