"""One row of a task, and the id that stands for its text."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b

Label = int | float | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A text, or a pair of texts, of one task.

    task: canonical task name ("sst2").
    text, second: the texts; `second` is None for a task of single texts.
    label: class number (classification), number (regression), tuple of 0 and 1 (multilabel), or None: no gold label.
    """

    task: str
    text: str
    second: str | None = None
    label: Label | None = None

    @property
    def id(self) -> bytes:
        """16 bytes that depend on the texts alone; see `example_id`."""
        return example_id(self.text, self.second)


def example_id(text: str, second: str | None = None) -> bytes:
    """128-bit BLAKE2b of the length-prefixed texts.

    The prefix makes ("ab", "c") and ("a", "bc") different, and an empty second text different from none.
    """
    digest = blake2b(digest_size=16)
    for part in (text,) if second is None else (text, second):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(struct.pack("<Q", len(data)))
        digest.update(data)
    return digest.digest()
