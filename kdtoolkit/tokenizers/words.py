"""Whole words: torchtext's `basic_english` and vocabulary, with GloVe or fastText vectors.

Only this module imports torchtext (0.6.0, the last pure-Python release), and only when it is used. Its `Vectors` class
is avoided: it switches TLS verification off for the whole process and caches, and reads its cache, as a pickle. Vector
files are read here, line by line, keeping the words of the vocabulary only.
"""

from __future__ import annotations

import gzip
import logging
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import InputError
from ..files import write_text
from .base import JointTemplate, Tokenizer, check_options

WORDS = "words.txt"
SPECIALS = ("<pad>", "<unk>", "<cls>", "<sep>")
log = logging.getLogger(__name__)


class WordTokenizer(Tokenizer):
    """The words of a vocabulary, most frequent first; other words are `<unk>`."""

    kind = "words"

    def __init__(self, words: list[str], vectors: np.ndarray | None = None) -> None:
        """words: in order of their numbers, SPECIALS first. vectors: (words, width) float32 or None."""
        self._words, self._vectors = words, vectors
        self.unk = 1
        self.joint = JointTemplate(prefix=(2,), middle=(3,), suffix=(3,))
        # Without the special ones, so that "<sep>" in a text is no separator but an unknown word.
        self._numbers = {word: number for number, word in enumerate(words) if number >= len(SPECIALS)}

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocabulary: int, seed: int, vectors: str | None, options: dict[str, Any]
    ) -> WordTokenizer:
        """The `vocabulary` most frequent words (special ones included).

        vectors: path of a text file of word vectors (`word number number ...`; a fastText header and .gz are fine).
        Words without a vector get normal numbers of the found vectors' mean and deviation, drawn with `seed`.
        options: min_count (rarer words are left out, default 1).
        Raises InputError if there is no word, or the file cannot be read as vectors.
        """
        check_options(options, {"min_count": int}, cls.kind)
        with _ssl_left_alone():
            from torchtext.vocab import Vocab

            split, counts = basic_english(), Counter[str]()
            for text in texts:
                counts.update(split(text))
            vocab = Vocab(
                counts,
                max_size=vocabulary - len(SPECIALS),
                min_freq=options.get("min_count", 1),
                specials=list(SPECIALS),
            )
        if len(vocab.itos) == len(SPECIALS):
            raise InputError("tokenizer", "there is no word to learn a vocabulary from", "check the text columns")
        table = None if vectors is None else read_vectors(Path(vectors), vocab.itos, seed)
        return cls(list(vocab.itos), table)

    @cached_property
    def _split(self) -> Callable[[str], list[str]]:
        return basic_english()

    def _encode(self, texts: list[str]) -> list[list[int]]:
        numbers, unk, split = self._numbers, self.unk, self._split
        return [[numbers.get(word, unk) for word in split(text)] for text in texts]

    def __len__(self) -> int:
        return len(self._words)

    def config(self) -> dict[str, Any]:
        return {}

    def _definition(self) -> bytes:
        return "\n".join(self._words).encode("utf-8", "surrogatepass")

    def write(self, folder: Path) -> None:
        # Words are what `str.split` leaves, so none contains a line end.
        write_text(folder / WORDS, "\n".join(self._words))

    @classmethod
    def read(cls, folder: Path, config: dict[str, Any]) -> WordTokenizer:
        return cls((folder / WORDS).read_text(encoding="utf-8").split("\n"))


def basic_english() -> Callable[[str], list[str]]:
    """torchtext's function from a text to its words, lower-cased, punctuation apart."""
    with _ssl_left_alone():
        from torchtext.data.utils import get_tokenizer

        return get_tokenizer("basic_english")


@contextmanager
def _ssl_left_alone() -> Iterator[None]:
    """Whatever torchtext does in here, certificates are verified afterwards as they were before."""
    hook = ssl._create_default_https_context
    try:
        yield
    finally:
        ssl._create_default_https_context = hook


def read_vectors(path: Path, words: list[str], seed: int) -> np.ndarray:
    """The vectors of `words` from a text file, (words, width) float32; row 0 (padding) is zero.

    Memory is that of the result, however large the file. Raises InputError naming file and line.
    """
    numbers = {word: number for number, word in enumerate(words) if number >= len(SPECIALS)}
    width, table, found = 0, np.empty((0, 0), np.float32), np.zeros(len(words), bool)
    with _open(path) as file:
        for line_number, line in enumerate(file, start=1):
            fields = line.rstrip().split(b" ")
            if line_number == 1:
                width, header = _width(path, line)
                table = np.zeros((len(words), width), np.float32)
                if header:
                    continue
            # Counted from the right: a few "words" of the large GloVe files contain spaces.
            if len(fields) <= width:
                raise InputError(
                    f"{path} line {line_number}", f"has {len(fields) - 1} numbers where {width} are expected"
                )
            number = numbers.get(b" ".join(fields[:-width]).decode("utf-8", "replace"))
            if number is None or found[number]:
                continue
            try:
                table[number] = [float(field) for field in fields[-width:]]
            except ValueError as error:
                raise InputError(f"{path} line {line_number}", str(error)) from error
            found[number] = True
    if not found.any():
        raise InputError(str(path), "has a vector for none of the words of the text", "is it of the same language?")
    if not np.isfinite(table).all():
        raise InputError(str(path), "has vectors that are not finite")
    log.info("%s: vectors for %d of %d words", path, found.sum(), len(words) - len(SPECIALS))
    missing = ~found
    missing[0] = False
    drawn = np.random.default_rng(seed).standard_normal((int(missing.sum()), width), np.float32)
    table[missing] = table[found].mean(0) + table[found].std() * drawn
    return table


def vectors_width(path: Path) -> int:
    """Numbers a word has in a file of vectors, by its first line alone; see `read_vectors`."""
    with _open(path) as file:
        return _width(path, file.readline())[0]


def _width(path: Path, line: bytes) -> tuple[int, bool]:
    """(width, whether the line is fastText's header) from the first line of a file of vectors."""
    fields = line.rstrip().split(b" ")
    header = len(fields) == 2 and all(field.isdigit() for field in fields)
    width = int(fields[1]) if header else len(fields) - 1
    if width < 1:
        raise InputError(f"{path} line 1", "is not a word and its numbers", "GloVe's text format is read")
    return width, header


def _open(path: Path) -> IO[bytes]:
    if not path.is_file():
        raise InputError(
            "tokenizer.vectors", f"'{path}' is not a file", "give the path of a GloVe or fastText text file"
        )
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
