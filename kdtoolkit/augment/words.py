"""The words of a text, and a text of words again: one splitter for all that is generated."""

from __future__ import annotations

import re
from collections.abc import Sequence

IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff"
"""Kana and Han characters, which stand without spaces: each is a word of its own."""

_WORD = re.compile(
    rf"""[{IDEOGRAPHS}]                                   # a character of a script without spaces
    | ['’](?:s|re|ve|ll|d|m|t)\b                          # what text that was split before has as a word: it 's
    | \d+(?:[.,]\d+)+                                     # 3.5 and 10,000
    | [^\W{IDEOGRAPHS}]+(?:['’-][^\W{IDEOGRAPHS}]+)*      # letters and digits; don't and well-known are one word
    | [^\w\s]                                             # any other mark""",
    re.VERBOSE | re.IGNORECASE,
)


def split(text: str) -> tuple[list[str], list[bool]]:
    """The words of a text, and for each whether it stands apart from the one before it (the first one does).

    Case is kept; a punctuation mark is a word. White space within a text is all one.
    """
    words, apart, end = [], [], -1
    for found in _WORD.finditer(text):
        words.append(found[0])
        apart.append(found.start() != end)
        end = found.end()
    return words, apart


def join(words: Sequence[str], apart: Sequence[bool], lone: str) -> str:
    """The text of the words: a space before those that stand `apart`, and on both sides of the word `lone`."""
    parts: list[str] = []
    before = lone
    for word, is_apart in zip(words, apart, strict=True):
        if parts and (is_apart or lone in (word, before)):
            parts.append(" ")
        parts.append(word)
        before = word
    return "".join(parts)
