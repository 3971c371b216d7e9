"""The teacher's size and speed in the table."""

from __future__ import annotations

import pytest
import torch

from kdtoolkit.data.prepare import TaskRows
from kdtoolkit.data.rows import write_rows
from kdtoolkit.pipeline import label
from kdtoolkit.recipe import Recipe
from kdtoolkit.testing import EchoTeacher, tiny_task


class Sized(EchoTeacher):
    def parameters(self):
        return 7

    def bytes(self):
        return 28


class Run:
    recipe = Recipe(tasks=["sst2"])


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.setattr(label, "TEACHER_SECONDS", 0.2)
    task, examples = tiny_task(rows=20)
    rows = TaskRows(task, {"train": write_rows(tmp_path / "train.arrow", task, [examples])}, [])
    teacher = Sized("echo", task)
    return lambda: label.teacher_model(Run(), {task.name: rows}, {task.name: [teacher, teacher]})


def test_a_teacher_of_several_tasks_is_counted_once(found):
    facts = found()
    assert facts["parameters"] == 7 and facts["bytes"] == 28
    assert facts["latency_ms"]["p50"] > 0 and facts["rows_per_s"] > 0


def test_a_teacher_on_a_gpu_has_no_latency_on_a_cpu(found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    facts = found()
    assert facts["parameters"] == 7 and facts["latency_ms"] is None and facts["rows_per_s"] is None
