import numpy as np
import pytest

from kdtoolkit.evaluate import interval, scores
from kdtoolkit.evaluate.bootstrap import _draws, from_confusion
from kdtoolkit.evaluate.metrics import decisions
from kdtoolkit.tasks import Task

BINARY = Task("binary", labels=("no", "yes"), metrics=("accuracy", "f1", "macro_f1", "mcc"))
THREE = Task("three", labels=("a", "b", "c"), metrics=("accuracy", "f1", "macro_f1", "mcc"))
NUMBER = Task("number", kind="regression", metrics=("pearson", "spearman", "mse"))
MANY = Task("many", kind="multilabel", labels=("x", "y", "z"), metrics=("micro_f1", "macro_f1", "exact_match"))
ALL = [(task, metric) for task in (BINARY, THREE, NUMBER, MANY) for metric in task.metrics]


def noisy(task, rows, rng):
    """Outputs that are right more often than not, and labels."""
    if task.kind == "regression":
        labels = rng.integers(0, 6, rows).astype(float)
        return (labels + rng.normal(size=rows))[:, None], labels
    if task.kind == "multilabel":
        labels = (rng.random((rows, 3)) < (0.2, 0.5, 0.7)).astype(float)
        return labels * 2 - 1 + rng.normal(size=(rows, 3)), labels
    labels = rng.integers(0, task.outputs, rows)
    return np.eye(task.outputs)[labels] + rng.normal(size=(rows, task.outputs)), labels.astype(float)


@pytest.mark.parametrize(("task", "metric"), ALL)
def test_the_interval_holds_the_value_and_repeats_itself_in_any_row_order(task, metric):
    rng = np.random.default_rng(1)
    outputs, labels = noisy(task, 300, rng)
    low, high = interval(task, outputs, labels, metric)
    assert low < scores(task, outputs, labels)[metric] < high
    order = rng.permutation(300)
    assert interval(task, outputs[order], labels[order], metric) == (low, high)
    assert len({interval(task, outputs, labels, metric, samples=99, seed=seed) for seed in range(5)}) > 1


@pytest.mark.parametrize(("task", "metric"), ALL)
def test_drawing_what_a_metric_is_made_of_is_drawing_rows(task, metric):
    """Against the plain bootstrap, which draws rows and scores them: same mean and spread."""
    rng = np.random.default_rng(2)
    outputs, labels = noisy(task, 60, rng)
    fast = _draws(task, outputs, labels, metric, 4000, np.random.default_rng(3))
    plain = []
    single = task.with_(metric=metric, metrics=())
    for _ in range(400):
        drawn = rng.integers(0, 60, 60)
        plain.append(scores(single, outputs[drawn], labels[drawn])[metric])
    error = np.std(plain) / np.sqrt(len(plain))
    assert fast.mean() == pytest.approx(np.mean(plain), abs=4 * error)
    assert fast.std() == pytest.approx(np.std(plain), rel=0.2)


@pytest.mark.parametrize("task", [BINARY, THREE])
def test_figures_of_a_confusion_matrix_are_the_scores(task):
    outputs, labels = noisy(task, 200, np.random.default_rng(4))
    confusion = np.zeros((1, task.outputs, task.outputs), dtype=int)
    np.add.at(confusion[0], (labels.astype(int), decisions(task, outputs)), 1)
    for metric, value in scores(task, outputs, labels).items():
        if metric != "accuracy":
            assert from_confusion(metric, confusion)[0] == pytest.approx(value)


def test_a_confusion_matrix_of_one_answer_is_worth_nothing():
    assert from_confusion("mcc", np.array([[[5, 0], [3, 0]]])) == [0.0]
    assert from_confusion("f1", np.array([[[5, 0], [0, 0]]])) == [0.0]
    assert from_confusion("macro_f1", np.array([[[5, 0], [0, 0]]])) == [1.0]  # only a class that occurs counts


@pytest.mark.parametrize("metric", ["accuracy", "mcc"])
def test_about_95_of_100_intervals_hold_the_truth(metric):
    rng = np.random.default_rng(5)
    truth, held = {"accuracy": 0.8, "mcc": 0.6}[metric], 0
    for trial in range(200):
        labels = rng.integers(0, 2, 400)
        predicted = np.where(rng.random(400) < 0.8, labels, 1 - labels)
        low, high = interval(BINARY, np.eye(2)[predicted], labels, metric, samples=400, seed=trial)
        held += low <= truth <= high
    assert 0.90 <= held / 200 <= 0.99


def test_a_perfect_model_has_an_interval_of_one_point():
    labels = np.array([0.0, 1, 1, 0])
    assert interval(BINARY, np.eye(2)[labels.astype(int)], labels, "accuracy") == (1.0, 1.0)


def test_no_sample_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        interval(BINARY, np.eye(2), np.array([0, 1]), "accuracy", samples=0)
