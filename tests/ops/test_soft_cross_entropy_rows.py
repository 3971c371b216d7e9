"""Rows do not see each other: cuts, orders, kinds and columns of their own, and rows that are not to be read."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.ops import KINDS, SparseTeacher, soft_cross_entropy

HARD_KINDS = [kind for kind in KINDS if kind != "bce"]
few = settings(max_examples=25, deadline=None, derandomize=True)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def value_and_gradient(student, *args, **options):
    leaf = student.detach().clone().requires_grad_()
    loss = soft_cross_entropy(leaf, *args, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), gradient


@pytest.mark.parametrize("kind", HARD_KINDS)
@pytest.mark.parametrize("cuts", [(8,), (5, 3), (1,) * 8, (0, 8)])
def test_the_sum_does_not_depend_on_how_the_rows_are_cut(kind, cuts):
    student, teacher, labels = random(8, 4), random(8, 4, seed=1), torch.arange(8) % 4
    options = {"kind": kind, "alpha": 0.3, "temperature": 2.0, "reduction": "sum"}
    whole, gradient = value_and_gradient(student, teacher, labels, **options)
    parts = [
        value_and_gradient(z, v, y, **options)
        for z, v, y in zip(student.split(cuts), teacher.split(cuts), labels.split(cuts))
    ]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), gradient)


@pytest.mark.parametrize("kind", HARD_KINDS)
def test_a_normalizer_makes_the_parts_of_a_window_add_up_to_its_mean(kind):
    student, teacher, labels = random(6, 4), random(6, 4, seed=1), torch.arange(6) % 4
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 3.0])
    options = {"kind": kind, "alpha": 0.3}
    whole, _ = value_and_gradient(student, teacher, labels, weight=weight, **options)
    total = 0
    for part in (slice(0, 2), slice(2, 6)):
        total += value_and_gradient(
            student[part], teacher[part], labels[part], weight=weight[part], normalizer=weight.sum(), **options
        )[0]
    torch.testing.assert_close(total, whole)


@few
@given(st.sampled_from(HARD_KINDS), st.permutations(range(5)), st.permutations(range(4)), st.integers(0, 10**6))
def test_permuting_rows_or_classes_permutes_the_gradient(kind, rows, classes, seed):
    student, teacher, labels = random(5, 4, seed=seed), random(5, 4, seed=seed + 1), torch.arange(5) % 4
    options = {"kind": kind, "alpha": 0.3, "temperature": 1.5}
    loss, gradient = value_and_gradient(student, teacher, labels, **options)
    moved, moved_gradient = value_and_gradient(student[rows], teacher[rows], labels[rows], **options)
    torch.testing.assert_close(moved, loss)
    torch.testing.assert_close(moved_gradient, gradient[rows])
    new_labels = torch.tensor([classes.index(int(label)) for label in labels])
    moved, moved_gradient = value_and_gradient(student[:, classes], teacher[:, classes], new_labels, **options)
    torch.testing.assert_close(moved, loss)
    torch.testing.assert_close(moved_gradient, gradient[:, classes])


@few
@given(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=7), st.integers(0, 10**6))
def test_rows_with_kinds_and_columns_of_their_own_equal_a_loop_of_calls(kinds, seed):
    draw = torch.Generator().manual_seed(seed)
    rows, classes = len(kinds), 9
    count = torch.randint(1, 5, (rows,), generator=draw)
    start = torch.randint(0, 5, (rows,), generator=draw)
    student, teacher = random(rows, classes, seed=seed), random(2, rows, 6, seed=seed + 1)
    temperature, alpha = 0.5 + 3 * torch.rand(rows, generator=draw), torch.rand(rows, generator=draw)
    beta, weight = 0.1 + 0.8 * torch.rand(rows, generator=draw), torch.rand(rows, generator=draw)
    labels = (torch.rand(rows, generator=draw) * count).long()
    alpha = alpha.masked_fill(torch.tensor([kind == "bce" for kind in kinds]), 0.0)
    leaf = student.clone().requires_grad_()
    together = soft_cross_entropy(
        leaf, teacher, labels, kind=torch.tensor([KINDS[kind] for kind in kinds]), temperature=temperature,
        alpha=alpha, beta=beta, weight=weight, columns=(start, count), reduction="none", teacher_weights=[1.0, 3.0],
    )  # fmt: skip
    apart = torch.stack(
        [
            soft_cross_entropy(
                leaf[r, start[r] : start[r] + count[r]], teacher[:, r, : count[r]], labels[r], kind=kinds[r],
                temperature=float(temperature[r]), alpha=float(alpha[r]), beta=float(beta[r]),
                weight=float(weight[r]), reduction="none", teacher_weights=[1.0, 3.0],
            )
            for r in range(rows)
        ]
    )  # fmt: skip
    torch.testing.assert_close(together, apart)
    one, other = (torch.autograd.grad(x.sum(), leaf)[0] for x in (together, apart))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_other_tasks_are_neither_read_nor_given_a_gradient(kind):
    student, teacher = random(3, 7), random(3, 4, seed=1)
    start, count = torch.tensor([0, 2, 4]), torch.tensor([2, 4, 3])
    own = (torch.arange(7) >= start[:, None]) & (torch.arange(7) < (start + count)[:, None])
    options = {"kind": kind, "columns": (start, count), "temperature": 2.0}
    loss, gradient = value_and_gradient(student, teacher, **options)
    for spoil in (math.nan, math.inf, -math.inf, 1e30):
        beyond = torch.arange(4) >= count[:, None]
        spoiled = value_and_gradient(student.where(own, spoil), teacher.masked_fill(beyond, spoil), **options)
        torch.testing.assert_close(spoiled[0], loss)
        torch.testing.assert_close(spoiled[1], gradient)
    assert (gradient[~own] == 0).all()


@pytest.mark.parametrize("tail", ["bucket", "uniform", "renorm", "none"])
def test_a_sparse_teacher_counts_classes_from_the_rows_first_column(tail):
    student, p = random(2, 8), random(2, 3, seed=1).softmax(-1)
    values, indices = p.topk(2)
    start, count = torch.tensor([1, 5]), torch.tensor([3, 3])
    teacher = SparseTeacher(indices, probs=values, tail=tail)
    together = soft_cross_entropy(student, teacher, columns=(start, count), reduction="none")
    for r in range(2):
        own = student[r : r + 1, start[r] : start[r] + 3]
        apart = soft_cross_entropy(own, SparseTeacher(indices[r : r + 1], probs=values[r : r + 1], tail=tail))
        torch.testing.assert_close(together[r], apart)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spoil", [math.nan, math.inf, -math.inf])
def test_rows_that_do_not_count_leak_nothing(kind, spoil):
    student, teacher = random(4, 5), random(4, 5, seed=1)
    loss, gradient = value_and_gradient(student[:2], teacher[:2], kind=kind)
    student[2:], teacher[2:] = spoil, spoil
    for weight in (torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([True, True, False, False])):
        spoiled = value_and_gradient(student, teacher, kind=kind, weight=weight)
        torch.testing.assert_close(spoiled[0], loss)
        torch.testing.assert_close(spoiled[1], torch.cat([gradient, torch.zeros(2, 5, dtype=torch.float64)]))
    if kind != "bce":
        labels = torch.tensor([0, 1, -100, -100])
        expected = value_and_gradient(student[:2], teacher[:2], labels[:2], kind=kind, alpha=0.5)
        spoiled = value_and_gradient(student, teacher, labels, kind=kind, alpha=0.5)
        torch.testing.assert_close(spoiled[0], expected[0])
        torch.testing.assert_close(spoiled[1][:2], expected[1])
        assert (spoiled[1][2:] == 0).all()


@pytest.mark.parametrize("kind", HARD_KINDS)
def test_at_alpha_one_the_teacher_is_not_read_and_at_zero_the_label_is_not(kind):
    student, teacher, labels = random(4, 5), random(4, 5, seed=1), torch.tensor([0, 4, 2, 1])
    nothing = torch.full_like(teacher, math.nan)
    gold = torch.nn.functional.cross_entropy(student, labels)
    for alpha in (1.0, 1, torch.tensor(1.0), torch.ones(4)):
        loss, gradient = value_and_gradient(student, nothing, labels, kind=kind, alpha=alpha, temperature=3.0)
        torch.testing.assert_close(loss, gold)
        assert gradient.isfinite().all()
    torch.testing.assert_close(soft_cross_entropy(student, None, labels, kind=kind, alpha=1.0), gold)
    wrong = torch.tensor([-100, 77, -5, 10**9])
    soft = soft_cross_entropy(student, teacher, kind=kind)
    for alpha in (0.0, torch.zeros(4)):
        torch.testing.assert_close(soft_cross_entropy(student, teacher, wrong, kind=kind, alpha=alpha), soft)
    # Row by row: gold alone, teacher alone.
    teacher[:2], wrong[:2] = math.nan, labels[:2]
    alpha = torch.tensor([1.0, 1.0, 0.0, 0.0])
    loss, gradient = value_and_gradient(student, teacher, wrong, kind=kind, alpha=alpha, reduction="none")
    torch.testing.assert_close(loss[:2], torch.nn.functional.cross_entropy(student[:2], labels[:2], reduction="none"))
    assert loss.isfinite().all() and gradient.isfinite().all()


def test_an_ignored_label_removes_the_row_or_the_hard_term_alone():
    student, teacher, labels = random(3, 4), random(3, 4, seed=1), torch.tensor([1, -100, 3])
    soft = soft_cross_entropy(student, teacher, reduction="none", temperature=2.0)
    hard = -student.log_softmax(-1)[torch.arange(3), labels.clamp(min=0)]
    mixed = 0.25 * hard + 0.75 * soft
    options = {"alpha": 0.25, "temperature": 2.0}
    loss = soft_cross_entropy(student, teacher, labels, ignore="row", **options)
    torch.testing.assert_close(loss, (mixed[0] + mixed[2]) / 2)
    loss = soft_cross_entropy(student, teacher, labels, ignore="hard", **options)
    torch.testing.assert_close(loss, (mixed[0] + 0.75 * soft[1] + mixed[2]) / 3)


def test_the_parts_are_the_soft_and_the_hard_loss_before_alpha_and_are_detached():
    student, teacher = random(3, 4).requires_grad_(), random(3, 4, seed=1)
    labels, weight = torch.tensor([1, -100, 3]), torch.tensor([2.0, 1.0, 0.5])
    for reduction in ("none", "sum", "mean"):
        loss, soft, hard = soft_cross_entropy(
            student, teacher, labels, alpha=0.25, weight=weight, ignore="hard", reduction=reduction, return_parts=True
        )
        assert loss.requires_grad and not soft.requires_grad and not hard.requires_grad
        torch.testing.assert_close(loss.detach(), 0.25 * hard + 0.75 * soft)
    assert soft_cross_entropy(
        student, teacher, labels, alpha=0.25, ignore="hard", reduction="none", return_parts=True
    )[2][1] == 0.0  # fmt: skip


@pytest.mark.parametrize("kind", HARD_KINDS)
@pytest.mark.parametrize("rows", [0, 3])
def test_without_a_row_that_counts_the_loss_is_zero_and_so_is_the_gradient(kind, rows):
    student = torch.full((rows, 4), math.nan, requires_grad=True)
    labels = torch.full((rows,), -100)
    for reduction in ("mean", "sum", "none"):
        loss = soft_cross_entropy(student, student.detach(), labels, kind=kind, alpha=0.5, reduction=reduction)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert (loss == 0).all() and (gradient == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_classes_masked_on_both_sides_change_nothing_and_get_no_gradient(kind):
    student, teacher = random(3, 4), random(3, 4, seed=1)
    alpha = 0.0 if kind == "bce" else 0.5
    labels = torch.tensor([0, 1, 3])
    options = {"kind": kind, "temperature": 2.0, "alpha": alpha, "reduction": "sum"}
    loss, gradient = value_and_gradient(student, teacher, labels, **options)
    mask = torch.full((3, 2), -math.inf, dtype=torch.float64)
    wide, wide_gradient = value_and_gradient(
        torch.cat([student, mask], 1), torch.cat([teacher, mask], 1), labels, **options
    )
    scale = 6 / 4 if kind == "bce" else 1  # a mean over columns: sigmoid(-inf) against 0 costs 0 and counts
    torch.testing.assert_close(wide * scale, loss)
    torch.testing.assert_close(wide_gradient[:, :4] * scale, gradient)
    assert (wide_gradient[:, 4:] == 0).all()


def test_a_masked_class_that_the_teacher_believes_in_costs_infinity_with_a_finite_gradient():
    student, teacher = torch.tensor([[0.0, 1.0, -math.inf]]), torch.zeros(1, 3)
    for kind in ("ce", "kl"):
        loss, gradient = value_and_gradient(student, teacher, kind=kind, temperature=2.0)
        assert loss == math.inf
        torch.testing.assert_close(gradient, 2 * ((student / 2).softmax(-1) - 1 / 3))
    for kind in ("jsd", "tvd"):
        loss, gradient = value_and_gradient(student, teacher, kind=kind, temperature=2.0)
        assert loss.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["ce", "kl", "rkl", "jsd", "tvd"])
def test_a_row_that_is_no_distribution_is_nan_and_the_others_are_not(kind, value):
    student, teacher = random(3, 4), random(3, 4, seed=1)
    student[0, 1], teacher[1, 2] = value, value
    loss = soft_cross_entropy(student, teacher, kind=kind, reduction="none")
    assert loss.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("kind", ["ce", "kl", "rkl", "jsd", "tvd"])
def test_large_offsets_and_low_temperatures_lose_nothing(kind):
    student, teacher = random(4, 50).float(), random(4, 50, seed=1).float()
    loss, gradient = value_and_gradient(student, teacher, kind=kind, temperature=2.0)
    # 4096 is exact in float32 for these, so the offset alone must not cost precision.
    student, teacher = (student * 64).round() / 64, (teacher * 64).round() / 64
    loss, gradient = value_and_gradient(student, teacher, kind=kind, temperature=2.0)
    shifted = value_and_gradient(student + 4096, teacher - 4096, kind=kind, temperature=2.0)
    torch.testing.assert_close(shifted[0], loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(shifted[1], gradient, atol=1e-6, rtol=1e-6)
    for temperature in (1e-3, 1e-2):
        loss, gradient = value_and_gradient(student, teacher, kind=kind, temperature=temperature)
        assert loss.isfinite() and gradient.isfinite().all()


def test_one_class_costs_nothing_softly():
    for kind in ("ce", "kl", "rkl", "jsd", "tvd"):
        loss, gradient = value_and_gradient(random(3, 1), random(3, 1, seed=1), kind=kind)
        assert loss == 0 and (gradient == 0).all()


def test_a_small_divergence_is_not_negative_in_float32():
    teacher = random(16, 5000).float()
    student = teacher + 1e-4 * random(16, 5000, seed=1).float()
    exact = soft_cross_entropy(student.double(), teacher.double(), kind="kl", reduction="none")
    loss = soft_cross_entropy(student, teacher, kind="kl", reduction="none")
    torch.testing.assert_close(loss.double(), exact, atol=1e-7, rtol=0)


def test_any_strides_and_any_leading_dimensions_will_do():
    student, teacher = random(5, 2, 3, seed=3), random(5, 2, 3, seed=4)
    labels, weight = torch.arange(6).reshape(2, 3) % 5, random(2, 3).abs()
    options = {"alpha": 0.5, "reduction": "none"}
    turned = soft_cross_entropy(student.permute(1, 2, 0), teacher.permute(1, 2, 0), labels, weight=weight, **options)
    assert turned.shape == (2, 3)
    flat = soft_cross_entropy(
        student.permute(1, 2, 0).reshape(6, 5).contiguous(), teacher.permute(1, 2, 0).reshape(6, 5), labels.reshape(6),
        weight=weight.reshape(6), **options,
    )  # fmt: skip
    torch.testing.assert_close(turned.reshape(6), flat)
    one = soft_cross_entropy(student.permute(1, 2, 0)[0, 0], teacher.permute(1, 2, 0)[0, 0], labels[0, 0], alpha=0.5)
    torch.testing.assert_close(one * weight[0, 0], flat[0])


def test_the_loss_is_float32_under_autocast():
    student, teacher = random(4, 5).float().requires_grad_(), random(4, 5, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = soft_cross_entropy(student, teacher, torch.arange(4), alpha=0.5, kind="jsd")
    assert loss.dtype == torch.float32
    loss.backward()
    assert student.grad.dtype == torch.float32


def test_what_cannot_be_looked_at_without_a_wait_makes_its_row_nan(monkeypatch):
    """As on a GPU: labels out of range and a gold part of a bce row are seen by the arithmetic alone."""
    monkeypatch.setattr("kdtoolkit.ops.arguments.readable", lambda tensor: False)
    kinds = torch.tensor([KINDS[kind] for kind in ("ce", "ce", "ce", "bce", "bce")])
    labels, alpha = torch.tensor([1, 7, -3, 0, 0]), torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0])
    loss = soft_cross_entropy(random(5, 4), random(5, 4), labels, kind=kinds, alpha=alpha, reduction="none")
    assert loss.isnan().tolist() == [False, True, True, True, False]
