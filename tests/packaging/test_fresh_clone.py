"""The two commands of a newcomer, in a fresh clone with nothing installed. Long: part of `make test-slow`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh") / "kdtoolkit"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def distilled(clone):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KDTOOLKIT", "VIRTUAL_ENV", "PYTHON"))}
    environment["KDTOOLKIT_STORE"] = str(clone.parent / "store")
    done = subprocess.run(["make", "distill"], cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return clone, done.stdout, environment


@pytest.mark.slow
def test_make_distill_in_a_fresh_clone_ends_with_the_table(distilled):
    _, out, _ = distilled
    for word in ("teacher", "gold only", "student", "average of 4 tasks", "gap closed"):
        assert word in out


@pytest.mark.slow
def test_what_the_run_says_to_do_next_works(distilled):
    clone, out, environment = distilled
    [command] = re.findall(r"^next: (.*)$", out, re.MULTILINE)
    environment = {**environment, "PATH": f"{clone / '.venv/bin'}:{environment['PATH']}"}
    done = subprocess.run(["bash", "-c", command], cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"label"' in done.stdout


@pytest.mark.slow
def test_the_readme_commands_on_the_demo_work_in_a_fresh_clone(distilled):
    clone, _, environment = distilled
    environment = {**environment, "PATH": f"{clone / '.venv/bin'}:{environment['PATH']}"}
    for command in ("kdtool recipes show demo", "kdtool plugins", "kdtool doctor", "kdtool check", "kdtool clean",
                    "kdtool distill --resume runs/demo", "kdtool evaluate runs/demo"):  # fmt: skip
        done = subprocess.run(command.split(), cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
