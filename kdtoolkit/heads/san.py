"""The stochastic answer network: several readings of a pair, averaged."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import SelfAttentivePooling, masked_softmax
from .interaction import FACTOR, interaction
from .two_texts import Text


class StochasticAnswer(nn.Module):
    """Answers about a pair in `steps` readings of its first text; a prediction a step, averaged as probabilities.

    s_0 is the second text, pooled self-attentively. Step k reads x_k, the first text's states weighted by a softmax
    over their bilinear products s_k^T W m with s_k; predicts P_k = softmax(V [s_k; x_k; |s_k - x_k|; s_k * x_k] + b);
    and goes on with s_{k+1} = GRU(s_k, x_k). The output is the logarithm of the mean of the P_k: log-probabilities,
    which are logits whose softmax is that mean. It is computed from logarithms throughout, so that it is finite.

    In training each row's steps are left out of its mean with probability `step_dropout`, one at least is kept (all
    equally likely); in evaluation all are averaged.

    width: features of a state. memory: features of s and x; where it is not `width`, states are projected first.
    dropout: on what the output layer V reads. V and b are the task's own output layer and given to `forward`.

    Source: Liu, Duh and Gao 2018 (arXiv:1804.07888); as MT-DNN-KD's answer module (arXiv:1904.09482; defaults of its
    code: 5 steps, step_dropout 0.1). Its code has an attention size of 128 where W here is memory by memory.
    """

    def __init__(self, width: int, memory: int, *, steps: int, step_dropout: float, dropout: float) -> None:
        super().__init__()
        self.steps, self.step_dropout, self.dropout = steps, step_dropout, dropout
        self.project = nn.Linear(width, memory) if memory != width else nn.Identity()
        self.summary = SelfAttentivePooling(memory)
        self.bilinear = nn.Linear(memory, memory, bias=False)
        self.cell = nn.GRUCell(memory, memory)
        self.features = FACTOR * memory

    def forward(self, first: Text, second: Text, weight: Tensor, bias: Tensor) -> Tensor:
        """(rows, classes) log-probabilities. weight: (classes, 4 * memory). bias: (classes,)."""
        read = self.project(first.states)
        state = self.summary(self.project(second.states), second.mask)
        predictions = []
        for step in range(self.steps):
            shares = masked_softmax((read @ self.bilinear(state).unsqueeze(2)).squeeze(2), first.mask)
            found = (shares.unsqueeze(1) @ read).squeeze(1)
            features = functional.dropout(interaction(state, found), self.dropout, self.training)
            predictions.append(functional.linear(features, weight, bias).log_softmax(1))
            if step + 1 < self.steps:
                state = self.cell(found, state)
        return self._mean(torch.stack(predictions, 1))

    def _mean(self, predictions: Tensor) -> Tensor:
        """(rows, steps, classes) log-probabilities to the logarithm of their mean over the steps that are kept."""
        if not self.training or self.step_dropout == 0 or self.steps == 1:
            return predictions.logsumexp(1) - math.log(self.steps)
        kept = kept_steps(len(predictions), self.steps, self.step_dropout, predictions.device)
        return predictions.masked_fill(~kept.unsqueeze(2), float("-inf")).logsumexp(1) - kept.sum(1, keepdim=True).log()


def kept_steps(rows: int, steps: int, rate: float, device: torch.device) -> Tensor:
    """(rows, steps) bool: each step is kept with probability 1 - rate, but one of each row in any case."""
    drawn = torch.rand(rows, steps, device=device)
    # The largest number is kept whenever any is, and which one that is does not depend on the rate.
    return (drawn >= rate) | (drawn == drawn.amax(1, keepdim=True))
