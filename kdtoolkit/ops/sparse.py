"""A teacher of which only the most probable classes are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Tail = Literal["bucket", "uniform", "renorm", "none"]
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class SparseTeacher:
    """The teacher's `k` largest probabilities of each row.

    indices: (..., k) int32 or int64, distinct classes of a row (with `columns`: counted from the row's first column).
    probs or logprobs: (..., k), exactly one of them, probabilities of the whole distribution, natural logarithms.
    tail: what becomes of the mass 1 - sum(probs) that is not listed.
        bucket: all other classes are one class, for teacher and student (a true divergence on k + 1 classes);
        uniform: the mass is spread evenly over the other classes;
        renorm: teacher and student are renormalised on the listed classes, the others get no gradient;
        none: the sum stops after the listed classes (not a divergence: it can be negative; kinds ce and kl only).
    temperature: the temperature at which the probabilities were taken. The unlisted part of a list cannot be taken to
        another temperature, so the op must be called at this one.
    Raises ValueError if shapes, dtypes, the tail or (on a CPU) the values are wrong.
    """

    indices: Tensor
    probs: Tensor | None = None
    logprobs: Tensor | None = None
    tail: Tail = "bucket"
    temperature: float = 1.0
    _kept: tuple[Any, tuple[Tensor, Tensor]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if (self.probs is None) == (self.logprobs is None):
            raise ValueError("SparseTeacher: expected exactly one of probs and logprobs, received both or none")
        if self.indices.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"SparseTeacher.indices: expected int32 or int64, received {self.indices.dtype}")
        if self.values.dtype not in FLOATS:
            raise ValueError(f"SparseTeacher: expected floating-point probabilities, received {self.values.dtype}")
        if self.indices.shape != self.values.shape or self.indices.dim() == 0 or self.indices.shape[-1] == 0:
            raise ValueError(
                "SparseTeacher: expected indices and probabilities of one shape (..., k) with k >= 1, received "
                f"{tuple(self.indices.shape)} and {tuple(self.values.shape)}"
            )
        if self.indices.device != self.values.device:
            raise ValueError(
                f"SparseTeacher: expected one device, received {self.indices.device} and {self.values.device}"
            )
        if self.values.requires_grad:
            raise ValueError("SparseTeacher: expected probabilities without gradient, received ones that require it")
        if self.tail not in get_args(Tail):
            raise ValueError(f"SparseTeacher.tail: expected one of {', '.join(get_args(Tail))}, received {self.tail!r}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"SparseTeacher.temperature: expected a positive number, received {self.temperature}")

    @property
    def values(self) -> Tensor:
        """`probs` or `logprobs`, whichever was given."""
        values = self.probs if self.probs is not None else self.logprobs
        assert values is not None
        return values

    def ordered(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Indices, int64, and values in `dtype`, both (rows, k) and contiguous, the indices of a row ascending.

        Kept, for the same teacher may serve many calls (several students, accumulated steps).
        """
        if torch.compiler.is_compiling():
            return self._sorted(dtype)
        # Inference tensors do not count their changes, so what is made of them is made anew.
        counted = not (self.indices.is_inference() or self.values.is_inference())
        key = (dtype, self.indices._version, self.values._version) if counted else None
        if self._kept is None or key is None or self._kept[0] != key:
            object.__setattr__(self, "_kept", (key, self._sorted(dtype)))
        assert self._kept is not None
        return self._kept[1]

    def _sorted(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        listed = self.indices.shape[-1]
        indices, order = self.indices.reshape(-1, listed).long().sort(-1)
        return indices, self.values.reshape(-1, listed).gather(1, order).to(dtype)
