"""A small BERT-like encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdtoolkit import Encoded, InputError, Student, Tokens
from kdtoolkit.dropout import Dropout
from kdtoolkit.linear import Linear, linear
from kdtoolkit.shape import Shape

from .options import dropout_rate, one_of, whole_number

if TYPE_CHECKING:
    from .bert_checkpoint import BertCheckpoint

NORM_EPSILON = 1e-12  # BERT's, so that copied layers compute what they computed


Relation = tuple[Tensor, Tensor, Tensor]
"""Query, key and value of a layer, each (rows, heads, time, head width)."""


class Layer(nn.Module):
    """Self-attention and feed-forward, each followed by dropout, residual and LayerNorm (post-LN, as in BERT)."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.query_key_value = Linear(width, 3 * width)
        self.attended = Linear(width, width)
        self.attended_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.inner = Linear(width, feedforward)
        self.outer = Linear(feedforward, width)
        self.outer_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.dropout = Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor | None, *, first: bool = False) -> tuple[Tensor, Relation | None]:
        """States (rows, time, width), and what its attention was computed from.

        mask: (rows, 1, 1, time) bool, True on real tokens; None: every token is real. first: the first token's state
        alone, (rows, 1, width), and None: of the other tokens just what it attends to is computed.
        """
        if not first:
            query, key, value = self._split(self.query_key_value(states))
            return self._rest(states, query, key, value, mask), (query, key, value)
        weight, bias, width = self.query_key_value.weight, self.query_key_value.bias, states.shape[2]
        (query,) = self._split(linear(states[:, :1], weight[:width], bias[:width]))
        key, value = self._split(linear(states, weight[width:], bias[width:]))
        return self._rest(states[:, :1], query, key, value, mask), None

    def _split(self, projected: Tensor) -> tuple[Tensor, ...]:
        """Of (rows, time, parts * width), the parts, each (rows, heads, time, head width)."""
        return projected.unflatten(2, (-1, self.heads, self.attended.in_features // self.heads)).permute(
            2, 0, 3, 1, 4
        ).unbind(0)  # fmt: skip

    def _rest(self, states: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """What follows the projections, for the tokens that `states` and `query` are of."""
        rate = self.rate if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        mixed = mixed.transpose(1, 2).flatten(2)  # (rows, time, width)
        states = self.attended_norm(states + self.dropout(self.attended(mixed)))
        inner = self.outer(functional.gelu(self.inner(states)))
        return self.outer_norm(states + self.dropout(inner))


class Transformer(Student):
    """Word, position and segment embeddings, then `layers` post-LN encoder layers.

    layers, width, heads: of the encoder; heads must divide width. feedforward: inner width, None: 4 * width.
    dropout: on embeddings, attention, the output of every sublayer, and pooled.
    positions: longest text it can read, in tokens; a longer one is an InputError.
    pooling: "first" (the state of the first token) or "mean" over the real tokens.
    pairs: "joint" reads a pair as one sequence with segments, "separate" encodes each text alone.
    init_from: folder, alias or hub id of a BERT-type checkpoint of the same width, heads and feedforward, or "teacher",
    the run's first Hugging Face teacher after its fine-tuning. `initialise` copies from it positions, segments, their
    LayerNorm and the chosen layers. Its word embeddings come with its tokenizer, which is the recipe's default then.
    init_layers: the checkpoint's layer numbers, from 0, one for each layer here; None: evenly spaced from its first
    layer to its last, and its first alone if there is one layer here.

    `encode` gives pooled (rows, width) and states (rows, time, width), which are zero on padding. Set the attribute
    `output` to any of {"hidden", "attentions", "relations"} to have these too: hidden is the embeddings and each
    layer's states, attentions are scores before the softmax, relations are queries, keys and values.

    Raises ValueError for an option outside its range.
    Source: Devlin et al. 2019 (arXiv:1810.04805), section 3; small sizes as in Turc et al. 2019 (arXiv:1908.08962).
    """

    provides = frozenset({"states", "hidden", "attentions", "relations"})

    def __init__(
        self,
        vocab_size: int,
        *,
        layers: int = 2,
        width: int = 128,
        heads: int = 2,
        feedforward: int | None = None,
        dropout: float = 0.1,
        positions: int = 512,
        pooling: Literal["first", "mean"] = "first",
        pairs: Literal["joint", "separate"] = "joint",
        init_from: str | None = None,
        init_layers: Sequence[int] | None = None,
    ) -> None:
        feedforward = 4 * width if feedforward is None else feedforward
        sizes = {"layers": layers, "width": width, "heads": heads, "feedforward": feedforward, "positions": positions}
        for option, value in sizes.items():
            whole_number(option, value)
        if width % heads:
            raise ValueError(f"heads: expected a divisor of width ({width}), received {heads}")
        dropout_rate("dropout", dropout)
        one_of("pooling", pooling, ("first", "mean"))
        one_of("pairs", pairs, ("joint", "separate"))
        if init_layers is not None:
            if len(init_layers) != layers:
                raise ValueError(f"init_layers: expected {layers} layer numbers, received {len(init_layers)}")
            for number in init_layers:
                whole_number("init_layers", number, least=0)
        super().__init__(width=width)
        self.pooling, self.pairs = pooling, pairs
        self.init_from, self.init_layers = init_from, init_layers
        self.embed = nn.Embedding(vocab_size, width, padding_idx=0)
        self.positions = nn.Embedding(positions, width)
        self.segments = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, feedforward, dropout) for _ in range(layers))
        self.apply(_small_normal)

    def encode(self, batch: Tokens) -> Encoded:
        time = batch.ids.shape[1]
        if time > self.positions.num_embeddings:
            raise InputError(
                "student.positions",
                f"a text has {time} tokens, and the student can read {self.positions.num_embeddings}",
                f"set student.positions to at least {time}, or data.max_tokens to less",
            )
        states = self.embed(batch.ids) + self.positions.weight[:time] + self.segments(batch.segments)
        states = self.dropout(self.norm(states))
        mask = batch.mask if _may_be_ragged(batch.mask) else None
        keys = None if mask is None else mask[:, None, None, :]
        hidden, relations = [states], list[Relation]()
        pooled_alone = self.pooling == "first" and not self.states_read and not self.output
        for number, layer in enumerate(self.layers, 1):
            first = pooled_alone and number == len(self.layers)
            states, relation = layer(states, keys, first=first)
            if first:
                return Encoded(pooled=self.dropout(states[:, 0]))
            hidden.append(states)
            relations.append(relation)
        if mask is not None:
            states = states * mask.unsqueeze(-1)
        if self.pooling == "first":
            pooled = states[:, 0]
        else:
            pooled = states.sum(1) / (time if mask is None else mask.sum(1, keepdim=True))
        encoded = Encoded(pooled=self.dropout(pooled), states=states)
        if "hidden" in self.output:
            encoded.hidden = tuple(hidden)
        if "attentions" in self.output:
            encoded.attentions = tuple(_scores(query, key) for query, key, _ in relations)
        if "relations" in self.output:
            encoded.queries, encoded.keys, encoded.values = zip(*relations)
        return encoded

    @property
    def shape(self) -> Shape:
        first = self.layers[0]
        assert isinstance(first, Layer)
        return Shape(len(self.layers), self.width, first.heads)

    def depths(self) -> dict[str, int]:
        return {name: _depth(name) for name, _ in self.named_parameters()}

    @torch.no_grad()
    def initialise(self) -> None:
        """Copies the weights of `init_from`, if it is given.

        Raises InputError if the checkpoint cannot be read or its sizes are others than this student's.
        """
        if self.init_from is None:
            return
        from .bert_checkpoint import BertCheckpoint

        checkpoint = BertCheckpoint(self.init_from, "student.init_from")
        numbers = self._chosen_layers(checkpoint)
        self._check_sizes(checkpoint)
        positions = checkpoint.tensor("embeddings.position_embeddings.weight")
        self.positions.weight.copy_(positions[: self.positions.num_embeddings])
        segments = checkpoint.tensor("embeddings.token_type_embeddings.weight")[:2]
        self.segments.weight[: len(segments)].copy_(segments)
        for name in ("weight", "bias"):
            getattr(self.norm, name).copy_(checkpoint.tensor(f"embeddings.LayerNorm.{name}"))
        for number, layer in zip(numbers, self.layers):
            assert isinstance(layer, Layer)
            _copy_layer(checkpoint, f"encoder.layer.{number}", layer)

    def resolved_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in options.items() if key not in ("init_from", "init_layers")}

    def _chosen_layers(self, checkpoint: BertCheckpoint) -> list[int]:
        available, wanted = checkpoint.layers, len(self.layers)
        if self.init_layers is None:
            if wanted > available:
                raise InputError(
                    "student.layers",
                    f"{wanted} layers cannot be copied from the {available} of '{self.init_from}'",
                    f"use at most {available} layers, or name some twice in student.init_layers",
                )
            return [round(i * (available - 1) / max(wanted - 1, 1)) for i in range(wanted)]
        if max(self.init_layers) >= available:
            raise InputError(
                "student.init_layers",
                f"'{self.init_from}' has layers 0 to {available - 1}, received {max(self.init_layers)}",
            )
        return list(self.init_layers)

    def _check_sizes(self, checkpoint: BertCheckpoint) -> None:
        first = self.layers[0]
        assert isinstance(first, Layer)
        config = checkpoint.config
        inner = checkpoint.tensor("encoder.layer.0.intermediate.dense.weight").shape
        widths = {
            "width": (inner[1], self.width),
            "heads": (config.get("num_attention_heads"), first.heads),
            "feedforward": (inner[0], first.inner.out_features),
        }
        for option, (expected, received) in widths.items():
            if expected != received:
                raise InputError(
                    f"student.{option}",
                    f"'{self.init_from}' needs {option} {expected}, received {received}",
                    f"set student.{option} to {expected}, or leave out student.init_from",
                )
        longest = checkpoint.tensor("embeddings.position_embeddings.weight").shape[0]
        if self.positions.num_embeddings > longest:
            raise InputError(
                "student.positions",
                f"'{self.init_from}' has {longest} positions, received {self.positions.num_embeddings}",
                f"set student.positions to at most {longest}",
            )


def _copy_layer(checkpoint: BertCheckpoint, prefix: str, layer: Layer) -> None:
    for name in ("weight", "bias"):
        parts = [checkpoint.tensor(f"{prefix}.attention.self.{part}.{name}") for part in ("query", "key", "value")]
        getattr(layer.query_key_value, name).copy_(torch.cat(parts))
        for module, key in (
            (layer.attended, "attention.output.dense"),
            (layer.attended_norm, "attention.output.LayerNorm"),
            (layer.inner, "intermediate.dense"),
            (layer.outer, "output.dense"),
            (layer.outer_norm, "output.LayerNorm"),
        ):
            getattr(module, name).copy_(checkpoint.tensor(f"{prefix}.{key}.{name}"))


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """(rows, heads, time, time) attention before the softmax; padding is not masked."""
    return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])


def _depth(parameter: str) -> int:
    first, _, rest = parameter.partition(".")
    return int(rest.split(".")[0]) + 1 if first == "layers" else 0


def _small_normal(module: nn.Module) -> None:
    """BERT's initial weights: normal with standard deviation 0.02, biases and padding zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx].detach())


def _may_be_ragged(mask: Tensor) -> bool:
    """Whether a mask has to be passed on. Only a CPU is asked: a GPU would have to be waited for."""
    return torch.compiler.is_compiling() or mask.device.type != "cpu" or not bool(mask.all())
