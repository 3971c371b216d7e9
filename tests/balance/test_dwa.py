"""DWA: weights from two epochs' losses, by hand; and its state."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdtoolkit.balance import DynamicWeights, dwa_weights

POSITIVE = st.floats(1e-3, 1e3)
LOSSES = st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=6)


def test_weights_by_hand():
    # r = 0.5 and 1.5 at temperature 0.5 are exponents 1 and 3: shares 1 / (1 + e^2) and e^2 / (1 + e^2), times 2.
    low = 2 / (1 + math.exp(2))
    assert dwa_weights([1.0, 3.0], [2.0, 2.0], 0.5) == pytest.approx([low, 2 - low])


@given(LOSSES, st.floats(0.1, 10))
def test_weights_sum_to_the_number_of_tasks_and_follow_the_rates(losses, temperature):
    last, before = zip(*losses)
    weights = dwa_weights(last, before, temperature)
    assert math.fsum(weights) == pytest.approx(len(losses))
    rates = [now / then for now, then in losses]
    assert [w for _, w in sorted(zip(rates, weights))] == sorted(weights)


@given(LOSSES, st.floats(0.1, 10))
def test_the_unit_of_a_task_s_loss_does_not_matter(losses, temperature):
    last, before = zip(*losses)
    scaled = dwa_weights([64 * last[0], *last[1:]], [64 * before[0], *before[1:]], temperature)
    assert scaled == pytest.approx(dwa_weights(last, before, temperature))


def test_limits():
    assert dwa_weights([3.0], [1.0], 2.0) == [1.0]
    assert dwa_weights([1.0, 3.0], [2.0, 2.0], 1e9) == pytest.approx([1.0, 1.0])
    assert dwa_weights([1.0, 3.0], [2.0, 2.0], 1e-3) == pytest.approx([0.0, 2.0])
    equal = dwa_weights([math.nan, 1.0, 1.0], [1.0, math.nan, 0.0], 2.0)
    assert equal == pytest.approx([1.0, 1.0, 1.0])


def epochs(weights, losses, start=0):
    """Shows two steps of one row a task and epoch; returns the weights of each epoch."""
    seen = []
    for epoch, of_tasks in enumerate(losses, start):
        for _ in range(2):
            weights.start(epoch)
            weights.add(torch.tensor([of_tasks, [1.0] * len(of_tasks)]))
        seen.append(weights.weights)
    return seen


LOSSES_OF_EPOCHS = [[4.0, 1.0], [2.0, 1.0], [1.0, 0.25], [1.0, 0.25]]


def test_the_first_two_epochs_weigh_one_and_each_later_one_looks_back_two():
    seen = epochs(DynamicWeights(2, 1.0), LOSSES_OF_EPOCHS)
    assert seen[:2] == [[1.0, 1.0], [1.0, 1.0]]
    assert seen[2] == dwa_weights([2.0, 1.0], [4.0, 1.0], 1.0)
    assert seen[3] == dwa_weights([1.0, 0.25], [2.0, 1.0], 1.0)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_state_that_went_through_json_goes_on_exactly(stop):
    straight = DynamicWeights(2, 0.7)
    expected = epochs(straight, [[loss / 3 for loss in of_tasks] for of_tasks in LOSSES_OF_EPOCHS])
    first, second = DynamicWeights(2, 0.7), DynamicWeights(2, 0.7)
    thirds = [[loss / 3 for loss in of_tasks] for of_tasks in LOSSES_OF_EPOCHS]
    epochs(first, thirds[:stop])
    second.load(json.loads(json.dumps(first.state(), allow_nan=False)), torch.device("cpu"))
    assert second.weights == expected[stop - 1]
    assert epochs(second, thirds[stop:], stop) == expected[stop:]


def test_a_task_that_an_epoch_does_not_visit_survives_json():
    weights = DynamicWeights(2, 1.0)
    weights.start(0)
    weights.add(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    weights.start(1)
    again = DynamicWeights(2, 1.0)
    again.load(json.loads(json.dumps(weights.state(), allow_nan=False)), torch.device("cpu"))
    assert again.state() == weights.state()
