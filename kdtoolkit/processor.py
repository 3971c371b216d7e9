"""What the processor can do."""

from __future__ import annotations

import functools
from pathlib import Path

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}


@functools.cache
def flags() -> frozenset[str]:
    """The processor's feature flags as Linux lists them; empty where it does not say."""
    return frozenset(_listed("flags", "features").split())


def maker() -> str:
    """Who made the processor, as it says itself (GenuineIntel, AuthenticAMD); "" where Linux does not say."""
    return _listed("vendor_id")


def _listed(*names: str) -> str:
    """What Linux says of the first processor under the first of these names; "" for nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in names:
            return value.strip()
    return ""


def has_bf16() -> bool:
    """Whether bfloat16 products run in hardware; where the system does not list the processor's features: no."""
    return bool(BF16_FLAGS & flags())


def multiplies_bf16() -> bool:
    """Whether products of bfloat16 matrices are faster than those of float32, with torch on this processor."""
    return bool({"avx512_bf16", "amx_bf16"} & flags())
