"""Sizes of an encoder, as students and teachers tell them."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """Sizes of a layered encoder.

    heads: attention heads of a layer; None: it has no attention. embedding: features of layer 0, the embeddings; None:
    `width`.
    """

    layers: int
    width: int
    heads: int | None = None
    embedding: int | None = None

    def width_of(self, layer: int) -> int:
        """Features of a layer's states; layer 0 is the embeddings."""
        return self.embedding if layer == 0 and self.embedding is not None else self.width
