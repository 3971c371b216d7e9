"""Bi-attention: each text of a pair reads the other, and an integrator reads what it found."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .attention import SelfAttentivePooling, masked_softmax
from .two_texts import Text


class BiAttention(nn.Module):
    """Features of a pair of texts, or of one text paired with itself, from token states.

    With the states X and Y of the two texts: A = X Y^T; contexts C_x = softmax over Y of A times Y, C_y = softmax over
    X of A^T times X; a bidirectional LSTM, the integrator, reads [X; X - C_x; X * C_x], and the same one the like of Y;
    its states are pooled into [max; min; mean; self-attentive]. The features are both texts' pooled states, first text
    first. A single text is X and Y at once: then both halves are equal and are computed once.

    width: features of a state. integrator: features of each direction of the integrator.
    forward: first text (rows, time, width), second text or None, to (rows, 16 * integrator).

    Source: a reconstruction. MKD (arXiv:1911.03588) is said to follow the biattentive classification network of McCann
    et al. 2017 (arXiv:1708.00107), section 5; that has an integrator for each text and a ReLU layer before its encoder.
    """

    POOLED = 8
    """Pooled features of a text, in units of `integrator`."""

    def __init__(self, width: int, integrator: int) -> None:
        super().__init__()
        self.integrator = nn.LSTM(3 * width, integrator, batch_first=True, bidirectional=True)
        self.attend = SelfAttentivePooling(2 * integrator)
        self.features = 2 * self.POOLED * integrator

    def forward(self, first: Text, second: Text | None = None) -> Tensor:
        if second is None:
            pooled = self._pooled([(_compared(first, first), first.mask)])
            return torch.cat([pooled, pooled], 1)
        texts = [(_compared(first, second), first.mask), (_compared(second, first), second.mask)]
        return torch.cat(self._pooled(texts).chunk(2), 1)

    def _pooled(self, texts: list[tuple[Tensor, Tensor]]) -> Tensor:
        """(texts * rows, 8 * integrator) of texts given as (rows, time, 3 * width) and masks: one call for all."""
        time = max(mask.shape[1] for _, mask in texts)
        inputs = torch.cat([functional.pad(given, (0, 0, 0, time - given.shape[1])) for given, _ in texts])
        mask = torch.cat([functional.pad(mask, (0, time - mask.shape[1])) for _, mask in texts])
        states = self._integrated(inputs, mask)
        padding = ~mask.unsqueeze(2)
        parts = [
            states.masked_fill(padding, float("-inf")).max(1).values,
            states.masked_fill(padding, float("inf")).min(1).values,
            states.masked_fill(padding, 0.0).sum(1) / mask.sum(1, keepdim=True),
            self.attend(states, mask),
        ]
        return torch.cat(parts, 1)

    def _integrated(self, inputs: Tensor, mask: Tensor) -> Tensor:
        if bool(mask.all()):
            return self.integrator(inputs)[0]
        lengths = mask.sum(1).cpu()  # packing wants them there
        packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.integrator(packed)[0], batch_first=True, total_length=mask.shape[1])[0]


def _compared(own: Text, other: Text) -> Tensor:
    """[X; X - C; X * C] of a text and what it finds in the other: (rows, time, 3 * width)."""
    shares = masked_softmax(own.states @ other.states.transpose(1, 2), other.mask.unsqueeze(1))
    context = shares @ other.states
    return torch.cat([own.states, own.states - context, own.states * context], 2)
