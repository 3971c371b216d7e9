"""Files that are never half-written under their final name."""

from __future__ import annotations

import contextlib
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
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


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
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Asks the operating system to put the file or folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> InputError | WorkError:
    """The error of a failed write, said for the user: read-only and full disks have different ways out."""
    if isinstance(error, PermissionError) or error.errno == 30:  # EROFS
        return InputError(str(path), f"cannot be written ({error.strerror})", "choose another folder with --out")
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return WorkError(
            f"{path}: no space left on the disk; free some space (`kdtool clean` shows what takes it) "
            "and start again with --resume: what was finished is kept"
        )
    return WorkError(f"{path}: cannot be written: {error.strerror or error}")


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
