"""What every test shares: one torch thread, no network, a store of its own, and the real data if they are there."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

# A shared machine is slow at times; in CI the examples are the same each time, elsewhere new ones are tried.
settings.register_profile(
    "kdtoolkit",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("kdtoolkit")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Where KDTOOLKIT_NO_SKIP is set (in CI), a test that would skip fails instead."""
    report = (yield).get_result()
    if report.skipped and os.environ.get("KDTOOLKIT_NO_SKIP"):
        report.outcome = "failed"
        report.longrepr = f"nothing may skip here: {call.excinfo.value if call.excinfo else report.longrepr}"


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory, monkeypatch):
    """Labels and fine-tuned teachers of a test stay in the test."""
    monkeypatch.setenv("KDTOOLKIT_STORE", str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def glue() -> Path:
    """The folder of real GLUE data named by KDTOOLKIT_GLUE."""
    folder = os.environ.get("KDTOOLKIT_GLUE")
    if not folder:
        pytest.skip("KDTOOLKIT_GLUE is not set: no real GLUE data to test with")
    return Path(folder)
