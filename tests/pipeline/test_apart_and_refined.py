"""`train.joint: false`, `refine:` and `train.max_steps`: students of single tasks, and how long they are trained."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from safetensors.torch import load_file

import kdtoolkit
from kdtoolkit.predictor import Predictor

APART = {"train": {"joint": False}, "evaluate": {"bootstrap": 0, "latency": False}}


def state(folder):
    return json.loads((folder / "run.json").read_text())["stages"]


def same(one, other):
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


@pytest.fixture
def apart(tiny, recipe):
    kdtoolkit.distill(recipe(**APART), out=tiny / "run")
    return tiny / "run"


def test_each_task_answers_with_weights_of_its_own(apart):
    config = json.loads((apart / "student/config.json").read_text())
    assert (config["alone"], config["refined"]) == (["mood", "likeness"], [])
    weights = {task: load_file(apart / f"student/alone-{task}.safetensors") for task in ("mood", "likeness")}
    assert not same(weights["mood"], weights["likeness"])
    predictor = Predictor(apart / "student")
    assert not np.allclose(
        predictor.model_of("mood").student.embed.weight.detach(), predictor.model.student.embed.weight.detach()
    )
    # The table counts what has to be kept to answer all tasks.
    one = sum(tensor.numel() for tensor in weights["mood"].values())
    assert json.loads((apart / "results.json").read_text())["models"]["student"]["parameters"] == 2 * one


def test_a_task_trained_apart_leaves_the_head_of_the_other_as_it_began(apart):
    start = load_file(apart / "student/model.safetensors")
    mood = load_file(apart / "student/alone-mood.safetensors")
    assert bool((mood["heads.weight.likeness"] == start["heads.weight.likeness"]).all())
    assert not bool((mood["heads.weight.mood"] == start["heads.weight.mood"]).all())


def test_apart_students_make_as_many_updates_as_a_joint_one(tiny, recipe, apart):
    kdtoolkit.distill(recipe(evaluate={"bootstrap": 0, "latency": False}), out=tiny / "joint")
    joint, own = state(tiny / "joint"), state(apart)
    # Each task rounds its last batch up by itself.
    assert joint["distill"]["steps"] <= own["distill"]["steps"] <= joint["distill"]["steps"] + 2 * 2
    assert own["baseline"]["steps"] == own["distill"]["steps"]


def test_killed_between_two_tasks_it_resumes_to_the_same_bytes(tiny, kdtool, apart):
    kill = (
        "import os, signal\nimport kdtoolkit.pipeline.student as s\nreal = s.atomic_file; calls = []\n"
        "def atomic_file(path):\n    calls.append(1)\n"
        "    return os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 2 else real(path)\n"
        "s.atomic_file = atomic_file\n"
    )
    words = ["distill", "--recipe", "tiny.yaml", "--set", "train.joint=false", "--set", "train.epochs=1"]
    killed = kdtool(*words, "--out", "again", cwd=tiny, prelude=kill, check=None)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tiny / "again/student/alone-mood.safetensors").is_file()
    kdtool("distill", "--resume", "again", cwd=tiny)
    assert state(tiny / "again")["distill"]["steps"] == state(apart)["distill"]["steps"], "those of both processes"
    for task in ("mood", "likeness"):
        name = f"student/alone-{task}.safetensors"
        assert (tiny / "again" / name).read_bytes() == (apart / name).read_bytes()


def test_refinement_starts_from_each_tasks_own_student(tiny, recipe, apart):
    kdtoolkit.distill(
        recipe(**APART, refine={"epochs": 1, "learning_rate": 1e-12}, optimizer={"warmup_fraction": 0.0}),
        out=tiny / "refined",
    )
    for task in ("mood", "likeness"):
        own = load_file(tiny / f"refined/student/alone-{task}.safetensors")
        refined = load_file(tiny / f"refined/student/refined-{task}.safetensors")
        for name, tensor in own.items():
            np.testing.assert_allclose(refined[name].numpy(), tensor.numpy(), atol=1e-9)


def test_refinement_learns_from_gold_labels_or_from_the_teacher_as_alpha_says(tiny, recipe):
    found = {}
    for alpha in (1.0, 0.0):
        folder = tiny / f"alpha-{alpha:g}"
        sections = {"refine": {"epochs": 1, "alpha": alpha}, "evaluate": {"bootstrap": 0, "latency": False}}
        kdtoolkit.distill(recipe(**sections), out=folder)
        found[alpha] = load_file(folder / "student/refined-mood.safetensors")
        baseline = load_file(folder / "gold_only/refined-mood.safetensors")
        found[alpha, "baseline"] = baseline
    assert not same(found[1.0], found[0.0])
    # The baseline never hears of the teacher, however the student is refined.
    assert same(found[1.0, "baseline"], found[0.0, "baseline"])


def test_max_steps_ends_every_training_and_schedules_stretch_over_them(tiny, recipe):
    sections = {
        "train": {"max_steps": 7, "checkpoint_every_steps": 4},
        "refine": {"epochs": 5},
        "evaluate": {"bootstrap": 0, "latency": False},
    }
    kdtoolkit.distill(recipe(**sections), out=tiny / "run")
    stages = state(tiny / "run")
    assert stages["distill"]["steps"] == stages["baseline"]["steps"] == 7
    saved = [p.name for p in (tiny / "run/checkpoints/refine/mood").glob("step-*")]
    assert "step-7" in saved and all(int(name.removeprefix("step-")) <= 7 for name in saved)
