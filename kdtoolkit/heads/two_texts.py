"""The token states of the two texts of each row, however the student reads a pair."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from ..student import Tokens


class Text(NamedTuple):
    """One text of every row. states: (rows, time, width), 0 on padding; mask: (rows, time) bool, True on its tokens."""

    states: Tensor
    mask: Tensor


def two_texts(
    states: Tensor,
    tokens: Tokens,
    first: Tensor,
    second: Tensor | None,
    *,
    pair: bool,
    pairs: Literal["joint", "separate"],
) -> tuple[Text, Text | None]:
    """The first and the second text of each row; None for the second of a task of single texts.

    states: (texts, time, width). first, second: (rows,) int64, the texts of each row, as in `Batch`.
    pairs: how the student reads two texts. Of a sequence that it has read jointly, the tokens of segment 0 are the
    first text and those of segment 1 the second, special pieces included; each is moved to the left.
    """
    ours, mask = states.index_select(0, first), tokens.mask.index_select(0, first)
    if not pair:
        return _text(ours, mask), None
    if pairs == "joint":
        in_second = tokens.segments.index_select(0, first).bool()
        return _text(ours, mask & ~in_second), _moved_left(ours, mask & in_second)
    assert second is not None  # the collator gives one wherever a task has pairs
    return _text(ours, mask), _text(states.index_select(0, second), tokens.mask.index_select(0, second))


def _text(states: Tensor, mask: Tensor) -> Text:
    """A text whose tokens stand on the left already, without the columns that no row needs."""
    time = int(mask.sum(1).max()) if len(mask) else 0
    mask = mask[:, :time]
    return Text(states[:, :time].masked_fill(~mask.unsqueeze(2), 0.0), mask)


def _moved_left(states: Tensor, mask: Tensor) -> Text:
    order = (~mask).byte().argsort(dim=1, stable=True)  # (rows, time), the text's own tokens first, in their order
    return _text(states.gather(1, order.unsqueeze(2).expand_as(states)), mask.gather(1, order))
