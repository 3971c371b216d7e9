"""Launchers as users start them, two machines, and many exits. Slow, and part of `make test-slow`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_launchers
from launched import environment, free_port, launched

pytestmark = pytest.mark.slow
LAUNCHES = 50
TRAIN = """
import three_tasks
from kdtoolkit import processes
processes.start()
three_tasks.run(None, epochs=1.0)
processes.leave(0)
"""
SHORT = [
    part
    for option in ("train.max_steps=20", "teachers.0.epochs=0.1", "evaluate.bootstrap=0", "evaluate.latency=false")
    for part in ("--set", option)
]
ONE_STUDENT = [*SHORT, "--set", "evaluate.baseline=false"]
"""Whose steps the processes share; with a baseline, each would train one of the two."""


def test_processes_leave_without_a_fault(tmp_path):
    """Gloo aborts about one exit in three where the interpreter shuts down in the usual way."""
    codes = [done.code for _ in range(LAUNCHES) for done in launched(2, "-c", TRAIN, cwd=tmp_path)]
    assert codes == [0] * 2 * LAUNCHES


def plain(cwd: Path) -> dict[str, str]:
    """The environment without what a launcher sets."""
    given = environment(0, 2, free_port(), cwd)
    return {k: v for k, v in given.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
                                                        "MASTER_ADDR", "MASTER_PORT")}  # fmt: skip


def test_a_launcher_that_starts_one_process_for_two_is_refused(tmp_path):
    done = subprocess.run(
        [Path(sys.executable).with_name("accelerate"), "launch", "--cpu", "--num_processes", "2", "-m", "kdtoolkit",
         "distill", *ONE_STUDENT, "--out", "run"],
        cwd=tmp_path, env=plain(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0 and not (tmp_path / "run").exists()
    assert "kdtool: launcher: it set MASTER_ADDR, as for several processes, and started this one alone" in done.stderr


def test_every_launcher_makes_the_same_run(tmp_path):
    found = {}
    for name in test_launchers.LAUNCHERS:
        folder = tmp_path / name
        folder.mkdir()
        # Each with a store of its own, and all with the same teacher: a run that another has labelled tells nothing.
        done = test_launchers.start(
            name, folder, "-m", "kdtoolkit", "distill", "--processes", "2", *ONE_STUDENT, "--out", "run", "--set",
            f"store={folder / 'store'}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[name] = (folder / "run" / "student" / "model.safetensors").read_bytes()
    assert len(set(found.values())) == 1


@pytest.fixture
def two_machines():
    """Two network namespaces that see each other over a cable alone; their names, addresses and cables.

    Their memory they share, which two machines do not, and the runs are told so.
    """
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    machines = [(f"kdtool-{side}-{os.getpid()}", f"10.77.0.{number}", f"kd{side}{os.getpid() % 10000}")
                for number, side in enumerate("ab", start=1)]  # fmt: skip

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        for name, _, _ in machines:
            ip("netns", "add", name)
        ip("link", "add", machines[0][2], "type", "veth", "peer", "name", machines[1][2])
        for name, address, cable in machines:
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield machines
    finally:
        for name, _, _ in machines:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def test_two_machines_make_one_run(two_machines, tmp_path):
    """They fine-tune the teacher together, label in turn, and train a student each."""
    started = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
             "--nproc-per-node", "1", "--node-rank", str(number), "--master-addr", two_machines[0][1],
             "--master-port", "29477", "-m", "kdtoolkit", "distill", "--processes", "2", *SHORT, "--out", "run",
             "--json"],
            cwd=tmp_path, env={**plain(tmp_path), "GLOO_SOCKET_IFNAME": cable, "KDTOOLKIT_STORE": str(tmp_path / "s"),
                 "KDTOOLKIT_SHARED_MEMORY": "off"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number, (name, _, cable) in enumerate(two_machines)
    ]  # fmt: skip
    until = time.monotonic() + 500
    done = [process.communicate(timeout=max(until - time.monotonic(), 1)) for process in started]
    assert [process.returncode for process in started] == [0, 0], done
    tasks = json.loads(done[0][0])["tasks"]
    assert set(tasks) == {"demo_sentiment", "demo_entailment", "demo_paraphrase", "demo_similarity"}
    assert all({"teacher", "gold_only", "student"} <= models.keys() for models in tasks.values())
    assert done[1][0] == "" and "gold-only baseline: done by process 1: 20 steps" in done[0][1]
