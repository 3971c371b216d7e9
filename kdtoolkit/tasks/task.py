"""The contract of a task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import InputError, did_you_mean

Kind = Literal["classification", "regression", "multilabel"]

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "macro_f1", "mcc"),
    "regression": ("pearson", "spearman", "mse"),
    "multilabel": ("micro_f1", "macro_f1", "exact_match"),
}

# Folders beside those of tasks in a run's data/, and keys beside those of tasks under the recipe's `data:`.
RESERVED = frozenset({"tokenizer", "suite", "folder", "max_tokens", "tasks"})


@dataclass(frozen=True)
class Task:
    """What is predicted from a text or a pair of texts.

    name: canonical name; it is a folder name and a parameter name, so letters, digits, "_" and "-" only.
    kind: classification (one of `labels`), regression (a number), multilabel (any subset of `labels`).
    text: names of the one or two text columns; empty: found by the reader.
    label: name of the label column; None: found by the reader.
    labels: label names in class order; empty for regression, and until the data are read.
    metric: the figure that the table shows; metrics: all that are computed (the first one is `metric`).
    pair: whether an example has two texts; None until the data are read.
    head: "auto" (linear, or pair interaction where a student reads two texts apart), "linear" or "pair".
    splits: evaluation splits beyond train, dev and test, such as dev_mismatched of mnli.
    """

    name: str
    kind: Kind = "classification"
    text: tuple[str, ...] = ()
    label: str | None = None
    labels: tuple[str, ...] = ()
    metric: str = ""
    metrics: tuple[str, ...] = ()
    pair: bool | None = None
    head: str = "auto"
    splits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        place = f"task '{self.name}'"
        if not self.name or not all(c.isalnum() or c in "_-" for c in self.name):
            raise InputError(place, "a task name has letters, digits, '_' and '-' only")
        if self.name in RESERVED or self.name.startswith("tokens-"):
            raise InputError(place, "the run folder and the recipe use this name themselves", "choose another")
        if self.kind not in METRICS:
            raise InputError(place, f"kind '{self.kind}' is unknown", did_you_mean(self.kind, METRICS))
        known = METRICS[self.kind]
        metrics = self.metrics or ((self.metric,) if self.metric else known[:2])
        metric = self.metric or metrics[0]
        for name in (metric, *metrics):
            if name not in known:
                raise InputError(place, f"metric '{name}' does not fit {self.kind}", did_you_mean(name, known))
        if self.kind == "regression" and self.labels:
            raise InputError(place, "a regression task has no label names")
        if len(set(self.labels)) != len(self.labels):
            raise InputError(place, f"label names repeat: {', '.join(self.labels)}")
        if len(self.text) > 2:
            raise InputError(place, f"{len(self.text)} text columns; one or two are supported")
        object.__setattr__(self, "metric", metric)
        object.__setattr__(self, "metrics", (metric, *(m for m in metrics if m != metric)))
        if self.pair is None and self.text:
            object.__setattr__(self, "pair", len(self.text) == 2)

    @property
    def outputs(self) -> int:
        """Number of values a model gives for an example: 1 for regression, else the number of labels."""
        return 1 if self.kind == "regression" else len(self.labels)

    def with_(self, **changes: Any) -> Task:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `from_dict` reads them back."""
        return {
            "name": self.name, "kind": self.kind, "text": list(self.text), "label": self.label,
            "labels": list(self.labels), "metric": self.metric, "metrics": list(self.metrics),
            "pair": self.pair, "head": self.head, "splits": list(self.splits),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Task:
        """The task that `to_dict` described."""
        tuples = {"text", "labels", "metrics", "splits"}
        known: dict[str, Any] = {key: tuple(value) if key in tuples else value for key, value in fields.items()}
        return cls(**known)
