"""The processes that work on one run together: which of them this is, and how they agree.

torchrun, accelerate launch or mpirun start them (`launcher`); without one there is a single process, and nothing here
does anything. All of them see the same files, also on several machines: the first writes, the others read. torch is
imported only where there are several.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from . import launcher
from .errors import InputError, PeerFailed, WorkError
from .progress import log

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long one process waits for another that works alone. One that dies is noticed by its closed connection."""
_in_turn = False
_alone = False
_rounds = itertools.count()


def launch(count: int | str | None = None) -> str:
    """How `count` processes are started; None: as many as there are."""
    return launcher.command(size() if count is None else count)


def rank() -> int:
    """This process's number among those of the run; the first, 0, writes and speaks for all."""
    return 0 if _alone else launcher.rank()


def size() -> int:
    """How many processes the run has; what no number is, `start` refuses."""
    return 1 if _alone else launcher.size()


def is_first() -> bool:
    """Whether this process writes."""
    return rank() == 0


def start(asked: int | None = None) -> None:
    """Joins the other processes, if there are any; called again, it does nothing.

    asked: how many there are to be. Raises InputError where the launcher started another number, such as one in the
    place of several, which would work as well, and alone.
    """
    found = launcher.checked_size()
    if asked is not None and asked != found:
        remedy = "give the number there is"
        if found == 1:
            remedy = f"start them with {launch(asked)} ..., or on this machine by --workers {asked}"
        raise InputError("--processes", f"{asked} processes were asked for, and the launcher started {found}", remedy)
    if found == 1:
        return
    launcher.tell_torch()
    # DDP looks for heads without rows in every step, and advises against it after the first that has none.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    for line in launcher.unheeded() if is_first() else ():
        log.warning(line)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise WorkError(f"the {found} processes of this run do not find each other: {error}") from error


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, in all of them; only there it is called. A plain value, as JSON has it.

    Raises PeerFailed in the others if it raises there.
    """
    if size() == 1:
        return make()
    _in_step()
    if not is_first():
        value: T = _hear()["value"]
        return value
    with _telling_of_failure():
        value = make()
    _tell({"value": value})
    return value


@contextlib.contextmanager
def first_then_all() -> Iterator[None]:
    """The body runs in the first process, and when it is done there in the others, which find what it has written."""
    global _in_turn
    if size() == 1:
        yield
        return
    _in_step()
    _in_turn = True
    try:
        if is_first():
            with _telling_of_failure():
                yield
            _tell({})
        else:
            _hear()
            yield
    finally:
        _in_turn = False


def wait() -> None:
    """Returns when all processes have come here."""
    total(0)


def total(number: float) -> float:
    """The sum over all processes, in all of them."""
    if size() == 1:
        return number
    _in_step()
    import torch
    from torch import distributed

    found = torch.tensor([float(number)], dtype=torch.float64)
    with _noticing():
        distributed.all_reduce(found)
    return found.item()


def turns() -> Iterator[int]:
    """0, 1, 2 ...: each number goes to one process of the run, the next to whichever asks first.

    All processes call this at the same place, and get on when all have; each then takes numbers at its own pace.
    """
    if size() == 1:
        return itertools.count()
    wait()
    return _turns(f"kdtoolkit/turns/{next(_rounds)}")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """The body runs as if this process were the only one: it writes and decides, and meets nobody."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def works_alone() -> bool:
    """Whether there are others, and this process meets them later (see `alone`)."""
    return _alone and launcher.size() > 1


def shared_out(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """What the jobs give, in all processes: each is done by one, alone; the first by the first process, and so on, and
    the next by whichever is free.

    They give plain values, as JSON has them, and those whose jobs are done wait for the others.
    """
    if size() == 1:
        return [job() for job in jobs]
    own, further = [], (size() + turn for turn in turns())
    for turn in itertools.takewhile(len(jobs).__gt__, itertools.chain([rank()], further)):
        with alone():
            own.append([turn, jobs[turn]()])
    _in_step()
    told = [json.loads(_broadcast(json.dumps(own).encode(), source)) for source in range(size())]
    found = dict(pair for of_process in told for pair in of_process)
    return [found[turn] for turn in range(len(jobs))]


def see_the_same(folder: Path) -> None:
    """Raises WorkError in a process that does not see what the first has in `folder`."""
    if size() == 1:
        return
    name = from_first(lambda: _mark(folder))
    if name is None:
        return
    seen = (folder / name).is_file()
    blind = size() - int(total(seen))
    if is_first():
        (folder / name).unlink(missing_ok=True)
    if blind:
        raise WorkError(
            f"{folder}: {blind} of {size()} processes do not see what the first one writes there; all machines of a "
            "run need one shared file system: give --out a folder on it"
        )


def lost(error: BaseException) -> bool:
    """Whether the error says that another process is gone."""
    if size() == 1 or not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return type(error).__name__.startswith("Dist") or any(word in text for word in ("gloo", "connection", "nccl"))


def leave(code: int) -> NoReturn:
    """Ends the process. Of several, at once: gloo may abort while the interpreter shuts down, when all is done."""
    if size() == 1:
        sys.exit(code)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _turns(name: str) -> Iterator[int]:
    from torch.distributed import distributed_c10d

    # What the processes found each other by: the one thing of theirs that counts without all of them being there.
    store = distributed_c10d._get_default_store()
    while True:
        with _noticing():
            turn = store.add(name, 1) - 1
        yield turn


def _in_step() -> None:
    """Raises ValueError within `first_then_all`, where the processes are not at the same place."""
    if _in_turn:
        raise ValueError("within first_then_all the processes cannot meet")


@contextlib.contextmanager
def _telling_of_failure() -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(PeerFailed):
            _tell({"failed": True})
        raise


def _tell(message: dict[str, Any]) -> None:
    _broadcast(json.dumps(message).encode())


def _hear() -> dict[str, Any]:
    message: dict[str, Any] = json.loads(_broadcast(None))
    if message.get("failed"):
        raise PeerFailed("the first process of the run has failed, and says why")
    return message


def _broadcast(data: bytes | None, source: int = 0) -> bytes:
    """The bytes of the process `source`, in all."""
    import torch
    from torch import distributed

    with _noticing():
        count = torch.tensor([len(data or b"")])
        distributed.broadcast(count, source)
        content = torch.zeros(int(count), dtype=torch.uint8)
        if data is not None and rank() == source:
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if len(content):
            distributed.broadcast(content, source)
    return content.numpy().tobytes()


@contextlib.contextmanager
def _noticing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerFailed(f"another process of the run is gone ({str(error).splitlines()[0]})") from error


def _mark(folder: Path) -> str | None:
    """A new file of the first process, by its name; None where nothing can be written, which is said elsewhere."""
    name = f".seen-{os.getpid()}"
    try:
        (folder / name).touch()
    except OSError:
        return None
    return name
