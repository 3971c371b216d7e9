"""The piece numbers of a split: one flat array and offsets, memory-mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..errors import WorkError
from ..files import atomic_folder, read_json, write_json
from ..progress import track

if TYPE_CHECKING:
    from ..tokenizers import Tokenizer
    from .rows import Rows

# Rows tokenized at a time: memory is that of so many texts, whatever the length of the split.
CHUNK_ROWS = 1024
CHUNK_TOKENS = 1 << 20
META = "tokens.json"


class TokenArrays:
    """Piece numbers of every text of a split, in row order; the two texts of a pair follow each other.

    ids: (tokens,) int32. offsets: (texts + 1,) int64; text i is ids[offsets[i] : offsets[i + 1]], never empty.
    texts_per_row: 1 or 2. max_tokens: the longest a text may be; truncated: number of texts that were cut to it.
    piece_counts: (pieces,) int64, occurrences of each piece. fingerprint: of texts, tokenizer and max_tokens.
    """

    def __init__(self, folder: Path | str) -> None:
        """Opens what `tokenize_rows` or `remap` wrote; WorkError if it is damaged."""
        self.folder = Path(folder)
        meta = read_json(self.folder / META)
        try:
            self.fingerprint: str = meta["fingerprint"]
            self.rows_digest: str = meta["rows_digest"]
            self.rows: int = meta["rows"]
            self.texts_per_row: int = meta["texts_per_row"]
            self.max_tokens: int = meta["max_tokens"]
            self.truncated: int = meta["truncated"]
            self.ids = _open_array(self.folder / "ids.npy", meta["tokens"])
            self.offsets = _open_array(self.folder / "offsets.npy", self.rows * self.texts_per_row + 1)
            self.piece_counts = _open_array(self.folder / "piece_counts.npy", meta["pieces"])
        except (KeyError, OSError, ValueError, EOFError) as error:
            raise WorkError(
                f"{self.folder}: the token arrays are damaged ({error}); delete the folder and run again with --resume"
            ) from error

    def __len__(self) -> int:
        """Number of rows."""
        return self.rows

    def text_lengths(self) -> np.ndarray:
        """Tokens of each text, (rows, texts_per_row) int32."""
        lengths = np.empty(self.rows * self.texts_per_row, np.int32)
        np.subtract(self.offsets[1:], self.offsets[:-1], out=lengths, casting="same_kind")
        return lengths.reshape(self.rows, self.texts_per_row)

    def lengths(self) -> np.ndarray:
        """Tokens of each row, both texts together, (rows,) int32."""
        return self.text_lengths().sum(1, dtype=np.int32)


def tokenize_rows(rows: Rows, tokenizer: Tokenizer, folder: Path | str, *, max_tokens: int) -> TokenArrays:
    """Tokenizes a split once, streaming, into `folder`; reopens it if it holds the same texts, tokenizer and limit.

    Each text keeps its first `max_tokens` pieces. A pair that is read jointly is cut further when batches are made, for
    only then is it known which of its texts is the longer; see `collate.Collator`.
    """
    folder = Path(folder)
    rows_digest = _rows_digest(rows)
    fingerprint = _fingerprint(rows_digest, tokenizer, max_tokens)
    if (same := _reopen(folder, fingerprint)) is not None:
        return same
    texts_per_row, truncated = (2 if rows.task.pair else 1), 0

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal truncated
        for start in range(0, len(rows), CHUNK_ROWS):
            first, second = rows.texts(start, min(start + CHUNK_ROWS, len(rows)))
            pieces = tokenizer.encode_batch(first)
            if texts_per_row == 2:
                pairs = zip(pieces, tokenizer.encode_batch(second or [""] * len(first)))
                pieces = list(chain.from_iterable(pairs))
            truncated += sum(len(text) > max_tokens for text in pieces)
            pieces = [text[:max_tokens] for text in pieces]
            lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
            yield np.fromiter(chain.from_iterable(pieces), np.int32, int(lengths.sum())), lengths
            advance(len(first))

    meta = {"rows": len(rows), "texts_per_row": texts_per_row, "max_tokens": max_tokens,
            "fingerprint": fingerprint, "rows_digest": rows_digest}  # fmt: skip
    with track(f"tokenizing {rows.task.name}", len(rows)) as advance:
        return write_arrays(folder, chunks(), len(tokenizer), meta, lambda: truncated)


def remap(arrays: TokenArrays, tokenizer: Tokenizer, folder: Path | str) -> TokenArrays:
    """The arrays as `compact(...)`'s tokenizer would have made them, without tokenizing again.

    tokenizer: what `tokenizers.compact` returned for the tokenizer of `arrays`; if it returned that one unchanged, so
    are the arrays. `arrays` may lie in any folder but `folder`.
    """
    from ..tokenizers import CompactTokenizer

    fingerprint = _fingerprint(arrays.rows_digest, tokenizer, arrays.max_tokens)
    if fingerprint == arrays.fingerprint:
        return arrays
    folder = Path(folder)
    if (same := _reopen(folder, fingerprint)) is not None:
        return same
    if not isinstance(tokenizer, CompactTokenizer) or (
        _fingerprint(arrays.rows_digest, tokenizer.inner, arrays.max_tokens) != arrays.fingerprint
    ):
        raise ValueError("remap: expected the compact form of the tokenizer that made the arrays")
    if folder.resolve() == arrays.folder.resolve():
        raise ValueError("remap: expected another folder than the one that is read")
    mapping = tokenizer.mapping
    lengths = arrays.text_lengths().reshape(-1)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nothing = np.empty(0, np.int64)
        for start in range(0, len(arrays.ids), CHUNK_TOKENS):
            yield mapping[arrays.ids[start : start + CHUNK_TOKENS]], nothing
        yield np.empty(0, np.int32), lengths

    meta = {"rows": arrays.rows, "texts_per_row": arrays.texts_per_row, "max_tokens": arrays.max_tokens,
            "fingerprint": fingerprint, "rows_digest": arrays.rows_digest}  # fmt: skip
    return write_arrays(folder, chunks(), len(tokenizer), meta, lambda: arrays.truncated)


def _rows_digest(rows: Rows) -> str:
    """Hex digits of the texts in their order; an id stands for its texts."""
    digest = blake2b(digest_size=16)
    ids = rows.ids()
    for start in range(0, len(ids), CHUNK_TOKENS):
        digest.update(ids[start : start + CHUNK_TOKENS].tobytes())
    return digest.hexdigest()


def _fingerprint(rows_digest: str, tokenizer: Tokenizer, max_tokens: int) -> str:
    return blake2b(f"{rows_digest} {tokenizer.fingerprint} {max_tokens}".encode(), digest_size=16).hexdigest()


def _reopen(folder: Path, fingerprint: str) -> TokenArrays | None:
    if not (folder / META).is_file():
        return None
    arrays = TokenArrays(folder)
    return arrays if arrays.fingerprint == fingerprint else None


def write_arrays(
    folder: Path,
    chunks: Iterable[tuple[np.ndarray, np.ndarray]],
    pieces: int,
    meta: dict[str, Any],
    truncated: Callable[[], int],
) -> TokenArrays:
    """Writes token arrays from a stream of (ids int32, text lengths int64); what is in memory is one item of it.

    meta: fingerprint, rows_digest, rows, texts_per_row, max_tokens. truncated: asked when the stream has ended.
    """
    counts = np.zeros(pieces, np.int64)
    tokens, texts, end = 0, 1, 0
    with atomic_folder(folder) as temporary:
        with (temporary / "ids.npy").open("wb") as ids_file, (temporary / "offsets.npy").open("wb") as offsets_file:
            ids_header, offsets_header = _write_header(ids_file, np.int32, 0), _write_header(offsets_file, np.int64, 0)
            offsets_file.write(np.zeros(1, np.int64).tobytes())
            for ids, lengths in chunks:
                ids_file.write(ids.tobytes())
                offsets_file.write((end + np.cumsum(lengths)).tobytes())
                tokens, texts, end = tokens + len(ids), texts + len(lengths), end + int(lengths.sum())
                counts += np.bincount(ids, minlength=pieces)
            # The lengths are known now. numpy leaves room in a header for the array to grow: it is as long as before.
            ends = (_finish(ids_file, np.int32, tokens), _finish(offsets_file, np.int64, texts))
            if ends != (ids_header, offsets_header):
                raise WorkError(f"{folder}: the header of an .npy file changed its length")
        np.save(temporary / "piece_counts.npy", counts, allow_pickle=False)
        write_json(temporary / META, {**meta, "tokens": tokens, "pieces": pieces, "truncated": truncated()})
    return TokenArrays(folder)


def _finish(file: BinaryIO, dtype: type, length: int) -> int:
    file.seek(0)
    return _write_header(file, dtype, length)


def _write_header(file: BinaryIO, dtype: type, length: int) -> int:
    """Writes the header of a one-dimensional .npy file and returns where the numbers begin."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _open_array(path: Path, length: int) -> np.ndarray:
    """The array as a plain view of the mapped file; ValueError if it is not as long as it was written."""
    # An empty file tail cannot be mapped.
    array = np.load(path, mmap_mode="r" if length else None, allow_pickle=False)
    if array.shape != (length,):
        raise ValueError(f"{path.name} has {array.shape[0]} entries, {length} expected")
    # Indexing np.memmap itself costs several times more than indexing the same memory as a plain array.
    return array.view(np.ndarray)


__all__ = ["TokenArrays", "remap", "tokenize_rows", "write_arrays"]
