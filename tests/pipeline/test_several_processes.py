"""A run by several processes that share each step's rows: the table of one, one voice, no harm when one dies."""

from __future__ import annotations

import json
import signal
import sys

import pytest
import yaml
from launched import KILL, MAIN, launched, torchrun
from safetensors.torch import load_file
from tiny_data import rows

STILL = {
    "student": {"name": "bilstm", "width": 8, "embedding": 12, "dropout": 0.0},
    "train": {"epochs": 2, "batch_rows": 16, "checkpoint_every_steps": 5, "log_every_steps": 5,
              "parallel": "rows"},
}  # fmt: skip
"""At dropout 0 the number of processes changes nothing but the last digits."""
WATCH = """
import os, sys, time
first, folder = os.environ["RANK"] == "0", os.path.abspath("run") + os.sep
def watch(event, details):
    if event == "open" and isinstance(details[0], str) and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if os.path.abspath(details[0]).startswith(folder):
            time.sleep(0.02)  # what is not waited for is not there yet
            assert first, details[0]
sys.addaudithook(watch)
"""
"""The first process writes slowly, and the others must not write into the run's folder."""


@pytest.fixture
def written(recipe, tiny, monkeypatch):
    """written(section={...}): the recipe as a file that has its labels to itself; its path."""
    count = 0

    def write(**changes):
        nonlocal count
        count += 1
        path = tiny / f"recipe-{count}.yaml"
        path.write_text(yaml.safe_dump(recipe(**{"store": str(tiny / f"store-{count}"), **changes})))
        return path

    return write


def worst(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_two_processes_give_the_table_of_one(written, tiny, kdtool, parts):
    changes = {**STILL, "refine": {"epochs": 1, "learning_rate": 0.005}, "balance": {"weights": "dwa"}}
    found = {}
    for count in (1, 2):
        arguments = ["distill", "--recipe", str(written(**changes)), "--out", f"run-{count}", "--json"]
        if count == 1:
            out = kdtool(*arguments, cwd=tiny).stdout
        else:
            done = torchrun(2, "-m", "kdtoolkit", *arguments, "--processes", "2", cwd=tiny)
            assert done.returncode == 0, done.stderr
            out = done.stdout
        found[count] = json.loads(out)["tasks"]
    for task, one in found[1].items():
        for model in ("teacher", "gold_only", "student"):
            assert found[2][task][model]["value"] == pytest.approx(one[model]["value"], abs=1e-4)
    assert parts(tiny / "store-1") == parts(tiny / "store-2") != {}
    for name in ("student/model", "student/refined-mood", "gold_only/model", "gold_only/refined-likeness"):
        one, two = (load_file(tiny / f"run-{count}" / f"{name}.safetensors") for count in (1, 2))
        assert worst(one, two) < 1e-4, name
    boards = [sorted(path.parent.name for path in (tiny / f"run-{n}").rglob("events.*")) for n in (1, 2)]
    assert boards[0] == boards[1]  # one process has written
    logs = [(tiny / f"run-{n}" / "log.txt").read_text().count("distilling: done") for n in (1, 2)]
    assert logs == [1, 1]


@pytest.mark.parametrize("joint", [True, False], ids=["of both tasks", "of a task each"])
def test_teachers_are_trained_by_all_processes(written, tiny, run_of, recipe, bert, joint):
    folder = str(bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    teacher = {"name": folder, "multitask": joint, "epochs": 1, "learning_rate": 1e-3, "max_tokens": 24, "dropout": 0.0}
    teacher["precision"] = "fp32"  # bf16 would make much of differences in the last bit
    teacher |= {"refine": {"epochs": 0.5, "learning_rate": 1e-3}} if joint else {"head": "new"}
    distilled = {"name": "distilled", "tasks": ["mood"], "recipe": {
        "teachers": [{"name": "joint", "student": STILL["student"], "epochs": 1}], **STILL}}  # fmt: skip
    changes = {**STILL, "teachers": [teacher, distilled], "evaluate": {"baseline": False}}
    done = launched(2, "-m", "kdtoolkit", "distill", "--recipe", str(written(**changes)), "--out", "two", cwd=tiny)
    assert [each.code for each in done] == [0, 0], done
    assert done[1].out == "" and done[1].err == ""
    _, alone = run_of(recipe(**{**changes, "store": str(tiny / "store-alone")}), "alone")
    for path in (*alone.glob("teacher/**/*.safetensors"), alone / "student" / "model.safetensors"):
        assert worst(load_file(path), load_file(tiny / "two" / path.relative_to(alone))) < 2e-3, path


def test_one_process_of_a_launcher_trains_as_one_without(written, tiny, kdtool):
    sparse = {**STILL.get("optimizer", {}), "embeddings": "sparse"}
    path = str(written(**{**STILL, "optimizer": sparse}))
    done = launched(1, "-m", "kdtoolkit", "distill", "--recipe", path, "--out", "launched", cwd=tiny)
    assert done[0].code == 0, done
    kdtool("distill", "--recipe", path, "--out", "plain", cwd=tiny)
    files = [(tiny / run / "student" / "model.safetensors").read_bytes() for run in ("launched", "plain")]
    assert files[0] == files[1]


def test_when_one_dies_the_others_end_and_the_run_goes_on(written, tiny, kdtool):
    path = str(written(**STILL))
    done = launched(2, "-c", KILL + MAIN, "distill", "--recipe", path, "--out", "stopped", cwd=tiny)
    assert done[1].code == -signal.SIGKILL and done[0].code == 1
    assert "kdtool: another process of the run is gone" in done[0].err and "Traceback" not in done[0].err
    assert f"torchrun --nproc-per-node 2 -m kdtoolkit distill --resume {tiny / 'stopped'}" in done[0].err.replace(
        "--resume stopped", f"--resume {tiny / 'stopped'}"
    )
    kdtool("distill", "--resume", "stopped", cwd=tiny)  # one process is enough
    kdtool("distill", "--recipe", path, "--out", "straight", cwd=tiny)
    names = ("student/model.safetensors", "gold_only/model.safetensors")
    for one, other in ((load_file(tiny / run / name) for run in ("stopped", "straight")) for name in names):
        assert worst(one, other) < 1e-4


def test_bad_input_is_said_once_and_leaves_nothing(written, tiny):
    (tiny / "data" / "mood" / "dev.jsonl").write_text('{"text": "fine", "label": "sideways"}\n')
    done = launched(2, "-m", "kdtoolkit", "distill", "--recipe", str(written()), "--out", "run", cwd=tiny)
    assert [each.code for each in done] == [2, 1], done
    assert "sideways" in done[0].err and done[1].err == ""
    assert not (tiny / "run").exists()


def test_the_first_process_alone_writes_into_the_run(written, tiny):
    lines = [json.dumps(row) + "\n" for row in rows(700, 5, pair=False)]  # of so many, some are held out
    (tiny / "data" / "mood" / "train.jsonl").write_text("".join(lines))
    changes = {**STILL, "refine": {"epochs": 1}}
    done = launched(2, "-c", WATCH + MAIN, "distill", "--recipe", str(written(**changes)), "--out", "run", cwd=tiny)
    assert [each.code for each in done] == [0, 0], done
    assert list((tiny / "run").rglob("tokens-*-held-out"))


def test_who_waits_for_the_data_imports_meanwhile(written, tiny):
    waits = (
        "import os\nimport kdtoolkit.pipeline.stages as s\nfrom kdtoolkit.teacher import Teacher\n"
        "rank, real = os.environ['RANK'], s.prepare\n"
        "def said(what):\n    open(f'said-{rank}', 'a').write(what + '\\n')\n"
        "Teacher.import_libraries = classmethod(lambda cls: said('imports'))\n"
        "def prepare(*a):\n    said('prepares')\n    return real(*a)\ns.prepare = prepare\n"
    )
    done = launched(2, "-c", waits + MAIN, "label", "--recipe", str(written()), "--out", "run", cwd=tiny)
    assert [each.code for each in done] == [0, 0], done
    first, other = ((tiny / f"said-{rank}").read_text().split() for rank in (0, 1))
    assert first[0] == "prepares" and set(first[1:]) == {"imports"}
    assert set(other[:-1]) == {"imports"} and other[-1] == "prepares"


def test_an_error_of_one_process_is_said_by_it(written, tiny):
    fails = "import os\nimport kdtoolkit.labels.labelling as l\nreal = l.teacher_values\n"
    fails += "def teacher_values(*a):\n    if os.environ['RANK'] == '1':\n        raise ValueError('lost its way')\n"
    fails += "    return real(*a)\nl.teacher_values = teacher_values\n"
    # Of small parts, so that each process has some to label.
    fails += "import kdtoolkit.pipeline.label as p, functools\n"
    fails += "p.label_rows = functools.partial(p.label_rows, batch_rows=8, part_batches=1)\n"
    done = launched(2, "-c", fails + MAIN, "label", "--recipe", str(written()), "--out", "run", cwd=tiny)
    assert [each.code for each in done] == [1, 1], done
    assert "process 1: kdtool: ValueError: lost its way" in done[1].err
    assert "another process of the run is gone" in done[0].err and "--resume run" in done[0].err


@pytest.mark.parametrize("command", ["predict run --task mood", "check --recipe tiny.yaml", "doctor"])
def test_what_one_process_does_is_refused_to_several(tiny, command, monkeypatch, capsys):
    from kdtoolkit.cli.main import kdtool

    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("kdtoolkit.processes.os._exit", sys.exit)
    with pytest.raises(SystemExit) as left:
        kdtool.main(command.split(), prog_name="kdtool")
    assert left.value.code == 2
    assert f"it started 2 processes, and `kdtool {command.split()[0]}` works in one" in capsys.readouterr().err
