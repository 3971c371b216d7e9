"""Several processes on this machine, with the variables that torchrun sets, mostly without it: it starts slowly."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
PATIENCE = 240.0
MAIN = "\nfrom kdtoolkit.cli.main import main\nmain()"
"""The command line, at the end of a script for `python -c`."""
KILL = """
import os, signal, sys
import kdtoolkit.training.loop as loop
real, calls = loop.set_learning_rate, []
def set_learning_rate(*arguments):
    calls.append(1)
    if len(calls) == 13 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
loop.set_learning_rate = set_learning_rate
"""
"""Before it: the second process dies in the thirteenth of its steps."""


class Done(NamedTuple):
    """What became of a process."""

    code: int
    out: str
    err: str


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(rank: int, count: int, port: int, cwd: Path) -> dict[str, str]:
    paths = [str(cwd), str(HERE), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
        "LOCAL_WORLD_SIZE": str(count), "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "COLUMNS": "100",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }  # fmt: skip


def launched(count: int, *arguments: str, cwd: Path) -> list[Done]:
    """Runs Python with these arguments in so many processes; what became of each, in order of their ranks.

    A process that the others have left waiting for long is killed, and its exit code says so (-9).
    """
    port, until, done = free_port(), time.monotonic() + PATIENCE, []
    started = [
        subprocess.Popen(
            [sys.executable, *arguments], cwd=cwd, env=environment(rank, count, port, cwd), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]  # fmt: skip
    for process in started:
        try:
            out, err = process.communicate(timeout=max(until - time.monotonic(), 1.0))
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        done.append(Done(process.returncode, out, err))
    return done


def torchrun(count: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same by `torchrun` itself."""
    plain = {k: v for k, v in environment(0, count, free_port(), cwd).items() if k not in ("RANK", "LOCAL_RANK")}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port",
         str(free_port()), *arguments],
        cwd=cwd, env=plain, capture_output=True, text=True,
    )  # fmt: skip
