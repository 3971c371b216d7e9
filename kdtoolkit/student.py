"""The contract of a student: its constructor and `encode`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .shape import Shape


class Tokens(NamedTuple):
    """A batch of texts as piece numbers, padded on the right to the longest.

    ids: (rows, time) int64, 0 where there is no token. mask: (rows, time) bool, True on real tokens; every row has at
    least one. segments: (rows, time) int64, 1 on the second text of a jointly read pair, else 0.
    """

    ids: Tensor
    mask: Tensor
    segments: Tensor

    @property
    def lengths(self) -> Tensor:
        """Number of real tokens of each row, (rows,) int64."""
        return self.mask.sum(1)

    def to(self, device: torch.device | str) -> Tokens:
        """The same batch on another device."""
        return Tokens(*(tensor.to(device, non_blocking=True) for tensor in self))


@dataclass
class Encoded:
    """What a student says about each text.

    pooled: (rows, width), what linear and pair heads read.
    states: (rows, time, width) or None, for heads and objectives that read every token.
    hidden: per layer (rows, time, width), embeddings first, so that layer L's states are hidden[L].
    attentions: per layer (rows, heads, time, time), scores before the softmax, scaled by 1 / sqrt(head width);
    what stands where a query or a key is padding means nothing.
    queries, keys, values: per layer (rows, heads, time, head width), what the attention is computed from.
    All but `pooled` and `states` are None unless `Student.output` asks for them.
    """

    pooled: Tensor
    states: Tensor | None = None
    hidden: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    queries: tuple[Tensor, ...] | None = None
    keys: tuple[Tensor, ...] | None = None
    values: tuple[Tensor, ...] | None = None


class Student(nn.Module, ABC):
    """A small text encoder. Subclass it, give the constructor keyword arguments, write `encode`.

    The constructor's first argument is `vocab_size` (piece 0 is padding); its keyword-only arguments are the recipe's
    keys under `student:`, checked against the signature. Heads, objectives, batches and the loop belong to the core.

    Class attribute `pairs`: "separate" (each text of a pair is encoded alone and a head compares them) or "joint" (one
    sequence: first text, separator, second text; `segments` tells them apart). An instance may override it.
    """

    pairs: Literal["joint", "separate"] = "separate"
    provides: frozenset[str] = frozenset()
    """Which optional parts of `Encoded` the student can give: of "states", "hidden", "attentions", "relations", which
    are queries, keys and values. An instance may override it."""
    output: frozenset[str] = frozenset()
    """Which of "hidden", "attentions", "relations" `encode` has to give; set by the core as objectives need it."""

    states_read: bool = True
    """Whether anything reads `Encoded.states`; set by the core from the heads. A student may leave them out if not."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width: expected a positive number of features, received {width}")
        self.width = width

    @abstractmethod
    def encode(self, batch: Tokens) -> Encoded | Tensor:
        """Encodes texts; a bare tensor means `pooled`, (rows, width). Padding must not change the result."""

    def forward(self, batch: Tokens) -> Encoded:
        """`encode`, with a bare tensor wrapped, and its shape checked."""
        encoded = self.encode(batch)
        if isinstance(encoded, Tensor):
            encoded = Encoded(pooled=encoded)
        expected = (batch.ids.shape[0], self.width)
        if tuple(encoded.pooled.shape) != expected:
            raise ValueError(
                f"{type(self).__name__}.encode: expected pooled of shape {expected}, "
                f"received {tuple(encoded.pooled.shape)}"
            )
        return encoded

    def word_embedding(self) -> nn.Embedding | None:
        """The table that a tokenizer's pretrained vectors may be copied into; by default the attribute `embed`."""
        table = getattr(self, "embed", None)
        return table if isinstance(table, nn.Embedding) else None

    @property
    def shape(self) -> Shape | None:
        """Layers, features and attention heads, for objectives that match layers; None: it has no such layers."""
        return None

    def depths(self) -> dict[str, int]:
        """By name of each parameter, its layer: 0 embeddings, i the i-th layer, one more than the last: what follows.

        For `optimizer.layer_decay`. Empty: the student cannot say.
        """
        return {}

    def initialise(self) -> None:
        """Called once before training, never when a trained student is loaded: the place to read pretrained weights.

        Whatever the student needs to be built again must be in `resolved_options`, for the source may be gone then.
        """

    def resolved_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options to store with the trained student: `type(self)(vocab_size, **options)` must rebuild it alone."""
        return options
