"""Two small tasks and a callable that knows them: whether a text is in a good mood, and how alike two texts are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

TEACHER = '''
import numpy as np

version = "1"
GOOD = {"good", "fine", "great"}


def score(texts):
    """More good words than bad ones: the second class."""
    margin = [2.0 * sum(word in GOOD for word in text.split()) - 2.0 for text in texts]
    return np.stack([-np.array(margin), np.array(margin)], 1)


def distance(pairs):
    return np.array([[5.0 * len(set(a.split()) & set(b.split())) / 4] for a, b in pairs])
'''

WORDS = ["good", "fine", "great", "bad", "poor", "dull", "film", "book", "song", "meal", "view", "road"]


def rows(count: int, seed: int, *, pair: bool) -> Iterator[dict[str, Any]]:
    generator = random.Random(seed)
    for _ in range(count):
        first = " ".join(generator.choices(WORDS, k=4))
        if not pair:
            good = sum(word in {"good", "fine", "great"} for word in first.split())
            yield {"text": first, "label": "high" if good > 1 else "low"}
        else:
            second = " ".join(generator.choices(WORDS, k=4))
            yield {"one": first, "two": second, "label": 5 * len(set(first.split()) & set(second.split())) / 4}
