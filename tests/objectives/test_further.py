"""Further terms in the loss of a batch: which rows have them, and what they add."""

from __future__ import annotations

import math

import pytest
import torch

from kdtoolkit.data.collate import Batch
from kdtoolkit.heads import HeadOutputs
from kdtoolkit.objectives import DistillationObjective
from kdtoolkit.objectives.further import FurtherTerm
from kdtoolkit.objectives.terms import Term
from kdtoolkit.recipe.schema import Objective
from kdtoolkit.schedule import Schedule
from kdtoolkit.shape import Shape
from kdtoolkit.student import Tokens
from kdtoolkit.tasks import Task

TASKS = [Task("mood", labels=("low", "high"), pair=False), Task("score", kind="regression", pair=False),
         Task("topic", labels=("a", "b", "c"), pair=False)]  # fmt: skip


class Distance(Term):
    """The squared distance of one number a row."""

    teacher_needs = ("first/1",)
    student_needs = frozenset({"hidden"})

    def __init__(self):
        super().__init__()
        self.seen = []

    def loss(self, seen):
        self.seen.append(seen)
        return (seen.student["state"] - seen.teacher["first/1"]).square().sum(1)


class Outputs(Distance):
    """What it sees of the logits."""

    teacher_needs = ()
    outputs = True

    def loss(self, seen):
        self.seen.append(seen)
        return seen.student_logits.sum(1) - seen.teacher_logits.sum(1)


def further(term, tasks=(0, 1, 2), weight=1.0, label="distance"):
    return FurtherTerm(label, term, weight, frozenset(tasks))


def batch(rows, *, members=1, seed=0):
    """Rows of tasks 0, 1, 2, 0, 1, 2, ...: outputs, features and a batch."""
    generator = torch.Generator().manual_seed(seed)
    tasks = torch.arange(rows) % 3
    counts = torch.tensor([2, 1, 3])[tasks]
    outputs = torch.randn(rows, 6, generator=generator).requires_grad_()
    start = torch.tensor([0, 2, 3])[tasks]
    teacher = torch.randn(members, rows, 3, generator=generator)
    labels = torch.where(tasks == 1, torch.randn(rows, generator=generator), torch.zeros(rows))
    labels[0] = torch.nan
    ids = torch.ones(rows, 4, dtype=torch.int64)
    tokens = Tokens(ids, ids.bool(), torch.zeros_like(ids))
    state = torch.randn(rows, 2, generator=generator).requires_grad_()
    first = {"first/1": torch.randn(rows, 2, generator=generator)}
    made = Batch(tokens, torch.arange(rows), None, tasks, labels, None, teacher, first, torch.ones(rows).bool())
    return HeadOutputs(outputs, start, counts, ({"state": state},)), made


def objective(*terms, steps=10, **options):
    section = Objective.model_validate({"temperature": 2.0, **options})
    return DistillationObjective(TASKS, section, steps=steps, terms=terms)


def rows_of(heads, made, chosen):
    """Part of the rows."""
    index = torch.tensor(chosen)
    features = tuple({name: value[index] for name, value in of.items()} for of in heads.features)
    part = Batch(
        Tokens(*(t[index] for t in made.tokens)), torch.arange(len(chosen)), None, made.tasks[index],
        made.labels[index], None, made.teacher[:, index], {n: v[index] for n, v in made.features.items()},
        made.featured[index],
    )  # fmt: skip
    return heads._replace(outputs=heads.outputs[index], start=heads.start[index], count=heads.count[index],
                          features=features), part  # fmt: skip


def test_a_term_adds_its_value_times_the_weights_of_term_and_task_to_the_loss():
    heads, made = batch(9)
    made.featured[3] = False
    made.teacher[:, 6] = torch.nan  # no member speaks for it
    plain = objective(tasks={"topic": {"weight": 3.0}})(heads, made, 0)
    term = further(Distance(), tasks=(0, 2), weight=0.5)
    result = objective(term, tasks={"topic": {"weight": 3.0}})(heads, made, 0, by_task=True)
    distance = (heads.features[0]["state"] - made.features["first/1"]).square().sum(1)
    mood, topic = distance[0], distance[[2, 5, 8]].sum()
    torch.testing.assert_close(result.loss - plain.loss, 0.5 * mood + 0.5 * 3.0 * topic)
    torch.testing.assert_close(result.terms, torch.stack([mood, torch.tensor(0.0), topic])[None].detach())
    assert result.term_rows.tolist() == [[1, 0, 3]]
    torch.testing.assert_close(result.task_losses.sum(), result.loss)
    for name in ("soft", "hard", "rows", "soft_rows", "hard_rows"):
        assert torch.equal(getattr(result, name), getattr(plain, name))
    gradient = torch.autograd.grad(result.loss, heads.features[0]["state"])[0]
    assert gradient.any(1).tolist() == [True, False, True, False, False, True, False, False, True]


def test_cutting_a_batch_and_the_order_of_rows_change_nothing():
    heads, made = batch(9)
    loss = objective(further(Distance()))
    whole = loss(heads, made, 0)
    parts = [loss(*rows_of(heads, made, some), 0) for some in ([0, 4], [8, 7, 1], [2, 3, 6, 5])]
    torch.testing.assert_close(sum(part.loss for part in parts), whole.loss)
    torch.testing.assert_close(sum(part.terms for part in parts), whole.terms)


def test_what_a_term_sees_is_of_one_task():
    heads, made = batch(9)
    term = Outputs()
    objective(further(term))(heads._replace(features=({},)), made, 0)
    assert [seen.student_logits.shape for seen in term.seen] == [(3, 2), (3, 1), (3, 3)]
    torch.testing.assert_close(term.seen[2].student_logits, heads.outputs[2::3, 3:])
    torch.testing.assert_close(term.seen[0].teacher_logits, made.teacher[0, ::3, :2])
    assert term.seen[0].labels.tolist() == [-100, 0, 0] and term.seen[1].labels.tolist() == [-100] * 3
    assert {seen.temperature for seen in term.seen} == {2.0}


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_an_ensemble_is_seen_as_the_mean_of_its_softmaxes(temperature):
    heads, made = batch(6, members=2)
    made.teacher[1, 3] = torch.nan  # the first member alone
    term = Outputs()
    loss = DistillationObjective(
        TASKS, Objective(temperature=temperature), steps=10, member_weights=[(1.0, 3.0)] * 3, terms=[further(term)]
    )
    loss(heads._replace(features=({},)), made, 0)
    first, second = (made.teacher[member, :1, :2] / temperature for member in (0, 1))
    expected = (first.softmax(1) + 3 * second.softmax(1)) / 4
    torch.testing.assert_close((term.seen[0].teacher_logits[:1] / temperature).softmax(1), expected)
    alone = (term.seen[0].teacher_logits[1] / temperature).softmax(0)
    torch.testing.assert_close(alone, (made.teacher[0, 3, :2] / temperature).softmax(0))
    torch.testing.assert_close(term.seen[1].teacher_logits[:, 0],
                               (made.teacher[0, 1::3, 0] + 3 * made.teacher[1, 1::3, 0]) / 4)  # fmt: skip


def test_logits_are_averaged_where_the_recipe_says_so():
    heads, made = batch(3, members=2)
    term = Outputs()
    objective(further(term), ensemble="logits")(heads._replace(features=({},)), made, 0)
    torch.testing.assert_close(term.seen[0].teacher_logits, made.teacher[:, :1, :2].mean(0))


def test_a_weight_may_be_a_schedule_and_at_zero_the_term_is_not_computed():
    heads, made = batch(6)
    term = Distance()
    schedule = Schedule.model_validate({"from": 1.0, "to": 0.0, "shape": "linear"})
    loss = objective(further(term, weight=schedule), steps=11)
    plain = objective()(heads, made, 0).loss.detach()
    added = [float(loss(heads, made, step).loss.detach() - plain) for step in (0, 5)]
    assert math.isclose(added[1], added[0] / 2, rel_tol=1e-4)
    assert loss.values(5)["weight/distance"] == 0.5
    seen = len(term.seen)
    torch.testing.assert_close(loss(heads, made, 10).loss, plain)
    assert len(term.seen) == seen


def test_the_baseline_has_no_terms_and_neither_have_rows_without_states():
    heads, made = batch(6)
    term = Distance()
    gold = DistillationObjective(TASKS, Objective(), steps=10, gold_only=True, terms=[further(term)])
    assert gold.terms == () and gold(heads, made, 0).terms is None
    made.features = made.featured = None
    result = objective(further(term))(heads, made, 0)
    assert torch.equal(result.loss, objective()(heads, made, 0).loss) and not term.seen


def test_where_a_row_is_one_sequence_rows_read_apart_are_refused_and_those_of_other_tasks_are_none_of_its_business():
    heads, made = batch(6)
    made.second = torch.where(made.tasks == 1, torch.arange(6).flip(0), made.first)
    term = Distance()
    term.joint = True
    objective(further(term, tasks=(0, 2)))(heads, made, 0)
    assert len(term.seen) == 2
    with pytest.raises(ValueError, match="reads the two texts of a row apart"):
        objective(further(term, tasks=(1,)))(heads, made, 0)


def test_a_term_reads_as_many_columns_as_its_own_teacher_has():
    heads, made = batch(6)
    alone = Distance()
    expected = objective(further(alone, tasks=(0,)))(heads, made, 0)
    made.features = {"first/1": torch.nn.functional.pad(made.features["first/1"], (0, 3))}
    beside = Distance()
    found = objective(further(beside, tasks=(0,))._replace(sizes=Shape(1, 2)))(heads, made, 0)
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(beside.seen[0].teacher["first/1"], alone.seen[0].teacher["first/1"])


def test_rows_without_a_label_do_not_have_a_term_that_needs_one():
    heads, made = batch(6)  # row 0 has no label
    term = Outputs()
    assert objective(further(term, tasks=(0,)))(heads, made, 0).term_rows.tolist() == [[2, 0, 0]]
    term.labelled = True
    found = objective(further(term, tasks=(0,)))(heads, made, 0)
    assert found.term_rows.tolist() == [[1, 0, 0]]
    assert torch.equal(term.seen[1].student_logits, term.seen[0].student_logits[1:])
