"""Stateless randomness: what is random in a step depends on the step's address alone."""

from __future__ import annotations

import struct
from hashlib import blake2b

import torch


def derived_seed(*address: int | str) -> int:
    """A 63-bit seed for an address such as (seed, step, micro-step, rank)."""
    data = b"".join(
        b"i" + struct.pack("<q", part) if isinstance(part, int) else b"s" + part.encode() + b"\0" for part in address
    )
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") >> 1


def reseed(*address: int | str) -> None:
    """Seeds torch on every device from the address, so that a resumed micro-step draws what it drew before."""
    torch.manual_seed(derived_seed(*address))
