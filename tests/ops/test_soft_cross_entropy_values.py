"""The op against closed forms and against independent, naive float64 formulas, in value and gradient."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.ops import KINDS, SparseTeacher, soft_cross_entropy, soft_cross_entropy_reference

DISTRIBUTIONS = ["ce", "kl", "rkl", "jsd", "tvd"]
few = settings(max_examples=40, deadline=None, derandomize=True)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0, scale=2.0, dtype=torch.float64):
    return (torch.randn(*shape, generator=generator(seed), dtype=torch.float64) * scale).to(dtype)


def naive_soft(kind, z, v, temperature=1.0, beta=0.5):
    """One row, plain Python numbers, straight from the definitions."""
    if kind.startswith("mse"):
        centre = kind == "mse_centered"
        z = z - z.mean() if centre else z
        v = v - v.mean() if centre else v
        return sum((a - b) ** 2 for a, b in zip(z, v)) / len(z)
    if kind == "bce":
        total = 0.0
        for a, b in zip(z / temperature, v / temperature):
            q, p = 1 / (1 + torch.exp(-a)), 1 / (1 + torch.exp(-b))
            total = total - p * torch.log(q) - (1 - p) * torch.log(1 - q)
        return total / len(z) * temperature**2
    q = torch.exp(z / temperature) / torch.exp(z / temperature).sum()
    p = torch.exp(v / temperature) / torch.exp(v / temperature).sum()
    m = beta * p + (1 - beta) * q
    total = {
        "ce": lambda: -(p * q.log()).sum(),
        "kl": lambda: (p * (p / q).log()).sum(),
        "rkl": lambda: (q * (q / p).log()).sum(),
        "jsd": lambda: beta * (p * (p / m).log()).sum() + (1 - beta) * (q * (q / m).log()).sum(),
        "tvd": lambda: (p - q).abs().sum() / 2,
    }[kind]()
    return total * temperature**2


def test_a_student_that_knows_nothing_pays_log_classes():
    loss = soft_cross_entropy(torch.zeros(7, 3), random(7, 3), temperature=2.0, reduction="sum")
    torch.testing.assert_close(loss, torch.tensor(7 * 4 * math.log(3)))


def test_a_student_equal_to_its_teacher_pays_the_entropy_and_no_divergence():
    logits = random(5, 4)
    p = logits.softmax(-1)
    torch.testing.assert_close(soft_cross_entropy(logits, logits), -(p * p.log()).sum(-1).mean())
    for kind in ("kl", "rkl", "jsd", "tvd", "mse", "mse_centered"):
        loss = soft_cross_entropy(logits, logits, kind=kind, temperature=3.0)
        torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-15, rtol=0)


def test_two_opposite_certain_distributions_are_as_far_apart_as_they_can_be():
    student, teacher = torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]])
    assert soft_cross_entropy(student, teacher, kind="jsd").item() == pytest.approx(math.log(2), rel=1e-6)
    assert soft_cross_entropy(student, teacher, kind="tvd").item() == 1.0
    assert soft_cross_entropy(student, teacher, kind="kl").item() == math.inf


def test_cross_entropy_and_kl_have_the_gradient_T_times_q_minus_p():
    teacher, temperature = random(6, 9, seed=1), 3.0
    gradients = []
    for kind in ("ce", "kl"):
        student = random(6, 9).requires_grad_()
        soft_cross_entropy(student, teacher, kind=kind, temperature=temperature, reduction="sum").backward()
        gradients.append(student.grad)
    q, p = (random(6, 9) / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    for gradient in gradients:
        torch.testing.assert_close(gradient, temperature * (q - p), atol=1e-14, rtol=1e-12)


def closed_form_gradient(kind, z, v, temperature, beta):
    """dL/dz of a row summed over rows, as notes on the op state it (Kullback-Leibler family and distances)."""
    q, p = (z / temperature).softmax(-1), (v / temperature).softmax(-1)
    if kind == "rkl":
        d = q.log() - p.log()
        return temperature * q * (d - (q * d).sum(-1, keepdim=True))
    if kind == "jsd":
        d = q.log() - (beta * p + (1 - beta) * q).log()
        return temperature * (1 - beta) * q * (d - (q * d).sum(-1, keepdim=True))
    if kind == "tvd":
        s = (q - p).sign()
        return temperature * q * (s - (q * s).sum(-1, keepdim=True)) / 2
    if kind == "bce":
        return temperature * ((z / temperature).sigmoid() - (v / temperature).sigmoid()) / z.shape[-1]
    if kind == "mse_centered":
        z, v = z - z.mean(-1, keepdim=True), v - v.mean(-1, keepdim=True)
    return 2 * (z - v) / z.shape[-1]


@pytest.mark.parametrize("kind", ["rkl", "jsd", "tvd", "bce", "mse", "mse_centered"])
def test_the_gradient_of_each_kind_is_its_closed_form(kind):
    student, teacher = random(6, 5).requires_grad_(), random(6, 5, seed=1)
    soft_cross_entropy(student, teacher, kind=kind, temperature=2.5, beta=0.3, reduction="sum").backward()
    expected = closed_form_gradient(kind, student.detach(), teacher, 2.5, 0.3)
    torch.testing.assert_close(student.grad, expected, atol=1e-14, rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_every_kind_pass_gradcheck_and_those_of_the_reference_twice(kind):
    student, teacher = random(3, 4).requires_grad_(), random(3, 4, seed=1)
    labels, alpha = torch.tensor([1, 3, -100]), 0.0 if kind == "bce" else 0.3

    def loss(logits, op=soft_cross_entropy):
        return op(logits, teacher, labels, kind=kind, temperature=2.0, alpha=alpha, ignore="hard")

    assert torch.autograd.gradcheck(loss, (student,))
    assert torch.autograd.gradgradcheck(partial(loss, op=soft_cross_entropy_reference), (student,))


@few
@given(
    st.sampled_from(list(KINDS)),
    st.integers(1, 5),
    st.integers(1, 6),
    st.floats(0.3, 8.0),
    st.floats(0.0, 1.0),
    st.floats(0.05, 0.95),
    st.sampled_from(["mean", "sum", "none"]),
    st.booleans(),
    st.sampled_from(["row", "hard"]),
    st.integers(0, 10**6),
)
def test_every_combination_of_options_equals_the_naive_formula(
    kind, rows, classes, temperature, alpha, beta, reduction, weighted, ignore, seed
):
    alpha = 0.0 if kind == "bce" else alpha
    z, v = random(rows, classes, seed=seed).requires_grad_(), random(rows, classes, seed=seed + 1)
    labels = torch.randint(-1, classes, (rows,), generator=generator(seed))
    weight = torch.randint(0, 4, (rows,), generator=generator(seed)).double() / 2 if weighted else None
    terms, total = [], 0.0
    for r in range(rows):
        w = 1.0 if weight is None else float(weight[r])
        counted = not (ignore == "row" and alpha > 0 and labels[r] < 0)
        hard = -z[r].log_softmax(-1)[labels[r]] if labels[r] >= 0 else 0.0
        soft = naive_soft(kind, z[r], v[r], temperature, beta)
        terms.append(w * counted * (alpha * hard + (1 - alpha) * soft))
        total += w * counted
    expected = torch.stack(terms)
    if reduction != "none":
        expected = expected.sum() / ((total or 1.0) if reduction == "mean" else 1.0)
    (wanted,) = torch.autograd.grad(expected.sum(), z)
    loss = soft_cross_entropy(
        z, v, labels, kind=kind, temperature=temperature, alpha=alpha, beta=beta, weight=weight, ignore_index=-1,
        ignore=ignore, reduction=reduction,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    torch.testing.assert_close(loss, expected.detach(), atol=1e-11, rtol=1e-9)
    torch.testing.assert_close(gradient, wanted, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_an_ensemble_is_its_members_mean_distribution(kind):
    student, members = random(4, 5), random(3, 4, 5, seed=1)
    weights = [0.5, 1.0, 2.5]
    mean = sum(w / 4 * (m / 2.0).softmax(-1) for w, m in zip(weights, members))
    expected = soft_cross_entropy(student, 2.0 * mean.log(), kind=kind, temperature=2.0)
    for teacher in (members, list(members)):
        loss = soft_cross_entropy(student, teacher, kind=kind, temperature=2.0, teacher_weights=weights)
        torch.testing.assert_close(loss, expected)
    per_row = torch.tensor(weights).double().unsqueeze(1).expand(3, 4)
    loss = soft_cross_entropy(student, members, kind=kind, temperature=2.0, teacher_weights=per_row)
    torch.testing.assert_close(loss, expected)


def test_an_ensemble_of_sigmoids_is_their_mean_and_one_of_values_their_mean_value():
    student, members = random(4, 5), random(2, 4, 5, seed=1)
    mean = members.sigmoid().mean(0)
    loss = soft_cross_entropy(student, members, kind="bce")
    expected = torch.nn.functional.binary_cross_entropy_with_logits(student, mean)
    torch.testing.assert_close(loss, expected)
    loss = soft_cross_entropy(student, members, kind="mse")
    torch.testing.assert_close(loss, (student - members.mean(0)).square().mean())


def test_a_member_of_weight_zero_is_not_read():
    student, members = random(4, 5).requires_grad_(), random(2, 4, 5, seed=1)
    spoiled = members.clone()
    spoiled[1] = math.nan
    for kind in KINDS:
        loss = soft_cross_entropy(student, spoiled, kind=kind, teacher_weights=[2.0, 0.0])
        torch.testing.assert_close(loss, soft_cross_entropy(student, members[0], kind=kind))
        assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_infinite_teacher_logits_are_exact_targets_of_bce():
    student, gold = random(4, 3).requires_grad_(), torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]]).double()
    loss = soft_cross_entropy(student, torch.where(gold > 0, math.inf, -math.inf), kind="bce")
    expected = torch.nn.functional.binary_cross_entropy_with_logits(student, gold)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, (student.detach().sigmoid() - gold) / 12)


def test_T_squared_kl_at_a_high_temperature_is_half_the_centred_squared_error():
    student, teacher = random(4, 6), random(4, 6, seed=1)
    kl = soft_cross_entropy(student, teacher, kind="kl", temperature=1e4)
    torch.testing.assert_close(2 * kl, soft_cross_entropy(student, teacher, kind="mse_centered"), rtol=1e-3, atol=0)


def test_T_squared_scales_the_soft_part_alone_and_can_be_switched_off():
    student, teacher, labels = random(4, 6), random(4, 6, seed=1), torch.tensor([0, 1, 2, 3])
    for kind in DISTRIBUTIONS:
        _, soft, hard = soft_cross_entropy(
            student, teacher, labels, kind=kind, temperature=3.0, alpha=0.5, return_parts=True
        )
        _, plain, hard_too = soft_cross_entropy(
            student, teacher, labels, kind=kind, temperature=3.0, alpha=0.5, return_parts=True, scale_T2=False
        )
        torch.testing.assert_close(soft, 9 * plain)
        torch.testing.assert_close(hard, hard_too)
        torch.testing.assert_close(hard, torch.nn.functional.cross_entropy(student, labels))


@pytest.mark.parametrize("kind", ["ce", "kl", "rkl", "jsd", "tvd"])
def test_a_sparse_teacher_with_a_bucket_is_a_dense_teacher_on_merged_classes(kind):
    student, p = random(3, 6).requires_grad_(), random(3, 6, seed=1).softmax(-1)
    values, indices = p.topk(2)
    loss = soft_cross_entropy(student, SparseTeacher(indices, probs=values), kind=kind)
    q = student.softmax(-1)
    listed = q.gather(1, indices)
    merged = torch.cat([listed, 1 - listed.sum(1, keepdim=True)], 1)
    teacher = torch.cat([values, 1 - values.sum(1, keepdim=True)], 1)
    expected = soft_cross_entropy(merged.log(), teacher.log(), kind=kind)
    torch.testing.assert_close(loss, expected)
    wanted, gradient = (torch.autograd.grad(x, student, retain_graph=True)[0] for x in (expected, loss))
    torch.testing.assert_close(gradient, wanted)
    by_logarithms = soft_cross_entropy(student, SparseTeacher(indices.int(), logprobs=values.log()), kind=kind)
    torch.testing.assert_close(by_logarithms, loss)


def test_the_bucket_of_a_sparse_teacher_pulls_on_unlisted_classes_by_the_ratio_of_the_tails():
    student, p = random(2, 6).requires_grad_(), random(2, 6, seed=1).softmax(-1)
    values, indices = p.topk(3)
    soft_cross_entropy(student, SparseTeacher(indices, probs=values), kind="kl", reduction="sum").backward()
    q = student.detach().softmax(-1)
    ratio = (1 - values.sum(1, keepdim=True)) / (1 - q.gather(1, indices).sum(1, keepdim=True))
    expected = (q * (1 - ratio)).scatter(1, indices, q.gather(1, indices) - values)
    torch.testing.assert_close(student.grad, expected)


def test_the_uniform_tail_spreads_the_missing_mass_and_none_leaves_it_out():
    student, p = random(3, 6).requires_grad_(), random(3, 6, seed=1).softmax(-1)
    values, indices = p.topk(2)
    tail = 1 - values.sum(1, keepdim=True)
    spread = (tail / 4).expand(3, 6).scatter(1, indices, values)
    loss = soft_cross_entropy(student, SparseTeacher(indices, probs=values, tail="uniform"), kind="kl")
    torch.testing.assert_close(loss, soft_cross_entropy(student, spread.log(), kind="kl"))
    log_q = student.log_softmax(-1).gather(1, indices)
    truncated = SparseTeacher(indices, probs=values, tail="none")
    torch.testing.assert_close(soft_cross_entropy(student, truncated), -(values * log_q).sum(1).mean())
    loss = soft_cross_entropy(student, truncated, kind="kl")
    torch.testing.assert_close(loss, (values * (values.log() - log_q)).sum(1).mean())


def test_renormalising_keeps_the_listed_classes_alone():
    student, p = random(3, 6).requires_grad_(), random(3, 6, seed=1).softmax(-1)
    values, indices = p.topk(2)
    loss = soft_cross_entropy(student, SparseTeacher(indices, probs=values, tail="renorm"), kind="jsd")
    expected = soft_cross_entropy(student.gather(1, indices), values.log(), kind="jsd")
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, student)
    assert (gradient.scatter(1, indices, 0.0) == 0).all()


@pytest.mark.parametrize("tail", ["bucket", "uniform", "renorm", "none"])
def test_a_sparse_teacher_that_lists_everything_is_the_dense_teacher(tail):
    student, teacher = random(3, 5).requires_grad_(), random(3, 5, seed=1)
    values, indices = (teacher / 2).softmax(-1).topk(5)
    loss = soft_cross_entropy(student, SparseTeacher(indices, values, tail=tail, temperature=2.0), temperature=2.0)
    expected = soft_cross_entropy(student, teacher, temperature=2.0)
    torch.testing.assert_close(loss, expected)
    wanted, gradient = (torch.autograd.grad(x, student)[0] for x in (expected, loss))
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    student, teacher = random(8, 50, dtype=dtype).requires_grad_(), random(8, 50, seed=1, dtype=dtype)
    loss = soft_cross_entropy(student, teacher, kind="kl", temperature=2.0)
    exact = soft_cross_entropy(student.detach().double(), teacher.double(), kind="kl", temperature=2.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, atol=1e-6, rtol=1e-6)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.dtype == dtype


def test_the_reference_takes_the_same_arguments():
    student, teacher, labels = random(4, 5), random(4, 5, seed=1), torch.tensor([0, 1, -100, 4])
    options = {"kind": "jsd", "temperature": 2.0, "alpha": 0.25, "return_parts": True}
    for one, other in zip(
        soft_cross_entropy(student, teacher, labels, **options),
        soft_cross_entropy_reference(student, teacher, labels, **options),
    ):
        torch.testing.assert_close(one, other)
