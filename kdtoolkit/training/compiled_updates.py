"""What a training step does to gradients and weights on a CPU, compiled: ops/csrc/updates.h says what each call does.

A step of a small student reads some hundred rows of an embedding table and has some dozen parameters. In torch each
operation on them is a call of its own, which costs more than what it computes. Where there is no compiled library, or
tensors are not float32 or float64 on a CPU, their callers do the same in torch.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..ops import native
from ..ops.backend import implementation

TYPES = {torch.float32: 0, torch.float64: 1}
TABLE = struct.Struct("@qqqqPPPPqPPPddd")
"""kd_table: size, type, rows, width, weight, first, second, current, steps, moves, margins, decays, betas, epsilon."""
ROWS = struct.Struct("@PPq")
PIECE = struct.Struct("@Pq")
PARAMETER = struct.Struct("@PPPPPqdd")
BY_ADDRESS = ctypes.c_void_p
COUNT, NUMBER, PACKED = ctypes.c_longlong, ctypes.c_double, ctypes.c_char_p
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "kd_bring_rows": (None, [PACKED, BY_ADDRESS, COUNT]),
    "kd_update_rows": (None, [PACKED, BY_ADDRESS, BY_ADDRESS, COUNT, NUMBER, NUMBER, NUMBER]),
    "kd_merge_rows": (COUNT, [PACKED, COUNT, COUNT, COUNT, NUMBER, BY_ADDRESS, BY_ADDRESS]),
    "kd_gather": (None, [PACKED, COUNT, COUNT, BY_ADDRESS]),
    "kd_average": (NUMBER, [PACKED, COUNT, PACKED, COUNT, COUNT]),
    "kd_squares": (NUMBER, [PACKED, COUNT, COUNT]),
    "kd_multiply": (None, [PACKED, COUNT, COUNT, NUMBER]),
    "kd_adamw": (None, [PACKED, COUNT, COUNT, NUMBER, NUMBER, NUMBER]),
    "kd_table_size": (COUNT, []),
}


@functools.cache
def _library() -> Any:
    found = native.library()
    assert found is not None
    try:
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(found.loaded, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise InputError(
            str(found.file), f"the compiled library is of another version ({error})", native.REINSTALL
        ) from error
    if found.loaded.kd_table_size() != TABLE.size:
        raise InputError(str(found.file), "the compiled library is of another version", native.REINSTALL)
    return found.loaded


def can(tensors: Sequence[Tensor]) -> bool:
    """Whether these may be given to the functions here: of one type, on a CPU, one number after the other."""
    dtype = tensors[0].dtype
    return (
        dtype in TYPES
        and implementation("cpu") is not None
        and all(tensor.is_cpu and tensor.dtype is dtype and tensor.is_contiguous() for tensor in tensors)
    )


def merged(parts: Sequence[tuple[Tensor, Tensor]], factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """The rows of all parts times `factor`, by number, each once; those of one number are added up in their order.

    parts: numbers of rows, (rows,), and their values, (rows, width).
    """
    width, dtype = parts[0][1].shape[1], parts[0][1].dtype
    room = sum(len(numbers) for numbers, _ in parts)
    numbers, values = torch.empty(room, dtype=torch.int64), torch.empty(room, width, dtype=dtype)
    packed = b"".join([ROWS.pack(which.data_ptr(), what.data_ptr(), len(which)) for which, what in parts])
    found = _library().kd_merge_rows(
        packed, len(parts), TYPES[dtype], width, factor, numbers.data_ptr(), values.data_ptr()
    )
    if found < 0:
        raise MemoryError("no memory to put the rows of a table's gradient in order")
    return numbers[:found], values[:found]


class Pieces:
    """Tensors of one type, each without gaps, as the functions of the library take them.

    None, with the number of its numbers: zeros, where they are read; nothing, where they would be written.
    """

    def __init__(self, tensors: Sequence[Tensor | None], counts: Sequence[int], dtype: torch.dtype) -> None:
        self._packed = b"".join(
            [PIECE.pack(0 if tensor is None else tensor.data_ptr(), count) for tensor, count in zip(tensors, counts)]
        )
        self._end = (len(counts), TYPES[dtype])
        self._kept = tensors  # their memory has to be there

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Pieces:
        return cls(tensors, [tensor.numel() for tensor in tensors], tensors[0].dtype)

    def squares(self) -> float:
        """The sum of the squares of all their numbers."""
        found: float = _library().kd_squares(self._packed, *self._end)
        return found

    def multiply(self, factor: float) -> None:
        """All of them, in place."""
        _library().kd_multiply(self._packed, *self._end, factor)

    def gather(self, out: Tensor) -> None:
        """One after the other into `out`, which has room for them."""
        _library().kd_gather(self._packed, *self._end, out.data_ptr())

    def average(self, parts: Sequence[Tensor]) -> float:
        """Each becomes the mean of what two or more processes have gathered; the sum of the squares of all."""
        addresses = struct.pack(f"@{len(parts)}P", *[part.data_ptr() for part in parts])
        count, dtype = self._end
        found: float = _library().kd_average(self._packed, count, addresses, len(parts), dtype)
        return found


class Updates:
    """AdamW's update of parameters of one type, gathered one by one and then made at once."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []

    def add(
        self, weight: Tensor, gradient: Tensor, state: dict[str, Tensor], *, rate: float, weight_decay: float
    ) -> None:
        """state: torch's, of AdamW: "step", "exp_avg", "exp_avg_sq"."""
        self._packed.append(
            PARAMETER.pack(
                weight.data_ptr(), gradient.data_ptr(), state["exp_avg"].data_ptr(), state["exp_avg_sq"].data_ptr(),
                state["step"].data_ptr(), weight.numel(), rate, 1 - rate * weight_decay,
            )
        )  # fmt: skip

    def make(self, dtype: torch.dtype, betas: tuple[float, float], epsilon: float) -> None:
        _library().kd_adamw(b"".join(self._packed), len(self._packed), TYPES[dtype], *betas, epsilon)


def table(
    weight: Tensor, first: Tensor, second: Tensor, current: Tensor, steps: int, history: Sequence[Tensor],
    betas: tuple[float, float], epsilon: float,
) -> bytes:  # fmt: skip
    """A table with its rows' history, for `bring` and `update`; valid while these tensors live."""
    return TABLE.pack(
        TABLE.size, TYPES[weight.dtype], *weight.shape, weight.data_ptr(), first.data_ptr(), second.data_ptr(),
        current.data_ptr(), steps, *(tensor.data_ptr() for tensor in history), *betas, epsilon,
    )  # fmt: skip


def bring(of: bytes, rows: Tensor) -> None:
    """Brings the rows up to date; each may stand there several times, and what is no row is left out."""
    _library().kd_bring_rows(of, rows.data_ptr(), rows.numel())


def update(of: bytes, rows: Tensor, slopes: Tensor, rate: float, root: float, kept: float) -> None:
    """Brings the rows, each once, up to date, makes AdamW's update of them, and remembers it for those to come."""
    _library().kd_update_rows(of, rows.data_ptr(), slopes.data_ptr(), len(rows), rate, root, kept)
