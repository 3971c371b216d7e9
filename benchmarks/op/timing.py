"""Seconds and bytes of a step, and whether two ways give one gradient."""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdtoolkit.ops import soft_cross_entropy, soft_cross_entropy_reference
from kdtoolkit.ops.arguments import check_arguments
from kdtoolkit.ops.backend import implementation

from .ways import ALPHA, DTYPES, Case, Loss, T, logits, main_cases, ours, soft_eager


class Spread(NamedTuple):
    """Seconds: the median and the quartiles beside it."""

    median: float
    low: float
    high: float


def interleaved(
    steps: dict[str, Callable[[], Any]],
    *,
    seconds: float,
    device: str = "cpu",
    least: int = 5,
    most: int = 41,
    turn_s: float = 0.02,
) -> dict[str, Spread]:
    """Seconds of each step. They take turns of equally many passes, for about so many seconds in all.

    As many as the slowest does in `turn_s`, one at least. With unequal turns the fast ones would run several times in a
    row, on pages and caches that they left warm for themselves, and the slow ones would not.
    """
    estimates: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        estimate = timed(step, 1, device)
        if estimate < 5e-3:  # the first pass may have been a slow one
            estimate = max(min(timed(step, 1, device) for _ in range(3)), 1e-7)
        estimates.append(estimate)
    passes_a_turn = max(1, min(1000, round(turn_s / max(estimates))))
    rounds = int(seconds / (sum(estimates) * passes_a_turn))
    order, draw = list(steps), random.Random(0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(max(least, min(most, rounds))):
            draw.shuffle(order)
            for name in order:
                times[name].append(timed(steps[name], passes_a_turn, device))
    finally:
        gc.enable()
    spreads = {}
    for name, of_step in times.items():
        low, median, high = statistics.quantiles(of_step, n=4, method="inclusive")
        spreads[name] = Spread(median, low, high)
    return spreads


def timed(step: Callable[[], Any], repeats: int, device: str) -> float:
    """Seconds of one step, of several in a row: of this thread, or between two events on the GPU."""
    if device == "cpu":
        begin = time.thread_time()
        for _ in range(repeats):
            step()
        return (time.thread_time() - begin) / repeats
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(repeats):
        step()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / repeats


def passes(case: Case) -> dict[str, Callable[[], None]]:
    """A forward and backward pass of every way."""

    def one(loss: Loss) -> Callable[[], None]:
        def step() -> None:
            case.leaf.grad = None
            loss(case.leaf).backward()

        return step

    return {name: one(loss) for name, loss in case.ways.items()}


def check_gradients(case: Case) -> None:
    """Exits if a way does not give our gradient."""
    tolerance = 2e-2 if case.leaf.dtype == torch.bfloat16 else 1e-3
    expected = None
    for name, step in passes(case).items():
        step()
        gradient = case.leaf.grad
        assert gradient is not None
        if expected is None:
            expected = gradient
        elif name != "ours, dense":
            far = (gradient.float() - expected.float()).abs().max() / expected.float().abs().max().clamp(min=1e-30)
            if not far <= tolerance:
                sys.exit(f"{case.title}: the gradient of '{name}' is not ours (off by {far:.1e} of the maximum)")
    case.leaf.grad = None


def peak_bytes(step: Callable[[], Any], device: str) -> int:
    """The most memory that was held at once by what the step allocated."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    with tempfile.TemporaryDirectory() as folder:
        seen.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text())["traceEvents"]
    held = peak = 0
    for event in sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def memory(case: Case, device: str) -> dict[str, float]:
    """Peaks of a forward and backward pass, in units of the leaf."""
    unit, peaks = case.leaf.numel() * case.leaf.element_size(), {}
    for name, step in passes(case).items():
        step()
        case.leaf.grad = None
        peaks[name] = peak_bytes(step, device) / unit
        case.leaf.grad = None
    return peaks


def memory_in_place(leaf: Tensor, v: Tensor, device: str) -> float:
    """Of ours with grad_inplace, from logits that are not a leaf to their gradient."""
    z = leaf.detach().requires_grad_() * 1.0
    v = v.detach().clone()

    def step() -> None:
        torch.autograd.grad(soft_cross_entropy(z, v, temperature=T, grad_inplace=True), z)

    return peak_bytes(step, device) / (leaf.numel() * leaf.element_size())


def kernel(shape: tuple[int, int], dtype: str, device: str, seconds: float, least: int) -> dict[str, Spread]:
    """The kernel alone, soft and mixed, and the floor."""
    z, v, out, gradient = (logits(shape, DTYPES[dtype], device, seed) for seed in range(4))
    y = torch.randint(0, shape[1], shape[:1], generator=torch.Generator().manual_seed(2)).to(device)
    steps: dict[str, Callable[[], Any]] = {"floor": lambda: torch.sub(z, v, out=out)}
    run = implementation(device)
    if run is not None:
        soft = check_arguments(z, v, temperature=T)
        mixed = check_arguments(z, v, y, temperature=T, alpha=ALPHA)
        steps["soft"] = lambda: run.run(soft, gradient=gradient)
        steps["mixed"] = lambda: run.run(mixed, gradient=gradient)
    return interleaved(steps, seconds=seconds, device=device, least=least)


def gradient_error(device: str) -> tuple[float, float]:
    """Of ours and of eager in float32 at 128,256 classes, against float64: the worst row, in units of its maximum."""
    z, v = (logits((8, 128256), torch.float32, device, seed) for seed in (0, 1))
    exact = z.double().requires_grad_()
    soft_cross_entropy_reference(exact, v.double(), temperature=T).backward()
    errors = []
    for loss in (ours(v), lambda z: soft_eager(z, v)):
        leaf = z.clone().requires_grad_()
        loss(leaf).backward()
        assert leaf.grad is not None and exact.grad is not None
        far = (leaf.grad.double() - exact.grad).abs().amax(-1) / exact.grad.abs().amax(-1)
        errors.append(float(far.max()))
    return errors[0], errors[1]


def waits_for_gpu() -> bool:
    """Whether a pass of ours makes the CPU wait."""
    case = main_cases((256, 3), "bf16", "cuda", False)[1]
    step = passes(case)["ours"]
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False
