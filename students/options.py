"""Checks of constructor options, so that every student refuses a wrong value in the same words."""

from __future__ import annotations

from collections.abc import Sequence


def one_of(option: str, value: object, allowed: Sequence[str]) -> None:
    """Raises ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        names = ", ".join(repr(name) for name in allowed)
        raise ValueError(f"{option}: expected one of {names}, received {value!r}")


def whole_number(option: str, value: object, least: int = 1) -> None:
    """Raises ValueError unless `value` is an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{option}: expected a whole number of at least {least}, received {value!r}")


def dropout_rate(option: str, value: object) -> None:
    """Raises ValueError unless 0 <= value < 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{option}: expected a number from 0 to below 1, received {value!r}")
