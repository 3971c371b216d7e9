"""The backends that tests run on: the reference, and the compiled one of this machine's CPU where there is one."""

import pytest

from kdtoolkit.ops import native
from kdtoolkit.ops.backend import VARIABLE

BACKENDS = ["reference", "cpu"]


def use(name, monkeypatch):
    """The op runs on that backend for the rest of the test; skips where it was not built."""
    if name == "cpu":
        need_compiled()
    monkeypatch.setenv(VARIABLE, name)


def need_compiled():
    if native.library() is None:
        pytest.skip(native.ABSENT)
