"""The loss of a ranked task: over the candidates of a query, not row by row."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_ODDS = 1e4
"""A teacher whose probabilities are 0 and 1 has infinite log-odds, of which no difference can be taken."""


class Candidates(NamedTuple):
    """Rows of ranked tasks, (rows,) each but those named.

    groups: integers, equal for candidates of one query. relevance: gamma * r of the student, the difference of its two
    logits. teacher: (members, rows) the same difference of each member's logits. members: (members, rows) their
    weights, 0 where one says nothing. positive: bool, whether the gold label is the relevant one. has_soft, has_hard:
    bool, whether the row has such a part. alpha: the weight of its gold part. temperature, weight: of its task.
    divergence: bool, whether the teacher's entropy is taken off the soft part (the kind `kl`).
    """

    groups: Tensor
    relevance: Tensor
    teacher: Tensor
    members: Tensor
    positive: Tensor
    has_soft: Tensor
    has_hard: Tensor
    alpha: Tensor
    temperature: Tensor
    weight: Tensor
    divergence: Tensor


class Ranked(NamedTuple):
    """What the groups say. loss: (rows,), carries the gradient. parts: (2, rows) soft and gold part, detached, before
    alpha and weight. grouped: (2, rows) bool, which parts of which rows these are; all others are left to be computed
    row by row, with `alpha` and `weight`, (rows,).
    """

    loss: Tensor
    parts: Tensor
    grouped: Tensor
    alpha: Tensor
    weight: Tensor


def rank(rows: Candidates, *, scale_T2: bool = True) -> Ranked:
    """The loss over each group of candidates, divided evenly over its rows.

    P(candidate | query) = softmax of the relevances over the group. Gold: minus the mean log P of the positives, the
    cross-entropy with a target that is uniform over them, over the candidates with a gold label. Soft: cross-entropy
    of the softmax of relevance / T with the teacher's, over the candidates that the teacher speaks for, times T^2 with
    `scale_T2`. The teacher's relevance is the log-odds of its mean probability at temperature T, with one member its
    difference of logits / T. Both are nats a group, so a query counts once however many candidates it has.

    Without a comparison there is nothing to rank: the gold part of groups without a positive, without a negative or of
    one labelled row, and the soft part of those of one taught row, fall back to the row's own binary cross-entropy.

    A group does not feel the common level of its relevances: rows that fall back alone teach it, and with it what the
    binary metrics call relevant. Where every query has candidates, compare these and not single rows with 1/2.

    The loss is a sum over groups: a batch cut between groups gives the same.
    Source: MT-DNN-KD (arXiv:1904.09482) for the gold part; the soft part and the fall-back are ours.
    """
    _, groups = torch.unique(rows.groups, return_inverse=True)
    count = int(groups.max()) + 1 if len(groups) else 0
    positives = _sum(rows.has_hard & rows.positive, groups, count)
    negatives = _sum(rows.has_hard & ~rows.positive, groups, count)
    in_hard = rows.has_hard & ((positives > 0) & (negatives > 0))[groups]
    in_soft = rows.has_soft & (_sum(rows.has_soft, groups, count) > 1)[groups]

    hard, soft = torch.zeros_like(rows.relevance), torch.zeros_like(rows.relevance)
    chosen = in_hard.nonzero().squeeze(1)
    if len(chosen):
        own = groups[chosen]
        target = rows.positive[chosen] / positives[own].clamp(min=1)
        log_shares = _log_softmax(rows.relevance[chosen], own, count)
        hard = hard.index_copy(0, chosen, _spread(-target * log_shares, own, count))
    chosen = in_soft.nonzero().squeeze(1)
    if len(chosen):
        own, temperature = groups[chosen], rows.temperature[chosen]
        odds = mean_odds(rows.teacher[:, chosen] / temperature, rows.members[:, chosen])
        told = _log_softmax(odds, own, count)
        surprise = -_log_softmax(rows.relevance[chosen] / temperature, own, count)
        each = told.exp() * (surprise + torch.where(rows.divergence[chosen], told, 0.0))
        scale = temperature.square() if scale_T2 else torch.ones_like(temperature)
        soft = soft.index_copy(0, chosen, _spread(each, own, count) * scale)

    loss = rows.weight * (rows.alpha * hard + (1 - rows.alpha) * soft)
    left = torch.where(in_soft, rows.alpha, 1.0) * torch.where(in_hard, 1 - rows.alpha, 1.0)
    weight = torch.where(in_soft & in_hard, 0.0, rows.weight * left)
    alpha = torch.where(in_soft, 1.0, torch.where(in_hard, 0.0, rows.alpha))
    return Ranked(loss, torch.stack([soft, hard]).detach(), torch.stack([in_soft, in_hard]), alpha, weight)


def mean_odds(odds: Tensor, weights: Tensor) -> Tensor:
    """(rows,) log-odds of the weighted mean of the probabilities sigmoid(odds); odds, weights: (members, rows).

    Every row has a weight that is not 0. Of one member they are its own odds.
    """
    known = odds.masked_fill(weights == 0, 0.0)
    share = weights.log()
    yes = (share + F.logsigmoid(known)).logsumexp(0)
    no = (share + F.logsigmoid(-known)).logsumexp(0)
    return (yes - no).clamp(-LARGEST_ODDS, LARGEST_ODDS)


def _log_softmax(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """log softmax of `values` (rows,) over the rows of each group, numbered 0 to count - 1; some may have no row."""
    peak = values.new_full((count,), float("-inf")).scatter_reduce(0, groups, values.detach(), "amax")
    shifted = values - peak[groups]
    total = values.new_zeros(count).index_add(0, groups, shifted.exp())
    return shifted - total[groups].log()


def _spread(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Each group's sum of `values`, divided evenly over its rows."""
    total = values.new_zeros(count).index_add(0, groups, values)
    return (total / _sum(torch.ones_like(groups), groups, count).clamp(min=1))[groups]


def _sum(values: Tensor, groups: Tensor, count: int) -> Tensor:
    return torch.zeros(count, device=groups.device).index_add(0, groups, values.float())
