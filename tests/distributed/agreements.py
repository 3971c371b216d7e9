"""What processes say to each other, each alone and all together; every one writes what it saw: agreements.py FOLDER."""

from __future__ import annotations

import itertools
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from kdtoolkit import launcher, processes
from kdtoolkit.errors import KdtoolkitError


def attempt(found: dict[str, Any], name: str, call: Any) -> None:
    try:
        found[name] = call()
    except (KdtoolkitError, ValueError) as error:
        found[name] = [type(error).__name__, str(error)]


def fails() -> None:
    raise ValueError("no")


def written_then_read(folder: Path) -> str:
    with processes.first_then_all():
        if processes.is_first():
            time.sleep(0.5)
            (folder / "written").write_text("by the first")
        return (folder / "written").read_text()


def fails_in_turn() -> None:
    with processes.first_then_all():
        if processes.is_first():
            raise ValueError("not now")


def meets_in_turn() -> None:
    with processes.first_then_all():
        processes.wait()


def turns_below(most: int) -> list[int]:
    """What this process gets of them, at a pace of its own."""
    found = []
    for turn in itertools.takewhile(most.__gt__, processes.turns()):
        time.sleep(0.001 * processes.rank())
        found.append(turn)
    return found


def job(number: int) -> Any:
    """What it says of who did it, and whether that one was by itself."""
    seen = [processes.rank(), processes.size(), processes.is_first(), processes.works_alone()]
    time.sleep(0.002)
    return {"number": number, "by": launcher.rank(), "seen": seen, "said": processes.from_first(lambda: number)}


def fails_in_one() -> None:
    with processes.alone():
        fails()


def own_folder(folder: Path) -> None:
    own = folder / f"own-{processes.rank()}"
    own.mkdir()
    processes.see_the_same(own)


def main() -> None:
    folder = Path(sys.argv[1])
    processes.start(asked=3)
    processes.start()
    found: dict[str, Any] = {"rank": processes.rank(), "size": processes.size(), "first": processes.is_first()}
    calls: list[int] = []
    value = {"a": [1, 2.5, None, "ü" * 5000]}
    attempt(found, "value", lambda: processes.from_first(lambda: calls.append(1) or value) == value)
    found["calls"] = len(calls)
    attempt(found, "failed", lambda: processes.from_first(fails))
    attempt(found, "after", lambda: processes.from_first(lambda: "still in step"))
    attempt(found, "read", lambda: written_then_read(folder))
    attempt(found, "failed in turn", fails_in_turn)
    if processes.is_first():  # the others would wait for what the first does not say
        attempt(found, "met in turn", meets_in_turn)
    else:
        attempt(found, "met in turn", lambda: processes.first_then_all().__enter__())
    attempt(found, "total", lambda: processes.total(processes.rank() + 0.5))
    attempt(found, "turns", lambda: turns_below(500))
    attempt(found, "turns again", lambda: turns_below(20))
    attempt(found, "jobs", lambda: processes.shared_out([partial(job, number) for number in range(40)]))
    attempt(found, "one job", lambda: processes.shared_out([launcher.rank]))
    attempt(found, "no jobs", lambda: processes.shared_out([]))
    attempt(found, "failed alone", fails_in_one)
    found["after being alone"] = [processes.rank(), processes.size(), processes.works_alone()]
    attempt(found, "shared", lambda: processes.see_the_same(folder))
    attempt(found, "apart", lambda: own_folder(folder))
    (folder / f"{processes.rank()}.json").write_text(json.dumps(found))
    processes.wait()
    processes.leave(processes.rank())


if __name__ == "__main__":
    main()
