"""What the rules know of a task's text: parts of speech, and which words there are of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..data.rows import Rows
from ..errors import InputError
from ..recipe.schema import Augment
from .replacements import Replacements
from .tagger import Tagger, build_tagger
from .words import split

LEARNT_ROWS = 200_000
"""Rows of train, evenly spaced, that are learned from: 4 bytes a word are in memory for them."""
CHUNK_ROWS = 4096
LEAST_LETTERS = 0.5
"""Share of the words that must hold a letter."""


@dataclass(frozen=True)
class Language:
    """tagger: the part of speech of each word; replacements: the words of each, by their share of the text."""

    tagger: Tagger
    replacements: Replacements


def learn(train: Rows, rules: Augment) -> Language:
    """Learns from the text of train, both texts of a pair. Raises InputError for a tagger that does not work."""
    tagger = build_tagger(rules, _words(train))
    counts: Counter[tuple[str, str]] = Counter()
    if rules.replace > 0:
        for words in _words(train):
            counts.update(zip(tagger(words), words, strict=True))
    return Language(tagger, Replacements(counts))


def refuse_non_text(train: Rows) -> None:
    """Raises InputError if the texts of train have no words, or most of their words have no letter."""
    words = with_letters = 0
    for some in _words(train):
        words += len(some)
        with_letters += sum(any(c.isalpha() for c in word) for word in some)
    if with_letters >= LEAST_LETTERS * words > 0:
        return
    name = train.task.name
    what = f"{with_letters / words:.0%} of its words hold a letter" if words else "its texts are empty"
    raise InputError(
        "augment",
        f"task '{name}' is no text that words can be exchanged in: {what}",
        f"leave '{name}' out of augment.tasks, or name its text column with data.{name}.text",
    )


def _words(train: Rows) -> Iterator[list[str]]:
    chosen = np.unique(np.linspace(0, len(train) - 1, min(LEARNT_ROWS, len(train))).astype(np.int64))
    for start in range(0, len(chosen), CHUNK_ROWS):
        for example in train.examples(chosen[start : start + CHUNK_ROWS]):
            yield split(example.text)[0]
            if example.second is not None:
                yield split(example.second)[0]
