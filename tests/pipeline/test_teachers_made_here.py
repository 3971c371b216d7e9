"""Teachers that the teach stage makes as students of ours: what they leave behind, and which store they use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kdtoolkit import plugin
from kdtoolkit.pipeline import resume_run, run_stages, start_run
from kdtoolkit.recipe.load import recipe_from_dict

STUDENT = {"name": "bilstm", "width": 4, "embedding": 6}


@pytest.fixture
def taught_by(mood, tiny):
    """taught_by(kind, ...): a recipe whose teacher is of that kind, and made in two steps or so."""
    score = {"name": f"python:{tiny / 'teacher_module.py'}:score"}
    within = {"student": STUDENT, "tokenizer": {"name": "words"}, "train": {"max_steps": 2, "batch_rows": 16}}
    once = {"name": "distilled", "recipe": {**within, "teachers": [score]}}
    teachers = {
        "joint": {"name": "joint", "student": STUDENT, "tokenizer": "words", "epochs": 0.1},
        "distilled": once,
        "distilled twice": {"name": "distilled", "recipe": {**within, "teachers": [once]}},
    }
    return lambda kind, **changes: recipe_from_dict(mood(teachers=[teachers[kind]], **changes))


@pytest.mark.parametrize("kind", ["joint", "distilled"])
def test_what_a_kill_left_of_the_work_is_gone_once_the_teacher_is_there(taught_by, tiny, monkeypatch, kind):
    recipe, remove = taught_by(kind), shutil.rmtree

    def killed_at_the_last_moment(path, *arguments, **options):
        if str(path).endswith(".joint-0.work"):
            raise KeyboardInterrupt
        remove(path, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed_at_the_last_moment)
        run_stages(start_run(recipe, tiny / "run"), until="teach")
    left = tiny / "run/teacher/.joint-0.work"
    assert left.is_dir() and (tiny / "run/teacher/joint-0/config.json").is_file()
    run_stages(resume_run(tiny / "run"), until="teach")
    assert not left.exists(), "the resumed run found the teacher finished"

    run_stages(start_run(recipe, tiny / "other"), until="teach")
    third = start_run(recipe, tiny / "third")
    (third.teacher / ".joint-0.work/checkpoints").mkdir(parents=True)
    monkeypatch.setattr(plugin("teacher", kind), "fine_tune_jointly", lambda *a, **o: pytest.fail("it is in the store"))
    run_stages(third, until="teach")
    assert [path.name for path in third.teacher.iterdir()] == ["joint-0"]


def test_runs_within_keep_what_they_label_in_the_store_of_the_outermost(taught_by, tiny):
    run_stages(start_run(taught_by("distilled twice", store=str(tiny / "own")), tiny / "run"), until="teach")
    assert not list(Path(os.environ["KDTOOLKIT_STORE"]).iterdir())
    assert list((tiny / "own").glob("*/mood/*.parquet")), "what the callable said"
    assert len(list((tiny / "own/teachers").glob("*/config.json"))) == 2
