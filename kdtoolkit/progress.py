"""What a long job tells its user: log lines, and progress with rate and time left. Importable without torch."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from . import launcher

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

log = logging.getLogger("kdtoolkit")

LINE_SECONDS = 10.0
"""Without a terminal, a line at most this often."""

Advance = Callable[..., None]


def show(level: int = logging.INFO) -> None:
    """Sends the log to stderr; the command line calls this, a program that imports kdtoolkit decides for itself."""
    if not any(isinstance(handler, _Handler) for handler in log.handlers):
        log.addHandler(_Handler())
    log.setLevel(level)
    log.propagate = False


@contextlib.contextmanager
def track(description: str, total: int | None, unit: str = "rows") -> Iterator[Advance]:
    """Yields `advance(n=1)`, which says that n more of `total` (None: unknown) units are done.

    On a terminal a bar with rate and time left; elsewhere a plain log line at most every LINE_SECONDS and one at the
    end. Nothing is shown while the log is silent, and only the first process of a distributed run speaks.
    """
    if not log.isEnabledFor(logging.INFO) or launcher.rank() > 0:
        yield _silent
    elif _is_terminal():
        with _bar(description, total, unit) as advance:
            yield advance
    else:
        lines = _Lines(description, total, unit)
        try:
            yield lines.advance
        except BaseException:
            lines.say("stopped after")
            raise
        lines.say("done:")


def _silent(n: int = 1) -> None:
    pass


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class _Lines:
    """Progress as plain lines, for logs and pipes."""

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = 0
        self.started = self.said = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.said >= LINE_SECONDS:
            self.said = now
            self.say("")

    def say(self, state: str) -> None:
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = self.done / seconds
        parts = [f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s"]
        count = f"{self.done:,}"
        if not state and self.total:
            count += f" of {self.total:,}"
            if rate > 0:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
        elif state:
            parts.append(duration(seconds))
        head = f"{self.description}: {state} {count}".replace("  ", " ")
        log.info("%s %s, %s", head, self.unit, ", ".join(parts))


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@functools.cache
def console() -> Console:
    """The one console on stderr, so that log lines appear above a running bar."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


# Bars within bars share one display: rich allows a single live display a console.
_running: list[Progress] = []


@contextlib.contextmanager
def _bar(description: str, total: int | None, unit: str) -> Iterator[Advance]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    if not _running:
        display = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console(),
            transient=True,
        )
        display.start()
        _running.append(display)
        owner = True
    else:
        display, owner = _running[0], False
    bar = display.add_task(description, total=total, count="")
    started, done = time.monotonic(), 0

    def advance(n: int = 1) -> None:
        nonlocal done
        done += n
        rate = done / max(time.monotonic() - started, 1e-9)
        whole = f"/{total:,}" if total else ""
        display.update(bar, advance=n, count=f"{done:,}{whole} {unit}, {rate:,.0f}/s")

    try:
        yield advance
    finally:
        display.remove_task(bar)
        if owner:
            display.stop()
            _running.clear()
    log.info("%s: done: %s %s, %s", description, f"{done:,}", unit, duration(time.monotonic() - started))


class _Handler(logging.Handler):
    """Log lines on stderr, warnings marked; above the bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            if record.levelno >= logging.WARNING:
                text = f"{record.levelname.lower()}: {text}"
            if _running:
                console().print(text, markup=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


__all__ = ["console", "duration", "log", "show", "track"]
