import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.evaluate import ece, fit_temperature, probabilities


def sampled(rng, logits, *, multilabel=False):
    """Labels drawn from what the logits say."""
    p = probabilities(logits, multilabel=multilabel)
    if multilabel:
        return (rng.random(p.shape) < p).astype(float)
    return (p.cumsum(1) < rng.random((len(p), 1))).sum(1).astype(float)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_fit_recovers_a_known_temperature(temperature, multilabel):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 2
    labels = sampled(rng, logits, multilabel=multilabel)
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.05)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 2))
def test_scaling_the_logits_scales_the_temperature_and_changes_no_decision(seed, factor):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(300, 3))
    labels = sampled(rng, logits)
    one, two = fit_temperature(logits, labels), fit_temperature(logits * factor, labels)
    assert two == pytest.approx(min(max(one * factor, 0.05), 20), rel=1e-3)
    assert (probabilities(logits, one).argmax(1) == logits.argmax(1)).all()


def test_calibrated_probabilities_have_a_smaller_error():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(5000, 3)) * 2
    labels = sampled(rng, logits)
    overconfident = logits * 5
    fitted = fit_temperature(overconfident, labels)
    assert ece(probabilities(overconfident), labels) > 0.1
    assert ece(probabilities(overconfident, fitted), labels) < 0.03


def test_a_temperature_stays_within_its_bounds():
    separable = np.eye(3)[[0, 1, 2, 0]]
    assert fit_temperature(separable, np.array([0, 1, 2, 0])) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(separable, np.array([1, 2, 0, 2])) == pytest.approx(20, rel=1e-3)


def test_regression_and_unlabelled_rows_have_no_temperature():
    assert fit_temperature(np.zeros((3, 1)), np.array([1.5, 2, 0])) is None
    assert fit_temperature(np.zeros((3, 2)), np.full(3, np.nan)) is None


def test_rows_without_a_label_change_nothing():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(50, 2))
    labels = sampled(rng, logits)
    more, holes = np.concatenate((logits, logits * 7)), np.concatenate((labels, np.full(50, np.nan)))
    assert fit_temperature(more, holes) == fit_temperature(logits, labels)
    assert ece(probabilities(more), holes) == ece(probabilities(logits), labels)


def test_the_error_is_the_one_worked_by_hand():
    # bin (0.6, 0.6667]: confidence 0.65 twice, one right; bin (0.8667, 0.9333]: 0.9 twice, both right
    p = np.array([[0.65, 0.35], [0.35, 0.65], [0.9, 0.1], [0.1, 0.9]])
    assert ece(p, np.array([0, 0, 0, 1])) == pytest.approx((abs(2 * 0.65 - 1) + abs(2 * 0.9 - 2)) / 4)
    assert ece(np.array([[1.0, 0], [0, 1]]), np.array([0, 1])) == 0.0
    assert ece(np.array([[1.0, 0], [0, 1]]), np.array([1, 0])) == 1.0
    assert ece(np.array([[0.9, 0.1]]), np.array([[1, 0]])) == pytest.approx(0.1)


def test_probabilities_of_huge_logits_are_finite():
    p = probabilities(np.array([[1e4, -1e4], [-1e4, -1e4]]))
    np.testing.assert_allclose(p, [[1, 0], [0.5, 0.5]])


def test_nothing_to_calibrate_against_is_refused():
    with pytest.raises(ValueError, match="none of 2 rows"):
        ece(np.full((2, 2), 0.5), np.full(2, np.nan))
