"""What a call of the op was given, checked once for every backend and brought to one form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .kinds import DIVERGENCES, KINDS
from .sparse import FLOATS, SparseTeacher

Number = float | Tensor
"""A number for all rows, or a tensor with one per row."""


@dataclass(frozen=True, eq=False)
class Arguments:
    """A checked call. `rows` is the product of the leading dimensions of the student's logits, `shape`.

    student (rows, classes). teacher: (members, rows, width), a sparse one of `rows` rows, or None if it is not to be
    read. labels (rows,) int64, or None if they are not to be read. kind: one code, or (rows,). temperature, alpha, beta
    and weight: a float, or (rows,). columns: start and count, (rows,) each. teacher_weights: (members, 1 | rows).
    """

    student: Tensor
    teacher: Tensor | SparseTeacher | None
    labels: Tensor | None
    shape: torch.Size
    kind: int | Tensor
    temperature: Number
    scale_T2: bool
    alpha: Number
    beta: Number
    weight: Number
    columns: tuple[Tensor, Tensor] | None
    ignore_index: int
    ignore: str
    reduction: str
    normalizer: Number | None
    teacher_weights: Tensor | None
    grad_inplace: bool


def check_arguments(
    student_logits: Tensor,
    teacher_logits: Tensor | Sequence[Tensor] | SparseTeacher | None,
    labels: Tensor | None = None,
    *,
    kind: str | Tensor = "ce",
    temperature: Number = 1.0,
    scale_T2: bool = True,
    alpha: Number = 0.0,
    beta: Number = 0.5,
    weight: Number | None = None,
    columns: tuple[Tensor, Tensor] | None = None,
    ignore_index: int = -100,
    ignore: str = "row",
    reduction: str = "mean",
    normalizer: Number | None = None,
    teacher_weights: Sequence[float] | Tensor | None = None,
    return_parts: bool = False,
    grad_inplace: bool = False,
) -> Arguments:
    """The arguments of `soft_cross_entropy`, checked. Raises ValueError that says what was expected and received.

    Values of tensors are checked where that makes nobody wait: on a CPU, outside torch.compile.
    """
    shape, device = check_student(student_logits, grad_inplace)
    one_of("ignore", ignore, ("row", "hard"))
    one_of("reduction", reduction, ("mean", "sum", "none"))
    for name, flag in (("scale_T2", scale_T2), ("return_parts", return_parts), ("grad_inplace", grad_inplace)):
        if not isinstance(flag, bool):
            raise wrong(name, "True or False", repr(flag))

    per_row = PerRow(shape, device)
    kind_code = check_kind(kind, teacher_logits, per_row)
    positive = ("finite numbers > 0", lambda x: (x > 0) & (x < math.inf))
    temperature = per_row.number("temperature", temperature, *positive)
    alpha = per_row.number("alpha", alpha, "numbers from 0 to 1", lambda x: (x >= 0) & (x <= 1))
    weight = 1.0 if weight is None else weight
    weight = per_row.number("weight", weight, "finite numbers >= 0", lambda x: (x >= 0) & (x < math.inf))
    if isinstance(kind_code, Tensor) or kind_code == KINDS["jsd"]:
        beta = per_row.number("beta", beta, "numbers between 0 and 1, both excluded", lambda x: (x > 0) & (x < 1))
    if normalizer is not None:
        if reduction != "mean":
            raise wrong("normalizer", "reduction='mean' with it", f"reduction={reduction!r}")
        normalizer = PerRow(torch.Size(()), device).number("normalizer", normalizer, *positive)

    teacher = check_teacher(teacher_logits, student_logits, columns is not None)
    width = teacher.shape[-1] if isinstance(teacher, Tensor) else student_logits.shape[-1]
    if columns is not None:
        columns = check_columns(columns, student_logits.shape[-1], width, per_row)
    if isinstance(teacher, SparseTeacher):
        check_sparse(teacher, kind_code, temperature, columns, width)
    members = teacher.shape[0] if isinstance(teacher, Tensor) else None
    member_weights = check_teacher_weights(teacher_weights, members, per_row)
    check_binary(kind_code, alpha)
    if isinstance(alpha, float) and alpha == 1.0:
        teacher = None
    elif teacher is None:
        raise wrong("teacher_logits", "a teacher unless alpha is exactly 1", f"None with alpha {described(alpha)}")
    labels = check_labels(labels, alpha, weight, ignore_index, columns, student_logits.shape[-1], per_row)
    return Arguments(
        student=student_logits.reshape(-1, student_logits.shape[-1]),
        teacher=teacher, labels=labels, shape=shape, kind=kind_code, temperature=temperature, scale_T2=scale_T2,
        alpha=alpha, beta=beta, weight=weight, columns=columns, ignore_index=ignore_index, ignore=ignore,
        reduction=reduction, normalizer=normalizer, teacher_weights=member_weights, grad_inplace=grad_inplace,
    )  # fmt: skip


class PerRow:
    """Checks of what may be one number or one for each row of a call."""

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        self.shape, self.device = shape, device

    def number(self, name: str, value: Any, expected: str, good: Callable[[Any], Any]) -> Number:
        """A float, or a flat tensor; `good` says which values are allowed."""
        if isinstance(value, Tensor):
            if value.dim() == 0 and value.device.type == "cpu" and not torch.compiler.is_compiling():
                value = value.item() if not value.requires_grad else value
            else:
                return self.tensor(name, value, expected, good, (*FLOATS, torch.int64, torch.int32, torch.bool))
        if isinstance(value, (Tensor, bool)) or not isinstance(value, (int, float)):
            raise wrong(name, f"{expected}, without gradient: a number or a tensor", described(value))
        if not good(float(value)):
            raise wrong(name, expected, repr(value))
        return float(value)

    def tensor(
        self, name: str, value: Any, expected: str, good: Callable[[Any], Any], dtypes: Sequence[torch.dtype]
    ) -> Tensor:
        """A flat tensor of one value per row."""
        if not isinstance(value, Tensor) or value.dtype not in dtypes:
            raise wrong(name, f"a tensor of {' or '.join(str(d) for d in dtypes)}", described(value))
        if value.requires_grad:
            raise wrong(name, "a tensor without gradient", "one that requires it")
        if value.dim() == 0:
            value = value.expand(self.shape)
        if value.shape != self.shape:
            raise wrong(name, f"one value per row, shape {tuple(self.shape)}", f"shape {tuple(value.shape)}")
        if value.device != self.device:
            raise wrong(name, f"device {self.device}, the student's", f"device {value.device}")
        value = value.reshape(-1)
        if readable(value):
            first = first_bad(good(value))
            if first is not None:
                raise wrong(name, expected, f"{value[first].item()} in row {first}")
        return value


def check_student(student: Any, grad_inplace: bool) -> tuple[torch.Size, torch.device]:
    """The shape of the rows and the device."""
    if not isinstance(student, Tensor) or student.dtype not in FLOATS:
        raise wrong("student_logits", "a tensor of float32, float64, float16 or bfloat16", described(student))
    if student.dim() == 0 or student.shape[-1] == 0:
        raise wrong("student_logits", "shape (..., classes) with at least one class", f"shape {tuple(student.shape)}")
    if grad_inplace and student.requires_grad and student.is_leaf:
        raise wrong("grad_inplace", "student_logits computed from something else", "a leaf that requires grad")
    return student.shape[:-1], student.device


def check_kind(kind: Any, teacher: Any, per_row: PerRow) -> int | Tensor:
    """A code, or a flat tensor of codes."""
    known = ", ".join(KINDS)
    if isinstance(kind, str):
        if kind not in KINDS:
            raise wrong("kind", f"one of {known}", repr(kind))
        allowed = {"ce", "kl"} if getattr(teacher, "tail", None) == "none" else DIVERGENCES
        if isinstance(teacher, SparseTeacher) and kind not in allowed:
            raise wrong("kind", f"one of {', '.join(sorted(allowed))} for this SparseTeacher", repr(kind))
        return KINDS[kind]
    if isinstance(teacher, SparseTeacher):
        raise wrong("kind", "one name for a SparseTeacher", "one per row")
    integers = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    expected = f"a name, or codes 0 to {len(KINDS) - 1} of {known}"
    codes = per_row.tensor("kind", kind, expected, lambda x: (x >= 0) & (x < len(KINDS)), integers)
    return codes.long()


def check_teacher(teacher: Any, student: Tensor, compact: bool) -> Tensor | SparseTeacher | None:
    """(members, rows, width), or a flat sparse teacher."""
    rows = student.shape[:-1]
    if teacher is None:
        return None
    if isinstance(teacher, SparseTeacher):
        if teacher.indices.shape[:-1] != rows:
            raise wrong("teacher_logits", f"indices {(*rows, 'k')}", f"indices {tuple(teacher.indices.shape)}")
        if teacher.indices.device != student.device:
            raise wrong("teacher_logits", f"device {student.device}", f"device {teacher.indices.device}")
        return teacher.flatten()
    members = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    expected_shape = str((*rows, "width" if compact else student.shape[-1]))
    for member in members:
        if not isinstance(member, Tensor) or member.dtype not in FLOATS:
            raise wrong("teacher_logits", "tensors of float32, float64, float16 or bfloat16", described(member))
        if member.requires_grad:
            raise wrong("teacher_logits", "a teacher without gradient (use .detach())", "one that requires grad")
        if member.device != student.device:
            raise wrong("teacher_logits", f"device {student.device}, the student's", f"device {member.device}")
    if not members or any(m.shape != members[0].shape for m in members):
        received = ", ".join(str(tuple(m.shape)) for m in members) or "no member"
        raise wrong("teacher_logits", f"members of shape {expected_shape}", received)
    stack = torch.stack(members) if isinstance(teacher, (list, tuple)) else members[0]
    if stack.dim() == student.dim() and stack is members[0]:
        stack = stack.unsqueeze(0)
    width_fits = stack.shape[-1] > 0 and (compact or stack.shape[-1] == student.shape[-1])
    if stack.dim() != student.dim() + 1 or stack.shape[0] == 0 or stack.shape[1:-1] != rows or not width_fits:
        expected = f"shape {expected_shape}, or a stack of such members"
        raise wrong("teacher_logits", expected, f"shape {tuple(members[0].shape)}")
    return stack.reshape(stack.shape[0], -1, stack.shape[-1]) if stack.dim() != 3 else stack


def check_columns(columns: Any, classes: int, width: int, per_row: PerRow) -> tuple[Tensor, Tensor]:
    """Flat int64 start and count of every row, inside the student's classes and the teacher's width."""
    if not isinstance(columns, (tuple, list)) or len(columns) != 2:
        raise wrong("columns", "a pair (start, count) of integer tensors", described(columns))
    integers = (torch.int64, torch.int32)
    start = per_row.tensor("columns, start", columns[0], "numbers >= 0", lambda x: x >= 0, integers).long()
    expected = f"1 to {min(classes, width)} columns (student {classes}, teacher {width})"
    good = lambda x: (x >= 1) & (x <= min(classes, width))  # noqa: E731
    count = per_row.tensor("columns, count", columns[1], expected, good, integers).long()
    if readable(start):
        row = first_bad(start + count <= classes)
        if row is not None:
            received = f"{int(start[row])} + {int(count[row])} in row {row}"
            raise wrong("columns", f"start + count of at most {classes}, the student's columns", received)
    return start, count


def check_sparse(
    teacher: SparseTeacher, kind: int | Tensor, temperature: Number, columns: tuple[Tensor, Tensor] | None, classes: int
) -> None:
    """Classes in range and distinct, probabilities that can be ones, and the temperature they were taken at."""
    if isinstance(temperature, Tensor):
        same = not readable(temperature) or bool((temperature == teacher.temperature).all())
    else:
        same = temperature == teacher.temperature
    if not same:
        expected = f"{teacher.temperature}, at which the sparse teacher's probabilities were taken"
        raise wrong("temperature", expected, described(temperature))
    if not readable(teacher.indices) or teacher.indices.numel() == 0:
        return
    limit = torch.tensor(classes) if columns is None else columns[1].unsqueeze(-1)
    row = first_bad(((teacher.indices >= 0) & (teacher.indices < limit)).all(-1))
    if row is not None:
        raise wrong("SparseTeacher.indices", "classes of the row", f"{teacher.indices[row].tolist()} in row {row}")
    ordered = teacher.indices.sort(-1).values
    row = first_bad((ordered[:, 1:] != ordered[:, :-1]).all(-1))
    if row is not None:
        raise wrong("SparseTeacher.indices", "distinct classes", f"{teacher.indices[row].tolist()} in row {row}")
    probs = teacher.log_probabilities(torch.float64).exp()  # NaN passes: the row may be one that is not read
    row = first_bad(~((teacher.values < 0).any(-1) if teacher.probs is not None else (probs > 1.01).any(-1)))
    row = first_bad(~(probs.sum(-1) > 1.01)) if row is None else row
    if row is not None:
        raise wrong(
            "SparseTeacher", "probabilities >= 0 with a sum of at most 1", f"{probs[row].tolist()} in row {row}"
        )


def check_teacher_weights(weights: Any, members: int | None, per_row: PerRow) -> Tensor | None:
    """(members, 1 or rows) of float64 or the dtype given; None: equal weights."""
    if weights is None:
        return None
    if members is None:
        raise wrong("teacher_weights", "a dense teacher with them", "a sparse one or none")
    if not isinstance(weights, Tensor):
        weights = torch.tensor([float(w) for w in weights], dtype=torch.float64).to(per_row.device)
    if weights.dtype not in FLOATS or weights.requires_grad or weights.device != per_row.device:
        raise wrong("teacher_weights", f"floats without gradient on {per_row.device}", described(weights))
    if tuple(weights.shape) not in ((members,), (members, *per_row.shape)):
        expected = f"shape {(members,)} or {(members, *per_row.shape)}"
        raise wrong("teacher_weights", expected, f"shape {tuple(weights.shape)}")
    flat = weights.reshape(members, -1) if weights.dim() > 1 else weights.unsqueeze(1)
    if readable(flat) and flat.numel():
        good = (flat >= 0) & (flat < math.inf)
        if not bool(good.all()) or (weights.dim() == 1 and not float(flat.sum()) > 0):
            raise wrong("teacher_weights", "finite numbers >= 0 that are not all 0", str(weights.tolist()))
    return flat


def check_labels(
    labels: Any, alpha: Number, weight: Number, ignore_index: int, columns: Any, classes: int, per_row: PerRow
) -> Tensor | None:
    """Flat int64 labels, or None if no row reads one."""
    if isinstance(alpha, float) and alpha == 0.0:
        return None
    if labels is None:
        raise wrong("labels", "class numbers unless alpha is exactly 0", f"None with alpha {described(alpha)}")
    flat = per_row.tensor("labels", labels, "", torch.isfinite, (torch.int64, torch.int32)).long()
    if readable(flat):
        limit = columns[1] if columns is not None else torch.tensor(classes)
        read = (flat != ignore_index) & (torch.as_tensor(alpha) > 0) & (torch.as_tensor(weight) > 0)
        row = first_bad(~read | ((flat >= 0) & (flat < limit)))
        if row is not None:
            expected = f"class numbers from 0 to {int(limit.expand(flat.shape)[row]) - 1}, or {ignore_index}"
            raise wrong("labels", expected, f"{int(flat[row])} in row {row}")
    return flat


def check_binary(kind: int | Tensor, alpha: Number) -> None:
    """Refuses a hard part of bce rows: it is cross-entropy against one class, which independent labels do not have."""
    expected = "0 for kind 'bce' (give gold targets 0 and 1 as teacher logits -inf and +inf)"
    if isinstance(kind, int) and isinstance(alpha, float):
        if kind == KINDS["bce"] and alpha != 0:
            raise wrong("alpha", expected, repr(alpha))
        return
    codes, shares = torch.as_tensor(kind), torch.as_tensor(alpha)
    if readable(codes) and readable(shares):
        row = first_bad((codes != KINDS["bce"]) | (shares == 0))
        if row is not None:
            raise wrong("alpha", expected, f"another number in row {row}")


def one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuses a value that is not one of a few names."""
    if value not in choices:
        raise wrong(name, f"one of {', '.join(choices)}", repr(value))


def readable(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be looked at without a wait."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def first_bad(good: Tensor) -> int | None:
    """The first row whose flag is False, or None."""
    if bool(good.all()):
        return None
    return int(good.logical_not().nonzero()[0])


def described(value: Any) -> str:
    """A value as an error message shows it."""
    if isinstance(value, Tensor):
        gradient = " that requires grad" if value.requires_grad else ""
        return f"a tensor of {value.dtype}, shape {tuple(value.shape)}, on {value.device}{gradient}"
    return repr(value)


def wrong(name: str, expected: str, received: str) -> ValueError:
    """The error of an argument."""
    return ValueError(f"soft_cross_entropy: {name}: expected {expected}, received {received}")
