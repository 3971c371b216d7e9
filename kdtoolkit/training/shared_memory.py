"""Memory that the processes of one machine share, in which a training on its CPUs meets.

gloo sends what they tell each other through the layers of a network, by threads that want a core: where all cores
train, that takes 0.4 ms for some numbers and 2 ms for 2 MB. Here each process writes what it has into its place and
reads that of the others, which costs a copy and the wait for the last of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import mmap
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed

from .. import processes
from ..errors import PeerFailed
from .upcoming import Meanwhile, idle

ASKED = "KDTOOLKIT_SHARED_MEMORY"
"""`off` in the environment of the first process: gloo has to do."""
WHERE = Path("/dev/shm")
"""A file system in memory, as Linux has it."""
ORDERED = ("x86_64", "AMD64")
"""Processors on which all see the stores of one in the order in which it made them; others have gloo."""
PIECE, ROOM = 1 << 20, 16 << 20
"""Bytes of each process in one round, at least, and of all of them where they are few; what is longer takes several."""
LINE = 64
"""Bytes that processors hand to each other at once."""
SPIN, LOOK = 0.01, 1.0
"""Seconds for which a process waits without sleeping, and after which it looks, each time, whether all still live."""
SLEEP = 0.0001


class SharedMemory:
    """Rounds in which all processes read what each has written.

    A round uses one half of the memory and the next the other, so that nobody writes where another still reads: who
    begins a round has left the one before, and who has come to that one has left the one before it.

    file: of `bytes_of(size)` bytes, the same for all.
    """

    def __init__(self, file: int, rank: int, size: int) -> None:
        self._file, self._rank, self._size, self._round = file, rank, size, 0
        whole = np.frombuffer(mmap.mmap(file, bytes_of(size)), np.uint8)
        self._counters = whole[: size * LINE].view(np.int64)[:: LINE // 8]  # (size,) rounds that each has come to
        self._halves = torch.from_numpy(whole[size * LINE :]).view(2, size, piece_of(size))
        self._spins = size <= len(os.sched_getaffinity(0))
        fcntl.lockf(file, fcntl.LOCK_EX, 1, rank)  # the system takes it back when this process ends, however it does

    @property
    def room(self) -> int:
        """Bytes of each process in one round."""
        return self._halves.shape[2]

    def from_all(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, of one shape and type, by rank; to be read until the next call."""
        mine = tensor.contiguous().flatten().view(torch.uint8)
        most = self.room
        if len(mine) <= most:
            found = self.meet(len(mine), lambda place: place.copy_(mine))
        else:
            found = [torch.empty_like(mine) for _ in range(self._size)]
            for start in range(0, len(mine), most):
                piece = mine[start : start + most]
                for whole, part in zip(found, self.meet(len(piece), partial(_copy, piece))):
                    whole[start : start + most] = part
        return [whole.view(tensor.dtype).view(tensor.shape) for whole in found]

    def sum_of(self, tensors: Sequence[Tensor]) -> Tensor:
        """The sums over the processes, flat, one tensor after the other; of one type, to the same bits in all."""
        dtype, size = tensors[0].dtype, tensors[0].element_size()
        flat = [tensor.flatten() for tensor in tensors]
        count, most = sum(map(len, flat)), self.room // size
        if count <= most:
            parts = self.meet(count * size, lambda place: torch.cat(flat, out=place.view(dtype)))
            return _added([part.view(dtype) for part in parts])
        whole = torch.cat(flat)
        for start in range(0, count, most):
            piece = whole[start : start + most]
            parts = self.meet(len(piece) * size, partial(_copy, piece.view(torch.uint8)))
            _added([part.view(dtype) for part in parts], piece)
        return whole

    def meet(self, count: int, write: Callable[[Tensor], object], meanwhile: Meanwhile = idle) -> list[Tensor]:
        """`count` bytes of each process, up to `room`, to be read until the next call. write: puts this one's there.

        meanwhile: called, time and again, while the others have not come.
        """
        self._round += 1
        half = self._halves[self._round % 2, :, :count]
        write(half[self._rank])
        self._counters[self._rank] = self._round  # not before the bytes are there
        self._wait(meanwhile)
        return list(half)

    def _wait(self, meanwhile: Meanwhile) -> None:
        """Returns when all have come to this round. Raises PeerFailed when one of them has ended."""
        while self._counters.min() < self._round and meanwhile():
            pass
        if self._counters.min() >= self._round:
            return
        since = time.monotonic()
        look = since + LOOK
        while self._counters.min() < self._round:
            now = time.monotonic()
            if not self._spins or now - since > SPIN:
                time.sleep(SLEEP)
            if now > look:
                self._see_that_all_live()
                look = now + LOOK

    def _see_that_all_live(self) -> None:
        for rank in np.flatnonzero(self._counters < self._round).tolist():
            with contextlib.suppress(BlockingIOError, PermissionError):
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)
                if self._counters[rank] < self._round:
                    raise PeerFailed(f"another process of the run is gone (process {rank})")


def bytes_of(size: int) -> int:
    """What `size` processes share."""
    return size * (LINE + 2 * piece_of(size))


def piece_of(size: int) -> int:
    """Bytes of each of `size` processes in one round."""
    return max(PIECE, ROOM // (2 * size * LINE) * LINE)


@functools.cache
def shared_memory() -> SharedMemory | None:
    """That of all processes of this run, which call it at the same place; None: they have none, and gloo has to do.

    They have some if all are on one machine that orders stores, with room in /dev/shm, unless `ASKED` is off.
    """
    rank, size = distributed.get_rank(), distributed.get_world_size()
    file = None
    with contextlib.ExitStack() as until_all_have_it:
        name = processes.from_first(lambda: _made(size, until_all_have_it))
        if name is not None:
            with contextlib.suppress(OSError):
                file = os.open(name, os.O_RDWR)
        everywhere = int(processes.total(file is not None)) == size
    if file is None or not everywhere:
        if file is not None:
            os.close(file)
        return None
    memory = SharedMemory(file, rank, size)
    processes.wait()  # until each has locked its byte
    return memory


def _made(size: int, until: contextlib.ExitStack) -> str | None:
    """The path of a new file with the room that `size` processes need, there as long as `until`."""
    if os.environ.get(ASKED) == "off" or platform.machine() not in ORDERED or not WHERE.is_dir():
        return None
    try:
        file, name = tempfile.mkstemp(prefix="kdtoolkit-", dir=WHERE)
        until.callback(os.unlink, name)
        until.callback(os.close, file)
        os.posix_fallocate(file, 0, bytes_of(size))  # or the first to write where there is no room would be killed
    except OSError:
        return None
    return name


def _copy(values: Tensor, place: Tensor) -> None:
    place.copy_(values)


def _added(parts: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    first, second, *others = parts
    total: Tensor = torch.add(first, second, out=out)
    for other in others:
        total += other
    return total
