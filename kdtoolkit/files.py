"""Files that are never half-written under their final name."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import InputError, WorkError


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and renamed to `path`, on failure removed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except Exception as error:
        if not _of_the_disk(error):
            raise
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # where even the folder could not be made
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on success it replaces `path` by a rename, on failure it is removed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        for file in sorted(temporary.rglob("*")):
            sync(file)
        sync(temporary)
        if path.exists():
            retired = path.with_name(f".{path.name}.{os.getpid()}.old")
            shutil.rmtree(retired, ignore_errors=True)
            path.replace(retired)
            temporary.replace(path)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            temporary.replace(path)
        sync(path.parent)
    except Exception as error:
        if not _of_the_disk(error):
            raise
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PLACE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG,
)  # fmt: skip


def sync(path: Path) -> None:
    """Asks the operating system to put the file or folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reserve(path: Path) -> None:
    """Claims the disk blocks of a file that is to be written through a memory map.

    On a full disk this is an OSError; the map alone would be a hole, and filling it would kill the process (SIGBUS).
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: Exception) -> InputError | WorkError:
    """The error of a failed write, said for the user: a place that takes no files and a full disk differ."""
    if is_full(error):
        return WorkError(
            f"{path}: no space left on the disk; free some space (`kdtool clean` shows what takes it) "
            "and start again; a run goes on with --resume"
        )
    reason = getattr(error, "strerror", None) or error
    if isinstance(error, OSError) and error.errno in _NO_PLACE:
        return InputError(
            str(path),
            f"cannot be written ({reason})",
            "choose a folder that can be: --out for a run, $KDTOOLKIT_STORE for labels and teachers",
        )
    return WorkError(f"{path}: cannot be written: {reason}")


def is_full(error: Exception) -> bool:
    """Whether the error says that the disk, or the user's share of it, is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    # safetensors and tokenizers are written in Rust: what the system said stands in the text of errors of their own.
    return any(f"(os error {number})" in str(error) for number in _FULL)


def _of_the_disk(error: Exception) -> bool:
    return isinstance(error, OSError) or is_full(error)


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` as UTF-8 JSON, atomically."""
    with atomic_file(path) as temporary:
        text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_text(path: Path | str, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Reads a JSON file; a missing or damaged one is named, with what to do."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(str(path), "does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WorkError(f"{path}: is damaged ({error}); delete it and run again with --resume") from error
