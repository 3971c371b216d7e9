"""A few steps of a training, watched from outside."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdtoolkit.pipeline.trial import Watch
from kdtoolkit.progress import log


def batch(rows, tokens):
    mask = torch.zeros(rows, tokens + 3, dtype=torch.bool)
    mask[:, :tokens] = True
    return SimpleNamespace(tokens=SimpleNamespace(mask=mask), tasks=torch.zeros(rows))


class Sleepy(nn.Module):
    """A model of 4096 * 64 weights in another model."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4096, 64, bias=False)

    def forward(self, some):
        return self.inner(torch.ones(len(some.tasks), 4096)).sum()


def train(steps, *, micro=1, optimizer=torch.optim.AdamW, done=None):
    model = Sleepy()
    tuned = optimizer(model.parameters())
    for _ in range(steps):
        for _ in range(micro):
            model(batch(4, 10)).backward()
        tuned.step()
        tuned.zero_grad()
        if done is not None:
            done.append(1)


def test_the_training_is_ended_after_as_many_steps_as_are_watched():
    done = []
    with Watch(3) as watch:
        train(1000, done=done)
        raise AssertionError("not ended")
    assert len(done) == 2  # the third ends within its update
    assert watch.trial() is not None


def test_an_error_of_the_training_is_an_error():
    with pytest.raises(ZeroDivisionError), Watch(3):
        train(1)
        _ = 1 / 0


@pytest.mark.parametrize(("optimizer", "copies"), [(torch.optim.AdamW, 2), (torch.optim.SGD, 0)])
def test_weights_gradients_and_the_optimizers_memory_are_counted(optimizer, copies):
    with Watch(3) as watch:
        train(5, optimizer=optimizer)
    trial = watch.trial()
    assert trial.parameters == 4096 * 64 and trial.weights == trial.gradients == 4 * trial.parameters
    assert trial.state == pytest.approx(copies * trial.weights, abs=100)


@pytest.mark.parametrize("micro", [1, 3])
def test_tokens_and_rows_are_those_of_the_model_that_is_called_with_a_batch(micro):
    with Watch(3) as watch:
        train(5, micro=micro)
    trial = watch.trial()
    assert (trial.row_tokens, trial.batch_rows) == (10.0, 4.0)
    assert trial.token_seconds > 0 and trial.update_seconds > 0


def test_a_training_without_batches_or_steps_tells_nothing():
    with Watch(3) as watch:
        pass
    assert watch.trial() is None
    with Watch(3) as watch:
        model = nn.Linear(2, 2)
        tuned = torch.optim.SGD(model.parameters())
        model(torch.ones(1, 2)).sum().backward()
        tuned.step()
    assert watch.trial() is None


def test_nothing_is_watched_or_changed_afterwards():
    threads, level = torch.get_num_threads(), log.level
    with Watch(1):
        torch.set_num_threads(threads + 1)
        train(2)
    assert (torch.get_num_threads(), log.level) == (threads, level)
    train(3)  # raises nothing


class Layers(nn.Module):
    """Keeps for its backward pass: its input once, what the sigmoid gives, and no weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 1)

    def forward(self, some):
        return self.second(torch.sigmoid(self.first(some.tokens.mask.unsqueeze(2) * torch.ones(64)))).sum()


@pytest.mark.parametrize(("rows", "tokens"), [(4, 10), (2, 50)])
def test_activations_are_what_a_token_leaves_for_the_backward_pass(rows, tokens):
    model = Layers()
    tuned = torch.optim.SGD(model.parameters())
    with Watch(2) as watch:
        for _ in range(3):
            for _ in range(2):  # micro-batches are not held together
                model(batch(rows, tokens)).backward()
            tuned.step()
    assert watch.trial().token_activations == (64 + 32) * 4


def test_the_gradients_under_the_watch_are_those_without_it():
    def gradients():
        torch.manual_seed(0)
        model = Layers()
        model(batch(4, 10)).backward()
        return [parameter.grad for parameter in model.parameters()]

    with Watch(5):
        watched = gradients()
    for one, other in zip(watched, gradients(), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
