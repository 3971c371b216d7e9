"""What the compiled CPU op may not depend on: cuts and orders of rows, threads, other tasks, the class order."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_backends import use
from op_cases import cases
from op_instructions import available, using

from kdtoolkit.ops import KINDS, SparseTeacher, soft_cross_entropy

INSTRUCTIONS = available()
SHORT_AND_LONG = [3, 32, 33, 600]


@pytest.fixture(autouse=True, scope="module")
def compiled():
    with pytest.MonkeyPatch.context() as monkeypatch:
        use("cpu", monkeypatch)
        yield


def random(*shape, seed=0, dtype=torch.float32):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


def of_rows(case, rows):
    """The case with these rows alone, of a case whose rows have one dimension. rows: anything that indexes."""
    size = case.student.shape[:-1]

    def taken(value):
        if isinstance(value, SparseTeacher):
            values = {
                name: getattr(value, name)[rows] for name in ("probs", "logprobs") if getattr(value, name) is not None
            }
            return SparseTeacher(value.indices[rows], tail=value.tail, temperature=value.temperature, **values)
        if isinstance(value, tuple):
            return tuple(map(taken, value))
        return value[rows] if isinstance(value, torch.Tensor) and value.shape == size else value

    options = {name: taken(value) for name, value in case.options.items()}
    shares = case.options.get("teacher_weights")
    if shares is not None:
        options["teacher_weights"] = shares[:, rows] if shares.dim() > 1 else shares
    teacher = taken(case.teacher)
    if isinstance(teacher, torch.Tensor):
        teacher = teacher[:, rows] if teacher.dim() > case.student.dim() else teacher[rows]
    return replace(
        case, student=case.student[rows], teacher=teacher, labels=taken(case.labels), incoming=case.incoming[rows],
        options=options,
    )  # fmt: skip


def each_row(case):
    """The case with a loss per row, rows of one dimension."""
    size = case.student.shape
    rows = size[:-1].numel()

    def flat(value):
        if isinstance(value, SparseTeacher):
            values = {
                name: flat(getattr(value, name)) for name in ("probs", "logprobs") if getattr(value, name) is not None
            }
            return SparseTeacher(flat(value.indices), tail=value.tail, temperature=value.temperature, **values)
        if isinstance(value, tuple):
            return tuple(map(flat, value))
        if isinstance(value, torch.Tensor) and value.shape[: len(size) - 1] == size[:-1]:
            return value.reshape(rows, *value.shape[len(size) - 1 :])
        return value

    options = {name: flat(value) for name, value in case.options.items() if name != "normalizer"}
    shares, teacher = case.options.get("teacher_weights"), case.teacher
    if shares is not None:
        options["teacher_weights"] = shares.reshape(len(shares), rows) if shares.dim() > 1 else shares
    options["reduction"] = "none"
    if isinstance(teacher, torch.Tensor) and teacher.dim() > len(size):
        teacher = teacher.reshape(len(teacher), rows, teacher.shape[-1])
    else:
        teacher = flat(teacher)
    incoming = 0.5 + torch.rand(rows, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    return replace(
        case, student=case.student.reshape(rows, size[-1]), teacher=teacher, labels=flat(case.labels),
        incoming=incoming, options=options,
    )  # fmt: skip


def same_bits(one, other):
    for value, wanted in zip(one, other):
        torch.testing.assert_close(value, wanted, atol=0, rtol=0, equal_nan=True)


@settings(max_examples=250)
@given(cases(), st.data())
def test_rows_give_the_same_bits_however_they_are_cut(case, data):
    """Also rows that share a vector, a row to each lane, whatever their kinds, columns, temperatures and labels."""
    case = each_row(case)
    rows = len(case.student)
    places = sorted({0, rows, *data.draw(st.lists(st.integers(0, rows), max_size=4))})
    for name in INSTRUCTIONS:
        with using(name):
            whole = case.results(soft_cross_entropy)
            parts = [
                of_rows(case, slice(first, last)).results(soft_cross_entropy)
                for first, last in itertools.pairwise(places)
            ]
        if parts:
            same_bits([torch.cat(values) for values in zip(*parts)], whole)


@settings(max_examples=150)
@given(cases(), st.randoms(use_true_random=False))
def test_rows_give_the_same_bits_in_any_order(case, shuffler):
    case = each_row(case)
    order = list(range(len(case.student)))
    shuffler.shuffle(order)
    moved = of_rows(case, torch.tensor(order, dtype=torch.long))
    for name in INSTRUCTIONS:
        with using(name):
            results = case.results(soft_cross_entropy)
            same_bits(moved.results(soft_cross_entropy), [value[order] for value in results])


@pytest.mark.parametrize("classes", SHORT_AND_LONG)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuts_of_a_mixed_batch_of_gold_and_taught_rows_give_the_same_bits(classes, dtype):
    """Rows of alpha 0, 1 and between, kinds of their own: what a row's neighbours need must not reach its last bits."""
    rows = 37
    student, teacher = random(rows, classes, dtype=dtype), random(rows, classes, seed=1, dtype=dtype)
    labels = torch.arange(rows) % classes
    alpha = torch.tensor([1.0, 0.0, 0.3, 1.0, 1.0])[torch.arange(rows) % 5]
    options = {"kind": torch.arange(rows) * 3 % 7, "alpha": alpha, "temperature": 0.5 + torch.rand(rows)}

    def results(rows):
        leaf = student[rows].clone().requires_grad_()
        own = {name: value[rows] for name, value in options.items()}
        parts = soft_cross_entropy(leaf, teacher[rows], labels[rows], reduction="none", return_parts=True, **own)
        return *(part.detach() for part in parts), torch.autograd.grad(parts[0].sum(), leaf)[0]

    for name in INSTRUCTIONS:
        with using(name):
            whole = results(slice(None))
            for cut in (1, 3, 8, 16, 36):
                parts = zip(results(slice(0, cut)), results(slice(cut, None)))
                same_bits([torch.cat(pair) for pair in parts], whole)
            singles = zip(*[results(slice(row, row + 1)) for row in range(rows)])
            same_bits([torch.cat(values) for values in singles], whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", SHORT_AND_LONG)
def test_the_order_of_classes_changes_roundings_only(kind, classes):
    student, teacher, labels = random(9, classes), random(9, classes, seed=1), torch.arange(9) % classes
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(2))
    alpha = 0.0 if kind == "bce" else 0.3
    for name in INSTRUCTIONS:
        with using(name):
            results = []
            for columns, gold in ((torch.arange(classes), labels), (order, order.argsort()[labels])):
                leaf = student[:, columns].requires_grad_()
                loss = soft_cross_entropy(leaf, teacher[:, columns], gold, kind=kind, alpha=alpha, temperature=1.5)
                results.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
            (loss, gradient), (moved_loss, moved) = results
            torch.testing.assert_close(moved_loss, loss, atol=1e-6, rtol=2e-6)
            torch.testing.assert_close(moved, gradient[:, order], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(200_003, 3), (20_011, 40), (411, 1500), (5, 120_000)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_number_of_threads_does_not_change_a_bit(shape, reduction):
    student, teacher = random(*shape).requires_grad_(), random(*shape, seed=1)
    labels, weight = torch.arange(shape[0]) % shape[1], torch.rand(shape[0], generator=torch.Generator().manual_seed(2))
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            loss = soft_cross_entropy(student, teacher, labels, alpha=0.3, weight=weight, reduction=reduction)
            results.append((loss.detach(), torch.autograd.grad(loss.sum(), student)[0]))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        same_bits(other, results[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_nine_tasks_is_nine_calls(dtype):
    """Heads side by side in one matrix, each row with columns, kind, temperature and weights of its own."""
    heads = [2, 3, 1, 2, 7, 2, 33, 2, 3]
    kinds = ["ce", "kl", "mse", "rkl", "jsd", "tvd", "ce", "kl", "bce"]
    rows, edges = 46, torch.tensor([0, *heads]).cumsum(0)
    task = torch.arange(rows) * 5 % 9
    count, start = torch.tensor(heads)[task], edges[task]
    student, teacher = random(rows, int(edges[-1]), dtype=dtype), random(rows, max(heads), seed=1, dtype=dtype)
    labels = torch.arange(rows) % count
    temperature = torch.linspace(1, 4, 9)[task]
    alpha = torch.tensor([0.0, 0.5, 0.0, 1.0, 0.3, 0.2, 0.5, 0.5, 0.0])[task]
    codes = torch.tensor([KINDS[kind] for kind in kinds])[task]
    for name in INSTRUCTIONS:
        with using(name):
            leaf = student.clone().requires_grad_()
            loss = soft_cross_entropy(
                leaf, teacher, labels, kind=codes, temperature=temperature, alpha=alpha, columns=(start, count),
                reduction="sum",
            )  # fmt: skip
            (gradient,) = torch.autograd.grad(loss, leaf)
            total, apart = 0.0, torch.zeros_like(gradient)
            for number, (head, kind) in enumerate(zip(heads, kinds)):
                own = (task == number).nonzero().squeeze(1)
                first = int(edges[number])
                part = student[own, first : first + head].requires_grad_()
                value = soft_cross_entropy(
                    part, teacher[own, :head], labels[own], kind=kind, temperature=float(temperature[own[0]]),
                    alpha=float(alpha[own[0]]), reduction="sum",
                )  # fmt: skip
                total += value.detach().double()
                apart[own, first : first + head] = torch.autograd.grad(value, part)[0]
        torch.testing.assert_close(loss.detach().double(), total, atol=0, rtol=2e-6)
        precision = 1e-6 if dtype == torch.float32 else 2**-7
        torch.testing.assert_close(gradient, apart, atol=precision, rtol=precision)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [1, 5, 30])
def test_a_matrix_may_be_padded_with_columns_of_other_tasks(kind, before):
    for classes in (3, 31, 40, 515):
        student, teacher = random(18, classes), random(18, classes, seed=1)
        wide = torch.cat([torch.full((18, before), float("nan")), student, torch.full((18, 2), float("inf"))], 1)
        columns = torch.full((18,), before), torch.full((18,), classes)
        for name in INSTRUCTIONS:
            with using(name):
                leaf, padded = student.clone().requires_grad_(), wide.clone().requires_grad_()
                loss = soft_cross_entropy(leaf, teacher, kind=kind, temperature=2.0)
                other = soft_cross_entropy(padded, teacher, kind=kind, temperature=2.0, columns=columns)
                (gradient,), (wider,) = torch.autograd.grad(loss, leaf), torch.autograd.grad(other, padded)
            same_bits((other.detach(), wider[:, before:-2]), (loss.detach(), gradient))
            assert (wider[:, :before] == 0).all() and (wider[:, -2:] == 0).all()


@pytest.mark.parametrize("classes", SHORT_AND_LONG)
def test_at_a_high_temperature_kl_times_T_squared_is_half_the_centred_squared_error(classes):
    student, teacher = (random(6, classes, seed=seed, dtype=torch.float64) for seed in (0, 1))
    results = []
    for options in ({"kind": "kl", "temperature": 1e4}, {"kind": "mse_centered"}):
        leaf = student.clone().requires_grad_()
        loss = soft_cross_entropy(leaf, teacher, **options)
        results.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
    for value, half in zip(*results):
        torch.testing.assert_close(value, half / 2, atol=1e-3 * float(half.abs().max()), rtol=1e-2)
    # float32 loses T / 2^24 of it: T times a difference of probabilities that are nearly the same.
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = student.to(dtype).requires_grad_()
        loss = soft_cross_entropy(leaf, teacher.float(), kind="kl", temperature=100.0, reduction="sum")
        gradients.append(torch.autograd.grad(loss, leaf)[0].double())
    torch.testing.assert_close(*gradients, atol=4 * 100 / 2**24, rtol=0)
