import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from kdtoolkit.evaluate import agreement, gap_closed, scores
from kdtoolkit.tasks import Task

BINARY = Task("binary", labels=("no", "yes"), metrics=("accuracy", "f1", "macro_f1", "mcc"))
THREE = Task("three", labels=("a", "b", "c"), metrics=("accuracy", "f1", "macro_f1", "mcc"))
NUMBER = Task("number", kind="regression", metrics=("pearson", "spearman", "mse"))
MANY = Task("many", kind="multilabel", labels=("x", "y", "z"), metrics=("micro_f1", "macro_f1", "exact_match"))


def logits_of(predicted, classes):
    return np.eye(classes)[np.asarray(predicted)] * 3


def test_binary_figures_are_those_worked_by_hand():
    # gold 1 1 1 0 0, said 1 1 0 1 0: two hits, one false alarm, one miss, one true rejection
    found = scores(BINARY, logits_of([1, 1, 0, 1, 0], 2), np.array([1, 1, 1, 0, 0]))
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["mcc"] == pytest.approx((2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2))


def test_f1_of_two_classes_is_that_of_the_second_label():
    outputs, labels = logits_of([0, 0, 1], 2), np.array([0, 0, 0])
    assert scores(BINARY, outputs, labels)["f1"] == 0.0
    assert scores(BINARY, outputs[:, ::-1], 1 - labels)["f1"] == pytest.approx(0.8)


def test_multilabel_figures_are_those_worked_by_hand():
    outputs = np.array([[2.0, -1, -1], [2.0, 3, -1], [-2.0, 3, -1]])
    labels = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0]])
    found = scores(MANY, outputs, labels)
    assert found["micro_f1"] == pytest.approx(2 * 3 / (4 + 4))
    assert found["macro_f1"] == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)  # z neither occurs nor is predicted
    assert found["exact_match"] == pytest.approx(1 / 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_figures_equal_those_of_scikit_learn_and_scipy(seed, rows):
    rng = np.random.default_rng(seed)
    predicted, gold = rng.integers(0, 3, rows), rng.integers(0, 3, rows)
    found = scores(THREE, logits_of(predicted, 3), gold)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(gold, predicted))
    assert found["macro_f1"] == found["f1"] == pytest.approx(sk.f1_score(gold, predicted, average="macro"))
    if len(set(gold)) > 1 and len(set(predicted)) > 1:
        assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(gold, predicted))
    values, labels = rng.normal(size=rows), rng.integers(0, 5, rows).astype(float)
    found = scores(NUMBER, values[:, None], labels)
    assert found["mse"] == pytest.approx(((values - labels) ** 2).mean())
    if len(set(labels)) > 1:
        assert found["pearson"] == pytest.approx(stats.pearsonr(values, labels)[0])
        assert found["spearman"] == pytest.approx(stats.spearmanr(values, labels)[0])
    many, wanted = rng.integers(0, 2, (rows, 3)), rng.integers(0, 2, (rows, 3))
    found = scores(MANY, many * 2.0 - 1, wanted)
    assert found["micro_f1"] == pytest.approx(sk.f1_score(wanted, many, average="micro", zero_division=0.0))
    assert found["exact_match"] == pytest.approx(sk.accuracy_score(wanted, many))


@pytest.mark.parametrize("labels", [np.zeros(4), np.array([0.0, 1, 1, 0])])
def test_a_constant_answer_correlates_with_nothing_and_warns_of_nothing(labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scores(BINARY, logits_of([1, 1, 1, 1], 2), labels)["mcc"] == 0.0
        found = scores(NUMBER, np.full((4, 1), 0.1), labels)
        assert (found["pearson"], found["spearman"]) == (0.0, 0.0)
        assert scores(NUMBER, labels[:, None], np.full(4, 0.1))["pearson"] == 0.0
        assert scores(MANY, np.full((4, 3), -1.0), np.zeros((4, 3)))["macro_f1"] == 0.0


def test_rows_without_a_label_do_not_count():
    outputs = logits_of([1, 1, 0, 1], 2)
    assert scores(BINARY, outputs, np.array([1, np.nan, 0, np.nan]))["accuracy"] == 1.0
    many = scores(MANY, np.array([[1.0, -1, -1], [1, 1, 1]]), np.array([[1, 0, 0], [np.nan] * 3]))
    assert many["exact_match"] == 1.0


@pytest.mark.parametrize(
    ("outputs", "labels", "cause"),
    [
        (np.zeros((2, 3)), np.zeros(2), "expected outputs"),
        (np.zeros((2, 2)), np.zeros(3), "expected outputs"),
        (np.zeros((2, 2)), np.full(2, np.nan), "none of 2 rows has a label"),
        (np.full((2, 2), np.nan), np.zeros(2), "NaN outputs"),
    ],
)
def test_what_cannot_be_scored_is_refused(outputs, labels, cause):
    with pytest.raises(ValueError, match=cause):
        scores(BINARY, outputs, labels)


def test_agreement_is_the_share_of_equal_decisions():
    student = logits_of([0, 1, 1, 0], 2)
    assert agreement(BINARY, student, logits_of([0, 1, 0, 0], 2) * 9) == 0.75
    assert agreement(MANY, np.array([[1.0, -1, 1]]), np.array([[2.0, 2, 2]])) == pytest.approx(2 / 3)
    x = np.array([[1.0], [2], [4]])
    assert agreement(NUMBER, x, 3 * x - 7) == pytest.approx(1.0)
    assert agreement(NUMBER, x, -x) == pytest.approx(-1.0)


def test_agreement_leaves_out_what_the_teacher_does_not_say():
    teacher = np.array([[1.0, 0], [np.nan, np.nan]])
    assert agreement(BINARY, np.array([[3.0, 0], [0, 1]]), teacher) == 1.0
    assert agreement(BINARY, np.zeros((2, 2)), np.full((2, 2), np.nan)) is None


def test_the_gap_is_closed_only_where_there_is_one():
    assert gap_closed(0.8, 0.6, 1.0) == pytest.approx(0.5)
    assert gap_closed(0.5, 0.6, 1.0) == pytest.approx(-0.25)
    assert gap_closed(0.8, 0.9, 0.9) is None
    assert gap_closed(0.8, 0.9, 0.7) is None
    assert gap_closed(2.0, 3.0, 1.0, lower_is_better=True) == pytest.approx(0.5)
    assert gap_closed(2.0, 1.0, 3.0, lower_is_better=True) is None
