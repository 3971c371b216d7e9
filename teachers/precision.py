"""In which arithmetic a teacher answers."""

from __future__ import annotations

from typing import Literal

import torch

from kdtoolkit.processor import multiplies_bf16

Precision = Literal["fp32", "bf16"]


def answering_precision(asked: Literal["auto", "fp32", "bf16"]) -> Precision:
    """What "auto" is here: bf16 where the hardware multiplies it, faster than float32."""
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if multiplies_bf16() else "fp32"
