"""A student of an earlier run teaches, with its labels matched by name."""

import numpy as np
import pytest

import kdtoolkit
from kdtoolkit import Example, InputError, Task, plugin

MNLI = Task("mnli", text=("premise", "hypothesis"), labels=("contradiction", "entailment", "neutral"))
STSB = Task("stsb", kind="regression", text=("sentence1", "sentence2"))


class FakePredictor:
    """Gives the lengths of the texts, so that rows and columns can be told apart."""

    fingerprint, parameters, bytes = "5eed", 1234, 4936

    def __init__(self, *tasks):
        self.tasks = {task.name: task for task in tasks}
        self.asked = []

    def predict_logits(self, texts, task=None):
        self.asked.append((task, texts))
        return np.array([[len(a), len(b), 0][: self.tasks[task].outputs] for a, b in texts], np.float32)


@pytest.fixture
def predictor(monkeypatch):
    fake = FakePredictor(MNLI, STSB)
    monkeypatch.setattr(kdtoolkit, "load", lambda path: fake, raising=False)
    return fake


def run(task, **options):
    return plugin("teacher", "run")("runs/first", task, **options)


def test_columns_are_matched_by_name(predictor):
    task = Task("mnli", text=("a", "b"), labels=("entailment", "neutral", "Contradiction"))
    values = run(task).logits([Example("mnli", "abc", "de"), Example("mnli", "", "x")])
    assert values.tolist() == [[2, 0, 3], [1, 0, 0]] and values.dtype == np.float32
    assert predictor.asked == [("mnli", [("abc", "de"), ("", "x")])]


def test_a_task_of_another_name_can_be_named(predictor):
    task = Task("nli", text=("a", "b"), labels=MNLI.labels)
    with pytest.raises(InputError, match=r"no task 'nli'; did you mean 'mnli'\? \(`source_task`\)"):
        run(task)
    assert run(task, source_task="mnli").logits([Example("nli", "abc", "de")]).tolist() == [[3, 2, 0]]


def test_regression_has_one_column_and_size_is_that_of_the_student(predictor):
    teacher = run(STSB)
    assert teacher.kind == "values"
    assert teacher.logits([Example("stsb", "abc", "de")]).tolist() == [[3.0]]
    assert (teacher.parameters(), teacher.bytes()) == (1234, 4936)


@pytest.mark.parametrize(
    "task, cause",
    [
        (Task("mnli", text=("a", "b"), labels=("yes", "no")), r"\['contradiction', .*\].*\['yes', 'no'\]"),
        (Task("mnli", text=("a", "b"), labels=("entailment", "neutral", "no")), "name the labels alike"),
        (Task("mnli", text=("a", "b"), kind="regression"), "is a classification task, this one is regression"),
        (Task("mnli", text=("a",), labels=MNLI.labels), "reads pairs of texts, this task single texts"),
    ],
)  # fmt: skip
def test_a_run_of_other_labels_is_refused(predictor, task, cause):
    with pytest.raises(InputError, match=cause):
        run(task)


def test_the_fingerprint_follows_the_student_and_the_order_of_labels(predictor):
    prints = [run(MNLI).fingerprint, run(MNLI.with_(labels=MNLI.labels[::-1])).fingerprint, run(STSB).fingerprint]
    predictor.fingerprint = "0ther"
    prints.append(run(MNLI).fingerprint)
    assert len(set(prints)) == 4


def test_the_teachers_of_several_tasks_have_one_student_in_memory_until_its_files_change(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(kdtoolkit, "load", lambda path: loaded.append(path) or FakePredictor(MNLI, STSB), raising=False)
    weights = tmp_path / "runs" / "student" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"first")
    folder = str(tmp_path / "runs")

    def teachers():
        return [plugin("teacher", "run")(folder, task) for task in (MNLI, STSB)]

    before = teachers()
    assert loaded == [folder]
    weights.write_bytes(b"trained again")
    after = teachers()
    assert loaded == [folder] * 2
    assert before[0]._predictor is before[1]._predictor is not after[0]._predictor
    weights.write_bytes(b"first")
    del before, after
    teachers()
    assert loaded == [folder] * 3
