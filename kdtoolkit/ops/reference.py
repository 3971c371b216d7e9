"""The loss in plain, differentiable PyTorch: what every compiled backend must agree with, in value and gradient.

Notation: q and p are the student's and the teacher's distributions of a row at its temperature T. Two rules keep wrong
numbers where they belong. A term with probability 0 is 0, whatever its logarithm (masked classes). A row that does not
count is replaced by zeros before any arithmetic, for 0 * NaN is NaN both in the loss and in the gradient.
Everything is computed in float32, or in float64 if the student's logits are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import Arguments, Number, check_arguments
from .kinds import DIVERGENCES, KINDS, NAMES
from .values import check_values


def soft_cross_entropy_reference(
    student_logits: Tensor, teacher_logits: Any, labels: Tensor | None = None, **options: Any
) -> Any:
    """`soft_cross_entropy` with the same arguments, results and errors, whatever backend is in use.

    It can be differentiated twice, forward, and by torch.func, which compiled backends refuse.
    """
    call = check_arguments(student_logits, teacher_logits, labels, **options)
    check_values(call)
    loss, soft, hard = evaluate(call)
    return (loss, soft, hard) if call.return_parts else loss


def evaluate(call: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, soft part, hard part) of a checked call, reduced as it asks; the parts are detached."""
    shape, call = call.shape, flattened(call)
    student = call.student.to(call.number)
    logits, inside = own_columns(student, call)
    alpha, weight = per_row(call.alpha, student), per_row(call.weight, student)

    counted = weight != 0
    labelled = torch.zeros_like(counted)
    if call.labels is not None:
        labelled = (call.labels != call.ignore_index) & (alpha > 0)
        if call.ignore == "row":
            counted = counted & (labelled | (alpha == 0))
    hard, soft = torch.zeros_like(weight), torch.zeros_like(weight)
    if call.labels is not None:
        hard = hard_loss(logits, inside, call.labels, counted & labelled)
        # Refused where alpha can be looked at; elsewhere it must not pass for a loss.
        hard = torch.where(counted & labelled & (call.kind == KINDS["bce"]), math.nan, hard)
    read = counted & (alpha < 1)
    if call.listed_index is not None and call.listed_value is not None:
        soft = sparse_loss(call, call.listed_index, call.listed_value, logits, inside, read)
    elif call.teacher is not None:
        soft = soft_loss(call, call.teacher, logits, inside, read)

    # The empty sum ties the result to the graph even if no row has a loss: the gradient is then zero, not missing.
    loss = weight * (alpha * hard + (1 - alpha) * soft) + student[:0].sum()
    results = loss, (weight * soft).detach(), (weight * hard).detach()
    if call.reduction == "none":
        return tuple(part.reshape(shape) for part in results)  # type: ignore[return-value]
    total = weight.new_ones(())
    if call.reduction == "mean":
        total = torch.where(counted, weight, torch.zeros_like(weight)).sum()
        total = torch.where(total == 0, torch.ones_like(total), total)
        if call.normalizer is not None:
            total = torch.as_tensor(call.normalizer, dtype=student.dtype, device=student.device).reshape(())
    return tuple(part.sum() / total for part in results)  # type: ignore[return-value]


def flattened(call: Arguments) -> Arguments:
    """The same call with one dimension of rows: student (rows, classes), teacher (members, rows, width), what there is
    one of per row (rows,), codes and labels and columns as int64, weights of members (members, 1 or rows).
    """

    def flat(value: Any, dtype: torch.dtype | None = None) -> Any:
        return value.reshape(-1).to(dtype or value.dtype) if isinstance(value, Tensor) else value

    student, teacher, weights = call.student.reshape(-1, call.student.shape[-1]), call.teacher, call.teacher_weights
    if teacher is not None:
        teacher = teacher.reshape(call.members, len(student), teacher.shape[-1])
    if weights is not None:
        weights = weights.reshape(call.members, len(student) if weights.dim() > 1 else 1)
    return call._replace(
        student=student, teacher=teacher, teacher_weights=weights, labels=flat(call.labels, torch.int64),
        kind=flat(call.kind, torch.int64), temperature=flat(call.temperature), alpha=flat(call.alpha),
        beta=flat(call.beta), weight=flat(call.weight), starts=flat(call.starts, torch.int64),
        counts=flat(call.counts, torch.int64),
    )  # fmt: skip


def own_columns(student: Tensor, call: Arguments) -> tuple[Tensor, Tensor | None]:
    """(rows, width) logits of each row's own columns, and which of them are its own (None: all)."""
    if call.starts is None or call.counts is None:
        return student, None
    width = student.shape[-1] if call.teacher is None else call.teacher.shape[-1]
    position = torch.arange(width, device=student.device)
    index = (call.starts.unsqueeze(1) + position).clamp(max=student.shape[1] - 1)
    inside = position < call.counts.unsqueeze(1)
    return student.gather(1, index).masked_fill(~inside, 0.0), inside


def per_row(value: Number, like: Tensor) -> Tensor:
    """(rows,) in the dtype of `like` (rows, ...)."""
    if isinstance(value, Tensor):
        return value.to(like.dtype)
    return torch.full((like.shape[0],), value, dtype=like.dtype, device=like.device)


def hard_loss(logits: Tensor, inside: Tensor | None, labels: Tensor, read: Tensor) -> Tensor:
    """-log softmax(z)[label] of the rows to be read, 0 elsewhere; NaN for a label that is no class of its row."""
    log_q = log_softmax(outside(rows_or_zero(logits, read), inside, -math.inf))
    label = torch.where(read, labels, torch.zeros_like(labels))
    classes = logits.shape[1] if inside is None else inside.sum(1)
    known = (label >= 0) & (label < classes)
    loss = -log_q.gather(1, label.clamp(0, logits.shape[1] - 1).unsqueeze(1)).squeeze(1)
    return loss.masked_fill(~known, math.nan).masked_fill(~read, 0.0)


def sparse_loss(
    call: Arguments, index: Tensor, values: Tensor, logits: Tensor, inside: Tensor | None, read: Tensor
) -> Tensor:
    """The soft loss against a sparse teacher of the rows to be read, 0 elsewhere."""
    assert isinstance(call.kind, int)
    logits = outside(rows_or_zero(logits, read), inside, -math.inf)
    log_p = values if call.listed_is_log else values.log()
    log_p = log_p.masked_fill(~read.unsqueeze(1), -math.log(log_p.shape[1]))
    temperature, beta = per_row(call.temperature, logits).unsqueeze(1), per_row(call.beta, logits).unsqueeze(1)
    log_q, log_p = sparse_distributions(logits, inside, index, log_p, call.tail, temperature)
    if call.tail == "none":  # not distributions, so the form of KL whose terms need both sums to be 1 is out
        entropy = product(log_p.exp(), log_p) if NAMES[call.kind] == "kl" else 0.0
        loss = (entropy - product(log_p.exp(), log_q)).sum(1)
    else:
        loss = divergence(NAMES[call.kind], log_q, log_p, beta)
    loss = loss * temperature.squeeze(1) ** 2 if call.scale_T2 else loss
    return loss.masked_fill(~read, 0.0)


def soft_loss(call: Arguments, teacher: Tensor, logits: Tensor, inside: Tensor | None, read: Tensor) -> Tensor:
    """The soft loss against dense teachers of the rows to be read, 0 elsewhere, by the kind of each row."""
    logits = rows_or_zero(logits, read)
    temperature, beta = per_row(call.temperature, logits).unsqueeze(1), per_row(call.beta, logits).unsqueeze(1)
    shares = member_shares(call, teacher, read, logits.dtype)
    # A member of weight 0 is not read either.
    members = teacher.to(logits.dtype).masked_fill((~read | (shares == 0)).unsqueeze(2), 0.0)
    if isinstance(call.kind, int):
        loss = dense_loss(NAMES[call.kind], logits, inside, members, shares, temperature, beta, call.scale_T2)
    elif torch.compiler.is_compiling():
        loss = every_kind(call.kind, logits, inside, members, shares, temperature, beta, call.scale_T2)
    else:
        loss = torch.zeros_like(logits[:, 0].detach())
        for code in call.kind.unique().tolist():
            if code not in NAMES:
                raise ValueError(f"soft_cross_entropy: kind: expected codes of {KINDS}, received {code}")
            rows = (call.kind == code).nonzero().squeeze(1)
            own_inside = None if inside is None else inside[rows]
            part = dense_loss(NAMES[code], logits[rows], own_inside, members[:, rows], shares[:, rows],
                              temperature[rows], beta[rows], call.scale_T2)  # fmt: skip
            loss = loss.index_copy(0, rows, part)
    return loss.masked_fill(~read, 0.0)


def every_kind(
    kind: Tensor,
    logits: Tensor,
    inside: Tensor | None,
    members: Tensor,
    shares: Tensor,
    temperature: Tensor,
    beta: Tensor,
    scale_T2: bool,
) -> Tensor:
    """(rows,) loss, each row's of its kind, in shapes that no value decides, as torch.compile needs them."""
    loss = torch.zeros_like(logits[:, 0].detach()).masked_fill((kind < 0) | (kind >= len(KINDS)), math.nan)
    for code, name in NAMES.items():
        own = kind == code
        own_logits, own_members = rows_or_zero(logits, own), members.masked_fill(~own.unsqueeze(1), 0.0)
        part = dense_loss(name, own_logits, inside, own_members, shares, temperature, beta, scale_T2)
        loss = torch.where(own, part, loss)
    return loss


def member_shares(call: Arguments, teacher: Tensor, read: Tensor, dtype: torch.dtype) -> Tensor:
    """(members, rows) weights of the ensemble's members that sum to one in each row; NaN where all are 0."""
    equal = torch.full(teacher.shape[:2], 1.0 / len(teacher), dtype=dtype, device=teacher.device)
    if call.teacher_weights is None:
        return equal
    weights = call.teacher_weights.to(dtype)
    return torch.where(read, weights / weights.sum(0), equal)


def dense_loss(
    kind: str,
    logits: Tensor,
    inside: Tensor | None,
    members: Tensor,
    shares: Tensor,
    temperature: Tensor,
    beta: Tensor,
    scale_T2: bool,
) -> Tensor:
    """(rows,) loss of one kind; logits (rows, width), members (members, rows, width), shares (members, rows),
    temperature and beta (rows, 1).
    """
    weights = shares.unsqueeze(2)
    if kind in ("mse", "mse_centered"):
        values = torch.where(weights > 0, weights * members, torch.zeros_like(members)).sum(0)
        return squared_error(logits, values, inside, centered=kind == "mse_centered")
    if kind == "bce":
        loss = binary(logits / temperature, members / temperature, weights, inside)
    else:
        log_q = log_softmax(outside(logits, inside, -math.inf), temperature)
        log_p = log_softmax(outside(members, inside, -math.inf), temperature)
        log_p = (log_p + weights.log()).logsumexp(0)
        loss = divergence(kind, log_q, log_p, beta)
    return loss * temperature.squeeze(1) ** 2 if scale_T2 else loss


def divergence(kind: str, log_q: Tensor, log_p: Tensor, beta: Tensor) -> Tensor:
    """(rows,) ce, kl, rkl, jsd or tvd of two distributions given as log-probabilities (rows, classes)."""
    assert kind in DIVERGENCES
    q, p = log_q.exp(), log_p.exp()
    if kind == "ce":
        terms = -product(p, log_q)
    elif kind == "kl":
        # The - p + q sum to 0 and make every term >= 0, so that a small KL is no difference of large sums.
        terms = product(p, log_p - log_q) - p + q
    elif kind == "rkl":
        terms = product(q, log_q - log_p)
    elif kind == "jsd":
        # log m by logaddexp, for m underflows where both do; it has no derivative where both are log 0.
        both_zero = log_p.isneginf() & log_q.isneginf()
        log_q, log_p = log_q.masked_fill(both_zero, 0.0), log_p.masked_fill(both_zero, 0.0)
        log_m = torch.logaddexp(beta.log() + log_p, (1 - beta).log() + log_q)
        terms = beta * product(p, log_p - log_m) + (1 - beta) * product(q, log_q - log_m)
    else:
        terms = (q - p).abs() / 2
    return terms.sum(1)


def squared_error(logits: Tensor, values: Tensor, inside: Tensor | None, *, centered: bool) -> Tensor:
    """(rows,) mean over a row's columns of (z - v)^2; centred: after each row's mean is taken off z and v.

    A class that both sides mask by -inf is left out.
    """
    kept = ~(logits.isneginf() & values.isneginf())
    kept = kept if inside is None else kept & inside
    count = kept.sum(1, keepdim=True)
    difference = logits.masked_fill(~kept, 0.0) - values.masked_fill(~kept, 0.0)
    if centered:
        difference = (difference - difference.sum(1, keepdim=True) / count).masked_fill(~kept, 0.0)
    return (difference.square() / count).sum(1)


def binary(x: Tensor, members: Tensor, weights: Tensor, inside: Tensor | None) -> Tensor:
    """(rows,) mean over a row's columns of the cross-entropy of sigmoid(x) against the members' mean sigmoid.

    sigmoid(-v) is computed as such, so that targets of +-inf are exactly 1 and 0.
    """
    yes = torch.where(weights > 0, weights * members.sigmoid(), torch.zeros_like(members)).sum(0)
    no = torch.where(weights > 0, weights * (-members).sigmoid(), torch.zeros_like(members)).sum(0)
    terms = -product(yes, F.logsigmoid(x)) - product(no, F.logsigmoid(-x))
    if inside is None:
        return terms.mean(1)
    return (terms.masked_fill(~inside, 0.0) / inside.sum(1, keepdim=True)).sum(1)


def sparse_distributions(
    logits: Tensor, inside: Tensor | None, index: Tensor, log_p: Tensor, tail: str | None, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """(log q, log p) over the classes or buckets that the teacher's tail defines, (rows, that number)."""
    listed = index.shape[1]
    if tail == "renorm":
        return log_softmax(logits.gather(1, index), temperature), log_softmax(log_p)
    log_q = log_softmax(logits, temperature)
    if tail == "none":
        return log_q.gather(1, index), log_p

    classes = logits.shape[1] if inside is None else inside.sum(1, keepdim=True)
    unlisted = torch.as_tensor(classes - listed, device=logits.device)
    mass = (1 - log_p.exp().sum(1, keepdim=True)).clamp(min=0.0)
    log_mass = mass.masked_fill((unlisted == 0).expand_as(mass), 0.0).log()
    if tail == "uniform":
        even = (log_mass - unlisted.to(log_p.dtype).log()).masked_fill(log_mass.isneginf(), -math.inf)
        return log_q, outside(even.expand_as(log_q), inside, -math.inf).scatter(1, index, log_p)
    # The student's tail is summed over the unlisted classes: 1 - (listed sum) would cancel where the list holds nearly
    # everything.
    log_q_tail = log_sum_exp(log_q.scatter(1, index, -math.inf))
    return torch.cat([log_q.gather(1, index), log_q_tail], 1), torch.cat([log_p, log_mass], 1)


def rows_or_zero(logits: Tensor, read: Tensor) -> Tensor:
    """The logits with the rows that are not to be read replaced by zeros."""
    return logits.masked_fill(~read.unsqueeze(1), 0.0)


def outside(values: Tensor, inside: Tensor | None, fill: float) -> Tensor:
    """The values with the columns that are not a row's own set to `fill`."""
    return values if inside is None else values.masked_fill(~inside, fill)


def product(probability: Tensor, value: Tensor) -> Tensor:
    """probability * value, and 0 where the probability is 0 even if the value is infinite."""
    return probability * value.masked_fill(probability == 0, 0.0)


def log_softmax(logits: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """log softmax(logits / T) over the last dimension; the maximum is taken off first, so nothing overflows."""
    shifted = (logits - logits.amax(-1, keepdim=True).detach()) / temperature
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


def log_sum_exp(values: Tensor) -> Tensor:
    """log sum exp over the last dimension, kept; -inf, with gradient 0, where every value is -inf."""
    empty = values.isneginf().all(-1, keepdim=True)
    return values.masked_fill(empty, 0.0).logsumexp(-1, keepdim=True).masked_fill(empty, -math.inf)
