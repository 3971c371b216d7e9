"""The loop: cutting a window, splitting over processes, stopping and resuming change nothing."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import nn

from kdtoolkit.data.batch_plan import BatchPlan
from kdtoolkit.data.collate import Batch
from kdtoolkit.errors import InputError, WorkError
from kdtoolkit.heads import HeadOutputs
from kdtoolkit.objectives import DistillationObjective
from kdtoolkit.recipe.schema import Objective, Optimizer, Select, Train
from kdtoolkit.student import Tokens
from kdtoolkit.tasks import Task
from kdtoolkit.training import SCORE, checkpoint, fit
from kdtoolkit.training.optimizer import learning_rate_factor
from kdtoolkit.training.randomness import derived_seed

TASK = Task("toy", labels=("a", "b", "c"), pair=False)
ROWS, PIECES = 40, 11


class Toy(nn.Module):
    """A mean of embeddings with dropout and a linear head, reading the core's batches."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(PIECES, 6)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(6, 3)

    def forward(self, batch: Batch) -> HeadOutputs:
        mask = batch.tokens.mask.unsqueeze(-1)
        pooled = (self.embed(batch.tokens.ids) * mask).sum(1) / mask.sum(1)
        outputs = self.out(self.dropout(pooled))
        return HeadOutputs(outputs, torch.zeros_like(batch.first), torch.full_like(batch.first, 3))


def collate(numbers: np.ndarray) -> Batch:
    generator = np.random.default_rng(0)
    ids = generator.integers(1, PIECES, (ROWS, 5))
    labels = generator.integers(0, 3, ROWS).astype(np.float32)
    labels[::4] = np.nan
    teacher = generator.normal(size=(1, ROWS, 3)).astype(np.float32)
    teacher[0, 1::4] = np.nan
    numbers = np.asarray(numbers, np.int64)
    chosen = torch.from_numpy(ids[numbers])
    return Batch(
        tokens=Tokens(chosen, torch.ones_like(chosen, dtype=torch.bool), torch.zeros_like(chosen)),
        first=torch.arange(len(numbers)),
        second=None,
        tasks=torch.zeros(len(numbers), dtype=torch.int64),
        labels=torch.from_numpy(labels[numbers]),
        teacher=torch.from_numpy(teacher[:, numbers]),
    )


def run(folder=None, *, dropout=0.0, rows=8, accumulate=1, epochs=3.0, stop=None, optimizer=None, **train):
    plan = BatchPlan(
        [ROWS], [np.full(ROWS, 5, np.int32)], batch_rows=rows, accumulate=accumulate, epochs=epochs, seed=1
    )
    objective = DistillationObjective([TASK], Objective(alpha={"from": 0.0, "to": 1.0}), steps=plan.steps)
    calls = 0

    def counted(*_):
        nonlocal calls
        calls += 1
        if stop is not None and calls > stop:
            raise KeyboardInterrupt

    model = Toy(dropout)
    model.register_forward_pre_hook(counted)
    report = fit(
        model,
        collate,
        plan,
        objective,
        optimizer=optimizer or Optimizer(learning_rate=0.05),
        train=Train(batch_rows=rows, accumulate=accumulate, epochs=epochs, **train),
        seed=5,
        checkpoints=folder,
    )
    return model, report


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values())
    return all(torch.equal(a, b) for a, b in pairs)


def test_cutting_a_window_into_micro_batches_does_not_change_the_weights():
    whole, _ = run(rows=8, accumulate=1)
    for rows, accumulate in ((4, 2), (2, 4), (1, 8)):
        cut, _ = run(rows=rows, accumulate=accumulate)
        for a, b in zip(whole.state_dict().values(), cut.state_dict().values()):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


@pytest.mark.parametrize("stop", [1, 4, 7, 14])
def test_a_run_that_was_stopped_resumes_to_the_same_bits(tmp_path, stop):
    straight, _ = run(tmp_path / "straight", dropout=0.4, checkpoint_every_steps=3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", dropout=0.4, checkpoint_every_steps=3, stop=stop)
    resumed, report = run(tmp_path / "stopped", dropout=0.4, checkpoint_every_steps=3)
    assert report.first_step == stop // 3 * 3
    assert same(straight, resumed)


def test_saving_checkpoints_does_not_change_the_weights(tmp_path):
    assert same(run(dropout=0.4)[0], run(tmp_path, dropout=0.4, checkpoint_every_steps=1)[0])


@pytest.mark.parametrize("stop", [2, 9])
def test_batches_that_are_made_ahead_change_nothing(tmp_path, stop):
    straight, _ = run(tmp_path / "straight", dropout=0.4, accumulate=2, rows=4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "ahead", dropout=0.4, accumulate=2, rows=4, prefetch=3, checkpoint_every_steps=1, stop=stop)
    resumed, _ = run(tmp_path / "ahead", dropout=0.4, accumulate=2, rows=4, prefetch=3, checkpoint_every_steps=1)
    assert same(straight, resumed)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kdtoolkit-ahead")]


@pytest.mark.parametrize("prefetch", [0, 3])
def test_each_epoch_is_planned_once(monkeypatch, prefetch):
    """Also where batches of the next are made while this one's are trained on: to plan one again sorts all rows."""
    planned = []
    make = BatchPlan._make

    def made(plan, number):
        planned.append(number)
        return make(plan, number)

    monkeypatch.setattr(BatchPlan, "_make", made)
    run(rows=8, prefetch=prefetch)
    assert planned == list(range(len(planned))) and len(planned) > 1


def test_no_batch_is_made_ahead_where_all_processes_make_theirs_together():
    threads = set()

    def collated(numbers):
        threads.add(threading.current_thread())
        return collate(numbers)

    plan = BatchPlan([ROWS], [np.full(ROWS, 5, np.int32)], batch_rows=8, epochs=1.0, seed=1)
    for together, count in ((False, 1), (True, 2)):  # first that of the thread, which is another
        fit(
            Toy(), collated, plan, DistillationObjective([TASK], Objective(), steps=plan.steps), optimizer=Optimizer(),
            train=Train(batch_rows=8, epochs=1.0, prefetch=3), seed=5, checkpoints=None, together=together,
        )  # fmt: skip
        assert len(threads) == count and (threading.main_thread() in threads) == together


def test_equal_weights_are_equal_bytes(tmp_path):
    run(tmp_path / "a", dropout=0.4)
    run(tmp_path / "b", dropout=0.4)
    for name in ("model.safetensors", "optimizer.safetensors"):
        files = [next((tmp_path / run_name).glob(f"step-*/{name}")).read_bytes() for run_name in "ab"]
        assert files[0] == files[1]


def test_another_seed_draws_another_dropout():
    assert derived_seed(0, 1, 2, 3) != derived_seed(0, 1, 3, 2)
    assert derived_seed(0, "student") != derived_seed(0, "plan")


def test_no_checkpoint_holds_a_pickle(tmp_path):
    run(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert {path.suffix for path in files} <= {".json", ".safetensors"}


def test_a_damaged_checkpoint_is_named_with_the_way_out(tmp_path):
    run(tmp_path)
    path = max(tmp_path.glob("step-*")) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(WorkError, match=r"model\.safetensors: is damaged.*delete the folder"):
        run(tmp_path)


def test_old_checkpoints_are_removed(tmp_path):
    run(tmp_path, checkpoint_every_steps=2)
    assert len(checkpoint.steps_saved(tmp_path)) == checkpoint.KEEP


def test_selection_keeps_the_best_weights(tmp_path):
    figures = iter([0.1, 0.9, 0.3, 0.2, 0.2])
    seen = []

    def measure(model):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {SCORE: next(figures)}

    plan = BatchPlan([ROWS], [np.full(ROWS, 5, np.int32)], batch_rows=8, epochs=1, seed=1)
    model = Toy()
    report = fit(
        model, collate, plan, DistillationObjective([TASK], Objective(), steps=plan.steps),
        optimizer=Optimizer(), train=Train(select=Select(every_steps=1)), seed=5, checkpoints=tmp_path, measure=measure,
    )  # fmt: skip
    assert report.best_step == 2
    assert [path.name for path in tmp_path.glob("best-*")] == ["best-2.safetensors"]
    assert all(torch.equal(tensor, seen[1][name]) for name, tensor in model.state_dict().items())


def test_selection_without_held_out_rows_is_refused():
    with pytest.raises(InputError, match="no held-out rows"):
        run(select=Select())


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(WorkError, match="not finite"):
        run(tmp_path, optimizer=Optimizer(learning_rate=1e30, max_norm=None), log_every_steps=1)


@pytest.mark.parametrize("decay", ["linear", "cosine", "none"])
def test_the_learning_rate_warms_up_and_decays(decay):
    section = Optimizer(warmup_fraction=0.1, decay=decay)
    factors = [learning_rate_factor(step, 100, section) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx({"linear": 1 / 90, "cosine": 0.0, "none": 1.0}[decay], abs=4e-4)


def test_a_parameter_without_gradient_does_not_move():
    class Idle(Toy):
        def __init__(self):
            super().__init__()
            self.idle = nn.Linear(6, 2)

    model = Idle()
    before = model.idle.weight.clone()
    plan = BatchPlan([ROWS], [np.full(ROWS, 5, np.int32)], batch_rows=8, epochs=1, seed=1)
    fit(
        model, collate, plan, DistillationObjective([TASK], Objective(), steps=plan.steps),
        optimizer=Optimizer(weight_decay=0.1), train=Train(), seed=5, checkpoints=None,
    )  # fmt: skip
    assert torch.equal(model.idle.weight, before)


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(epochs=0.2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


class Greedy(Toy):
    """Finds no memory for more than `room` rows."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def forward(self, batch: Batch) -> HeadOutputs:
        if len(batch.first) > self.room:
            torch.empty(2**52)  # torch's own error
        return super().forward(batch)


@pytest.mark.parametrize(
    ("room", "rows", "accumulate", "expected"),
    [
        (
            4,
            8,
            1,
            "out of memory at step 1, with 8 rows a batch; 4 fit: with train.batch_rows=4 and train.accumulate=2",
        ),
        (3, 8, 2, "8 rows a batch; 3 fit: with train.batch_rows=2 and train.accumulate=8 the updates are the same"),
        (0, 8, 1, "8 rows a batch, and one row does not fit either; lower data.max_tokens or take a smaller model"),
    ],
)
def test_out_of_memory_tells_how_many_rows_fit(monkeypatch, room, rows, accumulate, expected):
    model = Greedy(room)
    monkeypatch.setitem(globals(), "Toy", lambda dropout: model)
    with pytest.raises(WorkError) as caught:
        run(rows=rows, accumulate=accumulate)
    assert expected in str(caught.value)
