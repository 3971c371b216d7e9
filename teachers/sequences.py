"""Text as a checkpoint's own tokenizer reads it: token sequences, in memory or memory-mapped, and padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kdtoolkit.data.rows import Rows
from kdtoolkit.errors import InputError
from kdtoolkit.files import atomic_folder, reserve
from kdtoolkit.progress import track
from kdtoolkit.student import Tokens

READ_ROWS = 4096
Text = str | tuple[str, str]


class TokenSequence(NamedTuple):
    """ids: (tokens,) int32, special tokens included. first: how many of them belong to the first text."""

    ids: np.ndarray
    first: int


class Reader:
    """The tokenizer of a checkpoint folder, used exactly as its own post-processor says.

    max_tokens: longest sequence, special tokens included; longer pairs lose tokens of the longer text first.
    apart: whether the texts of a pair are told apart also where the tokenizer gives both one type, as RoBERTa's does.
    `truncated` counts the texts that were cut. Raises InputError if there is no tokenizer of the fast kind.
    """

    def __init__(
        self, folder: Path, place: str, *, max_tokens: int, trust_remote_code: bool, apart: bool = False
    ) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
            raise InputError(place, f"the tokenizer of {folder} cannot be loaded ({_first_line(error)})") from error
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(place, f"{folder} has no fast tokenizer", "save one as tokenizer.json with transformers")
        # Some tokenizer.json files carry padding to a fixed length (MiniLM: 128).
        backend.no_padding()
        backend.enable_truncation(max_tokens, strategy="longest_first")
        self._backend, self.max_tokens, self._apart = backend, max_tokens, apart
        self.truncated = 0
        pad = self.tokenizer.pad_token_id
        self.pad_id: int = 0 if pad is None else int(pad)

    def encode(self, texts: Sequence[Text]) -> list[TokenSequence]:
        """One sequence for each text or pair; an empty text that gets no special token is one padding token."""
        try:
            encodings = self._backend.encode_batch(texts)
        except (TypeError, UnicodeEncodeError):  # lone surrogates, which UTF-8 does not have
            encodings = self._backend.encode_batch([_without_surrogates(text) for text in texts])
        self.truncated += sum(bool(encoding.overflowing) for encoding in encodings)
        return [TokenSequence(np.array(e.ids or [self.pad_id], np.int32), self._first(e)) for e in encodings]

    @property
    def marks(self) -> int:
        """How many special tokens a pair gets."""
        return int(self._backend.num_special_tokens_to_add(True))

    def _first(self, encoding: Any) -> int:
        """How many of its tokens belong to the first text."""
        tokens = len(encoding.ids)
        if not tokens:
            return 1
        first = tokens - sum(encoding.type_ids)
        if first < tokens or not self._apart or encoding.n_sequences < 2:
            return first
        # An empty second text has the mark at the end.
        return next((place for place, text in enumerate(encoding.sequence_ids) if text == 1), tokens - 1)

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files, without this reader's truncation."""
        truncation = self._backend.truncation
        self._backend.no_truncation()
        self.tokenizer.save_pretrained(folder)
        self._backend.enable_truncation(**truncation)


def padded(sequences: Sequence[TokenSequence], pad_id: int) -> Tokens:
    """The sequences as one batch, padded on the right with `pad_id` to the longest."""
    if not sequences:  # a rank's share of a small window
        empty = torch.zeros(0, 1, dtype=torch.int64)
        return Tokens(empty, empty.bool(), empty)
    lengths = np.array([len(s.ids) for s in sequences])
    place = np.arange(lengths.max())
    mask = place < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = np.concatenate([s.ids for s in sequences])
    segments = (place >= np.array([s.first for s in sequences])[:, None]) & mask
    return Tokens(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(segments.astype(np.int64)))


class SequenceFile:
    """Sequences of many rows in flat memory-mapped arrays: ids.npy int32, offsets.npy int64, first.npy int32."""

    def __init__(self, folder: Path) -> None:
        self._ids = np.load(folder / "ids.npy", mmap_mode="r")
        self._offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        self._first = np.load(folder / "first.npy", mmap_mode="r")

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, (rows,) int32."""
        return np.diff(self._offsets).astype(np.int32)

    def __getitem__(self, row: int) -> TokenSequence:
        return TokenSequence(self._ids[self._offsets[row] : self._offsets[row + 1]], int(self._first[row]))


def read_rows(rows: Rows, reader: Reader, folder: Path, description: str) -> SequenceFile:
    """Tokenizes all rows into `folder`, streaming; what is there already is opened."""
    if not folder.is_dir():
        with atomic_folder(folder) as temporary:
            lengths, first = [np.zeros(1, np.int64)], []
            with (temporary / "ids.raw").open("wb") as raw, track(description, len(rows)) as advance:
                for texts in _blocks(rows):
                    sequences = reader.encode(texts)
                    raw.writelines(s.ids.tobytes() for s in sequences)
                    lengths.append(np.array([len(s.ids) for s in sequences], np.int64))
                    first.append(np.array([s.first for s in sequences], np.int32))
                    advance(len(texts))
            np.save(temporary / "offsets.npy", np.cumsum(np.concatenate(lengths)))
            np.save(temporary / "first.npy", np.concatenate(first))
            _as_npy(temporary / "ids.raw", temporary / "ids.npy")
    return SequenceFile(folder)


def texts_of(first: Sequence[str], second: Sequence[str | None] | None) -> list[Text]:
    """Texts and second texts as the tokenizer takes them."""
    if second is None:
        return list(first)
    return [a if b is None else (a, b) for a, b in zip(first, second)]


def _blocks(rows: Rows) -> Iterator[list[Text]]:
    for start in range(0, len(rows), READ_ROWS):
        yield texts_of(*rows.texts(start, min(start + READ_ROWS, len(rows))))


def _as_npy(raw: Path, path: Path) -> None:
    """Gives raw int32 numbers the header of a .npy file, without reading them into memory."""
    numbers = np.memmap(raw, np.int32, "r")
    target = np.lib.format.open_memmap(path, "w+", np.int32, numbers.shape)
    reserve(path)
    for start in range(0, len(numbers), 1 << 22):
        target[start : start + (1 << 22)] = numbers[start : start + (1 << 22)]
    target.flush()
    del numbers
    raw.unlink()


def _without_surrogates(text: Text) -> Text:
    if isinstance(text, tuple):
        return text[0].encode("utf-8", "replace").decode(), text[1].encode("utf-8", "replace").decode()
    return text.encode("utf-8", "replace").decode()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
