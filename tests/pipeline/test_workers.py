"""`--workers N`: processes that kdtool starts itself make the run that a launcher's make, and end together."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dying
import pytest
import yaml
from launched import launched
from safetensors.torch import load_file
from test_several_processes import STILL, worst

from kdtoolkit.cli import workers

KDTOOL = Path(sys.executable).with_name("kdtool")
WEIGHTS = ("student/model.safetensors", "gold_only/model.safetensors")
GRACE = 0.5


@pytest.fixture
def written(recipe, tiny):
    """written(section={...}): the recipe as a file, its path."""

    def write(name="recipe", **changes):
        path = tiny / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe(**{"store": str(tiny / f"store-{name}"), **STILL, **changes})))
        return str(path)

    return write


def started(tiny, *arguments):
    return subprocess.Popen(
        [KDTOOL, *arguments], cwd=tiny, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"}, start_new_session=True,
        # A shell that starts the tests in the background has SIGINT ignored, and a child inherits that.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def ended(process):
    """Exit code and what was said, when all of its processes are gone, for they have hold of the pipes."""
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def test_they_make_the_run_of_a_launcher(written, tiny):
    code, out, err = ended(started(tiny, "distill", "--recipe", written("a"), "--out", "a", "--workers", "2", "--json"))
    assert code == 0, err
    assert {"mood", "likeness"} == set(json.loads(out)["tasks"])
    assert "distilling: each step by 2 processes" in err
    done = launched(2, "-m", "kdtoolkit", "distill", "--recipe", written("b"), "--out", "b", cwd=tiny)
    assert [each.code for each in done] == [0, 0], done
    assert [(tiny / "a" / name).read_bytes() for name in WEIGHTS] == [(tiny / "b" / n).read_bytes() for n in WEIGHTS]


def test_when_one_is_killed_the_others_end_and_the_run_goes_on(written, tiny, kdtool):
    student = {**STILL["student"], "name": f"{dying.__file__}:Dying"}
    path = written(student=student, evaluate={"baseline": False})
    code, out, err = ended(started(tiny, "distill", "--recipe", path, "--out", "run", "--workers", "2"))
    assert (code, out) == (1, "") and "Traceback" not in err
    assert (tiny / dying.DIED).exists()
    assert "kdtool: process 1 was killed, such as for want of memory; what was finished is kept" in err
    assert "kdtool distill --workers 2 --resume run" in err
    code, _, err = ended(started(tiny, "distill", "--workers", "2", "--resume", "run"))
    assert code == 0, err
    kdtool("distill", "--recipe", path, "--out", "straight", cwd=tiny)
    files = [tiny / run / "student" / "model.safetensors" for run in ("run", "straight")]
    assert worst(*map(load_file, files)) < 1e-4


def test_bad_input_is_said_once_and_leaves_nothing(written, tiny):
    (tiny / "data" / "mood" / "dev.jsonl").write_text('{"text": "fine", "label": "sideways"}\n')
    code, out, err = ended(started(tiny, "teach", "--recipe", written(), "--out", "run", "--workers", "2"))
    assert (code, out) == (2, "")
    assert err.count("sideways") == 1 and "process 1" not in err
    assert not (tiny / "run").exists()


@pytest.mark.parametrize("whom", ["all", "the one that started them"])
def test_ctrl_c_and_termination_stop_all_and_say_how_to_go_on(written, tiny, whom):
    path = written(train={**STILL["train"], "epochs": 10_000, "checkpoint_every_steps": 5})
    process = started(tiny, "distill", "--recipe", path, "--out", "run", "--workers", "2")
    until = time.monotonic() + 120
    while not list((tiny / "run").glob("checkpoints/**/step-*")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    if whom == "all":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    else:
        process.terminate()
    code, out, err = ended(process)
    assert (code, out) == (1, "") and "Traceback" not in err
    assert "Stopped" in err and "To go on from here: kdtool distill --workers 2 --resume run" in err


def test_a_launcher_with_another_number_is_refused(monkeypatch, capsys, tmp_path):
    from kdtoolkit.cli.main import kdtool

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kdtoolkit.processes.os._exit", sys.exit)
    for name, value in {"WORLD_SIZE": "3", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as left:
        kdtool.main(["distill", "--workers", "2"], prog_name="kdtool")
    assert left.value.code == 2
    said = "--workers: 2 were asked for, and the launcher started 3 processes; leave one of the two out"
    assert said in capsys.readouterr().err


DEAF = Path("deaf")


def stubborn(arguments, rank, count, port):
    """In place of a process's work: the first fails, the second does not end when it is asked to."""
    if rank == 0:
        while not DEAF.exists():
            time.sleep(0.01)
        sys.exit(7)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    DEAF.touch()
    time.sleep(60)


@pytest.mark.parametrize("late", [False, True], ids=["", "whose exit code comes after its sentinel"])
def test_who_does_not_end_is_killed(monkeypatch, capsys, tmp_path, late):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "_work", stubborn)
    monkeypatch.setattr(workers, "GRACE", GRACE)
    if late:
        monkeypatch.setattr(multiprocessing.context.SpawnProcess, "exitcode", property(LateCodes()))
    assert workers.run([], 2) == 7
    assert "kdtool: process 1 was killed" in capsys.readouterr().err
    assert not multiprocessing.active_children()


class LateCodes:
    """exitcode of a process that the system has not done away with when its sentinel is first seen."""

    def __init__(self):
        self.real = multiprocessing.process.BaseProcess.exitcode.fget
        self.looks = {}

    def __call__(self, process):
        code = self.real(process)
        if code is not None:
            self.looks[process] = self.looks.get(process, 0) + 1
        return code if self.looks.get(process, 0) > 1 else None
