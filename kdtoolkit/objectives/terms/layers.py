"""Which layer of the teacher each layer of the student learns from."""

from __future__ import annotations

from collections.abc import Sequence

from ...shape import Shape

RULES = ("uniform", "last", "first")


def layer_map(rule: str | Sequence[int], student: int, teacher: int, *, last: bool = True) -> list[tuple[int, int]]:
    """(student's layer, teacher's layer) pairs; layers are counted from 1, and 0 is the embeddings.

    student, teacher: numbers of layers, S and T. Layer m of the student learns from
      uniform  layer m * T / S, rounded, halves up (TinyBERT, arXiv:1909.10351, section 3; PKD-Skip)
      last     layer T - S + m (PKD-Last, arXiv:1908.09355, section 3.2)
      first    layer m
      a list   its m-th entry
    last: whether the student's last layer takes part.
    Raises ValueError if the rule is unknown, does not fit the numbers of layers, or leaves no layer.
    """
    count = student if last else student - 1
    numbers = range(1, count + 1)
    if count < 1:
        raise ValueError(
            f"a student of {student} layer has none below its last; use a deeper student, or the term cosine"
        )
    if not isinstance(rule, str):
        return list(zip(numbers, _listed(rule, count, teacher)))
    if rule not in RULES:
        raise ValueError(f"layers: '{rule}' is unknown; one of: {', '.join(RULES)}, or a list of the teacher's layers")
    if student > teacher:
        raise ValueError(
            f"layers: the student has {student} layers and the teacher {teacher}; give the teacher's layer for each of "
            f"them, such as layers: {[min(number, teacher) for number in numbers]}"
        )
    if rule == "uniform":
        return [(number, (2 * number * teacher + student) // (2 * student)) for number in numbers]
    return [(number, number + (teacher - student if rule == "last" else 0)) for number in numbers]


def _listed(rule: Sequence[int], count: int, teacher: int) -> list[int]:
    if len(rule) != count:
        raise ValueError(
            f"layers: {len(rule)} given, and {count} of the student's layers learn; give the teacher's layer for each"
        )
    for layer in rule:
        one_layer("layers", layer, teacher)
    return list(rule)


def one_layer(option: str, layer: int | None, teacher: int) -> int:
    """A layer of the teacher, counted from 1; None: its last. Raises ValueError if there is no such layer."""
    if layer is None:
        return teacher
    if not 1 <= layer <= teacher:
        raise ValueError(f"{option}: the teacher has no layer {layer}; it has 1 to {teacher}")
    return layer


def layered(shape: Shape | None, side: str) -> Shape:
    """The shape, if that side has layers; ValueError with the way out if not."""
    if shape is None:
        raise ValueError(
            f"the {side} shows no layers; use a {side} that does, or the terms dkd, dist, or rkd on logits"
        )
    return shape


def attention_heads(shape: Shape | None, side: str) -> int:
    """Heads of the attention of that side; ValueError with the way out if it has no attention."""
    heads = layered(shape, side).heads
    if heads is None:
        raise ValueError(
            f"the {side} has no attention; use the term hidden, or minilmv2 with states: true"
            if side == "student"
            else "the teacher has no attention; use the terms hidden, cosine or pkd"
        )
    return heads
