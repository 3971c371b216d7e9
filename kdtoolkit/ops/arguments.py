"""What a call of the op was given, brought to one form for every backend.

Here is checked what can be seen without reading a tensor: shapes, dtypes, devices, numbers, pairs of options. It is
done on every call, so the usual case runs no torch operation. Values of tensors are checked in `values.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .kinds import DIVERGENCES, KINDS
from .sparse import FLOATS, SparseTeacher

Number = float | Tensor
"""A number for all rows, or a tensor with one per row."""

INTEGERS = (torch.int64, torch.int32)
CODES = (*INTEGERS, torch.int16, torch.int8, torch.uint8)
NUMBERS = (*FLOATS, *INTEGERS, torch.bool)
PLAIN = (Tensor, torch.nn.Parameter)
"""Classes of tensors whose memory is what it seems; others (fake tensors and the like) go through the dispatcher."""


class Arguments(NamedTuple):
    """A call whose structure is right. "Rows" are the leading dimensions of the student's logits, in any number.

    student (rows, classes), any strides. teacher: (rows, width) or (members, rows, width); None if it is not to be read
    or is sparse. labels (rows), int32 or int64; None if they are not to be read. kind: one code, or (rows), integers.
    temperature, alpha, beta, weight: a float, or (rows) of any dtype. starts, counts: integers (rows), or both None.
    normalizer: a float, a 0-dim tensor, or None. teacher_weights: (members,) or (members, rows).
    listed_index, listed_value: of a sparse teacher, (product of rows, listed), as `SparseTeacher.ordered` gives them.

    members: of a dense teacher, 0 without one. tail, listed_is_log: of a sparse teacher, None without one.
    readable: whether values of tensors can be looked at without a wait.
    """

    student: Tensor
    teacher: Tensor | None
    labels: Tensor | None
    kind: int | Tensor
    temperature: Number
    alpha: Number
    beta: Number
    weight: Number
    starts: Tensor | None
    counts: Tensor | None
    normalizer: Number | None
    teacher_weights: Tensor | None
    listed_index: Tensor | None
    listed_value: Tensor | None
    members: int
    tail: str | None
    listed_is_log: bool
    scale_T2: bool
    ignore_index: int
    ignore: str
    reduction: str
    return_parts: bool
    grad_inplace: bool
    readable: bool

    @property
    def shape(self) -> torch.Size:
        """Of the rows."""
        return self.student.shape[:-1]

    @property
    def number(self) -> torch.dtype:
        """Of the arithmetic and of the results."""
        return torch.float64 if self.student.dtype == torch.float64 else torch.float32


class Rule(NamedTuple):
    """Which numbers an argument may have: in words, and as a test of a float or a tensor."""

    expected: str
    good: Callable[[Any], Any]


POSITIVE = Rule("finite numbers > 0", lambda x: (x > 0) & (x < math.inf))
SHARE = Rule("numbers from 0 to 1", lambda x: (x >= 0) & (x <= 1))
WEIGHT = Rule("finite numbers >= 0", lambda x: (x >= 0) & (x < math.inf))
INSIDE = Rule("numbers between 0 and 1, both excluded", lambda x: (x > 0) & (x < 1))
CODE = Rule(f"a name, or codes 0 to {len(KINDS) - 1} of {', '.join(KINDS)}", lambda x: (x >= 0) & (x < len(KINDS)))


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
    """The arguments of `soft_cross_entropy`. Raises ValueError that says what was expected and received."""
    device, size = check_student(student_logits, grad_inplace), student_logits.shape
    shape = size[:-1]
    if ignore != "row":
        one_of("ignore", ignore, ("row", "hard"))
    if reduction != "mean":
        one_of("reduction", reduction, ("mean", "sum", "none"))
    if not type(scale_T2) is type(return_parts) is type(grad_inplace) is bool:
        for name, flag in (("scale_T2", scale_T2), ("return_parts", return_parts), ("grad_inplace", grad_inplace)):
            if not isinstance(flag, bool):
                raise wrong(name, "True or False", repr(flag))
    if type(ignore_index) is not int:
        ignore_index = whole_number("ignore_index", ignore_index)

    kind_code = check_kind(kind, teacher_logits, shape, device)
    if not (temperature.__class__ is float and 0.0 < temperature < math.inf):
        temperature = number("temperature", temperature, POSITIVE, shape, device)
    if not (alpha.__class__ is float and 0.0 <= alpha <= 1.0):
        alpha = number("alpha", alpha, SHARE, shape, device)
    weight = 1.0 if weight is None else number("weight", weight, WEIGHT, shape, device)
    reads_beta = kind_code.__class__ is not int or kind_code == KINDS["jsd"]
    beta = number("beta", beta, INSIDE, shape, device) if reads_beta else 0.5
    if normalizer is not None:
        if reduction != "mean":
            raise wrong("normalizer", "reduction='mean' with it", f"reduction={reduction!r}")
        normalizer = number("normalizer", normalizer, POSITIVE, torch.Size(()), device)

    teacher, members, listed_index, listed_value, tail, is_log = None, 0, None, None, None, False
    if isinstance(teacher_logits, SparseTeacher):
        check_sparse(teacher_logits, temperature, shape, device)
        tail, is_log = teacher_logits.tail, teacher_logits.probs is None
        of_results = torch.float64 if student_logits.dtype == torch.float64 else torch.float32
        listed_index, listed_value = teacher_logits.ordered(of_results)
    elif teacher_logits is not None:
        teacher, members = check_teacher(teacher_logits, size, device, columns is not None)
    starts, counts = (None, None) if columns is None else check_columns(columns, shape, device)
    if teacher_weights is not None:
        teacher_weights = check_teacher_weights(teacher_weights, members, shape, device)
    if isinstance(alpha, float):
        if alpha != 0.0 and isinstance(kind_code, int) and kind_code == KINDS["bce"]:
            raise wrong("alpha", NO_HARD_PART, repr(alpha))
        if alpha == 1.0:
            teacher, members, listed_index, listed_value, tail, teacher_weights = None, 0, None, None, None, None
        elif teacher_logits is None:
            raise wrong("teacher_logits", "a teacher unless alpha is exactly 1", f"None with alpha {alpha!r}")
        if alpha == 0.0:
            labels = None
        else:
            labels = check_labels(labels, alpha, shape, device)
    else:
        if teacher_logits is None:
            raise wrong("teacher_logits", "a teacher unless alpha is exactly 1", f"None with alpha {described(alpha)}")
        labels = check_labels(labels, alpha, shape, device)
    return Arguments(
        student_logits, teacher, labels, kind_code, temperature, alpha, beta, weight, starts, counts, normalizer,
        teacher_weights, listed_index, listed_value, members, tail, is_log, scale_T2, ignore_index, ignore, reduction,
        return_parts, grad_inplace, readable(student_logits),
    )  # fmt: skip


def number(name: str, value: Any, rule: Rule, shape: torch.Size, device: torch.device) -> Number:
    """A float, or a tensor of one number per row."""
    if isinstance(value, Tensor):
        if value.dim() == 0 and readable(value):
            value = value if value.requires_grad else value.item()
        else:
            return of_each_row(name, value, NUMBERS, shape, device)
    if isinstance(value, (Tensor, bool)) or not isinstance(value, (int, float)):
        raise wrong(name, f"{rule.expected}, without gradient: a number or a tensor", described(value))
    value = float(value)
    if not rule.good(value):
        raise wrong(name, rule.expected, repr(value))
    return value


def of_each_row(
    name: str, value: Any, dtypes: Sequence[torch.dtype], shape: torch.Size, device: torch.device
) -> Tensor:
    """A tensor of one value per row."""
    if not isinstance(value, Tensor) or value.dtype not in dtypes:
        raise wrong(name, f"a tensor of {' or '.join(str(d) for d in dtypes)}", described(value))
    if value.requires_grad:
        raise wrong(name, "a tensor without gradient", "one that requires it")
    if value.shape != shape:
        if value.dim() != 0:
            raise wrong(name, f"one value per row, shape {tuple(shape)}", f"shape {tuple(value.shape)}")
        value = value.expand(shape)
    if value.device != device:
        raise wrong(name, f"device {device}, the student's", f"device {value.device}")
    return value


def check_student(student: Any, grad_inplace: bool) -> torch.device:
    """The student's device."""
    if not isinstance(student, Tensor) or student.dtype not in FLOATS:
        raise wrong("student_logits", "a tensor of float32, float64, float16 or bfloat16", described(student))
    if student.dim() == 0 or student.shape[-1] == 0:
        raise wrong("student_logits", "shape (..., classes) with at least one class", f"shape {tuple(student.shape)}")
    if grad_inplace is True:
        if torch.compiler.is_compiling():
            raise wrong("grad_inplace", "False under torch.compile and torch.export", "True")
        base = student._base if student._is_view() else student
        if base is not None and base.requires_grad and base.is_leaf:
            received = "a leaf that requires grad" if base is student else "a view of a leaf that requires grad"
            raise wrong("grad_inplace", "student_logits computed from something else", received)
    return student.device


def check_kind(kind: Any, teacher: Any, shape: torch.Size, device: torch.device) -> int | Tensor:
    """A code, or a tensor of codes."""
    if isinstance(kind, str):
        code = KINDS.get(kind)
        if code is None:
            raise wrong("kind", f"one of {', '.join(KINDS)}", repr(kind))
        if isinstance(teacher, SparseTeacher):
            allowed = {"ce", "kl"} if teacher.tail == "none" else DIVERGENCES
            if kind not in allowed:
                raise wrong("kind", f"one of {', '.join(sorted(allowed))} for this SparseTeacher", repr(kind))
        return code
    if isinstance(teacher, SparseTeacher):
        raise wrong("kind", "one name for a SparseTeacher", "one per row")
    return of_each_row("kind", kind, CODES, shape, device)


def check_teacher(teacher: Any, size: torch.Size, device: torch.device, compact: bool) -> tuple[Tensor, int]:
    """A dense teacher and the number of its members. `size`: of the student's logits."""
    if not isinstance(teacher, (list, tuple)):
        check_member(teacher, device)
        received = teacher.shape
        if received == size:
            return teacher, 1
        stacked = len(received) == len(size) + 1
        rows, members = (received[1:-1], received[0]) if stacked else (received[:-1], 1)
        dimensions = len(size) + stacked
    else:
        for member in teacher:
            check_member(member, device)
        if not teacher or any(member.shape != teacher[0].shape for member in teacher):
            shapes = ", ".join(str(tuple(member.shape)) for member in teacher) or "no member"
            raise wrong("teacher_logits", f"members of shape {member_shape(size, compact)}", shapes)
        received, members, dimensions = teacher[0].shape, len(teacher), len(size)
        rows = received[:-1]
        teacher = teacher[0] if members == 1 else torch.stack(list(teacher))
    width = received[-1] if received else 0
    fits = width > 0 and (compact or width == size[-1])
    if len(received) != dimensions or rows != size[:-1] or members == 0 or not fits:
        expected = f"shape {member_shape(size, compact)}, or a stack of such members"
        raise wrong("teacher_logits", expected, f"shape {tuple(received)}")
    return teacher, members


def check_member(member: Any, device: torch.device) -> None:
    """Dtype, gradient and device of a member of the teacher."""
    if not isinstance(member, Tensor) or member.dtype not in FLOATS:
        raise wrong("teacher_logits", "tensors of float32, float64, float16 or bfloat16", described(member))
    if member.requires_grad:
        raise wrong("teacher_logits", "a teacher without gradient (use .detach())", "one that requires grad")
    if member.device != device:
        raise wrong("teacher_logits", f"device {device}, the student's", f"device {member.device}")


def member_shape(size: torch.Size, compact: bool) -> str:
    """The shape of a teacher's member, in words."""
    return str((*size[:-1], "width" if compact else size[-1]))


def check_sparse(teacher: SparseTeacher, temperature: Number, shape: torch.Size, device: torch.device) -> None:
    """Shape, device, and the temperature at which the probabilities were taken."""
    if teacher.indices.shape[:-1] != shape:
        raise wrong("teacher_logits", f"indices {(*shape, 'k')}", f"indices {tuple(teacher.indices.shape)}")
    if teacher.indices.device != device:
        raise wrong("teacher_logits", f"device {device}", f"device {teacher.indices.device}")
    if isinstance(temperature, Tensor):
        same = not readable(temperature) or bool((temperature == teacher.temperature).all())
    else:
        same = temperature == teacher.temperature
    if not same:
        expected = f"{teacher.temperature}, at which the sparse teacher's probabilities were taken"
        raise wrong("temperature", expected, described(temperature))


def check_columns(columns: Any, shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Start and count of every row."""
    if not isinstance(columns, (tuple, list)) or len(columns) != 2:
        raise wrong("columns", "a pair (start, count) of integer tensors", described(columns))
    return (
        of_each_row("columns, start", columns[0], INTEGERS, shape, device),
        of_each_row("columns, count", columns[1], INTEGERS, shape, device),
    )


def check_teacher_weights(weights: Any, members: int, shape: torch.Size, device: torch.device) -> Tensor:
    """(members,) or (members, rows) of float64 or the dtype given."""
    if not members:
        raise wrong("teacher_weights", "a dense teacher with them", "a sparse one or none")
    if not isinstance(weights, Tensor):
        numbers = [float(w) for w in weights]
        if not all(map(WEIGHT.good, numbers)) or (numbers and sum(numbers) == 0):
            raise wrong("teacher_weights", SOME_WEIGHT, repr(numbers))
        weights = torch.tensor(numbers, dtype=torch.float64).to(device)
    if weights.dtype not in FLOATS or weights.requires_grad or weights.device != device:
        raise wrong("teacher_weights", f"floats without gradient on {device}", described(weights))
    if tuple(weights.shape) not in ((members,), (members, *shape)):
        expected = f"shape {(members,)} or {(members, *shape)}"
        raise wrong("teacher_weights", expected, f"shape {tuple(weights.shape)}")
    return weights


def check_labels(labels: Any, alpha: Number, shape: torch.Size, device: torch.device) -> Tensor:
    """Labels that some row may read."""
    if labels is None:
        raise wrong("labels", "class numbers unless alpha is exactly 0", f"None with alpha {described(alpha)}")
    return of_each_row("labels", labels, INTEGERS, shape, device)


SOME_WEIGHT = "finite numbers >= 0 that are not all 0"
NO_HARD_PART = "0 for kind 'bce' (give gold targets 0 and 1 as teacher logits -inf and +inf)"
"""A hard part is cross-entropy against one class, which independent labels do not have."""


def one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuses a value that is not one of a few names."""
    if value not in choices:
        raise wrong(name, f"one of {', '.join(choices)}", repr(value))


def whole_number(name: str, value: Any) -> int:
    """The value as an int; refuses what is none."""
    try:
        return operator.index(value)
    except TypeError:
        raise wrong(name, "a whole number", described(value)) from None


def readable(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be looked at without a wait."""
    return tensor.is_cpu and type(tensor) in PLAIN and not torch.compiler.is_compiling()


def described(value: Any) -> str:
    """A value as an error message shows it."""
    if isinstance(value, Tensor):
        gradient = " that requires grad" if value.requires_grad else ""
        return f"a tensor of {value.dtype}, shape {tuple(value.shape)}, on {value.device}{gradient}"
    return repr(value)


def wrong(name: str, expected: str, received: str) -> ValueError:
    """The error of an argument."""
    return ValueError(f"soft_cross_entropy: {name}: expected {expected}, received {received}")
