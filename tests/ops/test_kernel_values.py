"""The compiled CPU op, for every instruction set of this processor, against the reference in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from op_backends import need_compiled, use
from op_cases import LAYOUTS, TAILS, Case, cases, shortfall
from op_instructions import available, using

from kdtoolkit.ops import KINDS, SparseTeacher, soft_cross_entropy, soft_cross_entropy_reference
from kdtoolkit.ops.kinds import DIVERGENCES

INSTRUCTIONS = available()


@pytest.fixture(autouse=True, scope="module")
def compiled():
    with pytest.MonkeyPatch.context() as monkeypatch:
        use("cpu", monkeypatch)
        yield


def agrees(case):
    exact = case.exact()
    for name in INSTRUCTIONS:
        with using(name):
            short, what = shortfall(case, case.results(soft_cross_entropy), exact)
        # Without vectors the terms of a block are added one after the other.
        short = short / 4 if name == "portable" else short
        assert short <= 1, f"{name}: {what} is {short:.3g} times as far from exact as it may be"


@settings(max_examples=500)
@given(cases())
def test_value_parts_and_gradient_of_any_call_are_the_exact_ones(case):
    """float32: 2e-6 of the row's largest gradient and of what its loss is multiplied by; float64: 1e-12."""
    agrees(case)


@pytest.mark.slow
@settings(max_examples=15000)
@given(cases())
def test_value_parts_and_gradient_of_very_many_calls_are_the_exact_ones(case):
    agrees(case)


def test_random_calls_are_of_every_kind():
    """What the search is made of: a search that never tries an option shows nothing about it."""
    need_compiled()
    seen = set()

    @settings(max_examples=400, derandomize=True, database=None)
    @given(cases())
    def look(case):
        seen.update({("dtype", case.student.dtype), ("kind", str(case.options["kind"])[:12])})
        teacher, options = case.teacher, case.options
        seen.update((name, type(value)) for name, value in options.items())
        seen.update((name, options[name]) for name in ("reduction", "ignore", "scale_T2"))
        seen.add(("teacher", teacher.tail if isinstance(teacher, SparseTeacher) else type(teacher)))
        seen.add(("contiguous", case.student.is_contiguous()))
        seen.add(("rows", math.prod(case.student.shape[:-1]) > 0))
        if isinstance(teacher, SparseTeacher):
            seen.add(("listed", teacher.probs is None))
        elif teacher is not None:
            seen.add(("members", teacher.shape[0] if teacher.dim() > case.student.dim() else 0))
            seen.add(("mixed", teacher.dtype != case.student.dtype))
            seen.add(("width", teacher.shape[-1] < case.student.shape[-1]))

    look()
    expected = {("kind", kind) for kind in KINDS} | {("teacher", tail) for tail in TAILS}
    expected |= {(name, flag) for name in ("contiguous", "rows", "listed", "mixed", "width") for flag in (True, False)}
    expected |= {("members", number) for number in (0, 1, 2, 3)} | {("teacher", type(None))}
    for name in ("temperature", "alpha", "beta", "weight"):
        expected |= {(name, float), (name, torch.Tensor)}
    expected |= {("columns", tuple), ("kind", torch.Tensor), ("normalizer", float), ("normalizer", torch.Tensor)}
    expected |= {("reduction", name) for name in ("mean", "sum", "none")} | {("ignore", "row"), ("ignore", "hard")}
    expected |= {("dtype", dtype) for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}
    assert expected <= seen, expected - seen


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("kind", ["ce", "kl"])
@pytest.mark.parametrize("total", [0.9, 1.005])
def test_lists_that_add_up_to_something_else_than_one_have_the_gradient_of_their_loss(kind, tail, total):
    """Lists of all classes whose probabilities were rounded, or were cut off before they came here."""
    draw = torch.Generator().manual_seed(0)
    probs = torch.randn(4, 5, generator=draw, dtype=torch.float64).softmax(-1) * total
    teacher = SparseTeacher(torch.arange(5).expand(4, 5), probs=probs, tail=tail)
    student = torch.randn(4, 5, generator=draw, dtype=torch.float64)
    options = {"kind": kind, "temperature": 1.0, "scale_T2": True, "reduction": "sum"}
    agrees(Case(student, teacher, None, torch.tensor(1.0).double(), options))


@pytest.mark.parametrize("kind", ["mse", "mse_centered"])
@pytest.mark.parametrize("classes", [4, 40])
def test_a_masked_class_does_no_harm_to_a_row_that_reads_its_label_alone(kind, classes):
    """Beside a row that reads its teacher too: what is computed for both must not reach this one."""
    student = torch.linspace(-1, 1, 2 * classes).reshape(2, classes)
    student[0, 1] = -math.inf
    alpha, labels = torch.tensor([1.0, 0.5]), torch.tensor([0, 2])
    for name in INSTRUCTIONS:
        with using(name):
            leaf = student.clone().requires_grad_()
            loss = soft_cross_entropy(leaf, student.flip(1).nan_to_num(neginf=0.0), labels, kind=kind, alpha=alpha)
            (gradient,) = torch.autograd.grad(loss, leaf)
        gold = (student[0].softmax(-1) - torch.nn.functional.one_hot(labels[0], classes)) / 2
        torch.testing.assert_close(gradient[0], gold, atol=1e-6, rtol=0)


GRADCHECKED = {
    "one distribution": {},
    "mixed with gold": {"alpha": 0.3, "temperature": 2.0},
    "an ensemble": {"alpha": 0.3, "temperature": 1.5, "teacher_weights": [1.0, 2.0]},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", GRADCHECKED)
@pytest.mark.parametrize("classes", [5, 40])
def test_float64_gradients_are_those_of_finite_differences(kind, case, classes):
    draw = torch.Generator().manual_seed(3)
    options = dict(GRADCHECKED[case], kind=kind)
    if kind == "bce":
        options["alpha"] = 0.0
    members = (2,) if "teacher_weights" in options else ()
    teacher = torch.randn(*members, 3, classes, generator=draw, dtype=torch.float64)
    student = torch.randn(3, classes, generator=draw, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 2, 4])
    for reduction in ("mean", "none"):
        check = torch.autograd.gradcheck(
            lambda z, reduction=reduction: soft_cross_entropy(z, teacher, labels, reduction=reduction, **options),
            (student,), nondet_tol=0.0,
        )  # fmt: skip
        assert check


SPARSE = [(kind, tail) for tail in TAILS for kind in (sorted(DIVERGENCES) if tail != "none" else ("ce", "kl"))]


@pytest.mark.parametrize(("kind", "tail"), SPARSE)
def test_float64_gradients_of_sparse_teachers_are_those_of_finite_differences(kind, tail):
    draw = torch.Generator().manual_seed(3)
    values, indices = torch.randn(3, 7, generator=draw, dtype=torch.float64).softmax(-1).topk(3)
    teacher = SparseTeacher(indices, probs=values, tail=tail, temperature=1.5)
    student = torch.randn(3, 7, generator=draw, dtype=torch.float64).requires_grad_()
    options = {"kind": kind, "temperature": 1.5, "alpha": 0.3}
    assert torch.autograd.gradcheck(
        lambda z: soft_cross_entropy(z, teacher, torch.tensor([0, 2, 4]), **options), (student,)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("columns", [3, 7, 33, 45])
def test_a_gradient_in_place_is_the_one_elsewhere_and_touches_nothing_between_rows(layout, dtype, columns):
    draw = torch.Generator().manual_seed(4)
    rooms = []

    def room(*shape):
        rooms.append(torch.randn(*shape, generator=draw).to(dtype))
        return rooms[-1]

    student, teacher = LAYOUTS[layout](room, (3, 6), columns), torch.randn(3, 6, columns, generator=draw).to(dtype)
    labels = torch.arange(18).reshape(3, 6) % columns
    count = torch.arange(18).reshape(3, 6) % columns + 1
    start = (columns - count) // 2
    for options in ({}, {"columns": (start, count)}):
        labels = labels % count
        for name in INSTRUCTIONS:
            with using(name):
                results = []
                for permitted in (False, True):
                    leaf = rooms[0].clone().requires_grad_()
                    base = leaf * 1
                    logits = base.as_strided(student.shape, student.stride(), student.storage_offset())
                    loss = soft_cross_entropy(logits, teacher, labels, alpha=0.5, grad_inplace=permitted, **options)
                    results.append((*torch.autograd.grad(loss, leaf), base.detach()))
            (plain, before), (given_place, after) = results
            torch.testing.assert_close(given_place, plain, atol=0, rtol=0)
            torch.testing.assert_close(before, rooms[0], atol=0, rtol=0)
            if student.stride(-1) == 1 or columns == 1:
                own = torch.zeros_like(rooms[0], dtype=torch.bool)
                own.as_strided(student.shape, student.stride(), student.storage_offset())[:] = True
                torch.testing.assert_close(after[~own], before[~own], atol=0, rtol=0)
                torch.testing.assert_close(after[own], plain[own], atol=0, rtol=0)


def test_results_do_not_depend_on_what_uninitialised_memory_held():
    """Every element of a gradient is written: also of rows that do not count, and beyond a row's own columns."""
    draw = torch.Generator().manual_seed(5)
    for classes in (7, 50):
        student, teacher = (torch.randn(20, classes, generator=draw) for _ in range(2))
        weight = (torch.arange(20) % 3 > 0).float()
        count = torch.arange(20) % classes + 1
        options = {"weight": weight, "columns": (classes - count, count), "temperature": 2.0}
        leaf = student.requires_grad_()
        wanted = torch.autograd.grad(soft_cross_entropy_reference(leaf, teacher, **options), leaf)[0]
        for name in INSTRUCTIONS:
            with using(name):
                for _ in range(3):
                    spoiled = [torch.full((20, classes), math.nan) for _ in range(8)]
                    del spoiled
                    (gradient,) = torch.autograd.grad(soft_cross_entropy(leaf, teacher, **options), leaf)
                    torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-6)
