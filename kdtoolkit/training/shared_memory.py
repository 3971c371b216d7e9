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
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed

from .. import processes
from ..errors import PeerFailed

ASKED = "KDTOOLKIT_SHARED_MEMORY"
"""`off` in the environment of the first process: gloo has to do."""
WHERE = Path("/dev/shm")
"""A file system in memory, as Linux has it."""
ORDERED = ("x86_64", "AMD64")
"""Processors on which all see the stores of one in the order in which it made them; others have gloo."""
PIECE = 1 << 20
"""Bytes of each process in one round; what is longer takes several."""
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
        self._halves = torch.from_numpy(whole[size * LINE :]).view(2, size, PIECE)
        self._spins = size <= len(os.sched_getaffinity(0))
        fcntl.lockf(file, fcntl.LOCK_EX, 1, rank)  # the system takes it back when this process ends, however it does

    def from_all(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, which are of one shape and type, in order of their ranks."""
        mine = _bytes_of(tensor)
        found = [torch.empty_like(mine) for _ in range(self._size)]
        for start in range(0, len(mine), PIECE):
            there = slice(start, start + PIECE)
            for whole, piece in zip(found, self._meet(mine[there])):
                whole[there] = piece
        return [whole.view(tensor.dtype).view(tensor.shape) for whole in found]

    def add(self, tensor: Tensor) -> None:
        """The sum over the processes becomes the tensor, which is contiguous; to the same bits in all of them."""
        mine = _bytes_of(tensor)
        assert mine.data_ptr() == tensor.data_ptr()
        for start in range(0, len(mine), PIECE):
            piece = mine[start : start + PIECE]
            first, *others = self._meet(piece)
            total = piece.view(tensor.dtype).copy_(first.view(tensor.dtype))
            for other in others:
                total += other.view(tensor.dtype)

    def _meet(self, mine: Tensor) -> list[Tensor]:
        """The bytes of each process, which has as many; to be read until the next call."""
        self._round += 1
        half = self._halves[self._round % 2, :, : len(mine)]
        half[self._rank] = mine
        self._counters[self._rank] = self._round  # not before the bytes are there
        self._wait()
        return list(half)

    def _wait(self) -> None:
        """Returns when all have come to this round. Raises PeerFailed when one of them has ended."""
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
    return size * (LINE + 2 * PIECE)


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


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)
