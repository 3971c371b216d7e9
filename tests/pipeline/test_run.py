"""A whole run: what it leaves, that it can be used without the teacher, and that nothing is done twice."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdtoolkit.report import validate


@pytest.fixture
def finished(tiny, kdtool):
    kdtool("distill", "--recipe", "tiny.yaml", "--out", "run", cwd=tiny)
    return tiny / "run"


def test_a_run_leaves_the_files_that_other_programs_rely_on(finished):
    for name in ("recipe.yaml", "results.json", "log.txt", "student/config.json", "student/model.safetensors",
                 "student/README.md", "tensorboard", "checkpoints"):  # fmt: skip
        assert (finished / name).exists(), name
    results = json.loads((finished / "results.json").read_text())
    validate(results)
    assert set(results["tasks"]) == {"mood", "likeness"}
    assert results["tasks"]["mood"]["student"]["value"] > 0.6
    assert list(finished.rglob("*.pkl")) == list(finished.rglob("*.pt")) == list(finished.rglob("*.tmp")) == []


def test_a_fresh_process_without_the_teacher_predicts_what_evaluation_measured(finished, kdtool):
    tiny = finished.parent
    (tiny / "teacher_module.py").unlink()
    for path in (tiny / "data").rglob("train.jsonl"):
        path.unlink()
    lines = [json.loads(line) for line in (tiny / "data/mood/dev.jsonl").read_text().splitlines()]
    text = "\n".join(row["text"] for row in lines)
    out = kdtool("predict", "run", "--task", "mood", cwd=tiny, stdin=text).stdout
    said = [json.loads(line)["label"] for line in out.splitlines()]
    accuracy = np.mean([a == row["label"] for a, row in zip(said, lines)])
    results = json.loads((finished / "results.json").read_text())
    assert accuracy == pytest.approx(results["tasks"]["mood"]["student"]["value"])


def test_a_finished_run_is_resumed_without_a_change(finished, kdtool):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    kdtool("distill", "--resume", "run", cwd=finished.parent)
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert before == after


def test_another_student_and_objective_relabel_nothing(finished, kdtool):
    # The teacher's fingerprint is that of its source: a process that fails on the first call proves that none is made.
    forbid = "import teacher_module\ndef score(texts): raise SystemExit('called')\nteacher_module.score = score\n"
    other = ("--set", "student.width=6", "--set", "objective.alpha=0.1", "--out", "other")
    kdtool("distill", "--recipe", "tiny.yaml", *other, cwd=finished.parent, prelude=forbid)
    state = json.loads((finished.parent / "other/run.json").read_text())
    assert state["stages"]["label"]["rows"] == 0
    assert state["stages"]["label"]["already"] > 0


def test_the_resolved_recipe_runs_again_to_the_same_weights(finished, kdtool):
    tiny = finished.parent
    kdtool("distill", "--recipe", "run/recipe.yaml", "--out", "again", cwd=tiny)
    weights = [(tiny / name / "student/model.safetensors").read_bytes() for name in ("run", "again")]
    assert weights[0] == weights[1]


def test_shuffled_training_files_do_not_change_what_the_teacher_said(finished, kdtool):
    tiny = finished.parent
    path = tiny / "data/mood/train.jsonl"
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    kdtool("label", "--recipe", "tiny.yaml", "--out", "shuffled", cwd=tiny)
    one = np.load(tiny / "run/data/mood/train-teacher.npy")
    other = np.load(tiny / "shuffled/data/mood/train-teacher.npy")
    state = json.loads((tiny / "shuffled/run.json").read_text())
    assert state["stages"]["label"]["rows"] == 0
    key = np.lexsort(one[:, 0].T), np.lexsort(other[:, 0].T)
    # The held-out slice goes by text, so the same rows train; only their order differs.
    np.testing.assert_array_equal(one[key[0]], other[key[1]])


WAYS = [
    "sampler.batch=mixed",
    "refine={epochs: 1}",
    "train.precision=bf16",
    "train.accumulate=2",
    "tokenizer.name=words",
    "student={name: transformer, width: 16, layers: 1}",
]


@pytest.mark.parametrize("option", WAYS)
def test_every_way_to_train_reaches_the_table(tiny, kdtool, option):
    done = kdtool("distill", "--recipe", "tiny.yaml", "--set", option, "--out", "run", cwd=tiny)
    results = json.loads((tiny / "run/results.json").read_text())
    assert results["tasks"]["mood"]["student"]["value"] > 0.4
    assert "gold only" in done.stdout
    if "refine" in option:
        assert json.loads((tiny / "run/student/config.json").read_text())["refined"] == ["mood", "likeness"]
