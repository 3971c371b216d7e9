"""Several teachers as one: combination, fitted weights, disagreement."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from kdtoolkit.evaluate.ensemble import LEAST_WEIGHT, combined, disagreement, fit_weights
from kdtoolkit.tasks import Task

MOOD = Task("mood", labels=("a", "b", "c"))
SCORE = Task("score", kind="regression")
TAGS = Task("tags", kind="multilabel", labels=("x", "y"))
NAN = float("nan")


def random_case(task, seed, rows=60, members=3):
    generator = np.random.default_rng(seed)
    if task.kind == "regression":
        labels = generator.normal(size=rows)
        return labels[:, None, None] + generator.normal(size=(rows, members, 1)), labels
    if task.kind == "multilabel":
        labels = generator.integers(0, 2, (rows, 2)).astype(float)
        return 2 * (labels[:, None] - 0.5) + generator.normal(size=(rows, members, 2)) * 2, labels
    labels = generator.integers(0, 3, rows)
    return np.eye(3)[labels][:, None] + generator.normal(size=(rows, members, 3)), labels.astype(float)


def loss(task, outputs, labels, weights, how):
    """What is to be minimised, written out from `combined`."""
    one = combined(task, outputs, weights, how=how).astype(np.float64)
    if task.kind == "regression":
        return np.mean((one[:, 0] - labels) ** 2)
    if task.kind == "multilabel":
        return -np.mean(special.log_expit(np.where(labels > 0.5, one, -one)))
    return -np.mean(special.log_softmax(one, axis=1)[np.arange(len(labels)), labels.astype(int)])


CASES = [(MOOD, "probabilities"), (MOOD, "logits"), (TAGS, "probabilities"), (TAGS, "logits"), (SCORE, "logits")]


@pytest.mark.parametrize(("task", "how"), CASES, ids=lambda value: getattr(value, "name", value))
@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_no_other_weights_fit_better(task, how, seed):
    outputs, labels = random_case(task, seed)
    weights = fit_weights(task, outputs, labels, how=how)
    assert math.isclose(sum(weights), 1) and min(weights) >= LEAST_WEIGHT / 2
    best = loss(task, outputs, labels, weights, how)
    generator = np.random.default_rng(seed)
    others = [*generator.dirichlet(np.ones(3), 20), *np.eye(3).clip(LEAST_WEIGHT), [1 / 3] * 3]
    others += [np.array(weights) * 0.99 + 0.01 * other for other in np.eye(3)]
    assert best <= min(loss(task, outputs, labels, other, how) for other in others) + 1e-6


@pytest.mark.parametrize(("task", "how"), CASES, ids=lambda value: getattr(value, "name", value))
def test_neither_the_order_of_rows_nor_of_members_matters(task, how):
    outputs, labels = random_case(task, 1)
    weights = np.array(fit_weights(task, outputs, labels, how=how))
    turned = fit_weights(task, outputs[::-1, [2, 0, 1]], labels[::-1], how=how)
    np.testing.assert_allclose(turned, weights[[2, 0, 1]], atol=1e-3)


def test_a_member_that_knows_gets_all_the_weight_from_one_that_errs():
    labels = np.array([0.0, 1, 2, 1])
    right, wrong = 9 * np.eye(3)[[0, 1, 2, 1]], 9 * np.eye(3)[[1, 2, 0, 2]]
    weights = fit_weights(MOOD, np.stack([wrong, right], 1), labels, how="probabilities")
    assert weights[1] > 0.999 and weights[0] > 0


def test_two_unbiased_measures_are_weighed_by_hand():
    """Errors (1, 0), (-1, 0), (0, 2), (0, -2): w is to minimise w^2 + 4 (1 - w)^2, so it is 4/5."""
    errors = np.array([[1, 0], [-1, 0], [0, 2], [0, -2]], float)
    np.testing.assert_allclose(fit_weights(SCORE, errors[:, :, None], np.zeros(4), how="logits"), [0.8, 0.2], atol=1e-6)


def test_members_that_are_alike_share_evenly_and_one_has_all():
    outputs, labels = random_case(MOOD, 3, members=1)
    assert fit_weights(MOOD, outputs, labels, how="probabilities") == [1.0]
    same = np.repeat(outputs, 4, 1)
    np.testing.assert_allclose(fit_weights(MOOD, same, labels, how="probabilities"), [0.25] * 4, atol=1e-6)


def test_rows_without_label_or_without_a_members_word_are_left_out():
    outputs, labels = random_case(MOOD, 4)
    more = np.concatenate([outputs, outputs[:5] * 9])
    unlabelled = np.concatenate([labels, [NAN] * 5])
    more[-5:, 0] = NAN
    expected = fit_weights(MOOD, outputs, labels, how="probabilities")
    assert fit_weights(MOOD, more, unlabelled, how="probabilities") == expected
    assert fit_weights(MOOD, more, np.concatenate([labels, labels[:5]]), how="probabilities") == expected
    with pytest.raises(ValueError, match="no row has a label and a word of every member"):
        fit_weights(MOOD, np.full_like(outputs, NAN), labels, how="probabilities")


def test_an_impossible_class_is_no_fault():
    outputs, labels = random_case(MOOD, 5)
    outputs[labels != 2, :, 2] = -np.inf
    for how in ("probabilities", "logits"):
        assert np.isfinite(fit_weights(MOOD, outputs, labels, how=how)).all()


def test_disagreement_is_the_share_of_rows_where_decisions_differ():
    outputs = np.array([[[1, 0, 0], [2, 1, 0]], [[1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 3, 1]], [[0, 0, 1], [1, 0, 0]]])
    assert disagreement(MOOD, outputs) == 0.5
    assert disagreement(MOOD, outputs[:, ::-1]) == 0.5
    assert disagreement(MOOD, outputs[:, [0, 0, 0]]) == 0.0
    assert disagreement(MOOD, outputs[:, :1]) is None


def test_silent_members_neither_agree_nor_disagree():
    outputs = np.array([[[1.0, 0, 0], [0, 1, 0], [0, 1, 0]], [[1, 0, 0], [0, 1, 0], [1, 0, 0]]])
    outputs[0, 0] = outputs[1, 1] = NAN
    assert disagreement(MOOD, outputs) == 0.0
    outputs[0, 1] = NAN
    assert disagreement(MOOD, outputs) == 0.0, "one word alone is left out"


def test_disagreement_of_values_and_of_sets():
    values = np.array([[[1.0], [3.0]], [[2.0], [2.0]], [[5.0], [NAN]]])
    assert disagreement(SCORE, values) == 0.5, "standard deviations 1 and 0"
    sets = np.array([[[1.0, -1], [2, -2]], [[1, -1], [1, 1]]])
    assert disagreement(TAGS, sets) == 0.5
