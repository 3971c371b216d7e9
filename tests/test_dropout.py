"""Dropout from few draws is dropout: its rate, its mean, independent places, the seed, the gradient."""

from __future__ import annotations

import math

import pytest
import torch

from kdtoolkit.dropout import Dropout, dropout


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_as_many_numbers_are_dropped_as_asked_and_the_mean_stays(rate, dtype):
    torch.manual_seed(0)
    count = 200_001
    found = dropout(torch.ones(count, dtype=dtype), rate)
    assert found.dtype == dtype
    kept = found[found != 0]
    assert abs(len(kept) / count - (1 - rate)) < 5 * math.sqrt(rate * (1 - rate) / count)
    assert kept.unique().tolist() == pytest.approx([1 / (1 - rate)], rel=1e-2 if dtype == torch.bfloat16 else 1e-3)


def test_numbers_of_one_draw_are_dropped_independently():
    torch.manual_seed(1)
    kept = dropout(torch.ones(400_000), 0.5).ne(0).double().view(-1, 8)
    correlations = torch.corrcoef(kept.t()) - torch.eye(8)
    assert correlations.abs().max() < 5 / math.sqrt(len(kept))
    assert (kept.mean(0) - 0.5).abs().max() < 5 * 0.5 / math.sqrt(len(kept))


@pytest.mark.parametrize("shape", [(3, 5, 7), (1,), (0, 4), (2, 2)])
def test_the_seed_decides_and_any_shape_is_served(shape):
    def drawn():
        torch.manual_seed(7)
        return dropout(torch.ones(shape), 0.5)

    assert drawn().shape == shape
    assert torch.equal(drawn(), drawn())


def test_the_gradient_is_that_of_the_numbers_that_were_kept():
    values = torch.randn(50, requires_grad=True)
    found = dropout(values, 0.4)
    found.sum().backward()
    torch.testing.assert_close(values.grad * values, found)
    assert values.grad.eq(0).any()


def test_without_training_or_rate_nothing_is_dropped():
    values = torch.randn(9)
    assert torch.equal(Dropout(0.5).eval()(values), values)
    assert torch.equal(dropout(values, 0.0), values)
    assert not dropout(values, 1.0).any()
