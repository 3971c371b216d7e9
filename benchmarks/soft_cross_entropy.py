"""The op against other ways to the same gradient: time of forward and backward, peak memory, distance from the floor.

    python benchmarks/soft_cross_entropy.py [--quick] [--instructions avx2|portable] [--device cuda] [--json FILE]

Temperature 2, times its square; "mixed" has 0.3 of the cross-entropy against labels. bfloat16 is brought to float32
first by all but ours, which does its arithmetic in float32 anyway. Every way must give our gradient, or it stops.

Time: CPU seconds of the one thread (GPU: CUDA events) of one forward and backward pass to a leaf. All ways take turns
of equally many passes (as the slowest does in 20 ms, so one each where logits are wide), in a random order; printed are
medians, and quartiles of ours. "One pass a turn": small sizes too, so that what the others left in the caches is in the
time, as the rest of a training step would be. Inductor compiles before, once for each shape.
Pages: what is 30 MB or more is measured twice, each time in a process of its own, the second with torch's switch for
huge pages (THP_MEM_ALLOC_ENABLE=1), which spares everybody page faults; elsewhere pages are ordinary.
Memory: the most that torch's allocator had given out at once during a pass, by the profiler's memory events (GPU:
max_memory_allocated), in units of one logits tensor. The gradient itself is 1.0. "In place": the pass ends at logits
that are not a leaf. What a kernel takes elsewhere is not seen (ours: some KB for sums).
Kernel: the backend's `run` into a gradient whose memory is there already. Floor: torch.sub(a, b, out=c) of that size.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtoolkit.ops import KINDS, SparseTeacher, backend, soft_cross_entropy, soft_cross_entropy_reference
from kdtoolkit.ops.arguments import check_arguments
from kdtoolkit.ops.backend import implementation

T, ALPHA = 2.0, 0.3
BIG_BYTES = 30e6
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES = {
    "cpu": [(256, 3), (4096, 3), (64, 30522), (512, 30522), (128, 128256)],
    "cuda": [(256, 3), (4096, 3), (4096, 1000), (4096, 30522), (4096, 50257), (2048, 128256)],
}
QUICK_SHAPES = [(256, 3), (4096, 3), (64, 30522)]

Loss = Callable[[Tensor], Tensor]
"""From student logits to a scalar."""


class Spread(NamedTuple):
    """Seconds: the median and the quartiles beside it."""

    median: float
    low: float
    high: float


class Case(NamedTuple):
    """Ways to one gradient of one leaf. The first is ours."""

    title: str
    leaf: Tensor
    ways: dict[str, Loss]


# What is compared


def soft_eager(z: Tensor, v: Tensor) -> Tensor:
    z, v = z.float(), v.float()
    return -((v / T).softmax(-1) * (z / T).log_softmax(-1)).sum(-1).mean() * T**2


def mixed_eager(z: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return (1 - ALPHA) * soft_eager(z, v) + ALPHA * F.cross_entropy(z.float(), y)


def kl_div(z: Tensor, v: Tensor) -> Tensor:
    z, v = z.float(), v.float()
    return F.kl_div((z / T).log_softmax(-1), (v / T).softmax(-1), reduction="batchmean") * T**2


def probability_targets(z: Tensor, v: Tensor) -> Tensor:
    z, v = z.float(), v.float()
    return F.cross_entropy(z / T, (v / T).softmax(-1)) * T**2


def rkl_eager(z: Tensor, v: Tensor) -> Tensor:
    log_q, log_p = (z.float() / T).log_softmax(-1), (v.float() / T).log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean() * T**2


def jsd_eager(z: Tensor, v: Tensor) -> Tensor:
    log_q, log_p = (z.float() / T).log_softmax(-1), (v.float() / T).log_softmax(-1)
    log_m = torch.logaddexp(log_q, log_p) - math.log(2)
    both = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return both.sum(-1).mean() * (T**2 / 2)


def tvd_eager(z: Tensor, v: Tensor) -> Tensor:
    return ((z.float() / T).softmax(-1) - (v.float() / T).softmax(-1)).abs().sum(-1).mean() * (T**2 / 2)


def bce_eager(z: Tensor, v: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(z.float() / T, (v.float() / T).sigmoid()) * T**2


def mse_eager(z: Tensor, v: Tensor) -> Tensor:
    return F.mse_loss(z.float(), v.float())


def ensemble_eager(z: Tensor, v: Tensor) -> Tensor:
    return -((v / T).softmax(-1).mean(0) * (z / T).log_softmax(-1)).sum(-1).mean() * T**2


def sparse_eager(z: Tensor, index: Tensor, probs: Tensor) -> Tensor:
    """Top-k with the rest as one class."""
    log_q = (z / T).log_softmax(-1).gather(-1, index)
    rest_p, rest_q = 1 - probs.sum(-1), torch.log1p(-log_q.exp().sum(-1))
    return -((probs * log_q).sum(-1) + rest_p * rest_q).mean() * T**2


KINDS_EAGER = {"rkl": rkl_eager, "jsd": jsd_eager, "tvd": tvd_eager, "bce": bce_eager, "mse": mse_eager}


def ours(v: Any, y: Tensor | None = None, **options: Any) -> Loss:
    options = {"temperature": T, "alpha": 0.0 if y is None else ALPHA, **options}
    return lambda z: soft_cross_entropy(z, v, y, **options)


def compiled(function: Callable[..., Tensor], *others: Tensor) -> Loss:
    """By Inductor, for the first shape it sees."""
    made = torch.compile(function, dynamic=False)
    return lambda z: made(z, *others)


def inductor_problem(device: str) -> str | None:
    """Why there is no Inductor here; None if there is."""
    compiler = os.environ.get("CXX", "g++")
    if device == "cpu" and shutil.which(compiler) is None:
        return f"no C++ compiler ({compiler})"
    return None


def logits(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
    return drawn.mul_(3).to(dtype)


def named(shape: tuple[int, int], dtype: str) -> str:
    return f"[{shape[0]}, {shape[1]}] {dtype}"


def main_cases(shape: tuple[int, int], dtype: str, device: str, inductor: bool) -> list[Case]:
    """Soft and mixed over the same logits."""
    z, v = (logits(shape, DTYPES[dtype], device, seed) for seed in (0, 1))
    y = torch.randint(0, shape[1], shape[:1], generator=torch.Generator().manual_seed(2)).to(device)
    soft = {
        "ours": ours(v),
        "eager": lambda z: soft_eager(z, v),
        "F.kl_div": lambda z: kl_div(z, v),
        "F.cross_entropy": lambda z: probability_targets(z, v),
    }
    mixed = {"ours": ours(v, y), "eager": lambda z: mixed_eager(z, v, y)}
    if inductor:
        soft["Inductor"], mixed["Inductor"] = compiled(soft_eager, v), compiled(mixed_eager, v, y)
    if device == "cuda":
        soft.update(liger_kl(v))
    leaf = z.requires_grad_()
    return [Case(f"{named(shape, dtype)}, soft", leaf, soft), Case(f"{named(shape, dtype)}, mixed", leaf, mixed)]


def liger_kl(v: Tensor) -> dict[str, Loss]:
    """Liger-Kernel's KL of probabilities; the softmaxes are torch's."""
    try:
        from liger_kernel.transformers import LigerKLDIVLoss
    except ImportError:
        return {}
    loss = LigerKLDIVLoss(reduction="batchmean")
    return {"Liger KL": lambda z: loss((z.float() / T).log_softmax(-1), (v.float() / T).softmax(-1)) * T**2}


def liger_cases(shape: tuple[int, int], dtype: str) -> Iterator[Case]:
    """Its other distillation losses, against our kinds of these names."""
    try:
        from liger_kernel.transformers import LigerJSD, LigerTVDLoss
    except ImportError:
        return
    z, v = (logits(shape, DTYPES[dtype], "cuda", seed) for seed in (0, 1))
    jsd, tvd = LigerJSD(beta=0.5), LigerTVDLoss(reduction="batchmean")
    theirs: dict[str, Loss] = {
        "jsd": lambda z: jsd((z.float() / T).log_softmax(-1), (v.float() / T).log_softmax(-1)) * T**2,
        "tvd": lambda z: tvd((z.float() / T).softmax(-1), (v.float() / T).softmax(-1)) * T**2,
    }
    for kind, loss in theirs.items():
        ways = {"ours": ours(v, kind=kind), "eager": lambda z, f=KINDS_EAGER[kind]: f(z, v), f"Liger {kind}": loss}
        yield Case(f"{named(shape, dtype)}, {kind}", z.detach().clone().requires_grad_(), ways)


def nine_tasks(dtype: str, device: str) -> Case:
    """64 rows of nine tasks, with heads of 1, 2, 3 and 7 columns; each task has its temperature, alpha and weight."""
    draw, rows = random.Random(3), 64
    counts = [2, 2, 2, 2, 1, 3, 2, 2, 7]
    starts = [sum(counts[:task]) for task in range(9)]
    task = torch.tensor([draw.randrange(9) for _ in range(rows)])
    settings = [(draw.uniform(1, 4), draw.uniform(0.1, 0.9), draw.uniform(0.5, 2)) for _ in range(9)]
    settings = [(t, 0.0, w) if count == 1 else (t, a, w) for count, (t, a, w) in zip(counts, settings)]
    z, v = logits((rows, sum(counts)), DTYPES[dtype], device, 4), logits((rows, max(counts)), torch.float32, device, 5)
    start, count = torch.tensor(starts)[task].to(device), torch.tensor(counts)[task].to(device)
    y = (torch.rand(rows, generator=torch.Generator().manual_seed(6)) * torch.tensor(counts)[task]).long().to(device)
    temperature, alpha, weight = torch.tensor(settings)[task].to(device).unbind(1)
    options: dict[str, Any] = {
        "kind": torch.where(count == 1, KINDS["mse"], KINDS["ce"]), "temperature": temperature,
        "alpha": alpha, "weight": weight, "columns": (start, count), "ignore": "hard",
    }  # fmt: skip
    groups = [(number, (task == number).nonzero().squeeze(1).to(device)) for number in range(9)]

    def loop(z: Tensor) -> Tensor:
        total = z.new_zeros((), dtype=torch.float32)
        for number, of_task in groups:
            if len(of_task) == 0:
                continue
            own, width = z[of_task, starts[number] : starts[number] + counts[number]].float(), counts[number]
            teacher, (t, a, w) = v[of_task, :width], settings[number]
            if width == 1:
                total = total + w * (own - teacher).square().sum()
                continue
            soft = -((teacher / t).softmax(-1) * (own / t).log_softmax(-1)).sum() * t**2
            total = total + w * ((1 - a) * soft + a * F.cross_entropy(own, y[of_task], reduction="sum"))
        return total

    def with_parts(z: Tensor) -> Tensor:
        loss, _, _ = soft_cross_entropy(z, v, y, reduction="none", return_parts=True, **options)
        return loss.sum()

    ways: dict[str, Loss] = {
        "ours": lambda z: soft_cross_entropy(z, v, y, reduction="sum", **options),
        "ours, losses and parts per row": with_parts,
        "eager": loop,
    }
    return Case(f"nine tasks, 64 rows {dtype}", z.requires_grad_(), ways)


def risky_cases(device: str, inductor: bool, quick: bool) -> Iterator[Case]:
    """Sizes and options where we may lose."""

    def pair(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return logits(shape, torch.float32, device, 0).requires_grad_(), logits(shape, torch.float32, device, 1)

    def with_inductor(ways: dict[str, Loss], function: Callable[..., Tensor], *others: Tensor) -> dict[str, Loss]:
        return {**ways, "Inductor": compiled(function, *others)} if inductor and not quick else ways

    for shape in [(4096, 1), (1, 3), (1, 30522), (4096, 33), (4096, 48), (4096, 64), (4096, 1000)]:
        z, v = pair(shape)
        function, kind = (mse_eager, "mse") if shape[1] == 1 else (soft_eager, "ce")
        ways = {"ours": ours(v, kind=kind), "eager": lambda z, f=function, v=v: f(z, v)}
        yield Case(f"{named(shape, 'fp32')}, {kind}", z, with_inductor(ways, function, v))
    for shape in [(4096, 3), (64, 30522)]:
        z, v = pair(shape)
        for kind in ("rkl", "jsd", "tvd", "bce"):
            function = KINDS_EAGER[kind]
            ways = {"ours": ours(v, kind=kind), "eager": lambda z, f=function, v=v: f(z, v)}
            ways = with_inductor(ways, function, v) if shape[1] > 3 else ways
            yield Case(f"{named(shape, 'fp32')}, {kind}", z, ways)
        members = logits((3, *shape), torch.float32, device, 7)
        ways = {"ours": ours(members), "eager": lambda z, v=members: ensemble_eager(z, v)}
        yield Case(f"{named(shape, 'fp32')}, three teachers", z, with_inductor(ways, ensemble_eager, members))
    for shape in [(64, 30522)] if quick else [(64, 30522), (512, 30522)]:
        z, v = pair(shape)
        probs, index = (v / T).softmax(-1).topk(32)
        listed = SparseTeacher(index, probs=probs, tail="bucket", temperature=T)
        ways = {"ours": ours(listed), "eager": lambda z, i=index, p=probs: sparse_eager(z, i, p)}
        ways = with_inductor(ways, sparse_eager, index, probs)
        # Another loss, so its gradient is not compared: what a dense teacher would have cost.
        yield Case(f"{named(shape, 'fp32')}, top 32", z, {**ways, "ours, dense": ours(v)})


# How it is measured


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


# One process


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of a process; with huge pages, of the big logits alone."""
    torch.set_num_threads(1)
    device, quick, huge = arguments.device, arguments.quick, arguments.pages == "huge"
    least = 3 if quick else 7
    problem = "left out by --quick" if quick and device == "cuda" else inductor_problem(device)
    found: dict[str, Any] = {"pages": arguments.pages, "inductor_problem": problem, "steps": {}, "kernel": {}}
    found["backend"] = backend(device)._asdict()

    def run(case: Case, seconds: float, **options: Any) -> None:
        progress(f"{case.title} ({arguments.pages} pages)")
        try:
            check_gradients(case)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            found["inductor_problem"] = str(error.__cause__ or error).strip().splitlines()[0]
            case.ways.pop("Inductor")
            check_gradients(case)
        found["steps"][case.title] = interleaved(
            passes(case), seconds=seconds, device=device, **{"least": least, **options}
        )

    shapes = QUICK_SHAPES if quick else SHAPES[device]
    cells = [(shape, dtype) for shape in shapes for dtype in DTYPES]
    for shape, dtype in cells:
        size = math.prod(shape) * DTYPES[dtype].itemsize
        if huge and size < BIG_BYTES:
            continue
        with_inductor = found["inductor_problem"] is None and not (quick and dtype == "bf16")
        soft, mixed = main_cases(shape, dtype, device, with_inductor)
        for case in (soft, mixed):
            run(case, 0.5 if quick else 1.5)
            if shape == (256, 3):
                run(case._replace(title=f"{case.title}, one pass a turn"), 0.5, turn_s=0.0, least=101, most=401)
        if not huge:
            all_ways = shape == (512, 30522) or quick or device == "cuda"
            for case in (soft, mixed) if size >= 1e6 else ():
                kept = case if all_ways else case._replace(ways={"ours": case.ways["ours"]})
                found.setdefault("memory", {})[case.title] = memory(kept, device)
            if size >= 1e6:
                found["memory"][soft.title]["in place"] = memory_in_place(
                    soft.leaf.detach(), soft.leaf.detach(), device
                )
        del soft, mixed
        torch._dynamo.reset()
        found["kernel"][named(shape, dtype)] = {
            "elements": math.prod(shape), **kernel(shape, dtype, device, 0.3 if quick else 0.7, least)
        }  # fmt: skip
    if huge:
        return found
    for dtype in DTYPES:
        case = nine_tasks(dtype, device)
        run(case, 0.5 if quick else 1.5)
        run(case._replace(title=f"{case.title}, one pass a turn"), 0.5, turn_s=0.0, least=101, most=401)
    for case in risky_cases(device, found["inductor_problem"] is None, quick):
        run(case, 0.2 if quick else 0.7)
        torch._dynamo.reset()
    if device == "cuda":
        for shape, dtype in cells:
            for case in liger_cases(shape, dtype) if math.prod(shape) >= 1e6 else ():
                run(case, 1.0)
        found["waits"] = waits_for_gpu() if found["backend"]["name"] != "reference" else None
        found["liger"] = version("liger-kernel")
    found["gradient_error"] = gradient_error(device)
    return found


def progress(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# What is printed


def machine(device: str = "cpu") -> str:
    """Where and on what a table was made, in a line."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        facts = Path("/proc/cpuinfo").read_text()
        name = next((line.split(":")[1].strip() for line in facts.splitlines() if line.startswith("model name")), name)
        known = {"avx512f": "AVX-512", "avx512_bf16": "bf16", "avx2": "AVX2"}
        name += "".join(f", {shown}" for flag, shown in known.items() if f" {flag} " in facts)
    if device == "cuda":
        name = f"{torch.cuda.get_device_name()}, {name}"
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(asked, capture_output=True, text=True) if shutil.which("git") else None
    commit = f", commit {done.stdout.strip()}" if done and done.returncode == 0 else ""
    return (
        f"{date.today()}{commit}; {name}; 1 thread; Python {platform.python_version()}, torch {torch.__version__}"
    )  # fmt: skip


def shown(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def with_quartiles(spread: Spread) -> str:
    return f"{shown(spread.median)} ({shown(spread.low)} to {shown(spread.high)})"


def ratio(steps: dict[str, Spread], other: str) -> float | None:
    return steps[other].median / steps["ours"].median if other in steps else None


def times_table(cases: dict[str, dict[str, Spread]], others: list[str]) -> list[str]:
    """One row a case: ours with its quartiles, the others, and what they are in ours."""
    others = [other for other in others if any(other in steps for steps in cases.values())]
    lines = [
        "| | ours | " + " | ".join(f"{other}, / ours" for other in others) + " |",
        "|---" * (len(others) + 2) + "|",
    ]
    for title, steps in cases.items():
        cells = [f"{shown(steps[o].median)}, {ratio(steps, o):.2f}" if o in steps else "" for o in others]
        lines.append(f"| {title} | {with_quartiles(steps['ours'])} | " + " | ".join(cells) + " |")
    return lines


def kernel_table(found: dict[str, Any]) -> list[str]:
    lines = ["| kernel alone, ns an element | soft | mixed | floor | soft / floor | mixed / floor |", "|---" * 6 + "|"]
    for title, cell in found["kernel"].items():
        ns = {name: cell[name].median / cell["elements"] * 1e9 for name in ("soft", "mixed", "floor") if name in cell}
        if "soft" in ns:
            ratios = f"{ns['soft'] / ns['floor']:.2f} | {ns['mixed'] / ns['floor']:.2f}"
            lines.append(f"| {title} | {ns['soft']:.3f} | {ns['mixed']:.3f} | {ns['floor']:.3f} | {ratios} |")
    return lines


def memory_table(found: dict[str, Any]) -> list[str]:
    cases = found["memory"]
    ways = list(dict.fromkeys(way for peaks in cases.values() for way in peaks))
    ways = [way for way in ("ours", "in place") if way in ways] + [w for w in ways if w not in ("ours", "in place")]
    lines = ["| peak memory, logits tensors | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for title, peaks in cases.items():
        lines.append(f"| {title} | " + " | ".join(f"{peaks[w]:.2f}" if w in peaks else "" for w in ways) + " |")
    return lines


class Bar(NamedTuple):
    """What issue 3 asks for, what came out, and which of it counts."""

    asked: str
    measured: list[float]
    limit: float
    at_least: bool

    def line(self) -> str:
        if not self.measured:
            return f"| {self.asked} | not measured | |"
        worst = min(self.measured) if self.at_least else max(self.measured)
        holds = worst >= self.limit if self.at_least else worst <= self.limit
        others = "" if len(self.measured) == 1 else f" (worst of {len(self.measured)})"
        return f"| {self.asked} | {worst:.3g}{others} | {'holds' if holds else 'DOES NOT HOLD'} |"


def cpu_bars(found: list[dict[str, Any]], instructions: str | None) -> list[Bar]:
    """The bars of one CPU thread; with AVX2 alone, half of each."""
    part = 0.5 if instructions == "avx2" else 1.0
    ordinary = found[0]

    def bar(text: str, limit: float, chosen: Callable[[str], bool], other: str, only: dict[str, Any] = ordinary) -> Bar:
        values = [ratio(steps, other) for title, steps in only["steps"].items() if chosen(title)]
        return Bar(f"{text} >= {limit * part:g}", [v for v in values if v is not None], limit * part, True)

    def wide(title: str) -> bool:
        return title.endswith((", soft", ", mixed")) and any(f", {c}]" in title for c in (30522, 128256))

    def of_big(title: str) -> bool:
        return wide(title) and "bf16" in title and "[64," not in title

    bars = []
    for dtype in DTYPES:
        for rows, soft, mixed in ((256, 2, 3), (4096, 5, 8)):
            for name, limit in (("soft", soft), ("mixed", mixed)):
                title = f"[{rows}, 3] {dtype}, {name}"
                bars.append(bar(f"{title}: eager / ours", limit, lambda t, title=title: t == title, "eager"))
    for dtype in DTYPES:
        title = f"nine tasks, 64 rows {dtype}"
        bars.append(bar(f"{title}: loop of eager calls / ours", 6, lambda t, title=title: t == title, "eager"))
    for one in found:
        pages, fp32, bf16 = f"{one['pages']} pages", "fp32, 30,522 classes or more", "bf16, 30 MB or more"
        for name, limit in (("soft", 4.5), ("mixed", 6)):
            chosen = lambda t, name=name: wide(t) and "fp32" in t and t.endswith(name)  # noqa: E731
            bars.append(bar(f"{fp32}, {name}, {pages}: eager / ours", limit, chosen, "eager", only=one))
        chosen = lambda t: wide(t) and "fp32" in t  # noqa: E731
        bars.append(bar(f"{fp32}, {pages}: Inductor / ours", 2.5, chosen, "Inductor", only=one))
        bars.append(bar(f"{bf16}, {pages}: eager / ours", 15, of_big, "eager", only=one))
        bars.append(bar(f"{bf16}, {pages}: Inductor / ours", 3.5, of_big, "Inductor", only=one))
    for name in ("soft", "mixed"):
        ns = [
            cell[name].median / cell["elements"] * 1e9
            for one in found for cell in one["kernel"].values() if cell["elements"] >= 1e6 and name in cell
        ]  # fmt: skip
        bars.append(Bar(f"kernel alone, {name}, ns an element <= {0.9 / part:g}", ns, 0.9 / part, False))
    return [*bars, *memory_bars(ordinary), error_bar(ordinary)]


def memory_bars(found: dict[str, Any]) -> list[Bar]:
    """One gradient, and none in place; half a hundredth for the scalars of a call."""
    peaks = found["memory"].values()
    return [
        Bar("peak memory, logits tensors <= 1.00", [one["ours"] for one in peaks], 1.005, False),
        Bar("peak memory in place <= 0.00", [one["in place"] for one in peaks if "in place" in one], 0.005, False),
    ]


def error_bar(found: dict[str, Any]) -> Bar:
    asked = "fp32 gradient error at 128,256 classes <= 1e-6 of the row's maximum"
    return Bar(asked, found["gradient_error"][:1], 1e-6, False)


def gpu_bars(found: dict[str, Any]) -> list[Bar]:
    """The bars of a GPU."""
    bars = []
    for text, limit, least, most in (("30,522 to 50,257", 1.3, 30000, 60000), ("128,256", 1.7, 100000, 200000)):
        values = []
        for title, cell in found["kernel"].items():
            if "soft" in cell and least <= int(title.split(",")[1].split("]")[0]) <= most:
                values.append(cell["soft"].median / cell["floor"].median)
        bars.append(Bar(f"{text} classes: soft / floor <= {limit}", values, limit, False))
    wide = {t: s for t, s in found["steps"].items() if t.endswith((", soft", ", mixed")) and ", 3]" not in t}
    for dtype, limit in (("bf16", 10), ("fp32", 5)):
        values = [ratio(s, "eager") or 0.0 for t, s in wide.items() if dtype in t]
        bars.append(Bar(f"{dtype}, 1,000 classes or more: eager / ours >= {limit}", values, limit, True))
    liger = [ratio(steps, way) or 0.0 for steps in found["steps"].values() for way in steps if way.startswith("Liger")]
    waits = [] if found.get("waits") is None else [float(found["waits"])]
    return [
        *bars,
        Bar("every Liger-Kernel KD loss / ours > 1", liger, 1.0, True),
        Bar("waits for the GPU in a pass <= 0", waits, 0, False),
        *memory_bars(found),
        error_bar(found),
    ]


def report(found: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """The tables and the bars, in Markdown."""
    ordinary = found[0]
    print(f"\n    {' '.join(['python', 'benchmarks/soft_cross_entropy.py', *sys.argv[1:]])}\n")
    print(f"{machine(arguments.device)}. Op: {ordinary['backend']['name']}, {ordinary['backend']['reason']}.")
    print("Inductor: " + (ordinary["inductor_problem"] or "as torch brings it") + ".", end=" ")
    print("Liger-Kernel: " + ordinary.get("liger", "compared on a GPU only") + ".\n")
    main_titles = [title for title in ordinary["steps"] if title.endswith((", soft", ", mixed"))]
    nine = [title for title in ordinary["steps"] if title.startswith("nine")]
    others = ["eager", "Inductor", "F.kl_div", "F.cross_entropy", "Liger KL"]
    print("Forward and backward" + ("" if arguments.device == "cuda" else ", ordinary pages") + ":\n")
    lines = times_table({title: ordinary["steps"][title] for title in main_titles}, others)
    for one in found[1:]:
        lines += ["", "With huge pages:", "", *times_table(one["steps"], others)]
    lines += ["", "Nine tasks in one call, against a loop over the tasks:", ""]
    nine_others = ["eager", "ours, losses and parts per row"]
    lines += times_table({title: ordinary["steps"][title] for title in nine}, nine_others)
    rest = {title: steps for title, steps in ordinary["steps"].items() if title not in main_titles + nine}
    lines += ["", "Where we may lose (with a ratio below 1 we do):", ""]
    lines += times_table(rest, ["eager", "Inductor", "ours, dense", "Liger jsd", "Liger tvd"])
    for one in found:
        lines += ["", *([f"{one['pages'].capitalize()} pages:", ""] if len(found) > 1 else []), *kernel_table(one)]
    lines += ["", *memory_table(ordinary), ""]
    ours_error, eager_error = ordinary["gradient_error"]
    lines.append(
        f"fp32 gradient at [8, 128256] against float64, worst row: ours {ours_error:.1e} of the row's maximum, "
        f"eager {eager_error:.1e}."
    )
    if ordinary["backend"]["name"] == "reference" or arguments.instructions == "portable":
        lines += ["", "The bars are for AVX-512 (half of each for AVX2) and for a GPU; this was neither."]
    else:
        bars = cpu_bars(found, arguments.instructions) if arguments.device == "cpu" else gpu_bars(ordinary)
        lines += ["", "| bar of issue 3 | measured | |", "|---|---|---|", *(bar.line() for bar in bars)]
    print("\n".join(lines))


def restored(found: dict[str, Any]) -> dict[str, Any]:
    """Spreads out of the lists that JSON made of them."""
    for group in ("steps", "kernel"):
        for cell in found[group].values():
            cell.update({name: Spread(*value) for name, value in cell.items() if isinstance(value, list)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few sizes, ordinary pages: within a minute")
    parser.add_argument(
        "--instructions", choices=["avx2", "portable"], help="our kernels without what is newer; torch keeps it"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="write all figures there, in seconds")
    parser.add_argument("--pages", choices=["ordinary", "huge"], help=argparse.SUPPRESS)  # in a process of our own
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pages:
        arguments.out.write_text(json.dumps(measure(arguments)))
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    environment["KINETO_LOG_LEVEL"] = "99"  # the profiler is to keep its news to itself
    if arguments.instructions:
        environment["KDTOOLKIT_OP_INSTRUCTIONS"] = arguments.instructions
    found, begin = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for pages in ("ordinary",) if arguments.quick or arguments.device == "cuda" else ("ordinary", "huge"):
            out = Path(folder) / f"{pages}.json"
            own = ["--pages", pages, "--out", str(out)]
            switched = {**environment, "THP_MEM_ALLOC_ENABLE": "1" if pages == "huge" else "0"}
            done = subprocess.run([sys.executable, __file__, *sys.argv[1:], *own], env=switched)
            if done.returncode:
                sys.exit(done.returncode)
            found.append(json.loads(out.read_text()))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
    report([restored(one) for one in found], arguments)
    print(f"\n{time.perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
