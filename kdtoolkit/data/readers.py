"""Streams records from CSV, TSV, JSONL and Parquet files, gzipped or not; no file is ever in memory as a whole.

The format is told by the name (train.tsv, train.jsonl.gz), gzip by the first two bytes. Text is UTF-8, with or without
a byte order mark; lines end in LF or CRLF, the last one possibly in nothing.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import shutil
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from ..errors import InputError, nearest
from .delimited import Line, Malformed, Record, is_quoted, plain_records, quoted_records

Quoting = Literal["auto", "quoted", "plain"]

FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".txt": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet",
}  # fmt: skip
DELIMITERS = {"csv": ",", "tsv": "\t"}

JSON_SAMPLE = 1000
"""Objects whose keys are the columns of a JSONL file."""


class Source(ABC):
    """Records of one file, or of one split of a hub data set.

    name: as the user knows it; unit: what `records` counts ("line" or "row"); columns: names in order.
    """

    unit = "row"

    def __init__(self, name: str, columns: Sequence[str]) -> None:
        self.name, self.columns = name, tuple(columns)
        self.notes: list[str] = []

    @abstractmethod
    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        """(line or row number from 1, values of `columns`) of every record, from the beginning.

        A value is a string in CSV and TSV, and whatever the file holds elsewhere; None is a null, or a key that a JSON
        object lacks. Raises InputError with the place of a record that cannot be read.
        """

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """The class names that the file itself keeps for an integer column (Hugging Face's ClassLabel), if any."""
        return None

    def where(self, number: int) -> str:
        """The place of a record, for messages."""
        return f"{self.name} {self.unit} {number}"

    def missing_column(self, column: str) -> InputError:
        """The error of a column that was named and is not there."""
        near = nearest(column, self.columns)
        has = f"its columns are {shown(self.columns)}" + (f"; did you mean '{near}'?" if near else "")
        return InputError(self.name, f"has no column '{column}'", has)


class DelimitedFile(Source):
    """A CSV or TSV file.

    header: names of the columns of a file whose first line is data already.
    ragged: what to do with a row of too many or too few fields; skipped ones are counted in `skipped`.
    """

    unit = "line"

    def __init__(
        self,
        path: Path,
        delimiter: str,
        quoting: Quoting = "auto",
        *,
        header: Sequence[str] | None = None,
        ragged: Literal["error", "skip"] = "error",
    ) -> None:
        self.path, self.delimiter, self.ragged, self.headless = path, delimiter, ragged, header is not None
        self.quoted, any_quote = quoting == "quoted", False
        if quoting == "auto":
            self.quoted, any_quote = (True, False) if delimiter == "," else is_quoted(lines(path), delimiter)
        self.skipped = 0
        first = next(self._all(), None)
        if first is None:
            raise InputError(str(path), "is empty")
        self.first = first[1]
        super().__init__(str(path), header or [name.strip() for name in self.first])
        if any_quote and not self.quoted:
            self.notes.append(f"{path.name}: quotes are read as characters (quoting: plain)")

    def _all(self) -> Iterator[Record]:
        try:
            reader = quoted_records if self.quoted else plain_records
            yield from reader(lines(self.path), self.delimiter)
        except Malformed as error:
            raise InputError(
                f"{self.path} line {error.line}", error.cause,
                "double the quotes inside quoted fields, or set `quoting: plain` if quotes are characters here",
            ) from error  # fmt: skip

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
        for column in columns:
            if self.columns.count(column) != 1:
                if column not in self.columns:
                    raise self.missing_column(column)
                raise InputError(self.name, f"has several columns '{column}'", "rename all but one")
        chosen = [self.columns.index(column) for column in columns]
        width, self.skipped = len(self.columns), 0
        for number, fields in itertools.islice(self._all(), 0 if self.headless else 1, None):
            if len(fields) == width:
                yield number, [fields[place] for place in chosen]
            elif self.ragged == "skip":
                self.skipped += 1
            else:
                raise InputError(
                    self.where(number), f"has {len(fields)} fields where the file has {width} columns",
                    "put a field that holds the delimiter in quotes" if self.quoted
                    else "if fields are in quotes, set `quoting: quoted`",
                )  # fmt: skip


class JsonLinesFile(Source):
    """One JSON object a line. Its columns are the keys of the first 1,000 objects."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.path = path
        keys: dict[str, None] = {}
        for _, value in itertools.islice(self._objects(), JSON_SAMPLE):
            keys.update(dict.fromkeys(value))
        if not keys:
            raise InputError(str(path), "is empty")
        super().__init__(str(path), list(keys))

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in lines(self.path):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{self.path} line {number}", f"is no JSON ({error.msg} at character {error.colno})",
                    "the file must hold one object a line",
                ) from error  # fmt: skip
            if not isinstance(value, dict):
                raise InputError(
                    f"{self.path} line {number}", f"is a JSON {type(value).__name__}, not an object",
                    'write one object a line, such as {"text": "...", "label": 1}',
                )  # fmt: skip
            yield number, value

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        for column in columns:
            if column not in self.columns:
                raise self.missing_column(column)
        for number, value in self._objects():
            yield number, [value.get(column) for column in columns]


class ParquetFile(Source):
    """A Parquet file; a gzipped one is unpacked into a temporary file, because Parquet is read from its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as file:
            super().__init__(str(path), file.schema_arrow.names)
            if file.metadata.num_rows == 0:
                raise InputError(str(path), "is empty")
            self._features = _hugging_face_features(file.schema_arrow.metadata)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        import pyarrow
        import pyarrow.parquet

        with opened(self.path) as stream, contextlib.ExitStack() as stack:
            file: Any = stream
            if not stream.seekable() or isinstance(stream.raw, gzip.GzipFile):  # type: ignore[attr-defined]
                file = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(stream, file)
                file.seek(0)
            try:
                yield pyarrow.parquet.ParquetFile(file)
            except pyarrow.ArrowInvalid as error:
                raise InputError(str(self.path), f"is no Parquet file, or a damaged one ({error})") from error

    def class_names(self, column: str) -> tuple[str, ...] | None:
        return _names(self._features.get(column))

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        for column in columns:
            if column not in self.columns:
                raise self.missing_column(column)
        number = 0
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=10_000, columns=list(dict.fromkeys(columns))):
                for values in zip(*(batch.column(column).to_pylist() for column in columns)):
                    number += 1
                    yield number, values


def open_source(path: Path | str, quoting: Quoting = "auto") -> Source:
    """The records of a file, by the format that its name tells.

    Raises InputError if there is no such file, if it is empty, if its format is unknown or its beginning unreadable.
    """
    path = Path(path)
    kind = format_of(path)
    if kind is None:
        raise InputError(
            str(path),
            "its name tells no known format",
            "use .csv, .tsv, .jsonl or .parquet, also with .gz",
        )
    if kind in DELIMITERS:
        return DelimitedFile(path, DELIMITERS[kind], quoting)
    return JsonLinesFile(path) if kind == "jsonl" else ParquetFile(path)


def shown(columns: Sequence[str]) -> str:
    """The names of columns for a message, long ones and long lists cut."""
    names = [column if len(column) <= 40 else column[:37] + "..." for column in columns[:20]]
    return ", ".join(f"'{name}'" for name in names) + (", ..." if len(columns) > 20 else "")


def format_of(path: Path) -> str | None:
    """csv, tsv, jsonl or parquet, by the name of the file; None if it tells none of them."""
    name = path.name.lower().removesuffix(".gz")
    return FORMATS.get(Path(name).suffix)


def lines(path: Path) -> Iterator[Line]:
    """(number from 1, line with its end) of a text file. Raises InputError at a line that is no UTF-8."""
    with opened(path) as file:
        number = 0
        try:
            for number, data in enumerate(file, 1):
                if number == 1:
                    data = data.removeprefix(b"\xef\xbb\xbf")
                yield number, data.decode("utf-8")
        except UnicodeDecodeError as error:
            utf16 = number == 1 and error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
            cause = "is UTF-16" if utf16 else f"is no UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start})"
            raise InputError(f"{path} line {number}", cause, "save the file as UTF-8") from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked if it is gzipped. Raises InputError if it cannot be opened or is empty."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, beside)
        no_folder = None if path.parent.is_dir() else f"there is no folder {path.parent}"
        raise InputError(str(path), "does not exist", f"did you mean '{near}'?" if near else no_folder) from error
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from error
    with file:
        start = file.read(2)
        file.seek(0)
        if not start:
            raise InputError(str(path), "is empty")
        if start == b"\x1f\x8b":
            try:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield io.BufferedReader(unpacked, 1 << 16)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise InputError(str(path), f"is a damaged gzip file ({error})", "fetch or write it again") from error
        else:
            yield file


def _hugging_face_features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """What `datasets` writes into a Parquet file about its columns."""
    stored = (metadata or {}).get(b"huggingface")
    return json.loads(stored).get("info", {}).get("features", {}) if stored else {}


def _names(feature: Any) -> tuple[str, ...] | None:
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names"):
        return tuple(feature["names"])
    return None
