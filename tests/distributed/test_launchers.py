"""Whatever starts the processes, what they train is the same, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import launched_case
import pytest
from launched import HERE, free_port, launched

SCRIPT = Path(launched_case.__file__)
BIN = Path(sys.executable).parent
SAID = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ACCELERATE = [
    str(BIN / "accelerate"), "launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
    "--dynamo_backend", "no",
]  # fmt: skip
LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "PORT"],
    "accelerate": [*ACCELERATE, "--multi_gpu", "--main_process_port", "PORT"],
    "accelerate with mpirun": [*ACCELERATE, "--cpu", "--mpirun_hostfile", "HOSTS", "--main_process_port", "PORT"],
    "mpirun": [str(BIN / "mpirun"), "-genv", "MASTER_PORT", "PORT", "-n", "2", sys.executable],
}


def start(name: str, folder: Path, *arguments: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Has a launcher start two processes with these arguments, as a user would. before: further options of it."""
    hosts = folder / "hosts"
    hosts.write_text("localhost\n")
    stands_for = {"PORT": str(free_port()), "HOSTS": str(hosts)}
    environment = {key: value for key, value in os.environ.items() if key not in SAID}
    paths = [str(HERE), str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")]
    environment |= {
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]), "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [stands_for.get(part, part) for part in LAUNCHERS[name]]
    return subprocess.run(
        [*command, *before, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What two processes train that were started with torchrun's variables."""
    folder = tmp_path_factory.mktemp("expected")
    for done in launched(2, str(SCRIPT), str(folder), cwd=folder):
        assert done.code == 0, done
    return [(folder / f"{rank}.safetensors").read_bytes() for rank in (0, 1)]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_each_launcher_gives_the_same_weights(name, expected, tmp_path):
    done = start(name, tmp_path, str(SCRIPT), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"{rank}.safetensors").read_bytes() for rank in (0, 1)] == expected
    assert expected[0] == expected[1]


def test_what_the_recipe_decides_accelerate_is_not_asked(expected, tmp_path):
    done = start("accelerate", tmp_path, str(SCRIPT), str(tmp_path), before=["--mixed_precision", "bf16"])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("ACCELERATE_MIXED_PRECISION is 'bf16', which changes nothing") == 1
    assert [(tmp_path / f"{rank}.safetensors").read_bytes() for rank in (0, 1)] == expected


FAILING = """
import os, sys
from kdtoolkit import processes
processes.start(asked=2)
if processes.rank() == 1:
    processes.leave(3)
try:
    processes.wait()
except Exception as error:
    print(type(error).__name__, file=sys.stderr, flush=True)
    processes.leave(1)
"""


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_process_that_dies_ends_the_others(name, tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    assert start(name, tmp_path, str(script)).returncode != 0
