"""What is inside a Hugging Face encoder: sizes, depth of each parameter, queries, keys, values and attention scores."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from .shape import Shape

PROJECTIONS: dict[str, tuple[str, str, str]] = {
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "camembert", "electra", "albert"), ("query", "key", "value")
    ),
    "distilbert": ("q_lin", "k_lin", "v_lin"),
    "mpnet": ("q", "k", "v"),
}  # fmt: skip
"""By model type, what its attention calls the linear maps to queries, keys and values."""

BIASED = ("mpnet",)
"""Types that add something to the scaled products of queries and keys before the softmax."""

_NUMBERED = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)\.(\d+)\.")


class Projected(NamedTuple):
    """Queries, keys and values of every layer, each (rows, heads, time, head width)."""

    queries: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]

    def scores(self, layer: int) -> Tensor:
        """Attention of a layer (from 0) before the softmax, (rows, heads, time, time), scaled by 1 / sqrt(width).

        Padding is not masked.
        """
        query, key = self.queries[layer], self.keys[layer]
        return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])


class EncoderLayers:
    """Reads the layers of an encoder that transformers built; `encoder` has the config of a known or unknown type."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder
        self._config: Any = encoder.config
        self._names = projections_of(self._config)

    @property
    def provides(self) -> frozenset[str]:
        """Of "hidden", "attentions" and "relations" (queries, keys and values), those that can be read."""
        return provided_by(self._config)

    @contextmanager
    def projected(self) -> Iterator[Projected]:
        """What the encoder's next forward pass computes its attention from; the lists fill as layers run."""
        found = Projected([], [], [])
        heads = int(self._config.num_attention_heads)

        def keeper(kept: list[Tensor]) -> Any:
            def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
                rows, time, width = output.shape
                kept.append(output.view(rows, time, heads, width // heads).transpose(1, 2))

            return keep

        hooks = []
        try:
            for module in self.encoder.modules():
                children = dict(module.named_children())
                if self._names is not None and all(name in children for name in self._names):
                    # A layer that several depths share runs several times, and is heard each time.
                    hooks += [
                        children[name].register_forward_hook(keeper(kept)) for name, kept in zip(self._names, found)
                    ]
            yield found
        finally:
            for hook in hooks:
                hook.remove()


def shape_of(config: Any) -> Shape | None:
    """The sizes that a config tells; None if it does not have them under their usual names."""
    sizes = [getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    layers, width, heads = sizes
    return Shape(int(layers), int(width), int(heads))  # type: ignore[arg-type]


def projections_of(config: Any) -> tuple[str, str, str] | None:
    """The names of the maps to queries, keys and values; None for a type that is not known, or has other scores."""
    absolute = getattr(config, "position_embedding_type", None) in (None, "absolute")
    return PROJECTIONS.get(config.model_type) if absolute else None


def provided_by(config: Any) -> frozenset[str]:
    """Of "hidden", "attentions" and "relations", what an encoder with this config shows."""
    if projections_of(config) is None:
        return frozenset({"hidden"})
    attention = set() if config.model_type in BIASED else {"attentions"}
    return frozenset({"hidden", "relations", *attention})


def missing_part(config: Any, part: str) -> str:
    """Why an encoder with this config does not show a part, for a message."""
    if part == "attentions" and config.model_type in BIASED:
        return f"an encoder of type '{config.model_type}' adds relative positions to its attention scores"
    return f"what the attention of an encoder of type '{config.model_type}' is computed from is not known"


def depths_of(encoder: nn.Module) -> dict[str, int]:
    """By name of each parameter, its layer: 0 embeddings, i the i-th layer, one more than the last for what follows.

    Empty if the layers are not numbered, as where all depths share one (ALBERT).
    """
    names = [name for name, _ in encoder.named_parameters()]
    found = {name: _NUMBERED.search(name) for name in names}
    last = max((int(match.group(1)) + 1 for match in found.values() if match), default=0)
    if not last:
        return {}
    return {
        name: int(match.group(1)) + 1 if match else 0 if "embed" in name or "relative" in name else last + 1
        for name, match in found.items()
    }


def numbered_layers(model: nn.Module, *, without: Sequence[nn.Module] = ()) -> list[tuple[str, nn.Module]]:
    """The layers of whatever encoder is in `model`, with their names: the outermost modules of a numbered row.

    Left out are those that are never called (lists), those that share parameters with something outside of them, and
    what is part of the modules `without`.
    """
    passed = {inner for module in without for inner in module.modules()}
    owners: dict[nn.Parameter, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        match = _NUMBERED.search(name)
        owners.setdefault(parameter, set()).add(name[: match.end() - 1] if match else "")
    shared = set[str]().union(*(names for names in owners.values() if len(names) > 1))
    own = {name for names in owners.values() for name in names} - shared - {""}
    return [
        (name, module)
        for name, module in model.named_modules()
        if name in own and module not in passed and type(module).forward is not nn.Module.forward
    ]
