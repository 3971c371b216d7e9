"""`kdtool clean`."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from ..errors import WorkError
from ..files import read_json


@dataclass(frozen=True)
class Entry:
    """One thing that can be deleted. age: seconds since anything in it was written."""

    kind: str
    path: Path
    what: str
    size: int
    age: float


@click.command()
@click.option("--store", "store", is_flag=True, help="Label stores and fine-tuned teachers ($KDTOOLKIT_STORE).")
@click.option("--runs", metavar="FOLDER", help="The runs in this folder.")
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Only what nothing was written to for so many days.",
)
@click.option("--delete", is_flag=True, help="Delete what is listed; needs --store or --runs.")
@click.option("--yes", is_flag=True, help="Do not ask before deleting.")
def clean(store: bool, runs: str | None, days: float | None, delete: bool, yes: bool) -> None:
    """Show what label stores and runs take on the disk, and delete it.

    Without --delete nothing is changed. Label stores and fine-tuned teachers can be made again by running again; a
    deleted run is gone.

    \b
      kdtool clean
      kdtool clean --store --older-than 30 --delete
      kdtool clean --runs runs --older-than 7 --delete --yes
    """
    if delete and not (store or runs):
        raise click.UsageError("--delete needs --store or --runs FOLDER, so that it is clear what goes")
    everything = not store and runs is None
    entries = [*_store_entries()] if store or everything else []
    entries += _run_entries(Path(runs or "runs")) if runs is not None or everything else []
    if days is not None:
        entries = [entry for entry in entries if entry.age > days * 86400]
    for entry in entries:
        click.echo(
            f"{amount(entry.size):>9}  {_days(entry.age):>9}  {entry.kind:<8}  {entry.path}  {entry.what}".rstrip()
        )
    total = amount(sum(entry.size for entry in entries))
    click.echo(f"{total:>9}  in all" if entries else "nothing to clean")
    if delete and entries:
        if not yes:
            click.confirm(f"Delete these {len(entries)}?", abort=True)
        for entry in entries:
            _delete(entry)
        click.echo(f"deleted {len(entries)}, {total}")


def size_of(folder: Path, counted: set[tuple[int, int]] | None = None) -> int:
    """Bytes of the files under `folder`; a file with several names counts once, also over calls with one `counted`."""
    counted = set() if counted is None else counted
    total = 0
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            stat = path.stat()
            if (stat.st_dev, stat.st_ino) not in counted:
                counted.add((stat.st_dev, stat.st_ino))
                total += stat.st_size
    return total


def amount(size: int) -> str:
    """Bytes as a person says them."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _store_entries() -> Iterator[Entry]:
    from ..labels import default_store

    root, counted = default_store(), set[tuple[int, int]]()
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.name == "teachers":
            for teacher in sorted(path for path in folder.iterdir() if (path / "config.json").is_file()):
                yield _entry("teacher", teacher, "", counted)
        elif tasks := sorted(path.parent.name for path in folder.glob("*/manifest.json")):
            source = read_json(folder / tasks[0] / "manifest.json").get("description", "")
            yield _entry("labels", folder, f"{source}: {', '.join(tasks)}".lstrip(": "), counted)


def _run_entries(root: Path) -> Iterator[Entry]:
    counted: set[tuple[int, int]] = set()
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if (folder / "run.json").is_file() and (folder / "recipe.yaml").is_file():
            yield _entry("run", folder, "finished" if (folder / "results.json").is_file() else "unfinished", counted)


def _entry(kind: str, folder: Path, what: str, counted: set[tuple[int, int]]) -> Entry:
    newest = max((path.stat().st_mtime for path in [folder, *folder.rglob("*")] if path.exists()), default=0.0)
    return Entry(kind, folder, what, size_of(folder, counted), time.time() - newest)


def _days(age: float) -> str:
    return f"{age / 86400:.0f} days" if age >= 86400 else "today"


def _delete(entry: Entry) -> None:
    lock = entry.path / ".lock"
    if lock.exists():
        descriptor = os.open(lock, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WorkError(f"{entry.path}: a process is working on this run; stop it first") from error
        finally:
            os.close(descriptor)
    try:
        shutil.rmtree(entry.path)
    except OSError as error:
        raise WorkError(f"{entry.path}: cannot be deleted ({error.strerror})") from error
