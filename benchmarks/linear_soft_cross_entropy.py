"""One training step of a vocabulary-sized layer and its loss, in time and memory: in chunks, and as logits.

    OMP_NUM_THREADS=1 python benchmarks/linear_soft_cross_entropy.py [--rounds 7] [--chunk-rows ROWS ...]

A step is loss and gradients of hidden states, weight and bias; soft cross-entropy at temperature 2, one thread. "eager"
is linear, softmax, log_softmax, their product and its mean, in float32; "op" is linear and `soft_cross_entropy`. With a
hidden teacher, the teacher's logits are made inside the step from hidden states of the same width.

Time: CPU time of the thread, median of the rounds, which take the ways in turn; in brackets the spread. Memory: the
peak of the resident set (VmHWM of /proc, so Linux alone) less what is resident before the step, in a process of its own
for each way, whose first full step it is: every allocation counts, those of the matrix library included. (Not
ru_maxrss, which a new process takes over from the one that started it.) "Beyond gradients" is less the bytes of the
results, which no way can do without.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtoolkit.ops import backend, linear_soft_cross_entropy, soft_cross_entropy

TEMPERATURE = 2.0
MIB = 2**20


class Size(NamedTuple):
    rows: int
    width: int
    classes: int
    dtype: str = "float32"
    teacher: str = "logits"


SIZES = [
    Size(512, 768, 30522),
    Size(512, 768, 30522, "bfloat16"),
    Size(512, 768, 30522, "float32", "hidden"),
    Size(64, 768, 30522),
    Size(2048, 256, 30522),
    Size(256, 512, 128256),
    Size(512, 256, 2000),
    Size(256, 256, 3),
]


class Tensors(NamedTuple):
    hidden: Tensor
    weight: Tensor
    bias: Tensor
    teacher_logits: Tensor | None
    teacher_hidden: Tensor | None
    teacher_weight: Tensor | None


def tensors(size: Size) -> Tensors:
    """Made in their dtype, so that no temporary of another one counts as memory of the process."""
    torch.manual_seed(0)
    dtype = getattr(torch, size.dtype)

    def matrix(rows: int, columns: int, scale: float) -> Tensor:
        return torch.empty(rows, columns, dtype=dtype).normal_(0.0, scale)

    hidden, weight = matrix(size.rows, size.width, 1.0), matrix(size.classes, size.width, 0.1)
    bias = torch.zeros(size.classes, dtype=dtype)
    leaves = [value.requires_grad_() for value in (hidden, weight, bias)]
    if size.teacher == "hidden":
        return Tensors(*leaves, None, matrix(size.rows, size.width, 1.0), matrix(size.classes, size.width, 0.1))
    return Tensors(*leaves, matrix(size.rows, size.classes, 2.0), None, None)


def teacher_of(given: Tensors) -> Tensor:
    if given.teacher_logits is not None:
        return given.teacher_logits
    assert given.teacher_hidden is not None and given.teacher_weight is not None
    return F.linear(given.teacher_hidden, given.teacher_weight)


def eager(given: Tensors) -> Tensor:
    logits = F.linear(given.hidden, given.weight, given.bias).float()
    target = (teacher_of(given).float() / TEMPERATURE).softmax(-1)
    return -(target * (logits / TEMPERATURE).log_softmax(-1)).sum(-1).mean() * TEMPERATURE**2


def op(given: Tensors) -> Tensor:
    logits = F.linear(given.hidden, given.weight, given.bias)
    return soft_cross_entropy(logits, teacher_of(given), temperature=TEMPERATURE)


def chunks(given: Tensors, chunk_rows: int | None = None) -> Tensor:
    return linear_soft_cross_entropy(
        given.hidden, given.weight, given.bias, given.teacher_logits, teacher_hidden=given.teacher_hidden,
        teacher_weight=given.teacher_weight, temperature=TEMPERATURE, chunk_rows=chunk_rows,
    )  # fmt: skip


def ways(chunk_rows: list[int]) -> dict[str, Callable[[Tensors], Tensor]]:
    found: dict[str, Callable[[Tensors], Tensor]] = {"eager": eager, "op": op, "chunks": chunks}
    for rows in chunk_rows:
        found[f"chunks of {rows}"] = lambda given, rows=rows: chunks(given, rows)  # type: ignore[misc]
    return found


def step(way: Callable[[Tensors], Tensor], given: Tensors) -> None:
    for value in (given.hidden, given.weight, given.bias):
        value.grad = None
    way(given).backward()


def seconds(size: Size, of: dict[str, Callable[[Tensors], Tensor]], rounds: int) -> dict[str, list[float]]:
    given = tensors(size)
    found: dict[str, list[float]] = {name: [] for name in of}
    for name in of:
        step(of[name], given)
    for _ in range(rounds):
        for name in of:
            begin = time.thread_time()
            step(of[name], given)
            found[name].append(time.thread_time() - begin)
    return found


def memory_of_process(field: str) -> int:
    """Bytes: VmRSS is resident now, VmHWM the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field + ":"))) * 1024


def print_memory(size: Size, way: Callable[[Tensors], Tensor]) -> None:
    """In a process of its own: the growth of the peak in one step, in bytes."""
    step(way, tensors(Size(16, 64, 64, size.dtype, size.teacher)))  # what is loaded in a first call
    given = tensors(size)
    before, peak_before = memory_of_process("VmRSS"), memory_of_process("VmHWM")
    step(way, given)
    peak = memory_of_process("VmHWM")
    if peak_before - before > MIB and peak == peak_before:
        sys.exit(f"{size}: the step stayed below an earlier peak, so this does not measure it")
    print(peak - before)


def memory(number: int, name: str, chunk_rows: list[int]) -> float:
    """MiB, asked of a process of its own."""
    options = ["--one", str(number), name, "--chunk-rows", *map(str, chunk_rows)]
    done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return int(done.stdout) / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--chunk-rows", type=int, nargs="*", default=[], help="also chunks of so many rows")
    parser.add_argument("--sizes", type=int, nargs="*", default=None, help="numbers of the sizes, from 0")
    parser.add_argument("--one", nargs=2, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    of = ways(arguments.chunk_rows)
    if arguments.one:
        print_memory(SIZES[int(arguments.one[0])], of[arguments.one[1]])
        return
    print(f"Python {platform.python_version()}, torch {torch.__version__}, 1 thread; {backend().reason}\n")
    print(
        "| rows | width | classes | dtype | teacher | way | ms | of eager | peak, MiB | beyond gradients | of eager |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for number, size in enumerate(SIZES):
        if arguments.sizes is not None and number not in arguments.sizes:
            continue
        found = seconds(size, of, arguments.rounds)
        unavoidable = (size.rows * size.width + size.classes * (size.width + 1)) * getattr(torch, size.dtype).itemsize
        middle = {name: statistics.median(times) for name, times in found.items()}
        peak = {name: memory(number, name, arguments.chunk_rows) for name in of}
        beyond = {name: peak[name] - unavoidable / MIB for name in of}
        for name, times in found.items():
            share = f"{beyond[name] / beyond['eager']:.2f}" if beyond["eager"] > 1 else "-"
            print(
                f"| {' | '.join(map(str, size))} | {name} | {middle[name] * 1e3:.4g} "
                f"({min(times) * 1e3:.4g} to {max(times) * 1e3:.4g}) | {middle[name] / middle['eager']:.2f} "
                f"| {peak[name]:.1f} | {beyond[name]:.1f} | {share} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
