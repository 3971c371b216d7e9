"""A seeded sample of a stream of texts."""

from __future__ import annotations

import random
from collections.abc import Iterable


def sample_texts(texts: Iterable[str], rows: int, seed: int) -> list[str]:
    """At most `rows` texts, each as likely as any other, in the order of the stream (reservoir sampling, algorithm R).

    Memory is that of the sample, however long the stream.
    """
    generator = random.Random(seed)
    kept: list[tuple[int, str]] = []
    for number, text in enumerate(texts):
        if number < rows:
            kept.append((number, text))
        elif (place := generator.randrange(number + 1)) < rows:
            kept[place] = (number, text)
    return [text for _, text in sorted(kept)]
