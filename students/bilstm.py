"""A bidirectional LSTM with pooling over time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kdtoolkit import Encoded, Student, Tokens

from .options import dropout_rate, one_of, whole_number


class BiLSTM(Student):
    """Embedding, `layers` bidirectional LSTM layers, pooling over time.

    layers: LSTM layers. width: features per direction, so that pooled and states have 2 * width.
    embedding: features per word piece.
    pooling: "max" or "mean" over the real tokens, or "attention", a softmax over w . tanh(state) (Zhou et al. 2016,
    aclanthology.org/P16-2034, without the tanh on the result).
    dropout: on the embeddings, between layers, and on pooled.
    pairs: "separate" encodes each text of a pair alone; "joint" reads both as one sequence, told apart by the
    separator alone.

    `encode` gives pooled (rows, 2 * width) and states (rows, time, 2 * width), which are zero on padding.
    Raises ValueError for an option outside its range.
    Source of the student: Tang et al. 2019 (arXiv:1903.12136), section 3.
    """

    provides = frozenset({"states"})

    def __init__(
        self,
        vocab_size: int,
        *,
        layers: int = 1,
        width: int = 150,
        embedding: int = 300,
        pooling: Literal["max", "mean", "attention"] = "max",
        dropout: float = 0.3,
        pairs: Literal["separate", "joint"] = "separate",
    ) -> None:
        for option, value in (("layers", layers), ("width", width), ("embedding", embedding)):
            whole_number(option, value)
        one_of("pooling", pooling, ("max", "mean", "attention"))
        one_of("pairs", pairs, ("separate", "joint"))
        dropout_rate("dropout", dropout)
        super().__init__(width=2 * width)
        self.pooling, self.pairs = pooling, pairs
        self.embed = nn.Embedding(vocab_size, embedding, padding_idx=0)
        with torch.no_grad():
            # torch's deviation of 1 drowns what few updates can teach a word: BENCHMARKS.md, 2026-11-21.
            self.embed.weight.mul_(0.1)
        self.dropout = nn.Dropout(dropout)
        between = dropout if layers > 1 else 0.0  # torch warns of a dropout between one layer and nothing
        self.lstm = nn.LSTM(embedding, width, layers, batch_first=True, bidirectional=True, dropout=between)
        if pooling == "attention":
            self.attend = nn.Linear(2 * width, 1, bias=False)  # a softmax would not feel a bias

    def encode(self, batch: Tokens) -> Encoded:
        vectors = self.dropout(self.embed(batch.ids))  # (rows, time, embedding)
        lengths = batch.lengths.cpu()  # packing wants them there, which waits for a GPU
        time = batch.ids.shape[1]
        ragged = bool((lengths < time).any())
        if ragged:  # rows of one length need no packing, and the batch plan makes most batches so
            packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=time)
        else:
            states = self.lstm(vectors)[0]
        pooled = self._pool(states, batch.mask if ragged else None)
        return Encoded(pooled=self.dropout(pooled), states=states)

    def _pool(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """(rows, time, width) to (rows, width); `mask` is None when every token is real."""
        if self.pooling == "max":
            if mask is not None:
                states = states.masked_fill(~mask.unsqueeze(-1), float("-inf"))
            return states.max(1).values
        if self.pooling == "mean":
            if mask is None:
                return states.mean(1)
            return states.sum(1) / mask.sum(1, keepdim=True)  # states are zero on padding
        scores = self.attend(torch.tanh(states)).squeeze(-1)  # (rows, time)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return (scores.softmax(1).unsqueeze(1) @ states).squeeze(1)
