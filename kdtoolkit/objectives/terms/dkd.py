"""Decoupled knowledge distillation: the gold class against the rest, and the rest among themselves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...shape import Shape
from .base import Seen, Term
from .divergence import kl


def dkd(
    student: Tensor, teacher: Tensor, labels: Tensor, *, target: float, non_target: float, temperature: float
) -> Tensor:
    """(rows,) T^2 (target * TCKD + non_target * NCKD), in nats; 0 for rows without a gold class.

    student, teacher: (rows, classes) logits; labels (rows,) int64, -100 where there is none. With p and q the softmax
    of teacher and student at T = `temperature`, and g the gold class:
      TCKD = KL([p_g, 1 - p_g] || [q_g, 1 - q_g])
      NCKD = KL of p over the classes but g, renormalised, from q over them; 0 for two classes
    KL(p || q) = TCKD + (1 - p_g) NCKD. Source: Zhao et al. 2022, arXiv:2203.08679, section 3.
    """
    labelled = labels >= 0
    gold = labels.clamp(min=0).unsqueeze(1)
    sides = [(logits.float() / temperature).log_softmax(1) for logits in (teacher, student)]
    binary = [_binary(log_p, gold) for log_p in sides]
    value = target * kl(binary[0], binary[1])
    if student.shape[1] > 2:
        rest = [_rest(log_p, gold) for log_p in sides]
        value = value + non_target * kl(rest[0], rest[1])
    return torch.where(labelled, temperature**2 * value, 0.0)


def _rest(log_p: Tensor, gold: Tensor) -> Tensor:
    """(rows, classes) log-probabilities of the classes but the gold one, renormalised; -inf at the gold one."""
    return log_p.scatter(1, gold, -math.inf).log_softmax(1)


def _binary(log_p: Tensor, gold: Tensor) -> Tensor:
    """(rows, 2) log-probabilities of the gold class and of all others."""
    return torch.cat([log_p.gather(1, gold), log_p.scatter(1, gold, -math.inf).logsumexp(1, keepdim=True)], 1)


class DKD(Term):
    """`dkd` of each row that has a gold label; the others are left out.

    target, non_target: the paper's alpha and beta. temperature: None: the objective's. In the place of the soft loss,
    as in the paper, with objective.alpha: 1, which leaves cross-entropy against gold beside it; the paper's warm-up is
    a schedule of the term's weight.
    """

    outputs = True
    labelled = True

    def __init__(
        self,
        student: Shape | None,
        teacher: Shape | None,
        *,
        target: float = 1.0,
        non_target: float = 8.0,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        for name, weight in (("target", target), ("non_target", non_target)):
            if weight < 0:
                raise ValueError(f"{name}: a weight of {weight:g} is negative; 0 leaves it out")
        if target == non_target == 0:
            raise ValueError("target and non_target both weigh 0, so nothing would be learned")
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature: {temperature:g} is not positive; the paper's is 4")
        self.target, self.non_target, self.temperature = target, non_target, temperature

    def loss(self, seen: Seen) -> Tensor:
        return dkd(
            seen.student_logits, seen.teacher_logits, seen.labels, target=self.target, non_target=self.non_target,
            temperature=self.temperature or seen.temperature,
        )  # fmt: skip
