"""Names of a teacher's features (see `kdtoolkit.teacher.Features`): what they are, and of which shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .shape import Shape

PARTS = {"first": "hidden", "hidden": "hidden", "attention": "attentions",
         "queries": "relations", "keys": "relations", "values": "relations"}  # fmt: skip
"""Kinds of features, and what an encoder must show for them: of "hidden", "attentions", "relations"."""


class FeatureName(NamedTuple):
    """kind: a key of `PARTS`; layer: 0 is the embeddings, which have no attention."""

    kind: str
    layer: int

    @classmethod
    def parse(cls, name: str) -> FeatureName:
        """Of "hidden/3", kind and layer. Raises ValueError for what is no such name."""
        kind, _, layer = name.partition("/")
        if kind not in PARTS or not layer.isdigit():
            raise ValueError(f"'{name}' is no feature: expected one of {', '.join(PARTS)}, a slash and a layer")
        found = cls(kind, int(layer))
        if found.layer < found.first_layer:
            raise ValueError(f"'{name}': the embeddings (layer 0) have no attention")
        return found

    @property
    def part(self) -> str:
        """Of "hidden", "attentions", "relations", what an encoder must show for it."""
        return PARTS[self.kind]

    @property
    def first_layer(self) -> int:
        """The lowest layer that has such a feature."""
        return 0 if self.part == "hidden" else 1

    @property
    def token_axes(self) -> tuple[int, ...]:
        """Which axes of one text's feature count its tokens."""
        return {"first": (), "hidden": (0,), "attention": (1, 2)}.get(self.kind, (1,))

    def shape(self, sizes: Shape, tokens: int) -> tuple[int, ...]:
        """The shape of one text's feature. Raises ValueError if an encoder of these sizes does not have it."""
        if self.layer > sizes.layers:
            raise ValueError(f"'{self.kind}/{self.layer}': there are {sizes.layers} layers")
        if self.part == "hidden":
            width = sizes.width_of(self.layer)
            return (width,) if self.kind == "first" else (tokens, width)
        if sizes.heads is None:
            raise ValueError(f"'{self.kind}/{self.layer}': there is no attention")
        if self.kind == "attention":
            return (sizes.heads, tokens, tokens)
        return (sizes.heads, tokens, sizes.width // sizes.heads)


def by_token(name: str) -> bool:
    """Whether a feature has an entry for every token, so that it can be held against the same tokens only."""
    return bool(FeatureName.parse(name).token_axes)


def corner(rows: Any, shape: Sequence[int]) -> tuple[Any, ...]:
    """Index of these rows of a padded array; of each its first entries along every axis, as many as `shape` says."""
    return (rows, *(slice(size) for size in shape))
