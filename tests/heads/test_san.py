"""The stochastic answer network: values worked by hand, limits, and its dropout of steps."""

from __future__ import annotations

import math

import pytest
import torch
from head_cases import MNLI, WIDTH, section, text_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdtoolkit.heads import MultiTaskHeads
from kdtoolkit.heads.san import StochasticAnswer, kept_steps
from kdtoolkit.heads.two_texts import Text


def text(values):
    states = torch.tensor(values, dtype=torch.float32).unsqueeze(0)
    return Text(states, torch.ones(states.shape[:2], dtype=torch.bool))


def network(steps=1, *, width=1, memory=1, step_dropout=0.0):
    torch.manual_seed(0)
    return StochasticAnswer(width, memory, steps=steps, step_dropout=step_dropout, dropout=0.0).eval()


def test_one_step_by_hand():
    answer = network()
    nn.init.constant_(answer.bilinear.weight, 2.0)
    nn.init.zeros_(answer.summary.score.weight)
    # s0 = mean(1, 3) = 2; scores 2 * 2 * [1, 0] = [4, 0]; x = share of the first token.
    x = math.exp(4) / (math.exp(4) + 1)
    weight = torch.tensor([[1.0, 0.5, -1.0, 2.0], [0.0, 1.0, 0.0, 0.0]])
    bias = torch.tensor([0.1, 0.2])
    logits = weight @ torch.tensor([2.0, x, 2 - x, 2 * x]) + bias
    received = answer(text([[1.0], [0.0]]), text([[1.0], [3.0]]), weight, bias)
    torch.testing.assert_close(received[0], logits.log_softmax(0))


def test_two_steps_average_probabilities_and_move_the_state_by_a_gru():
    answer = network(2)
    first, second = text([[1.0], [-0.5]]), text([[0.7]])
    weight, bias = torch.randn(3, 4), torch.randn(3)
    state, predictions = torch.tensor([[0.7]]), []
    for _ in range(2):
        shares = (answer.bilinear.weight * state * first.states[0].t()).softmax(1)
        found = shares @ first.states[0]
        features = torch.cat([state, found, (state - found).abs(), state * found], 1)
        predictions.append((features @ weight.t() + bias).softmax(1))
        state = answer.cell(found, state)
    expected = (predictions[0] + predictions[1]) / 2
    torch.testing.assert_close(answer(first, second, weight, bias).exp(), expected)


@pytest.mark.parametrize("training", [False, True])
def test_outputs_are_log_probabilities_and_finite_however_sure_a_step_is(training):
    answer = network(4, width=3, memory=3, step_dropout=0.5).train(training)
    weight, bias = 1e4 * torch.randn(5, 12, requires_grad=True), torch.zeros(5)
    weight.retain_grad()
    first, second = (Text(torch.randn(6, 4, 3), torch.ones(6, 4, dtype=torch.bool)) for _ in range(2))
    outputs = answer(first, second, weight, bias)
    torch.testing.assert_close(outputs.exp().sum(1), torch.ones(6))
    assert bool(outputs.isfinite().all())
    nn.functional.cross_entropy(outputs, torch.arange(6) % 5).backward()
    assert bool(weight.grad.isfinite().all())


def test_with_an_output_layer_of_zeros_every_class_is_as_likely():
    answer = network(5, step_dropout=0.3).train()
    outputs = answer(text([[1.0], [2.0]]), text([[3.0]]), torch.zeros(4, 4), torch.zeros(4))
    torch.testing.assert_close(outputs, torch.full((1, 4), -math.log(4)))


@settings(max_examples=25)
@given(st.integers(0, 40), st.integers(1, 6), st.sampled_from([0.0, 0.1, 0.5, 0.99]), st.integers(0, 99))
def test_each_row_keeps_a_step_at_least(rows, steps, rate, seed):
    torch.manual_seed(seed)
    kept = kept_steps(rows, steps, rate, torch.device("cpu"))
    assert kept.shape == (rows, steps) and bool(kept.any(1).all())
    assert rate > 0 or bool(kept.all())


def test_steps_are_left_out_as_often_as_asked_and_alike():
    torch.manual_seed(0)
    kept = kept_steps(60_000, 3, 0.4, torch.device("cpu")).float()
    # Of the three, all are left out with probability 0.4^3, and then one of them stays.
    expected = torch.full((3,), 0.6 + 0.4**3 / 3)
    torch.testing.assert_close(kept.mean(0), expected, rtol=0, atol=0.01)


def test_the_dropout_of_steps_is_of_each_row_and_of_training_alone():
    heads = MultiTaskHeads([MNLI], WIDTH, pairs="separate", mixed=False, heads=section("san", step_dropout=0.2))
    encoded, batch = text_batch([MNLI], [0] * 30)
    heads.eval()
    assert torch.equal(heads(encoded, batch).outputs, heads(encoded, batch).outputs)
    quiet = heads(encoded, batch).outputs
    heads.train()
    torch.manual_seed(0)
    loud = heads(encoded, batch).outputs
    changed = (loud - quiet).abs().amax(1) > 1e-7
    assert 0 < int(changed.sum()) < 30
    torch.manual_seed(0)
    assert torch.equal(heads(encoded, batch).outputs, loud)


def test_a_memory_of_another_width_is_projected_to():
    heads = MultiTaskHeads([MNLI], WIDTH, pairs="separate", mixed=False, heads=section("san", width=4, steps=2))
    assert heads.weight["mnli"].shape == (3, 16)
    assert heads.san["mnli"].project.weight.shape == (4, WIDTH)
    assert heads(*text_batch([MNLI], [0, 0])).outputs.shape == (2, 3)


def test_the_order_of_the_first_texts_tokens_does_not_matter():
    answer = network(3, width=2, memory=2)
    states = torch.randn(1, 5, 2)
    mask = torch.ones(1, 5, dtype=torch.bool)
    weight, bias = torch.randn(2, 8), torch.zeros(2)
    second = Text(torch.randn(1, 3, 2), mask[:, :3])
    shuffled = Text(states[:, torch.tensor([3, 1, 4, 0, 2])], mask)
    torch.testing.assert_close(answer(Text(states, mask), second, weight, bias), answer(shuffled, second, weight, bias))
