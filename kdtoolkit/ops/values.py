"""Checks of the values of a call's tensors, with messages that name the row.

They read every value, so they run where nobody waits for that: on a CPU, outside torch.compile. The reference runs them
before every call. The compiled CPU kernel looks at the values itself and needs them only to say what is wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import CODE, INSIDE, NO_HARD_PART, POSITIVE, SHARE, SOME_WEIGHT, WEIGHT, Arguments, Rule, wrong
from .kinds import KINDS


def check_values(call: Arguments) -> None:
    """Raises ValueError, saying expected and received, for the first value that is out of range."""
    if not call.readable:
        return
    for name, value, rule in (
        ("kind", call.kind, CODE),
        ("temperature", call.temperature, POSITIVE),
        ("alpha", call.alpha, SHARE),
        ("weight", call.weight, WEIGHT),
        ("beta", call.beta, INSIDE),
        ("normalizer", call.normalizer, POSITIVE),
    ):
        if isinstance(value, Tensor):
            check_each(name, value.reshape(-1), rule)
    check_columns(call)
    check_listed(call)
    check_teacher_weights(call)
    check_binary(call)
    check_labels(call)


def check_each(name: str, values: Tensor, rule: Rule) -> None:
    """One rule for every row."""
    row = first_bad(rule.good(values))
    if row is not None:
        raise wrong(name, rule.expected, f"{values[row].item()} in row {row}")


def check_columns(call: Arguments) -> None:
    """Every row's columns lie inside the student's classes and the teacher's width."""
    if call.starts is None or call.counts is None:
        return
    start, count = call.starts.reshape(-1), call.counts.reshape(-1)
    classes = call.student.shape[-1]
    width = classes if call.teacher is None else call.teacher.shape[-1]
    most = min(classes, width)
    check_each("columns, start", start, Rule("numbers >= 0", lambda x: x >= 0))
    expected = f"1 to {most} columns (student {classes}, teacher {width})"
    check_each("columns, count", count, Rule(expected, lambda x: (x >= 1) & (x <= most)))
    row = first_bad(start <= classes - count)
    if row is not None:
        received = f"{int(start[row])} + {int(count[row])} in row {row}"
        raise wrong("columns", f"start + count of at most {classes}, the student's columns", received)


def check_listed(call: Arguments) -> None:
    """A sparse teacher's classes are the row's and distinct, and its probabilities can be ones."""
    index, values = call.listed_index, call.listed_value
    if index is None or values is None or index.numel() == 0:
        return
    limit = torch.tensor(call.student.shape[-1]) if call.counts is None else call.counts.reshape(-1, 1)
    row = first_bad(((index >= 0) & (index < limit)).all(-1))
    if row is not None:
        raise wrong("SparseTeacher.indices", "classes of the row", f"{index[row].tolist()} in row {row}")
    row = first_bad((index[:, 1:] != index[:, :-1]).all(-1))
    if row is not None:
        raise wrong("SparseTeacher.indices", "distinct classes", f"{index[row].tolist()} in row {row}")
    probs = values.double().exp() if call.listed_is_log else values.double()
    bad = (probs > 1.01 if call.listed_is_log else probs < 0).any(-1) | (probs.sum(-1) > 1.01)
    row = first_bad(~bad)  # NaN passes: the row may be one that is not read
    if row is not None:
        expected = "probabilities >= 0 with a sum of at most 1"
        raise wrong("SparseTeacher", expected, f"{probs[row].tolist()} in row {row}")


def check_teacher_weights(call: Arguments) -> None:
    """Weights of members are finite, not negative, and not all 0 where the teacher is read."""
    if call.teacher_weights is None or call.teacher_weights.numel() == 0:
        return
    weights = call.teacher_weights.reshape(call.members, -1)
    row = first_bad(WEIGHT.good(weights).all(0))
    if row is None:
        read = (torch.as_tensor(call.weight).reshape(-1) > 0) & (torch.as_tensor(call.alpha).reshape(-1) < 1)
        row = first_bad((weights.sum(0) > 0) | ~read)
    if row is not None:
        of_row = weights[:, min(row, weights.shape[1] - 1)].tolist()
        raise wrong("teacher_weights", SOME_WEIGHT, f"{of_row} in row {row}")


def check_binary(call: Arguments) -> None:
    """Rows of bce have no hard part."""
    kind, alpha = torch.as_tensor(call.kind).reshape(-1), torch.as_tensor(call.alpha).reshape(-1)
    row = first_bad((kind != KINDS["bce"]) | (alpha == 0))
    if row is not None:
        raise wrong("alpha", NO_HARD_PART, f"another number in row {row}")


def check_labels(call: Arguments) -> None:
    """Labels that are read are classes of their rows."""
    if call.labels is None:
        return
    labels = call.labels.reshape(-1)
    limit = torch.tensor(call.student.shape[-1]) if call.counts is None else call.counts.reshape(-1)
    read = labels != call.ignore_index
    for value in (call.alpha, call.weight):
        read = read & (torch.as_tensor(value).reshape(-1) > 0)
    row = first_bad(~read | ((labels >= 0) & (labels < limit)))
    if row is not None:
        expected = f"class numbers from 0 to {int(limit.expand(labels.shape)[row]) - 1}, or {call.ignore_index}"
        raise wrong("labels", expected, f"{int(labels[row])} in row {row}")


def first_bad(good: Tensor) -> int | None:
    """The first row whose flag is False, or None."""
    if bool(good.all()):
        return None
    return int(good.logical_not().nonzero()[0])
