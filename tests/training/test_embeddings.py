"""`optimizer.embeddings`: rows that wait for their updates end where the usual update takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loop import PIECES, ROWS, TASK, Toy, collate, run, same
from torch import nn

from kdtoolkit.data.batch_plan import BatchPlan
from kdtoolkit.errors import InputError
from kdtoolkit.objectives import DistillationObjective
from kdtoolkit.pipeline.refusals import refuse
from kdtoolkit.recipe.load import recipe_from_dict
from kdtoolkit.recipe.schema import Balance, Objective, Optimizer, Train
from kdtoolkit.student import Student
from kdtoolkit.training import embeddings, fit
from kdtoolkit.training.clipping import clip_gradients
from kdtoolkit.training.lazy_adamw import LazyAdamW
from kdtoolkit.training.optimizer import build_optimizer, set_learning_rate


class Table(nn.Module):
    """Rows of an embedding, and a matrix that is no embedding."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Embedding(20, 4, padding_idx=0, dtype=dtype)
        self.matrix = nn.Linear(4, 3, dtype=dtype)

    def word_embedding(self) -> nn.Embedding:
        return self.embed


def stepped(model: Table, optimizer: torch.optim.Optimizer, reads: list[list[int]], rates: list[float]) -> None:
    for number, (read, rate) in enumerate(zip(reads, rates)):
        set_learning_rate(optimizer, rate)
        slopes = torch.randn(len(read), 3, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        for part in (slice(0, 2), slice(2, None)):  # two micro-batches
            if read[part]:
                outputs = model.matrix(model.embed(torch.tensor(read[part])).tanh())
                (outputs * slopes[part].to(outputs.dtype)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@settings(max_examples=60, deadline=None)
@given(
    reads=st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=5), min_size=1, max_size=40),
    decay=st.sampled_from([0.0, 0.1]),
    betas=st.sampled_from([(0.9, 0.999), (0.5, 0.6), (0.0, 0.9)]),
    corrected=st.booleans(),
    backend=st.sampled_from(["auto", "reference"]),
    data=st.data(),
)
def test_rows_that_wait_end_where_the_usual_update_takes_them(reads, decay, betas, corrected, backend, data):
    """By compiled code and by torch."""
    rates = data.draw(st.lists(st.floats(0.0, 1.0), min_size=len(reads), max_size=len(reads)))
    section = Optimizer(
        learning_rate=0.05, weight_decay=decay, betas=betas, bias_correction=corrected, epsilon=1e-30
    )  # fmt: skip
    usual, waiting = Table(), Table()
    stepped(usual, build_optimizer(usual, section), reads, rates)
    lazy = build_optimizer(waiting, section, waiting.embed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDTOOLKIT_OP_BACKEND", backend)
        stepped(waiting, lazy, reads, rates)
        lazy.settle()
    for one, other in zip(usual.parameters(), waiting.parameters()):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    usual_optimizer = build_optimizer(again := Table(), section)
    stepped(again, usual_optimizer, reads, rates)
    for part in ("exp_avg", "exp_avg_sq", "step"):
        expected, found = (o.state[m.embed.weight][part] for o, m in ((usual_optimizer, again), (lazy, waiting)))
        torch.testing.assert_close(expected, found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-6, 1e-3])
def test_epsilon_costs_little_of_a_learning_rate(epsilon):
    generator = np.random.default_rng(0)
    reads = [generator.integers(0, 20, 3).tolist() for _ in range(200)]
    section = Optimizer(learning_rate=0.01, epsilon=epsilon)
    found = []
    for lazily in (False, True):
        model = Table()
        optimizer = build_optimizer(model, section, model.embed if lazily else None)
        stepped(model, optimizer, reads, [1.0] * 200)
        if lazily:
            optimizer.close()
        found.append(model.embed.weight)
    torch.testing.assert_close(*found, rtol=0, atol=0.01 * max(10 * epsilon, 1e-6))


def test_hooks_see_one_step_a_step():
    """An AdamW before it in the process has torch hook AdamW's own step, which this one's must not go through."""
    stepped(Table(), build_optimizer(Table(), Optimizer()), [[1, 2]], [0.1])
    seen = []
    model = Table()
    optimizer = build_optimizer(model, Optimizer(), model.embed)
    assert isinstance(optimizer, LazyAdamW)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    stepped(model, optimizer, [[1, 2], [3]], [0.1, 0.1])
    assert seen == ["before", "after"] * 2


def test_what_is_read_is_up_to_date_in_every_step():
    reads = [[1, 2], [3], [3], [3], [1]]
    usual, waiting = Table(), Table()
    stepped(usual, build_optimizer(usual, Optimizer(learning_rate=0.1)), reads, [1.0] * 5)
    lazy = build_optimizer(waiting, Optimizer(learning_rate=0.1), waiting.embed)
    stepped(waiting, lazy, reads, [1.0] * 5)
    asked = torch.tensor([2, 0, 2])
    assert not torch.allclose(waiting.embed.weight[2], usual.embed.weight[2])
    torch.testing.assert_close(waiting.embed(asked), usual.embed(asked), rtol=0, atol=1e-7)


@pytest.mark.parametrize("number", [20, -1, 10**9])
def test_a_row_that_is_not_there_is_an_error(number):
    model = Table()
    lazy = build_optimizer(model, Optimizer(), model.embed)
    stepped(model, lazy, [[1, 2]], [0.1])
    with pytest.raises(IndexError):
        model.embed(torch.tensor([1, number]))
    assert isinstance(lazy, LazyAdamW)


def test_bringing_all_rows_up_to_date_in_between_changes_nothing(monkeypatch):
    reads = [[number % 20, 7] for number in range(50)]
    found = []
    for every in (4096, 6):
        monkeypatch.setattr("kdtoolkit.training.lazy_adamw.SETTLE_EVERY", every)
        model = Table()
        lazy = build_optimizer(model, Optimizer(learning_rate=0.1, epsilon=1e-30), model.embed)
        stepped(model, lazy, reads, [1.0] * 50)
        lazy.settle()
        found.append(model.embed.weight.detach())
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_a_table_that_is_used_otherwise_too_is_updated_as_usual():
    class Tied(Table):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.embed(ids) @ self.embed.weight.t()

    found = []
    for lazily in (False, True):
        model = Tied()
        optimizer = build_optimizer(model, Optimizer(learning_rate=0.1), model.embed if lazily else None)
        for number in range(6):
            model(torch.tensor([number, 3])).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(model.embed.weight)
        assert not model.embed.sparse
    assert torch.equal(*found)


@pytest.mark.parametrize("max_norm", [0.01, 1e6])
def test_sparse_gradients_are_clipped_like_dense_ones(max_norm):
    norms, gradients = [], []
    for sparse in (False, True):
        model = Table()
        model.embed.sparse = sparse
        model.matrix(model.embed(torch.tensor([3, 3, 5]))).square().sum().backward()
        norms.append(clip_gradients(list(model.parameters()), max_norm))
        gradient = model.embed.weight.grad
        gradients.append([gradient.to_dense() if sparse else gradient, model.matrix.weight.grad])
    torch.testing.assert_close(*norms)
    torch.testing.assert_close(*gradients)


class Reading(Toy):
    def word_embedding(self) -> nn.Embedding:
        return self.embed


def fitted(section: Optimizer, folder: Any = None, *, stop: int | None = None, balance: Balance | None = None, **train):
    plan = BatchPlan([ROWS], [np.full(ROWS, 5, np.int32)], batch_rows=2, accumulate=2, epochs=4, seed=1)
    calls = 0

    def counted(numbers):
        nonlocal calls
        calls += 1
        if stop is not None and calls > stop:
            raise KeyboardInterrupt
        return collate(numbers)

    model = Reading(0.3)
    fit(
        model, counted, plan, DistillationObjective([TASK], Objective(), steps=plan.steps), optimizer=section,
        train=Train(batch_rows=2, accumulate=2, epochs=4, **train), balance=balance, seed=5, checkpoints=folder,
    )  # fmt: skip
    return model


def test_the_loop_trains_to_the_same_weights_with_each(tmp_path):
    dense = fitted(Optimizer(learning_rate=0.02, embeddings="dense"))
    sparse = fitted(Optimizer(learning_rate=0.02, embeddings="sparse"), tmp_path, checkpoint_every_steps=7)
    assert not sparse.embed.sparse and not sparse.embed._forward_pre_hooks
    for one, other in zip(dense.parameters(), sparse.parameters()):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stop", [3, 25, 50])
def test_a_sparse_run_that_was_stopped_resumes_to_the_same_bits(tmp_path, stop):
    section = Optimizer(learning_rate=0.02, embeddings="sparse")
    straight = fitted(section, tmp_path / "straight", checkpoint_every_steps=5)
    with pytest.raises(KeyboardInterrupt):
        fitted(section, tmp_path / "stopped", checkpoint_every_steps=5, stop=stop)
    assert same(straight, fitted(section, tmp_path / "stopped", checkpoint_every_steps=5))


def test_frozen_embeddings_stay_as_they_are():
    frozen = fitted(Optimizer(learning_rate=0.02, embeddings="frozen", weight_decay=0.1))
    assert torch.equal(frozen.embed.weight, Reading(0.3).embed.weight)
    assert not torch.equal(frozen.out.weight, Reading(0.3).out.weight)


@pytest.mark.parametrize("worthwhile", [PIECES * 6, PIECES * 6 + 1])
def test_auto_leaves_rows_alone_where_the_table_is_large(monkeypatch, worthwhile):
    seen = []
    monkeypatch.setattr(embeddings, "WORTHWHILE", worthwhile)
    monkeypatch.setattr(LazyAdamW, "settle", lambda self: seen.append(self))
    fitted(Optimizer(learning_rate=0.02))
    assert bool(seen) == (worthwhile == PIECES * 6)


@pytest.mark.parametrize("other", [{"name": "adamax"}, {"name": "sgd"}, {"betas": (0.9, 0.8)}])
def test_auto_and_sparse_know_what_does_not_go_together(monkeypatch, other):
    monkeypatch.setattr(embeddings, "WORTHWHILE", 1)
    fitted(Optimizer(**other))
    with pytest.raises(InputError, match="'sparse' does not go with optimizer"):
        fitted(Optimizer(embeddings="sparse", **other))
    with pytest.raises(InputError, match=r"'sparse' does not go with train\.compile"):
        fitted(Optimizer(embeddings="sparse"), compile="default")
    fitted(Optimizer(), balance=Balance(gradients="pcgrad"))
    with pytest.raises(InputError, match="pcgrad"):
        fitted(Optimizer(embeddings="sparse"), balance=Balance(gradients="pcgrad"))


@pytest.mark.parametrize("value", ["sparse", "frozen"])
def test_a_student_without_a_table_is_refused(value):
    with pytest.raises(InputError, match="Toy has no table of word embeddings"):
        run(optimizer=Optimizer(embeddings=value))


def test_a_frozen_table_needs_no_updates_row_by_row():
    model = Reading()
    model.embed.weight.requires_grad_(False)
    section = Optimizer(embeddings="sparse")
    assert (
        embeddings.frozen_or_sparse(model, section, device="cpu", compiled=False, projected=False, sharded=False)
        is None
    )


class Untold(Student):
    """Says nothing of its table."""

    def __init__(self, vocab_size):
        super().__init__(width=4)
        self.pieces = nn.Embedding(vocab_size, 4)

    def encode(self, batch):
        return self.pieces(batch.ids).mean(1)


def test_check_refuses_a_student_without_a_table(tmp_path):
    recipe = recipe_from_dict(
        {"tasks": ["sst2"], "objective": {"alpha": 1.0}, "student": f"{__file__}:Untold", "tokenizer": "words",
         "optimizer": {"embeddings": "frozen"}}
    )  # fmt: skip
    with pytest.raises(InputError, match=r"optimizer\.embeddings: Untold has no table of word embeddings"):
        refuse(recipe, recipe.task_list(), tmp_path, teacher_source=None)
