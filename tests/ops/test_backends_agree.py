"""The compiled CPU backend against the reference in float64: value, parts and gradient, over all that a call can be."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_backends import use

from kdtoolkit.errors import InputError
from kdtoolkit.ops import KINDS, SparseTeacher, native, soft_cross_entropy, soft_cross_entropy_reference
from kdtoolkit.ops.kinds import DIVERGENCES

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Of the gradient, relative to the largest of its row; on a CPU.
TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-10, torch.bfloat16: 2e-2, torch.float16: 4e-3}
SIZES = [1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64, 100, 257, 1000]


@pytest.fixture(params=["avx512", "avx2", "portable"])
def instructions(request, monkeypatch):
    use("cpu", monkeypatch)
    best = native.library().instructions().decode()
    try:
        native.use_instructions(request.param)
    except InputError:
        pytest.skip(f"no {request.param} on this machine")
    yield request.param
    native.use_instructions(best)


class Draw:
    """Random tensors of one seed."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64) * 3

    def uniform(self, *shape):
        return torch.rand(*shape, generator=self.generator, dtype=torch.float64).float()

    def chance(self, share, *shape):
        return torch.rand(*shape, generator=self.generator) < share


@st.composite
def calls(draw):
    """(student, teacher, labels, options) of a call that must be accepted."""
    rows, classes = draw(st.integers(0, 40)), draw(st.sampled_from(SIZES))
    dtype, source = draw(st.sampled_from(DTYPES)), Draw(draw(st.integers(0, 2**32)))
    flag = st.booleans()
    student = (source.normal(rows, classes) + draw(st.sampled_from([0, 0, 50]))).to(dtype)
    count, options = torch.full((rows,), classes), {}
    tail = draw(st.sampled_from([None, None, None, "bucket", "uniform", "renorm", "none"]))
    temperature = draw(st.sampled_from([1.0, 2.0, 0.5, 8.0]))
    if tail is not None:
        listed = draw(st.integers(1, min(classes, 40)))
        values, indices = (source.normal(rows, classes) / 3).softmax(-1).topk(listed)
        indices = indices.to(draw(st.sampled_from([torch.int32, torch.int64])))
        form = {"probs": values} if draw(flag) else {"logprobs": values.log()}
        teacher = SparseTeacher(indices, tail=tail, temperature=temperature, **form)
        kind = draw(st.sampled_from(["ce", "kl"] if tail == "none" else sorted(DIVERGENCES)))
    else:
        members, width = draw(st.sampled_from([0, 1, 2, 3])), classes
        if draw(flag):
            width = draw(st.integers(1, classes + 3))
            most = min(width, classes)
            count = 1 + (source.uniform(rows) * most).long().clamp(max=most - 1)
            options["columns"] = ((source.uniform(rows) * (classes - count + 1)).long().minimum(classes - count), count)
        teacher = source.normal(*([members] if members else []), rows, width).to(
            draw(st.sampled_from([dtype, *DTYPES]))
        )
        if members and draw(flag):
            options["teacher_weights"] = source.uniform(members, rows) if draw(flag) else source.uniform(members)
            options["teacher_weights"] += 0.01
        if draw(flag):
            kind = torch.randint(0, len(KINDS), (rows,), generator=source.generator)
        else:
            kind = draw(st.sampled_from(list(KINDS)))
        if draw(flag):
            temperature = 0.5 + 3 * source.uniform(rows)
    if draw(flag) and "columns" not in options and classes > 2 + (0 if tail is None else listed):
        masked = draw(st.integers(0, classes - 1))  # by both sides
        student[:, masked] = -math.inf
        if tail is None:
            teacher[..., masked] = -math.inf
    alpha = source.uniform(rows)
    alpha = alpha.masked_fill(source.chance(0.2, rows), 0.0).masked_fill(source.chance(0.2, rows), 1.0)
    alpha = alpha if draw(flag) else draw(st.sampled_from([0.0, 0.3, 1.0]))
    if isinstance(kind, torch.Tensor):
        alpha = torch.as_tensor(alpha).expand(rows).masked_fill(kind == KINDS["bce"], 0.0)
    elif kind == "bce":
        alpha = 0.0
    labels = (source.uniform(rows) * count).long().minimum(count - 1).masked_fill(source.chance(0.2, rows), -100)
    if draw(flag):
        options["weight"] = source.uniform(rows) * source.chance(0.8, rows)
    options["reduction"] = draw(st.sampled_from(["mean", "sum", "none"]))
    if options["reduction"] == "mean" and draw(flag):
        options["normalizer"] = 5.0
    options.update(
        kind=kind, temperature=temperature, alpha=alpha, beta=draw(st.sampled_from([0.5, 0.1])),
        ignore=draw(st.sampled_from(["row", "hard"])), scale_T2=draw(flag), return_parts=True,
    )  # fmt: skip
    return student, teacher, labels.to(draw(st.sampled_from([torch.int32, torch.int64]))), options


def exactly(teacher):
    if isinstance(teacher, SparseTeacher):
        return teacher
    return teacher.double()


@settings(max_examples=120)
@given(call=calls())
def check_agreement(call):
    student, teacher, labels, options = call
    leaf, exact = student.clone().requires_grad_(), student.double().requires_grad_()
    found = soft_cross_entropy(leaf, teacher, labels, **options)
    wanted = soft_cross_entropy_reference(exact, exactly(teacher), labels, **options)
    for one, other in zip(found, wanted):
        # T squared is up to 64, and a sum has up to 40 rows.
        close = 1e-10 if student.dtype == torch.float64 else 3e-5
        torch.testing.assert_close(one.double(), other, atol=10 * close, rtol=close, equal_nan=True)
    incoming = torch.linspace(0.5, 1.5, wanted[0].numel(), dtype=torch.float64).reshape(wanted[0].shape)
    (gradient,) = torch.autograd.grad(found[0], leaf, incoming.to(found[0].dtype))
    (exact_gradient,) = torch.autograd.grad(wanted[0], exact, incoming)
    assert gradient.dtype == student.dtype and gradient.shape == student.shape
    largest = (
        exact_gradient.nan_to_num().abs().amax(-1, keepdim=True) + 1e-2
    )  # reverse KL of a nearly certain row cancels
    torch.testing.assert_close(
        gradient.double() / largest, exact_gradient / largest, atol=TOLERANCE[student.dtype], rtol=0, equal_nan=True
    )


def test_the_compiled_op_and_the_reference_agree(instructions):
    check_agreement()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bce"])
def test_a_row_without_teacher_takes_nothing_from_its_neighbours_in_a_vector(instructions, kind):
    """Its masked class, -inf on both sides, is a class that the soft part of other rows leaves out."""
    student = torch.tensor([[1.0, 2.0, -math.inf], [1.0, 2.0, 3.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -math.inf], [0.0, 1.0, 0.0]])
    options = {"kind": torch.full((2,), KINDS[kind]), "alpha": torch.tensor([1.0, 0.0])}
    gradients = [
        torch.autograd.grad(function(student, teacher, torch.tensor([0, 1]), **options), student)[0]
        for function in (soft_cross_entropy, soft_cross_entropy_reference)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
def test_a_bucket_that_holds_masked_classes_alone_has_no_gradient(instructions, kind):
    student = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    teacher = SparseTeacher(torch.tensor([[0, 1]]), probs=torch.tensor([[0.25, 0.75]]))
    gradients = [
        torch.autograd.grad(function(student, teacher, kind=kind), student)[0]
        for function in (soft_cross_entropy, soft_cross_entropy_reference)
    ]
    torch.testing.assert_close(*gradients)
