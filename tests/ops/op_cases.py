"""Random calls of the op, of any shape, dtype and options, and how far a kernel may be from exact arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from hypothesis import strategies as st

from kdtoolkit.ops import KINDS, SparseTeacher, soft_cross_entropy_reference
from kdtoolkit.ops.kinds import DIVERGENCES, NAMES

CLASSES = (1, 2, 3, 5, 16, 31, 32, 33, 40, 100, 513, 600, 1500)
"""On both sides of every length at which a kernel goes another way: a vector, a row in a lane, a block."""
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
TAILS = ("bucket", "uniform", "renorm", "none")
LAYOUTS = {
    "plain": lambda room, rows, classes: room(*rows, classes),
    "shifted": lambda room, rows, classes: room(*rows[:-1], rows[-1] + 1, classes)[..., :-1, :],
    "turned": lambda room, rows, classes: room(*reversed(rows), classes).permute(*range(len(rows))[::-1], -1),
    "gaps": lambda room, rows, classes: room(*rows, classes + 3)[..., 1 : classes + 1],
    "columns first": lambda room, rows, classes: room(classes, *rows).permute(*range(1, len(rows) + 1), 0),
}
"""How a matrix may lie in memory. room: makes a contiguous tensor of a shape."""


@dataclass(frozen=True)
class Case:
    """A call: its arguments, and what comes in to its backward pass (of the loss's shape, float64)."""

    student: torch.Tensor
    teacher: Any
    labels: torch.Tensor | None
    incoming: torch.Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def results(self, function):
        """(loss, soft part, hard part, gradient) by one of the op's implementations."""
        student = self.student.detach().requires_grad_()  # the same memory and strides
        loss, soft, hard = function(student, self.teacher, self.labels, return_parts=True, **self.options)
        (gradient,) = torch.autograd.grad(loss, student, self.incoming.to(loss.dtype))
        return loss.detach(), soft, hard, gradient

    def exact(self):
        """The same, by the reference in float64 from the same numbers."""
        return replace(self, student=self.student.double(), teacher=self.numbers_read()).results(
            soft_cross_entropy_reference
        )

    def numbers_read(self):
        """The teacher as a kernel reads it: in the arithmetic's type."""
        if self.student.dtype == torch.float64 or self.teacher is None:
            return self.teacher
        if isinstance(self.teacher, SparseTeacher):
            name = "probs" if self.teacher.probs is not None else "logprobs"
            return replace(self.teacher, **{name: self.teacher.values.float()})
        return self.teacher.float()


@st.composite
def cases(draw):
    """Any call. Shapes and options are drawn, numbers come from a seed."""
    seeded = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    chance = lambda *choices: draw(st.sampled_from(choices))  # noqa: E731
    uniform = lambda *shape: torch.rand(*shape, generator=seeded)  # noqa: E731
    classes = draw(st.sampled_from(CLASSES))
    most = max(1, min(40, 12000 // classes))
    rows = (draw(st.integers(0, most)),)
    if draw(st.booleans()):
        rows = (draw(st.integers(1, 5)), draw(st.integers(0, max(1, most // 5))))
    dtype = draw(st.sampled_from(DTYPES))

    def logits(shape, dtype, layout, offset=0.0):
        room = lambda *size: (torch.randn(*size, generator=seeded) * 3 + offset).to(dtype)  # noqa: E731
        return LAYOUTS[layout](room, shape, classes)

    layout = st.sampled_from([*LAYOUTS, "plain", "plain"])
    student = logits(rows, dtype, draw(layout), chance(0.0, 0.0, -50.0, 300.0))
    options: dict[str, Any] = {
        "ignore": chance("row", "hard"), "ignore_index": chance(-100, 1), "reduction": chance("mean", "sum", "none"),
        "scale_T2": chance(True, True, False),
    }  # fmt: skip

    # Every argument that may be a number or one per row; the edges 0 and 1 of alpha and weight among the latter.
    def edged(*edges):
        values = uniform(*rows)
        for edge in edges:
            values = values.where(uniform(*rows) > 0.2, edge)
        return values

    sparse = draw(st.integers(0, 3)) == 0
    temperature: Any = chance(1.0, 2.0, 4.0, 0.7)
    if not sparse and chance(True, False, False):
        temperature = 0.5 + 3 * uniform(*rows)
    alpha: Any = chance(0.0, 0.0, 0.3, 1.0)
    if chance(True, False, False):
        alpha = edged(0.0, 1.0)
    beta: Any = chance(0.5, 0.2, 0.1 + 0.8 * uniform(*rows))
    weight: Any = chance(None, None, 0.5, edged(0.0), uniform(*rows) > 0.3, edged(0.0).double())

    count = torch.full(rows, classes)
    if chance(True, False, False):
        count = (uniform(*rows) * classes).long().clamp(max=classes - 1) + 1
        start = (uniform(*rows) * (classes - count + 1)).long()
        options["columns"] = (start, count) if draw(st.booleans()) else (start.int(), count.int())
    width = int(count.max()) if count.numel() and draw(st.booleans()) else classes

    if sparse:
        tail = draw(st.sampled_from(TAILS))
        kind: Any = draw(st.sampled_from(["ce", "kl"] if tail == "none" else sorted(DIVERGENCES)))
        listed = draw(st.integers(1, min(70, int(count.min()) if count.numel() else classes)))
        options["kind"], teacher = kind, sparse_teacher(draw, seeded, count, listed, tail, temperature)
    else:
        kind = draw(st.sampled_from(list(KINDS)))
        if chance(True, False, False):
            kind = (uniform(*rows) * len(KINDS)).long().clamp(max=len(KINDS) - 1)
        options["kind"], members = kind, draw(st.sampled_from([0, 0, 0, 1, 2, 3]))
        shape = (members, *rows) if members else rows
        teacher = logits(shape, draw(st.sampled_from([dtype, dtype, *DTYPES])), draw(layout))[..., :width]
        if members:
            shares = chance(None, uniform(members) + 0.1, uniform(members, *rows) + 0.1)
            if shares is not None and members > 1 and draw(st.booleans()):
                shares[0] = 0.0
            options["teacher_weights"] = shares
        masked(draw, seeded, student, teacher, options)

    # Independent labels have no hard part.
    binary = torch.as_tensor(kind == "bce" if isinstance(kind, str) else kind == KINDS["bce"])
    if isinstance(alpha, torch.Tensor) or (binary.dim() and alpha):
        alpha = torch.as_tensor(alpha).expand(rows).masked_fill(binary, 0.0)
    elif alpha:
        alpha = 0.0 if bool(binary) else alpha
    labels = (uniform(*rows) * count).long().where(uniform(*rows) > 0.2, options["ignore_index"])
    labels = labels.to(draw(st.sampled_from([torch.int64, torch.int32])))
    if isinstance(alpha, float) and alpha == 1.0 and draw(st.booleans()):
        teacher = None
        options.pop("teacher_weights", None)
    options.update(temperature=temperature, alpha=alpha, beta=beta)
    if weight is not None:
        options["weight"] = weight
    if options["reduction"] == "mean" and draw(st.booleans()):
        options["normalizer"] = chance(7.0, torch.tensor(7.0))
    shape = rows if options["reduction"] == "none" else ()
    incoming = 0.5 + torch.rand(shape, generator=seeded, dtype=torch.float64)
    if shape and draw(st.booleans()):
        incoming = torch.tensor(1.5, dtype=torch.float64).expand(shape)
    return Case(student, teacher, labels, incoming, options)


def sparse_teacher(draw, seeded, count, listed, tail, temperature):
    """A list of distinct classes of each row, in any order, with nine tenths of the mass (or, at times, all of it)."""
    keys = torch.rand(*count.shape, int(count.max()) if count.numel() else listed, generator=seeded)
    keys = keys.masked_fill(torch.arange(keys.shape[-1]) >= count.unsqueeze(-1), -1.0)
    indices = keys.topk(listed).indices.to(draw(st.sampled_from([torch.int64, torch.int32])))
    mass = draw(st.sampled_from([0.9, 0.9, 1.0])) if tail in ("renorm", "none") else 0.9
    probs = (torch.randn(*count.shape, listed, generator=seeded) * 2).softmax(-1) * mass
    options = {"tail": tail, "temperature": temperature}
    if draw(st.booleans()):
        return SparseTeacher(indices, probs=probs.to(draw(st.sampled_from(DTYPES))), **options)
    return SparseTeacher(indices, logprobs=probs.log().to(draw(st.sampled_from(DTYPES))), **options)


def masked(draw, seeded, student, teacher, options):
    """At times masks a class by -inf, on both sides or on the student's alone (a row needs another class to be left).

    With centred values the latter is the difference of two infinities.
    """
    if "columns" in options or student.shape[-1] < 2 or draw(st.integers(0, 3)):
        return
    place = draw(st.integers(0, student.shape[-1] - 1))
    student[..., place] = -math.inf
    if "mse_centered" in named(options["kind"]) or draw(st.booleans()):
        teacher[..., place] = -math.inf


ROUNDING = {torch.float32: 0.0, torch.float64: 0.0, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
SMALLEST = {torch.float32: 0.0, torch.float64: 0.0, torch.bfloat16: 0.0, torch.float16: 2.0**-24}
PRECISION = {torch.float32: 2e-6, torch.float64: 1e-12}
"""Of the arithmetic: relative to a row's largest gradient, and to a loss."""


def shortfall(case, results, exact):
    """How far results are from the exact ones, in units of what is permitted (more than 1 is wrong), and in what.

    Permitted: in a gradient a few roundings of the row's largest one and of what the row's loss is multiplied by, and
    the rounding of its dtype; in a loss the same of its size.
    """
    number = torch.float64 if case.student.dtype == torch.float64 else torch.float32
    worst = (0.0, "nothing")
    for name, value, wanted in zip(("loss", "soft", "hard", "gradient"), results, exact):
        if wanted.numel() == 0:
            continue
        size, rounding, smallest = wanted.abs(), 0.0, 0.0
        if name == "gradient":
            assert value.dtype == case.student.dtype and value.shape == case.student.shape
            rounding, smallest = ROUNDING[value.dtype] * size, SMALLEST[value.dtype]
            size = size.nan_to_num(posinf=0.0).amax(-1, keepdim=True)
        else:
            assert value.dtype == number
        permitted = PRECISION[number] * (size.nan_to_num(posinf=0.0) + weight_of_rows(case, name)) + rounding + smallest
        error = (value.double() - wanted).abs() / permitted
        same = (value.double() == wanted) | (value.isnan() & wanted.isnan())
        error = error.masked_fill(same, 0.0).nan_to_num(nan=math.inf)
        worst = max(worst, (float(error.max()), name))
    return worst


def weight_of_rows(case, name):
    """What a row's loss, or the gradient of it by a logit, is multiplied by before it is added up."""
    rows = case.student.shape[:-1]
    squared = torch.as_tensor(case.options["temperature"]).double() ** 2 if case.options["scale_T2"] else 1.0
    squared = torch.as_tensor(squared).clamp(min=1.0).expand(rows)
    weight = torch.as_tensor(case.options.get("weight", 1.0)).double().expand(rows)
    scale = squared * weight
    if "rkl" in named(case.options["kind"]):  # a probability times a logarithm, which here is as large as 60
        scale = scale * 8
    if "mse_centered" in named(case.options["kind"]):  # a mean is taken off, which is rounded as the logits are
        largest = max(case.student.double().abs().nan_to_num(posinf=0.0).flatten().tolist(), default=0.0)
        scale = scale * (1 + 2 * largest)
    if case.options["reduction"] == "mean":
        scale = scale / torch.as_tensor(case.options.get("normalizer", max(1.0, float(weight.sum())))).double()
    if name == "gradient":
        return (scale * case.incoming.expand(rows)).unsqueeze(-1)
    return scale if case.options["reduction"] == "none" else scale.sum()


def named(kind):
    """The names in a kind, which is one name or a code per row."""
    return {kind} if isinstance(kind, str) else {NAMES[code] for code in kind.unique().tolist()}
