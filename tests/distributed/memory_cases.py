"""Processes that meet in shared memory: memory_cases.py FOLDER CASE. Each writes what it saw, or fails."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch

from kdtoolkit import processes
from kdtoolkit.errors import PeerFailed
from kdtoolkit.training import collectives, shared_memory

SHAPES = [(), (1,), (7,), (0,), (3, 5), (shared_memory.piece_of(3) // 8 + 3,), (513, 1025)]
TYPES = (torch.float32, torch.float64, torch.int64, torch.bfloat16, torch.bool, torch.uint8)


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 100, shape, generator=generator).to(dtype)


def values() -> None:
    """What all give and their sum, of every type and of sizes that take no round, one and several."""
    memory, rank, size = shared_memory.shared_memory(), processes.rank(), processes.size()
    assert memory is not None and shared_memory.shared_memory() is memory
    for number, (shape, dtype) in enumerate((s, t) for s in SHAPES for t in TYPES):
        every = [drawn(shape, dtype, 100 * number + other) for other in range(size)]
        found = collectives.from_all(every[rank])
        assert [one.dtype for one in found] == [dtype] * size
        assert all(torch.equal(*pair) for pair in zip(found, every, strict=True))
        if dtype.is_floating_point:
            expected = torch.stack(every).double().sum(0).to(dtype)
            assert torch.equal(collectives.sum_of([every[rank]]), expected.flatten())
            more = [every[rank].t() if len(shape) == 2 else every[rank], torch.full((2, 3), float(rank), dtype=dtype)]
            expected = torch.cat(
                [expected.t().flatten() if len(shape) == 2 else expected.flatten(), torch.full((6,), 3.0)]
            )
            assert torch.equal(collectives.sum_of(more), expected.to(dtype))
    assert torch.equal(collectives.from_all(torch.arange(6).view(2, 3).t())[0], torch.arange(6).view(2, 3).t())


def races() -> None:
    """Thousands of rounds, in which each comes when it likes, and writes as soon as it may."""
    rank, size = processes.rank(), processes.size()
    pause = random.Random(rank)
    for number in range(4000):
        mine = torch.full((1 + number % 700,), size * number + rank)
        if pause.random() < 0.02:
            time.sleep(pause.random() * 0.03)
        for other, found in enumerate(collectives.from_all(mine)):
            assert (found == size * number + other).all()


def meanwhile() -> None:
    """Who comes first has time for something; who comes last has none, and nobody is kept from reading what is there.

    Each comes late in turn, and what is done meanwhile takes longer than the others need to be there.
    """
    memory, rank, size = shared_memory.shared_memory(), processes.rank(), processes.size()
    assert memory is not None
    left = [0]

    def piece() -> bool:
        time.sleep(0.002)
        left[0] -= 1
        return left[0] > 0

    done = []
    for number in range(60):
        left[0] = 50
        late = number % size == rank
        if late:
            time.sleep(0.02)
        parts = memory.meet(8, partial(torch.Tensor.fill_, value=number + rank), piece)
        assert [int(part[0]) for part in parts] == [number + other for other in range(size)]
        done.append((late, 50 - left[0]))
    early = [pieces for late, pieces in done if not late]
    assert sum(pieces > 0 for pieces in early) > 0.8 * len(early) and max(early) < 50
    assert sum(pieces for late, pieces in done if late) < sum(early)
    parts = memory.meet(8, lambda place: place.fill_(rank), lambda: False)  # and where there is nothing to be done
    assert [int(part[0]) for part in parts] == list(range(size))


def death() -> None:
    """The last is killed while the others wait for it."""
    collectives.from_all(torch.ones(1))
    if processes.rank() == processes.size() - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    try:
        collectives.from_all(torch.ones(1))
    except PeerFailed as error:
        assert "is gone (process" in str(error) and time.monotonic() - started < 20
        processes.leave(5)


def without() -> None:
    """Where there is none, gloo does."""
    assert shared_memory.shared_memory() is None
    found = collectives.from_all(torch.tensor([processes.rank()]))
    assert [int(one) for one in found] == list(range(processes.size()))
    assert collectives.sum_of([torch.ones(3), torch.ones(())]).tolist() == [processes.size()] * 4


def off() -> None:
    os.environ[shared_memory.ASKED] = "off"
    without()


def no_room() -> None:
    shared_memory.PIECE = 1 << 44
    without()


def apart() -> None:
    """The last sees another file system, as on another machine."""
    if processes.rank() == processes.size() - 1:
        real = os.open
        os.open = lambda path, *rest: real(str(path).replace("/kdtoolkit-", "/nowhere-"), *rest)  # type: ignore
    without()


def main() -> None:
    folder, case = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    processes.start()
    shared_memory.WHERE = folder
    globals()[case]()
    processes.wait()
    processes.leave(0)


if __name__ == "__main__":
    main()
