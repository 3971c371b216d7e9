"""The further terms of the loss by name, without importing one: the recipe is checked where there is no torch."""

from __future__ import annotations

from dataclasses import dataclass

from .signature import Option, options_of


@dataclass(frozen=True)
class KnownTerm:
    """What is known of a term before it is built.

    target: "module:Class". classes: whether it compares a softmax over classes, so that regression and multilabel tasks
    cannot have it. labels: whether rows without a gold label are left out of it. batch: whether it relates rows of a
    batch to each other, so that it needs several rows of a task in a batch.
    """

    target: str
    classes: bool = False
    labels: bool = False
    batch: bool = False

    def options(self) -> dict[str, Option]:
        """Its recipe keys, read from the source of its constructor."""
        options = options_of(self.target)
        assert options is not None, f"{self.target}: a constructor with keyword-only options is expected"
        return options


_PACKAGE = "kdtoolkit.objectives.terms"

KNOWN_TERMS: dict[str, KnownTerm] = {
    "pkd": KnownTerm(f"{_PACKAGE}.pkd:PKD"),
    "attention": KnownTerm(f"{_PACKAGE}.tinybert:Attention"),
    "hidden": KnownTerm(f"{_PACKAGE}.tinybert:Hidden"),
    "embedding": KnownTerm(f"{_PACKAGE}.tinybert:Embedding"),
    "minilm": KnownTerm(f"{_PACKAGE}.minilm:MiniLM"),
    "minilmv2": KnownTerm(f"{_PACKAGE}.minilmv2:MiniLMv2"),
    "cosine": KnownTerm(f"{_PACKAGE}.cosine:Cosine"),
    "rkd": KnownTerm(f"{_PACKAGE}.rkd:RKD", batch=True),
    "dkd": KnownTerm(f"{_PACKAGE}.dkd:DKD", classes=True, labels=True),
    "dist": KnownTerm(f"{_PACKAGE}.dist:DIST", classes=True, batch=True),
}
"""Every term: `objective.terms[].name`."""
