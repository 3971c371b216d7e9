"""The rules that change a text, as one pure function (Tang et al. 2019, arXiv:1903.12136, section 3.3)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from hashlib import shake_256

import numpy as np

from ..example import example_id
from ..recipe.schema import Augment
from .replacements import Replacements
from .tagger import Tagger
from .words import join, split

Texts = tuple[str, str | None]


def generate(
    texts: Sequence[str],
    seconds: Sequence[str] | None,
    rules: Augment,
    tagger: Tagger,
    replacements: Replacements,
    *,
    task: str,
    seed: int,
) -> Iterator[list[Texts]]:
    """For each row, `rules.copies` tries at a text like it: (text, second), the second None for single texts.

    Each word is, by one draw X in [0, 1), masked (X < mask), exchanged for a word of its part of speech (X < mask +
    replace), or kept; with probability `ngram` what came of it is then cut to an n-gram of 1 to `longest_ngram` words.
    Of a pair both texts are changed with probability `both`, else one of them, either as likely. A text in which
    nothing changed is given back as it was, character by character.

    A try depends on (seed, task, the row's id, its number among the tries) and on what words are exchanged for: not on
    the order of the rows, other rows, or the number of tries.
    """
    for text, second in zip(texts, seconds if seconds is not None else [None] * len(texts), strict=True):
        yield _tries(text, second, rules, tagger, replacements, _address(seed, task, text, second))


def _address(seed: int, task: str, text: str, second: str | None) -> bytes:
    return struct.pack("<q", seed) + example_id(text, second) + task.encode()


def _tries(
    text: str, second: str | None, rules: Augment, tagger: Tagger, replacements: Replacements, address: bytes
) -> list[Texts]:
    sides = [text] if second is None else [text, second]
    parsed = [split(side) for side in sides]
    widths = [2 * len(words) + 3 for words, _ in parsed]
    draws = _uniform(address, rules.copies, 2 + sum(widths))
    both, first = draws[:, 0] < rules.both, draws[:, 1] < 0.5
    chosen = [both | first, both | ~first] if second is not None else [np.ones(rules.copies, bool)]
    results, start = [], 2
    for side, (words, apart), width, changes in zip(sides, parsed, widths, chosen):
        own = draws[:, start : start + width]
        results.append(_side(side, words, apart, own, changes, rules, tagger, replacements))
        start += width
    return list(zip(results[0], results[1] if second is not None else [None] * rules.copies))


def _side(
    text: str,
    words: list[str],
    apart: list[bool],
    draws: np.ndarray,
    changes: np.ndarray,
    rules: Augment,
    tagger: Tagger,
    replacements: Replacements,
) -> list[str]:
    """One text in every try; draws (tries, 2 words + 3): fate and replacement of each word, then of the n-gram."""
    count = len(words)
    tries = [list(words) if change else words for change in changes]
    fate = np.where(changes[:, None], draws[:, :count], 1.0)
    for number, place in zip(*np.nonzero(fate < rules.mask)):
        tries[number][place] = rules.mask_token
    exchanged = np.nonzero((fate >= rules.mask) & (fate < rules.mask + rules.replace))
    if len(exchanged[0]):
        tags = tagger(words)
        for number, place in zip(*exchanged):
            which = float(draws[number, count + place])
            tries[number][place] = replacements.draw(tags[place], words[place], which)
    results = []
    for number, some in enumerate(tries):
        cut, length, begin = draws[number, 2 * count :].tolist()
        keep = slice(None)
        if changes[number] and cut < rules.ngram:
            size = min(1 + int(length * rules.longest_ngram), count)
            first = int(begin * (count - size + 1))
            keep = slice(first, first + size)
        same = some[keep] == words
        results.append(text if same else join(some[keep], apart[keep], rules.mask_token))
    return results


def _uniform(address: bytes, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) float64 in [0, 1), in steps of 2^-32; the first rows are the same however many there are."""
    numbers = np.frombuffer(shake_256(address).digest(4 * rows * columns), "<u4")
    return numbers.reshape(rows, columns) / 2.0**32
