"""Whole trainings shared out over processes: the files of one process, to the bit."""

from __future__ import annotations

import json
import re
import signal

import pytest
import yaml
from launched import KILL, MAIN, launched, torchrun
from tiny_data import rows

from kdtoolkit import processes
from kdtoolkit.pipeline.trainings import Training, apart, carry_out
from kdtoolkit.recipe.schema import Train
from kdtoolkit.training import FitReport

DRAWS = {
    "student": {"name": "bilstm", "width": 8, "embedding": 12, "dropout": 0.2},
    "train": {"epochs": 2, "batch_rows": 16, "checkpoint_every_steps": 5, "log_every_steps": 5},
}
"""With dropout: whoever trains draws what a single process draws."""
ARRANGEMENTS = {
    "refined": {"refine": {"epochs": 1, "learning_rate": 0.005}, "balance": {"weights": "dwa"}},
    "refined on all rows": {"refine": {"epochs": 1, "alpha": 0.5}, "sampler": {"batch": "mixed"}},
    "one a task": {"train": {**DRAWS["train"], "joint": False}},
    "selected": {"train": {**DRAWS["train"], "select": {"every_steps": 3}}},
}
LITTLE = "so few gain little over one process: raise train.batch_rows, or start fewer"
WATCH = """
import os, sys, time
folder, first = os.path.abspath("run") + os.sep, os.environ["RANK"] == "0"
def watch(event, details):
    if event == "open" and isinstance(details[0], str) and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        path = os.path.abspath(details[0])
        if path.startswith(folder):
            time.sleep(0.01 if first else 0)  # what is not waited for is not there yet
            inside = path[len(folder):]
            with open(f"wrote-{os.environ['RANK']}", "a") as file:
                file.write(inside + chr(10))
sys.addaudithook(watch)
"""


@pytest.fixture
def written(recipe, tiny):
    """written(section={...}): the recipe as a file, of a task with rows enough that some are held out; its path."""
    lines = [json.dumps(row) + "\n" for row in rows(700, 5, pair=False)]
    (tiny / "data" / "mood" / "train.jsonl").write_text("".join(lines))

    def write(**changes):
        path = tiny / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe(**{**DRAWS, "store": str(tiny / "store"), **changes})))
        return str(path)

    return write


def files_of(run):
    """What a run leaves that is to be the same to the bit, by name."""
    names = [path for kind in ("student", "gold_only") for path in (run / kind).rglob("*.safetensors")]
    names += [run / kind / "config.json" for kind in ("student", "gold_only")]
    return {str(path.relative_to(run)): path.read_bytes() for path in names}


def left_of_both(err):
    """Of the 108 steps of student and of baseline, what a resumed run had to do."""
    return [int(count) for count in re.findall(r"(?:distilling|baseline): done: (\d+) steps", err)]


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_two_processes_leave_the_files_of_one(written, tiny, kdtool, name):
    path = written(**ARRANGEMENTS[name])
    done = launched(2, "-c", WATCH + MAIN, "distill", "--recipe", path, "--out", "run", cwd=tiny)
    assert [each.code for each in done] == [0, 0], done
    kdtool("distill", "--recipe", path, "--out", "alone", cwd=tiny)
    assert files_of(tiny / "run") == files_of(tiny / "alone") != {}
    found, expected = (json.loads((tiny / run / "results.json").read_text()) for run in ("run", "alone"))
    assert found["tasks"] == expected["tasks"]
    stages = [json.loads((tiny / run / "run.json").read_text())["stages"] for run in ("run", "alone")]
    for stage in ("distill", "refine", "baseline"):
        facts, others = (some.get(stage, {}) for some in stages)
        for key in ("rows", "steps", "best_step"):
            assert facts.get(key) == others.get(key), (stage, key)
        assert all(facts[key] > 0 for key in ("seconds", "cpu_seconds") if facts)
        assert not facts or 0 < facts["began"] < facts["finished"]
    boards = [sorted(path.parent.name for path in (tiny / run).rglob("events.*")) for run in ("run", "alone")]
    assert boards[0] == boards[1]
    wrote = [set((tiny / f"wrote-{rank}").read_text().split()) for rank in (0, 1)]
    trained = ("student", "gold_only", "checkpoints", "tensorboard")
    assert wrote[1] and all(name.split("/")[0] in trained for name in wrote[1])
    assert not wrote[0] & wrote[1]
    log = (tiny / "run" / "log.txt").read_text()
    assert "each by one process alone" in log and log.count("done by process 1: ") >= 1
    assert name == "one a task" or "gold-only baseline: done by process 1: " in log
    assert done[1].out == done[1].err == ""


def test_when_one_dies_the_other_ends_and_one_process_goes_on_to_the_same_bits(written, tiny, kdtool):
    path = written()
    done = launched(2, "-c", KILL + MAIN, "distill", "--recipe", path, "--out", "stopped", cwd=tiny)
    assert done[1].code == -signal.SIGKILL and done[0].code == 1
    assert "kdtool: another process of the run is gone" in done[0].err and "Traceback" not in done[0].err
    kept = [[p.name for p in (tiny / "stopped" / "checkpoints" / some).glob("step-*")] for some in ("", "gold_only")]
    assert all(kept)  # of both
    again = kdtool("distill", "--resume", "stopped", cwd=tiny).stderr
    assert left_of_both(again) == [0, 98]
    kdtool("distill", "--recipe", path, "--out", "straight", cwd=tiny)
    assert files_of(tiny / "stopped") == files_of(tiny / "straight")


def test_a_launcher_ends_the_other_at_once(written, tiny):
    """It would have gone on with its own training, and noticed when that was done."""
    path = written(train={**DRAWS["train"], "epochs": 2000})
    (tiny / "killed.py").write_text(KILL + MAIN)
    done = torchrun(2, "killed.py", "distill", "--recipe", path, "--out", "run", cwd=tiny)
    assert done.returncode != 0
    assert "Stopped by the launcher, as when another process of the run has failed. To go on from here: " in done.stderr
    assert not (tiny / "run" / "student").exists() and list((tiny / "run" / "checkpoints").rglob("step-*"))


def test_a_run_may_go_on_by_rows_and_by_other_numbers_of_processes(written, tiny, kdtool):
    path = written()
    launched(2, "-c", KILL + MAIN, "distill", "--recipe", path, "--out", "run", cwd=tiny)
    rest = ("-m", "kdtoolkit", "distill", "--resume", "run", "--set", "train.parallel=rows")
    done = launched(3, *rest, cwd=tiny)
    assert [each.code for each in done] == [0, 0, 0], done
    assert left_of_both(done[0].err) == [0, 98] and "by one process alone" not in done[0].err
    assert json.loads((tiny / "run" / "results.json").read_text())["tasks"]["mood"]["gold_only"]["value"] > 0


def test_an_error_of_one_process_is_said_by_it(written, tiny):
    fails = "import os\nimport kdtoolkit.training.loop as loop\nreal = loop.set_learning_rate\n"
    fails += "def set_learning_rate(*a):\n    if os.environ['RANK'] == '1':\n        raise ValueError('lost its way')\n"
    fails += "    return real(*a)\nloop.set_learning_rate = set_learning_rate\n"
    done = launched(2, "-c", fails + MAIN, "distill", "--recipe", written(), "--out", "run", cwd=tiny)
    assert [each.code for each in done] == [1, 1], done
    assert "process 1: kdtool: ValueError: lost its way" in done[1].err
    assert "another process of the run is gone" in done[0].err and "--resume run" in done[0].err


@pytest.mark.parametrize(
    ("section", "size", "count", "expected"),
    [
        ({}, 2, 2, True),
        ({}, 2, 3, True),
        ({}, 3, 2, False),  # one of the three would have nothing to do
        ({}, 1, 2, False),
        ({}, 2, 0, False),
        ({"parallel": "trainings"}, 3, 2, True),
        ({"parallel": "trainings"}, 1, 2, False),
        ({"parallel": "rows"}, 2, 2, False),
        ({"sharding": "fsdp"}, 2, 2, False),
        ({"teacher_sharding": "fsdp"}, 2, 2, False),
    ],
)
def test_auto_shares_out_trainings_where_there_is_one_for_each(monkeypatch, section, size, count, expected):
    monkeypatch.setattr(processes, "size", lambda: size)
    assert apart(Train(**section), count) is expected


@pytest.mark.parametrize(
    ("size", "rows", "said"),
    [
        (1, 32, None),
        (2, 64, "distilling: each step by 2 processes, of 32 rows a batch each"),
        (2, 63, f"distilling: each step by 2 processes, of 31 rows a batch each; {LITTLE}"),
    ],
)
def test_the_log_says_that_steps_are_shared_and_when_there_is_little_to_share(monkeypatch, caplog, size, rows, said):
    monkeypatch.setattr(processes, "size", lambda: size)
    caplog.set_level("INFO", "kdtoolkit")
    report = FitReport(steps=1, first_step=0, rows=1, seconds=1.0, cpu_seconds=1.0)
    assert carry_out([Training("distilling", 1, lambda: report)], Train(batch_rows=rows)) == [report]
    assert caplog.messages == ([] if said is None else [said])
    both = [Training(name, 1, lambda: report) for name in ("distilling", "gold-only baseline")]
    monkeypatch.setattr(processes, "size", lambda: 3 * size)
    carry_out(both, Train(batch_rows=rows))
    assert "start fewer, or set train.parallel=trainings" in caplog.messages[-1]
    caplog.clear()
    assert carry_out([], Train(batch_rows=rows)) == []  # as where no task has labels to refine on
    assert caplog.messages == []


def test_the_longest_are_begun_first_and_reported_in_their_order(monkeypatch):
    begun = []

    def training(name, count):
        def run():
            begun.append(name)
            return FitReport(steps=count, first_step=0, rows=count, seconds=1.0, cpu_seconds=1.0)

        return Training(name, count, run)

    monkeypatch.setattr(processes, "size", lambda: 2)
    monkeypatch.setattr(processes, "shared_out", lambda jobs: [job() for job in jobs])
    reports = carry_out([training("short", 3), training("long", 9), training("middle", 5)], Train())
    assert begun == ["long", "middle", "short"]
    assert [report.rows for report in reports] == [3, 9, 5]
