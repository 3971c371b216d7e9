"""`--workers N`: N processes of a run on this machine, started by `kdtool` itself in place of a launcher."""

from __future__ import annotations

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import click

from .. import launcher
from ..errors import InputError

HERE = "127.0.0.1"
GRACE = 5.0
"""Seconds in which processes may end by themselves once another has failed, and then on a SIGTERM."""


def are_to_start(count: int | None) -> bool:
    """Whether this process has to start `count` others. Raises InputError where a launcher started another number."""
    found = launcher.size()
    if count is None or count == 1 or found == count:
        return False
    if found > 1:
        cause = f"{count} were asked for, and the launcher started {found} processes"
        raise InputError("--workers", cause, "leave one of the two out")
    return True


def run(arguments: Sequence[str], count: int) -> int:
    """Runs `kdtool` with these arguments in `count` processes that work on one run; the exit code.

    If one fails the others end too; the code is that of the first process, or of another that failed.
    """
    context = multiprocessing.get_context("spawn")  # not forked: see labels/workers.py
    port = _free_port()
    started = [context.Process(target=_work, args=(list(arguments), rank, count, port)) for rank in range(count)]
    with _passing_on_termination(started):
        for process in started:
            process.start()
        _until_all_have_ended(started)
    for rank, process in enumerate(started):
        if process.exitcode == -signal.SIGKILL:
            text = f"kdtool: process {rank} was killed, such as for want of memory; what was finished is kept"
            click.echo(f"{text}, and --resume goes on with it", err=True)
    failed = [process.exitcode for process in started if process.exitcode]
    return max(started[0].exitcode or failed[0], 1) if failed else 0


def _until_all_have_ended(started: Sequence[BaseProcess]) -> None:
    harder = itertools.chain([BaseProcess.terminate], itertools.repeat(BaseProcess.kill))
    stopped, deadline = False, math.inf
    while True:
        # A process that ends is seen by its sentinel a moment before its exit code is there: who failed is asked of
        # all, in every turn, not of those that the wait woke us for.
        codes = [process.exitcode for process in started]
        running = [process for process, code in zip(started, codes) if code is None]
        if not running:
            return
        stopped = stopped or any(codes)
        now = time.monotonic()
        if now > deadline:
            end = next(harder)
            for process in running:
                end(process)
        if stopped and (deadline == math.inf or now > deadline):
            deadline = now + GRACE
        try:
            wait([process.sentinel for process in running], deadline - now if stopped else None)
        except KeyboardInterrupt:  # which a terminal sends to all of them
            stopped = True


@contextlib.contextmanager
def _passing_on_termination(started: Sequence[BaseProcess]) -> Iterator[None]:
    """A SIGTERM that this process gets, the others get."""

    def pass_on(number: int, frame: object) -> None:
        for process in started:
            if process.pid is not None and process.exitcode is None:
                process.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _work(arguments: list[str], rank: int, count: int, port: int) -> None:
    """One of the processes; it tells itself what torchrun would have."""
    said = launcher.Names(size=str(count), rank=str(rank), local_size=str(count), local_rank=str(rank))
    os.environ.update(zip(launcher.TORCH, said))
    os.environ.update(MASTER_ADDR=HERE, MASTER_PORT=str(port))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from .main import Session, kdtool

    kdtool.main(arguments, prog_name="kdtool", obj=Session(workers=count))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HERE, 0))
        port: int = found.getsockname()[1]
    return port
