"""Hidden states of a teacher for the texts of train, in flat float16 arrays that are mapped, never read whole.

    <root>/<teacher fingerprint>/<task>/features-<digest of names and ids>/
        features.json   names, shape, number of texts
        ids.npy         (texts,) S16          lengths.npy   (texts,) int64, the teacher's tokens
        <kind>-<layer>.npy                    the texts' features one after the other, each as `FeatureName.shape` says

How long every text is, the tokenizer tells before the teacher has to work; so the size is known at once, and the files
have their final size from the start. They are filled in parts under another name, and get theirs when they are whole.
Of several processes the next part goes to whoever is free first; files
done-<first text>-<stop> say which are done.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from .. import processes
from ..data.features import RowFeatures
from ..data.rows import Rows
from ..errors import InputError, WorkError
from ..feature_name import FeatureName, corner
from ..files import atomic_folder, read_json, reserve, sync, write_json
from ..progress import log, track
from ..shape import Shape
from ..teacher import Teacher
from .labelling import Texts, unlabelled

BATCH_ROWS = 64
"""Texts of a call of the teacher."""
PART_BATCHES = 8
"""Calls after which what was done is kept: what a kill can cost."""
READ_ROWS = 2048
MANIFEST, DONE = "features.json", "done-{}-{}"
LIVE = "set objective.hidden_states: live, which computes them in every step"


class StoredFeatures:
    """What `store_features` wrote, by row: a `data.features.FeatureSource`.

    ids: (rows,) S16 of the rows that are asked for by number.
    Raises WorkError if the folder is damaged, or lacks a row.
    """

    together = False

    def __init__(self, folder: Path, ids: np.ndarray) -> None:
        self.folder = folder
        manifest = read_json(folder / MANIFEST)
        try:
            self.names: tuple[str, ...] = tuple(manifest["names"])
            self.shape = Shape(*manifest["shape"])
            stored, self._lengths = (np.load(folder / f"{name}.npy") for name in ("ids", "lengths"))
            self._offsets = {name: _offsets(name, self.shape, self._lengths) for name in self.names}
            self._values = {name: _mapped(folder, name, int(self._offsets[name][-1])) for name in self.names}
        except (KeyError, TypeError, ValueError, OSError, EOFError) as error:
            raise WorkError(
                f"{folder}: the hidden states are damaged ({error}); delete the folder and run again with --resume"
            ) from error
        order = np.argsort(stored, kind="stable")
        place = np.searchsorted(stored[order], ids).clip(max=max(len(stored) - 1, 0))
        self._text = order[place] if len(stored) else np.zeros(0, np.int64)
        if len(self._text) != len(ids) or (stored[self._text] != ids).any():
            raise WorkError(
                f"{folder}: lacks hidden states of some rows; delete the folder and run again with --resume"
            )

    def lengths(self) -> np.ndarray:
        """The teacher's tokens of every row, (rows,) int64."""
        return self._lengths[self._text]

    def of(self, rows: np.ndarray) -> RowFeatures:
        """The features of these rows, in their order."""
        texts = self._text[rows]
        lengths = self._lengths[texts]
        time = int(lengths.max(initial=1))
        values = {}
        for name in self.names:
            feature, offsets, flat = FeatureName.parse(name), self._offsets[name], self._values[name]
            out = np.zeros((len(rows), *feature.shape(self.shape, time)), np.float32)
            for row, (text, length) in enumerate(zip(texts, lengths.tolist())):
                shape = feature.shape(self.shape, length)
                out[corner(row, shape)] = flat[offsets[text] : offsets[text + 1]].reshape(shape)
            values[name] = out
        return RowFeatures(lengths, values)


class LiveFeatures:
    """Features that the teacher computes whenever they are asked for: a `data.features.FeatureSource`."""

    def __init__(self, teacher: Teacher, rows: Rows, names: Sequence[str]) -> None:
        self._teacher, self._texts, self.names = teacher, rows, tuple(names)
        assert teacher.shape is not None
        self.shape: Shape = teacher.shape
        self.together = False

    def shard(self) -> None:
        """Each process keeps a part of the teacher from now on; all of them call this at the same place."""
        self._teacher.shard()
        self.together = True

    def lengths(self) -> np.ndarray:
        """The teacher's tokens of every row, (rows,) int64."""
        every = np.arange(len(self._texts))
        parts = [self._ask(every[start : start + READ_ROWS], ()).lengths for start in range(0, len(every), READ_ROWS)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def of(self, rows: np.ndarray) -> RowFeatures:
        """The features of these rows, in their order."""
        return self._ask(rows, self.names)

    def _ask(self, rows: np.ndarray, names: Sequence[str]) -> RowFeatures:
        features = self._teacher.features(unlabelled([self._texts], np.zeros(len(rows), np.int32), rows), names)
        return RowFeatures(features.mask.sum(1), features.values)


def store_features(teacher: Teacher, rows: Rows, names: Sequence[str], root: Path) -> Path:
    """The folder with the teacher's features of these rows; what it lacks is computed. Restarted, it goes on.

    Of several processes all call this at the same place, and take turns.
    names: of features. root: of the label store.
    Raises InputError if the disk has no room for them, or a value is beyond float16.
    """
    names, shape = tuple(sorted(names)), teacher.shape
    assert shape is not None and names
    texts = Texts.of([rows])
    digest = blake2b(json.dumps(names).encode() + np.ascontiguousarray(texts.ids).tobytes(), digest_size=8).hexdigest()
    folder = root / teacher.fingerprint / rows.task.name / f"features-{digest}"
    unfinished = folder.with_name(f"unfinished-{digest}")

    def is_left() -> bool:
        if not (folder / MANIFEST).is_file() and not (unfinished / MANIFEST).is_file():
            _lay_out(unfinished, teacher, texts, names, shape)
        return not (folder / MANIFEST).is_file()

    # Against other runs; those of this one meet here, and the first speaks for them.
    with _locked(folder.with_name(f".features-{digest}.lock")) if processes.is_first() else contextlib.nullcontext():
        if processes.from_first(is_left):
            _fill(unfinished, teacher, texts, names, shape, processes.turns)
            processes.wait()
            if processes.is_first():
                unfinished.rename(folder)
                sync(folder.parent)
                for mark in folder.glob(DONE.format("*", "*")):
                    mark.unlink()
    return folder


def text_lengths(teacher: Teacher, texts: Texts) -> np.ndarray:
    """The teacher's tokens of every text, (texts,) int64: only its tokenizer works."""
    lengths = np.zeros(len(texts), np.int64)
    for start in range(0, len(texts), READ_ROWS):
        some = slice(start, start + READ_ROWS)
        lengths[some] = teacher.features(texts.examples(some), ()).mask.sum(1)
    return lengths


def stored_bytes(names: Sequence[str], shape: Shape, lengths: np.ndarray) -> int:
    """What the features `names` of texts of these lengths, (texts,) int64, take on the disk."""
    return np.dtype(np.float16).itemsize * sum(int(_offsets(name, shape, lengths)[-1]) for name in names)


def _lay_out(folder: Path, teacher: Teacher, texts: Texts, names: tuple[str, ...], shape: Shape) -> None:
    """Makes the files in their final size, full of zeros; the disk's blocks are claimed."""
    place = f"teacher {teacher.source}, task {teacher.task.name}"
    lengths = text_lengths(teacher, texts)
    sizes = {name: int(_offsets(name, shape, lengths)[-1]) for name in names}
    needed = stored_bytes(names, shape, lengths)
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"{place}: hidden states",
            f"they would take {needed / 1e9:.1f} GB in {folder.parent}, where {free / 1e9:.1f} GB are free",
            f"{LIVE}; or take fewer layers, or set $KDTOOLKIT_STORE (or `store`) to another disk",
        )
    if needed > 1e9:
        log.info("%s: its hidden states will take %.1f GB", place, needed / 1e9)
    with atomic_folder(folder) as temporary:
        for name, size in sizes.items():
            path = temporary / _file(name)
            np.lib.format.open_memmap(path, "w+", np.float16, (size,)).flush()
            reserve(path)
        np.save(temporary / "ids.npy", texts.ids, allow_pickle=False)
        np.save(temporary / "lengths.npy", lengths, allow_pickle=False)
        manifest = {"schema": 1, "names": list(names), "shape": list(shape), "texts": len(texts), "bytes": needed}
        write_json(temporary / MANIFEST, manifest)


def _fill(
    folder: Path,
    teacher: Teacher,
    texts: Texts,
    names: tuple[str, ...],
    shape: Shape,
    turns: Callable[[], Iterator[int]],
) -> None:
    """Asks the teacher for what is missing in this process's `turns`; the disk has a part before it counts as done."""
    lengths = np.load(folder / "lengths.npy")
    offsets = {name: _offsets(name, shape, lengths) for name in names}
    parts = [_batches(first, len(texts)) for first in range(0, len(texts), BATCH_ROWS * PART_BATCHES)]
    marks = [folder / DONE.format(batches[0].start, batches[-1].stop) for batches in parts]
    missing = [(batches, mark) for batches, mark in zip(parts, marks) if not mark.is_file()]
    with contextlib.ExitStack() as open_files:
        files = {name: open_files.enter_context(_FlatFile(folder / _file(name))) for name in names}
        left, following = [batches[-1].stop - batches[0].start for batches, _ in missing], 0
        advance = open_files.enter_context(track(f"hidden states {teacher.task.name}", sum(left)))
        for number in itertools.takewhile(len(missing).__gt__, turns()):
            advance(sum(left[following:number]))  # those that other processes have
            batches, mark = missing[number]
            following = number + 1
            for some in batches:
                found = teacher.features(texts.examples(some), names)
                if not np.array_equal(found.mask.sum(1), lengths[some]):
                    cause = "the teacher reads other tokens than before; delete the folder and resume"
                    raise WorkError(f"{folder}: {cause}")
                for name in names:
                    flat = _flat(name, shape, found.values[name], lengths[some])
                    if not np.isfinite(flat).all():
                        place = f"teacher {teacher.source}, task {teacher.task.name}: {name}"
                        raise InputError(place, "has values that float16 cannot hold", LIVE)
                    files[name].write(int(offsets[name][some.start]), flat)
                advance(some.stop - some.start)
            for file in files.values():
                file.flush()
            mark.touch()
        advance(sum(left[following:]))


def _batches(first: int, texts: int) -> list[slice]:
    """The texts of the part that begins with `first`, call by call of the teacher."""
    stop = min(first + BATCH_ROWS * PART_BATCHES, texts)
    return [slice(start, min(start + BATCH_ROWS, stop)) for start in range(first, stop, BATCH_ROWS)]


class _FlatFile:
    """A flat array on the disk, written in places; several processes may write different places, also over a network.

    A mapped file would not do: processes of two machines that write into the same page undo each other.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b")
        np.lib.format.read_magic(self._file)
        np.lib.format.read_array_header_1_0(self._file)
        self._begin = self._file.tell()

    def __enter__(self) -> _FlatFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, place: int, values: np.ndarray) -> None:
        """Writes from the number `place` on."""
        self._file.seek(self._begin + place * values.itemsize)
        self._file.write(values.tobytes())

    def flush(self) -> None:
        """What was written is on the disk after it."""
        self._file.flush()
        os.fsync(self._file.fileno())


def _flat(name: str, shape: Shape, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The texts' features one after the other, without padding, float16."""
    feature = FeatureName.parse(name)
    items = [values[corner(row, feature.shape(shape, length))].ravel() for row, length in enumerate(lengths.tolist())]
    with np.errstate(over="ignore"):  # what float16 cannot hold becomes inf, and is refused
        return np.concatenate(items).astype(np.float16)


def _offsets(name: str, shape: Shape, lengths: np.ndarray) -> np.ndarray:
    """Where each text's feature begins, and where the last one ends: (texts + 1,) int64."""
    feature = FeatureName.parse(name)
    sizes = math.prod(feature.shape(shape, 1)) * lengths.astype(np.int64) ** len(feature.token_axes)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def _mapped(folder: Path, name: str, size: int) -> np.ndarray:
    values = np.load(folder / _file(name), mmap_mode="r" if size else None)
    if values.shape != (size,) or values.dtype != np.float16:
        raise ValueError(f"{_file(name)} has {values.shape} {values.dtype}, ({size},) float16 expected")
    # Indexing np.memmap itself costs several times more than indexing the same memory as a plain array.
    return values.view(np.ndarray)


def _file(name: str) -> str:
    return name.replace("/", "-") + ".npy"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the others wait, and find the work done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
