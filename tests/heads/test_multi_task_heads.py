"""One matrix product for the whole batch, one parameter for each task."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdtoolkit import Encoded, Student, Task
from kdtoolkit.heads import MultiTaskHeads, refusal
from kdtoolkit.heads.interaction import interaction

WIDTH = 6
SST2 = Task("sst2", text=("s",), labels=("negative", "positive"))
MNLI = Task("mnli", text=("a", "b"), labels=("entailment", "neutral", "contradiction"))
STSB = Task("stsb", kind="regression", text=("a", "b"))
TAGS = Task("my-tags", kind="multilabel", text=("s",), labels=("x", "y", "z", "w"))
ALL = (SST2, MNLI, STSB, TAGS)


def batch_of(tasks, positions, seed=0, joint=False):
    """A batch with a row for each position; pooled features of its texts."""
    tasks_of_rows = torch.tensor(positions)
    pair = torch.tensor([bool(task.pair) and not joint for task in tasks])[tasks_of_rows]
    rows = len(positions)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(rows + int(pair.sum()), generator=generator)  # texts in any order
    first = order[:rows]
    second = first.clone()
    second[pair] = order[rows:]
    pooled = torch.randn(len(order), WIDTH, generator=generator, requires_grad=True)
    batch = SimpleNamespace(tasks=tasks_of_rows, first=first, second=second if pair.any() else None)
    return Encoded(pooled=pooled), batch


def own_columns(result, row):
    start, count = int(result.start[row]), int(result.count[row])
    return result.outputs[row, start : start + count]


@pytest.mark.parametrize("positions", [[0], [1, 1], [3, 0, 1, 2, 1, 0], [2, 2, 0], [1, 3]])
def test_every_row_gets_what_its_task_alone_would_give(positions):
    torch.manual_seed(0)
    heads = MultiTaskHeads(ALL, WIDTH, pairs="separate", mixed=True)
    encoded, batch = batch_of(ALL, positions)
    result = heads(encoded, batch)
    assert result.outputs.shape[1] == sum(ALL[task].outputs for task in set(positions))
    second = batch.first if batch.second is None else batch.second
    for row, task in enumerate(positions):
        features = interaction(encoded.pooled[batch.first[row]][None], encoded.pooled[second[row]][None])
        name = ALL[task].name
        alone = functional.linear(features, heads.weight[name], heads.bias[name])[0]
        torch.testing.assert_close(own_columns(result, row), alone)


def test_a_student_that_reads_pairs_jointly_has_linear_heads_for_every_task():
    heads = MultiTaskHeads(ALL, WIDTH, pairs="joint", mixed=True)
    assert {tuple(p.shape) for name, p in heads.weight.named_parameters()} == {(n, WIDTH) for n in (2, 3, 1, 4)}
    encoded, batch = batch_of(ALL, [0, 1, 2, 3], joint=True)
    result = heads(encoded, batch)
    for row, task in enumerate(ALL):
        alone = functional.linear(encoded.pooled[batch.first[row]], heads.weight[task.name], heads.bias[task.name])
        torch.testing.assert_close(own_columns(result, row), alone)


def test_a_run_of_one_task_batches_keeps_single_texts_narrow():
    heads = MultiTaskHeads(ALL, WIDTH, pairs="separate", mixed=False)
    assert heads.weight["sst2"].shape == (2, WIDTH)
    assert heads.weight["mnli"].shape == (3, 4 * WIDTH)
    assert MultiTaskHeads((SST2, TAGS), WIDTH, pairs="separate", mixed=True).weight["sst2"].shape == (2, WIDTH)
    encoded, batch = batch_of(ALL, [0, 1])
    with pytest.raises(ValueError, match=r"sst2, mnli.*mixed=True"):
        heads(encoded, batch)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_heads_of_tasks_that_are_not_in_the_batch_stay_equal_bit_for_bit(weight_decay):
    torch.manual_seed(0)
    heads = MultiTaskHeads(ALL, WIDTH, pairs="separate", mixed=True)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=0.1, weight_decay=weight_decay)

    def step(positions):
        optimizer.zero_grad(set_to_none=True)
        encoded, batch = batch_of(ALL, positions)
        heads(encoded, batch).outputs.square().sum().backward()
        optimizer.step()

    step([0, 1, 2, 3])  # so that every head has momentum that could move it
    before = {name: value.clone() for name, value in heads.state_dict().items()}
    step([1, 3, 3])
    after = heads.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"weight.mnli", "bias.mnli", "weight.my-tags", "bias.my-tags"}
    assert heads.weight["sst2"].grad is None


def test_columns_of_other_tasks_carry_no_gradient_into_a_row_of_this_task():
    heads = MultiTaskHeads(ALL, WIDTH, pairs="joint", mixed=True)
    encoded, batch = batch_of(ALL, [0, 1], joint=True)
    own_columns(heads(encoded, batch), 0).sum().backward()
    assert heads.weight["mnli"].grad is None or not heads.weight["mnli"].grad.any()
    assert heads.weight["sst2"].grad.any()


def test_a_batch_is_one_matrix_product(monkeypatch):
    calls = []
    linear = functional.linear
    monkeypatch.setattr(functional, "linear", lambda *given: calls.append(given) or linear(*given))
    heads = MultiTaskHeads(ALL, WIDTH, pairs="separate", mixed=True)
    heads(*batch_of(ALL, [0, 1, 2, 3, 1, 0]))
    assert len(calls) == 1


def test_a_task_may_be_called_like_a_method_of_a_module():
    names = ("type", "train", "keys", "weight", "a-b_c")
    tasks = [Task(name, labels=("x", "y")) for name in names]
    heads = MultiTaskHeads(tasks, WIDTH, pairs="joint", mixed=True)
    assert set(heads.state_dict()) == {f"{kind}.{name}" for kind in ("weight", "bias") for name in names}
    copy = MultiTaskHeads(tasks, WIDTH, pairs="joint", mixed=True)
    copy.load_state_dict(heads.state_dict())
    assert all(torch.equal(copy.weight[name], heads.weight[name]) for name in names)
    copy.train().double()
    assert copy.weight["type"].dtype == torch.float64


def test_initial_weights_are_those_of_a_linear_layer_in_size_and_follow_the_seed():
    task = Task("wide", labels=tuple(f"l{i}" for i in range(400)))
    torch.manual_seed(3)
    heads = MultiTaskHeads([task], 64, pairs="joint", mixed=False)
    layer = nn.Linear(64, 400)
    assert heads.weight["wide"].std().item() == pytest.approx(layer.weight.std().item(), rel=0.05)
    assert heads.weight["wide"].abs().max() <= 1 / 8
    torch.manual_seed(3)
    again = MultiTaskHeads([task], 64, pairs="joint", mixed=False)
    assert torch.equal(heads.weight["wide"], again.weight["wide"])


def test_interaction_of_a_text_with_itself_has_no_difference():
    a = torch.randn(5, WIDTH)
    torch.testing.assert_close(interaction(a, a), torch.cat([a, a, torch.zeros_like(a), a * a], 1))
    b = torch.randn(5, WIDTH)
    swapped = interaction(b, a)
    torch.testing.assert_close(interaction(a, b)[:, 2 * WIDTH :], swapped[:, 2 * WIDTH :])


class Separate(Student):
    def encode(self, batch):
        raise NotImplementedError


class Joint(Separate):
    pairs = "joint"


@pytest.mark.parametrize(
    ("task", "student", "words"),
    [
        (MNLI.with_(head="linear"), Separate, "reads the two texts of a pair apart"),
        (MNLI.with_(head="pair"), Joint, "reads them as one sequence"),
        (SST2.with_(head="pair"), Separate, "the task has one"),
        (SST2.with_(head="liner"), Separate, "did you mean 'linear'"),
    ],
)
def test_a_head_that_the_student_cannot_serve_is_refused_with_the_reason(task, student, words):
    for given in (student, student(width=3)):
        assert words in refusal(task, given)
    with pytest.raises(ValueError, match=words):
        MultiTaskHeads([task], WIDTH, pairs=student.pairs, mixed=False)


@pytest.mark.parametrize("student", [Separate, Joint])
@pytest.mark.parametrize("task", ALL)
def test_the_head_auto_is_never_refused(task, student):
    assert refusal(task, student) is None


def test_tasks_that_cannot_have_heads_are_named():
    with pytest.raises(ValueError, match="'new' has no label names yet"):
        MultiTaskHeads([Task("new")], WIDTH, pairs="joint", mixed=False)
    with pytest.raises(ValueError, match="repeat: sst2, sst2"):
        MultiTaskHeads([SST2, SST2], WIDTH, pairs="joint", mixed=False)
    with pytest.raises(ValueError, match="at least one task"):
        MultiTaskHeads([], WIDTH, pairs="joint", mixed=False)
