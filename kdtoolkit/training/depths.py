"""How far each parameter of a model lies from its input, for learning rates that decay with it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..errors import InputError
from ..student import Student

PLACE = "optimizer.layer_decay"


def depths_of(model: nn.Module) -> Mapping[str, int]:
    """`model.depths()`: a depth for every parameter by its name, the heads' being the greatest.

    Raises InputError if the model has no such method, or it gives nothing.
    """
    told = getattr(model, "depths", None)
    depths: Mapping[str, int] = {} if told is None else told()
    if not depths:
        raise InputError(PLACE, f"{type(model).__name__} does not say how deep its parameters lie", "set it to 1")
    return depths


def student_depths(student: Student) -> tuple[dict[str, int], int]:
    """`student.depths()`, and the depth of what follows the student: its heads.

    As in BAM's released code: embeddings 0, layer i at i, a pooler one more than the last layer, heads one more again,
    whether there is a pooler or not. A student without `shape` has its heads one after its deepest parameter.
    Raises InputError if the student gives no depths, and for its author if it leaves a parameter out or invents one.
    """
    depths = student.depths()
    if not depths:
        raise InputError(
            PLACE,
            f"the student {type(student).__name__} does not say which layer a parameter belongs to",
            "set it to 1, or choose the student bilstm, transformer or hf:NAME (authors: write Student.depths)",
        )
    names = {name for name, _ in student.named_parameters()}
    wrong = sorted(names ^ depths.keys())
    if wrong:
        what = "leaves out" if wrong[0] in names else "has no parameter"
        raise InputError(f"{type(student).__name__}.depths", f"{what} '{wrong[0]}'", "a depth for every parameter")
    shape = student.shape
    return depths, max(depths.values()) + 1 if shape is None else shape.layers + 2
