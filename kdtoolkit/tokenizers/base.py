"""What every student tokenizer can do."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..errors import InputError
from ..files import atomic_file, write_json

FILE = "kdtoolkit_tokenizer.json"
"""Says which class reads the folder; not "tokenizer.json", which is Hugging Face's name."""

VECTORS = "vectors.npy"


class JointTemplate(NamedTuple):
    """How one sequence is made of the pieces of one or two texts.

    A pair is `prefix a middle b suffix` ([CLS] a [SEP] b [SEP]), a single text `prefix a suffix`; each of the three is
    a tuple of piece numbers and may be empty. segments: of prefix, first text, middle, second text and suffix of a
    pair; a single text is segment 0 throughout.
    """

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    segments: tuple[int, int, int, int, int] = (0, 0, 0, 1, 1)

    def renumbered(self, number: Callable[[int], int]) -> JointTemplate:
        """The same template in the numbers of another tokenizer."""
        prefix, middle, suffix = (tuple(map(number, part)) for part in (self.prefix, self.middle, self.suffix))
        return JointTemplate(prefix, middle, suffix, self.segments)


class Tokenizer(ABC):
    """Turns texts into piece numbers 0 .. len(self) - 1; piece 0 is padding and stands for no text.

    A text without any piece (an empty one) is the single piece `unk`, so that every text has something to pool over.
    """

    kind: ClassVar[str]
    unk: int
    """The piece of whatever the vocabulary does not know."""
    joint: JointTemplate
    _vectors: np.ndarray | None = None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The pieces of each text, without special ones, untruncated; at least one piece a text."""
        try:
            encoded = self._encode(list(texts))
        except (UnicodeEncodeError, TypeError):
            # Half a surrogate pair, which JSON can carry, is no character and has no UTF-8 form.
            encoded = self._encode([text.encode("utf-8", "replace").decode("utf-8") for text in texts])
        return [pieces or [self.unk] for pieces in encoded]

    @abstractmethod
    def _encode(self, texts: list[str]) -> list[list[int]]:
        """The pieces of each text; none for an empty one."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of pieces, padding included: the student's `vocab_size`."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain values that, with the files of `write`, make this tokenizer again."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Writes the files that belong to `config`."""

    @classmethod
    @abstractmethod
    def read(cls, folder: Path, config: dict[str, Any]) -> Tokenizer:
        """The tokenizer that `config` and `write` described."""

    @abstractmethod
    def _definition(self) -> bytes:
        """Bytes that change whenever a piece number could."""

    @cached_property
    def fingerprint(self) -> str:
        """Hex digits of everything that decides which pieces a text becomes."""
        digest = blake2b(json.dumps([self.kind, self.config()], sort_keys=True).encode(), digest_size=16)
        digest.update(self._definition())
        return digest.hexdigest()

    @property
    def specials(self) -> tuple[int, ...]:
        """Padding, `unk` and the pieces of the joint template, ascending: they are kept whatever the text."""
        return tuple(sorted({0, self.unk, *self.joint.prefix, *self.joint.middle, *self.joint.suffix}))

    @property
    def sources(self) -> np.ndarray:
        """The number of each piece in the tokenizer that this one was made from, (pieces,) int64, -1 for none.

        It picks the rows of a pretrained embedding table for a student that brings its own.
        """
        return np.arange(len(self))

    def vectors(self) -> np.ndarray | None:
        """Pretrained vectors, (pieces, width) float32, row 0 zero; None if there are none."""
        return self._vectors

    def save(self, folder: Path | str, *, vectors: bool = False) -> None:
        """Writes all that `load_tokenizer(folder)` needs, this machine's paths and caches not included.

        vectors: also the pretrained vectors, which a trained student carries in its own weights already.
        """
        folder = Path(folder)
        self.write(folder)
        if vectors and self._vectors is not None:
            save_array(folder / VECTORS, self._vectors)
        # Last, so that a folder with this file is complete.
        write_json(folder / FILE, {"kind": self.kind, **self.config()})


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes an .npy file, atomically."""
    with atomic_file(path) as temporary:
        with temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)


def check_options(options: dict[str, Any], known: dict[str, type | tuple[type, ...]], kind: str) -> None:
    """Raises InputError for an option that a tokenizer does not have, or one of the wrong type."""
    from ..errors import did_you_mean

    for name, value in options.items():
        if name not in known:
            remedy = did_you_mean(name, known) if known else "it has no further options"
            raise InputError(f"tokenizer.{name}", f"the {kind} tokenizer has no such option", remedy)
        # bool is an int to Python, not to a user.
        if not isinstance(value, known[name]) or (isinstance(value, bool) and known[name] is not bool):
            raise InputError(f"tokenizer.{name}", f"{value!r} is of the wrong type")
