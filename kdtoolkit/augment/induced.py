"""Word classes from a text's own statistics, for want of a tagger: who stands beside a word, and how it ends.

Frequent words are described by the shares of their left and right neighbours among the most frequent words (Schütze
1995, "Distributional part-of-speech tagging", EACL), square-rooted so that the commonest do not drown the others, and
by their endings and shape; reduced by a truncated SVD and grouped by k-means. Rarer words join the class that words of
their ending and shape are mostly in; marks and what holds digits are classes of their own. It knows no language and
needs no file; the price is that a class is one of use, not of grammar. Every random number is fixed here, so a text has
one set of classes.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array, hstack
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from threadpoolctl import threadpool_limits

CONTEXT_WORDS = 500
"""The words that count as neighbours; all others are one."""
FREQUENT_WORDS = 10_000
LEAST_COUNT = 3
"""A word that is rarer says too little about its neighbours."""
LEAST_WORDS = 20
"""An ending that fewer words have says too little about their class."""
WORDS_A_CLASS = 4
"""So few words at least, on average: a class of one word replaces nothing."""
DIMENSIONS = 100
ENDING = 0.65
"""Weight of endings and shape beside that of each neighbour, 1."""


class InducedTagger:
    """The class of a word: its own, or that of its ending and shape."""

    def __init__(self, classes: Mapping[str, str], by_ending: Mapping[str, str]) -> None:
        """classes: of the frequent words. by_ending: by the keys of `endings`; a word that has none is its shape."""
        self.classes, self._by_ending = dict(classes), dict(by_ending)

    def __call__(self, words: list[str]) -> list[str]:
        """One class a word, whatever stands around it."""
        known = self.classes
        return [known[word] if word in known else self._of_ending(word) for word in words]

    def _of_ending(self, word: str) -> str:
        keys = endings(word)
        return next((self._by_ending[key] for key in keys if key in self._by_ending), keys[-1])


@lru_cache(maxsize=1 << 16)
def endings(word: str) -> tuple[str, ...]:
    """The word's shape with its last 3, 2, 1 and 0 letters, the longest first; of marks and numbers the shape alone."""
    if not any(c.isalnum() for c in word):
        return ("mark",)
    if any(c.isdigit() for c in word):
        return ("number",)
    if word.isupper() and len(word) > 1:
        shape = "capitals"
    else:
        shape = "name" if word[0].isupper() else "word"
    folded = word.lower()
    longest = min(3, len(folded))
    return (*(f"{shape} -{folded[-n:]}" for n in range(longest, 0, -1)), shape)


def induce(texts: Iterable[list[str]], classes: int) -> InducedTagger:
    """At most `classes` word classes of the texts, each a list of words.

    Memory: 4 bytes a word and a sparse table of FREQUENT_WORDS; the order of the texts does not matter.
    """
    words, running = _numbered(texts)
    counts = np.bincount(running, minlength=len(words))
    counts[0] = 0  # the edge of a text, which stands as a neighbour only
    ranked = sorted(range(1, len(words)), key=lambda number: (-counts[number], words[number]))
    told = [number for number in ranked if counts[number] >= LEAST_COUNT and len(endings(words[number])) > 1]
    frequent = told[:FREQUENT_WORDS]
    wanted = min(classes, len(frequent) // WORDS_A_CLASS)
    if wanted < 2:
        return InducedTagger({}, {})
    names = [words[number] for number in frequent]
    table = hstack([*_neighbours(words, running, counts, frequent), _ending_table(names)], format="csr")
    weights = counts[frequent]
    # One thread, for sums that several threads add up differ from time to time.
    with threadpool_limits(1):
        size = min(DIMENSIONS, min(table.shape) - 1)
        reduced = TruncatedSVD(size, random_state=0).fit_transform(table)
        found = KMeans(wanted, n_init=3, random_state=0).fit(reduced, sample_weight=np.sqrt(weights)).labels_
    own = {name: str(number) for name, number in zip(names, found.tolist(), strict=True)}
    return InducedTagger(own, _classes_of_endings(own))


def _numbered(texts: Iterable[list[str]]) -> tuple[list[str], np.ndarray]:
    """The different words, the edge "" first, and the running text as their numbers, (words,) int32."""
    numbers: dict[str, int] = {"": 0}
    running = array("i", [0])
    for text in texts:
        running.extend([numbers.setdefault(word, len(numbers)) for word in text])
        running.append(0)
    return list(numbers), np.frombuffer(running, np.int32)


def _neighbours(words: list[str], running: np.ndarray, counts: np.ndarray, frequent: list[int]) -> list[csr_array]:
    """Square roots of the shares of each neighbour: on the left and on the right, (frequent words, neighbours)."""
    folded: Counter[str] = Counter()
    for word, count in zip(words, counts.tolist()):
        folded[word.lower()] += count
    del folded[""]
    commonest = sorted(folded, key=lambda word: (-folded[word], word))[:CONTEXT_WORDS]
    columns = {"": 0} | {word: place for place, word in enumerate(commonest, 1)}
    others = len(columns)
    column = np.array([columns.get(word.lower(), others) for word in words])[running]
    row = np.full(len(words), -1)
    row[frequent] = np.arange(len(frequent))
    rows = row[running]
    tables = []
    for at, beside in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        wanted = rows[at] >= 0
        places = (rows[at][wanted], column[beside][wanted])
        table = csr_array((np.ones(int(wanted.sum())), places), shape=(len(frequent), others + 1))
        table.sum_duplicates()
        shares = table.multiply(1 / counts[frequent][:, None]).tocsr()
        tables.append(shares.sqrt())
    return tables


def _ending_table(names: list[str]) -> csr_array:
    """Endings and shapes, each of a word's keys with equal weight, ENDING in all: (frequent words, keys)."""
    keys = sorted({key for name in names for key in endings(name)})
    column = {key: place for place, key in enumerate(keys)}
    rows = [row for row, name in enumerate(names) for _ in endings(name)]
    columns = [column[key] for name in names for key in endings(name)]
    values = [ENDING / np.sqrt(len(endings(name))) for name in names for _ in endings(name)]
    return csr_array((values, (rows, columns)), shape=(len(names), len(keys)))


def _classes_of_endings(classes: Mapping[str, str]) -> dict[str, str]:
    """The class that most words of each telling ending are in; rare words are like the rarer, so each counts once."""
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name in classes:
        for key in endings(name):
            votes[key][classes[name]] += 1
    telling = {key: some for key, some in votes.items() if some.total() >= LEAST_WORDS or " " not in key}
    return {key: min(some, key=lambda tag: (-some[tag], tag)) for key, some in telling.items()}
