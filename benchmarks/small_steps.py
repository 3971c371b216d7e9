"""What a small training step takes beside its matrix products, each against torch's own way.

    python benchmarks/small_steps.py [--rounds 5] [--steps 40]

Updates of an embedding table by AdamW: forward, backward, clipping and update, 480 pieces read of which some 190 are
different (drawn by Zipf's law), row by row (`optimizer.embeddings: sparse`) and dense. A BiLSTM of 2 x 150 over 32
texts of 12 to 16 pieces, forward and backward: turned round, packed, and texts of one length. Dropout of 480 rows.
CPU milliseconds of one thread; the ways take turns; medians, the least and the most in brackets.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from kdtoolkit.dropout import dropout
from kdtoolkit.plugins import plugin
from kdtoolkit.student import Tokens
from kdtoolkit.training.clipping import clip_gradients
from kdtoolkit.training.lazy_adamw import LazyAdamW

READ, TEXTS = 480, 32


def updates(rows: int, width: int, lazily: bool, steps: int) -> float:
    """Milliseconds of an update of the table, once its moments exist."""
    drawn = np.random.default_rng(0).zipf(1.2, 40 * READ * (steps + 10))
    drawn = drawn[drawn < rows][: READ * (steps + 10)].reshape(steps + 10, READ)
    table = nn.Embedding(rows, width, padding_idx=0)
    groups: list[dict[str, Any]] = [{"params": [table.weight], "weight_decay": 0.0, "lr": 1e-3}]
    optimizer = LazyAdamW(groups, table, fused=True) if lazily else torch.optim.AdamW(groups, fused=True)
    slopes = torch.randn(READ, width)
    for number, read in enumerate(drawn):
        if number == 10:
            began = time.process_time()
        (table(torch.from_numpy(read)) * slopes).sum().backward()
        clip_gradients([table.weight], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return (time.process_time() - began) / steps * 1e3


def lstm(way: str, steps: int) -> float:
    """Milliseconds of a forward and a backward pass."""
    student_class: Any = plugin("student", "bilstm")
    sys.modules[student_class.__module__].packs = lambda vectors: way == "packed"  # type: ignore[attr-defined]
    torch.manual_seed(0)
    student = student_class(2000, width=150, embedding=300)
    lengths = torch.full((TEXTS,), 14) if way == "one length" else torch.arange(TEXTS) % 5 + 12
    ids = torch.randint(1, 2000, (TEXTS, int(lengths.max())))
    mask = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
    tokens = Tokens(ids * mask, mask, torch.zeros_like(ids))
    for number in range(steps + 3):
        if number == 3:
            began = time.process_time()
        student(tokens).pooled.sum().backward()
    return (time.process_time() - began) / steps * 1e3


def dropped(way: Callable[..., torch.Tensor], width: int, steps: int) -> float:
    """Milliseconds of a call."""
    values = torch.randn(READ, width)
    began = time.process_time()
    for _ in range(10 * steps):
        way(values, 0.1, True)
    return (time.process_time() - began) / steps * 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    asked: dict[tuple[str, str], Callable[[], float]] = {}
    for rows, width in ((2000, 64), (9120, 128), (9120, 300), (30522, 384)):
        for name, lazily in (("dense", False), ("row by row", True)):
            asked[f"update of {rows:,} x {width}", name] = lambda r=rows, w=width, z=lazily: updates(
                r, w, z, given.steps
            )
    for name in ("packed", "turned round", "one length"):
        asked["BiLSTM", name] = lambda n=name: lstm(n, given.steps)
    for width in (128, 300):
        for name, function in (("torch", nn.functional.dropout), ("four from one draw", dropout)):
            asked[f"dropout of 480 x {width}", name] = lambda f=function, w=width: dropped(f, w, given.steps)
    found: dict[tuple[str, str], list[float]] = {key: [] for key in asked}
    for _ in range(given.rounds):
        for key in random.Random(0).sample(list(asked), len(asked)):
            found[key].append(asked[key]())
    print("| what | way | CPU ms | times the first |\n|---|---|---|---|")
    first: dict[str, float] = {}
    for (what, way), times in found.items():
        middle = statistics.median(times)
        least = first.setdefault(what, middle)
        print(f"| {what} | {way} | {middle:.2f} [{min(times):.2f}, {max(times):.2f}] | {middle / least:.2f} |")


if __name__ == "__main__":
    main()
