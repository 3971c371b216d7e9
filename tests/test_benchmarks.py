"""Every benchmark, with as little as it can be asked for: it runs to its end and prints its table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import write_checkpoint

FOLDER = Path(__file__).parent.parent / "benchmarks"
ONCE = ("--rounds", "1")
SST2 = ("--rows", "200", "--epochs", "1")
COMMANDS = {
    "batches.py": [("--rows", "500", *ONCE)],
    "distill_vs_peers.py": [(*SST2, *ONCE, "--work", "{work}", "--ways", "hand", "compact", "kdtoolkit")],
    "inference.py": [("--teacher", "{teacher}", "--sentences", "10", "--rows", "100", *ONCE)],
    "labelling.py": [("--teacher", "{teacher}", "--rows", "50", *ONCE)],
    "linear_soft_cross_entropy.py": [("--sizes", "3", *ONCE)],
    "memory.py": [("500", "1000")],
    "processes.py": [
        ("--teacher", "{teacher}", *SST2, *ONCE, "--students", "s2", "--batch-rows", "32", "--stages", *stages)
        for stages in (("distill",), ("label", "distill", "baseline"))
    ],
    "scaling.py": [("--rows", "300", "--tasks", "1", "3", "--task-rows", "300", "--width", "8", "--steps", "5", *ONCE)],
    "sharding.py": [("--width", "64"), ("--teacher", "--width", "64")],
    "small_steps.py": [("--steps", "2", *ONCE)],
    "soft_cross_entropy.py": [("--quick",)],
    "stages.py": [(*SST2, "--work", "{work}")],
    "startup.py": [ONCE],
    "training_step.py": [("--quick",)],
}
"""By script, the arguments of its runs."""


def output_of(script, *arguments):
    """What it prints, with the data and the tiny teacher in place of the real one."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_benchmark_is_here():
    assert sorted(COMMANDS) == sorted(path.name for path in FOLDER.glob("*.py"))


def commands_in(page):
    """(script, options) of every command line of a benchmark; what is in brackets are options as well."""
    for line in page.read_text(encoding="utf-8").splitlines():
        for command in re.findall(r"python benchmarks/([^`|]+)", line):
            script, *words = re.split(r"[\s\[\]|=;]+", command)
            yield script.replace("$system", "mkd"), [word for word in words if re.fullmatch(r"--[a-z0-9-]+", word)]


@pytest.mark.parametrize("page", ["BENCHMARKS.md", "benchmarks/profile.md", "docs/scale.md"])
def test_every_command_of_the_documents_has_options_that_exist(page):
    commands = list(commands_in(FOLDER.parent / page))
    assert commands
    for script, options in commands:
        source = (FOLDER / script).read_text(encoding="utf-8")
        for module in ("peers/teacher.py", "papers/common.py"):
            if (FOLDER / module).stem in source:
                source += (FOLDER / module).read_text(encoding="utf-8")
        unknown = [option for option in options if f'"{option}"' not in source]
        assert not unknown, (script, unknown)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        pytest.param(script, some, id=f"{script} {n}")
        for script, runs in COMMANDS.items()
        for n, some in enumerate(runs)
    ],
)
def test_it_prints_its_table(script, arguments, tmp_path, glue):
    folder, positions = tmp_path / "teacher" / "teacher" / "sst2", {"max_position_embeddings": 130}
    teacher = write_checkpoint(folder, labels=("negative", "positive"), **positions)
    places = {"{teacher}": str(teacher), "{work}": str(tmp_path)}
    given = [places.get(argument, argument) for argument in arguments]
    if "add_options" in (FOLDER / script).read_text(encoding="utf-8"):
        given += ["--base", str(teacher), "--data", str(glue)]
    printed = output_of(script, *given)
    lines = [line for line in printed.splitlines() if line.startswith("|") and not line.startswith("|--")]
    aligned = script in ("batches.py", "memory.py", "startup.py")  # by blanks, without a frame
    assert aligned or len(lines) > 1, printed
    assert any(character.isdigit() for character in printed)
