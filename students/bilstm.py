"""A bidirectional LSTM with pooling over time."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from kdtoolkit import Encoded, Student, Tokens
from kdtoolkit.dropout import Dropout
from kdtoolkit.shape import Shape

from .options import dropout_rate, one_of, whole_number

Run = TypeVar("Run", Tensor, PackedSequence)


def packs(vectors: Tensor) -> bool:
    """Whether texts of several lengths are packed, where these numbers are."""
    return not vectors.is_cpu


class BiLSTM(Student):
    """Embedding, `layers` bidirectional LSTM layers, pooling over time.

    layers: LSTM layers. width: features per direction, so that pooled and states have 2 * width.
    embedding: features per word piece.
    pooling: "max" or "mean" over the real tokens, or "attention", a softmax over w . tanh(state) (Zhou et al. 2016,
    aclanthology.org/P16-2034, without the tanh on the result).
    dropout: on the embeddings, between layers, and on pooled.
    pairs: "separate" encodes each text of a pair alone; "joint" reads both as one sequence, told apart by the
    separator alone.

    `encode` gives pooled (rows, 2 * width) and states (rows, time, 2 * width), which are zero on padding. Set the
    attribute `output` to {"hidden"} to have the embeddings and each layer's states too; the layers then run one by one,
    and dropout between them may draw other numbers.
    Raises ValueError for an option outside its range.
    Source of the student: Tang et al. 2019 (arXiv:1903.12136), section 3.
    """

    provides = frozenset({"states", "hidden"})

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
        self.dropout = Dropout(dropout)
        between = dropout if layers > 1 else 0.0  # torch warns of a dropout between one layer and nothing
        self.lstm = nn.LSTM(embedding, width, layers, batch_first=True, bidirectional=True, dropout=between)
        if pooling == "attention":
            self.attend = nn.Linear(2 * width, 1, bias=False)  # a softmax would not feel a bias

    def encode(self, batch: Tokens) -> Encoded:
        vectors = self.dropout(self.embed(batch.ids))  # (rows, time, embedding)
        lengths = batch.lengths.cpu()  # packing wants them there, which waits for a GPU
        ragged = bool((lengths < batch.ids.shape[1]).any())
        if not ragged:  # the batch plan makes most batches so
            asked = "hidden" in self.output and self.lstm.num_layers > 1
            said = self._layers(vectors) if asked else [self.lstm(vectors)[0]]
        else:
            said = self._packed(vectors, lengths) if packs(vectors) else self._turned(vectors, batch.mask)
        states = said[-1]
        pooled = self._pool(states, batch.mask if ragged else None)
        hidden = (vectors, *said) if "hidden" in self.output else None
        return Encoded(pooled=self.dropout(pooled), states=states, hidden=hidden)

    def _packed(self, vectors: Tensor, lengths: Tensor) -> list[Tensor]:
        """The states of every layer, or of the last, of texts of several lengths: torch's way, fast on a GPU."""
        packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
        asked = "hidden" in self.output and self.lstm.num_layers > 1
        outputs = self._layers(packed) if asked else [self.lstm(packed)[0]]
        return [pad_packed_sequence(some, batch_first=True, total_length=vectors.shape[1])[0] for some in outputs]

    def _turned(self, given: Tensor, mask: Tensor) -> list[Tensor]:
        """The states of every layer of texts of several lengths, without packing, which takes a CPU step by step.

        Each direction runs over the padded batch, the second over texts that are turned round where they stand.
        """
        rows, length = mask.shape
        time = torch.arange(length, device=mask.device)
        turned = torch.where(mask, mask.sum(1, keepdim=True) - 1 - time, time)  # (rows, time)
        places = (turned + torch.arange(rows, device=mask.device).unsqueeze(1) * length).flatten()

        def one_way(some: Tensor, weights: list[Tensor]) -> Tensor:
            zero = some.new_zeros(1, len(some), self.lstm.hidden_size)
            return torch.lstm(some, (zero, zero), weights, True, 1, 0.0, self.training, False, True)[0]

        def turn(some: Tensor) -> Tensor:
            # Token by token; `gather` goes number by number, and takes four times as long, forward and back.
            return some.flatten(0, 1).index_select(0, places).view_as(some)

        said: list[Tensor] = []
        for number in range(self.lstm.num_layers):
            weights = self._weights(number)
            ahead, back = one_way(given, weights[:4]), turn(one_way(turn(given), weights[4:]))
            said.append(torch.cat([ahead, back], 2) * mask.unsqueeze(2))
            given = self._between(said[-1])
        return said

    @property
    def shape(self) -> Shape:
        return Shape(self.lstm.num_layers, self.width, embedding=self.embed.embedding_dim)

    def depths(self) -> dict[str, int]:
        return {name: self._depth(name) for name, _ in self.named_parameters()}

    def _depth(self, parameter: str) -> int:
        """torch's names end in the layer, and in "_reverse" for the second direction: lstm.weight_ih_l0_reverse."""
        if parameter.startswith("lstm."):
            return int(parameter.removesuffix("_reverse").rpartition("_l")[2]) + 1
        return 0 if parameter.startswith("embed.") else self.lstm.num_layers + 1

    def _layers(self, given: Run) -> list[Run]:
        """What each layer of the LSTM says of `given`, which torch's own call gives of the last one alone."""
        said: list[Run] = []
        for number in range(self.lstm.num_layers):
            if isinstance(given, PackedSequence):
                values, _, _ = torch.lstm(
                    given.data, given.batch_sizes, self._start(int(given.batch_sizes[0]), given.data),
                    self._weights(number), True, 1, 0.0, self.training, True,
                )  # fmt: skip
                said.append(given._replace(data=values))
                given = given._replace(data=self._between(values))
            else:
                values, _, _ = torch.lstm(
                    given,
                    self._start(len(given), given),
                    self._weights(number),
                    True,
                    1,
                    0.0,
                    self.training,
                    True,
                    True,
                )
                said.append(values)
                given = self._between(values)
        return said

    def _weights(self, layer: int) -> list[Tensor]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [getattr(self.lstm, f"{name}_l{layer}{end}") for end in ("", "_reverse") for name in names]

    def _start(self, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
        zero = like.new_zeros(2, rows, self.lstm.hidden_size)
        return zero, zero

    def _between(self, values: Tensor) -> Tensor:
        return functional.dropout(values, self.lstm.dropout, self.training)

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
