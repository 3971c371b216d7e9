"""Which word stands in for another: the words of each part of speech, by their share of the running text."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate


class Replacements:
    """The unigram distribution of a text, renormalised within each part of speech (Tang et al. 2019, section 3.3)."""

    def __init__(self, counts: Mapping[tuple[str, str], int]) -> None:
        """counts: occurrences of each (part of speech, word) in the running text; their order does not matter."""
        by_tag: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        for (tag, word), count in counts.items():
            by_tag[tag].append((count, word))
        self._words: dict[str, list[str]] = {}
        self._ends: dict[str, list[int]] = {}
        for tag, some in by_tag.items():
            some.sort(key=lambda item: (-item[0], item[1]))
            self._words[tag] = [word for _, word in some]
            self._ends[tag] = list(accumulate(count for count, _ in some))

    def draw(self, tag: str, word: str, draw: float) -> str:
        """A word of the part of speech for `draw` in [0, 1), perhaps `word` again; `word` if the tag is unknown."""
        ends = self._ends.get(tag)
        return word if ends is None else self._words[tag][bisect_right(ends, draw * ends[-1])]
