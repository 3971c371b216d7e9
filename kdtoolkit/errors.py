"""Errors that name the place, the cause and the way out.

`InputError`: the user's input is wrong (exit code 2). `WorkError`: the work itself failed (exit code 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class KdtoolkitError(Exception):
    """Base of every error this package raises on purpose; the CLI prints it without a traceback."""

    exit_code = 1


class WorkError(KdtoolkitError):
    """The input was right and the work failed all the same (a full disk, a damaged file)."""


class PeerFailed(WorkError):
    """Another process of the run failed or is gone; whoever failed has said why, if it could."""


class InputError(KdtoolkitError):
    """Wrong input, found before any long work.

    place: where, as the user knows it ("train.csv line 7", "student.name").
    cause: what is wrong there.
    remedy: what to do about it, if there is something to say.
    """

    exit_code = 2

    def __init__(self, place: str, cause: str, remedy: str | None = None) -> None:
        self.place, self.cause, self.remedy = place, cause, remedy
        super().__init__(f"{place}: {cause}" + (f"; {remedy}" if remedy else ""))


class InputErrors(InputError):
    """Several problems of one source (a recipe, a data folder), reported together."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source, self.problems = source, list(problems)
        self.place, self.cause, self.remedy = source, "; ".join(problems), None
        count = f"{len(problems)} problem" + ("s" if len(problems) != 1 else "")
        Exception.__init__(self, "\n".join([f"{source}: {count}", *(f"  {problem}" for problem in problems)]))


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, or None if none is near."""
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The way out of a mistyped name: "did you mean 'x'?", or the list of what there is."""
    known = sorted(set(choices))
    near = nearest(name, known)
    if near is not None:
        return f"did you mean '{near}'?"
    return "known: " + ", ".join(known) if known else "none is known"
