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
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from op.tables import cpu_bars, gpu_bars, kernel_table, machine, memory_table, times_table
from op.timing import (
    Spread,
    check_gradients,
    gradient_error,
    interleaved,
    kernel,
    memory,
    memory_in_place,
    passes,
    waits_for_gpu,
)
from op.ways import DTYPES, Case, inductor_problem, liger_cases, main_cases, named, nine_tasks, risky_cases

from kdtoolkit.ops import backend

BIG_BYTES = 30e6
SHAPES = {
    "cpu": [(256, 3), (4096, 3), (64, 30522), (512, 30522), (128, 128256)],
    "cuda": [(256, 3), (4096, 3), (4096, 1000), (4096, 30522), (4096, 50257), (2048, 128256)],
}
QUICK_SHAPES = [(256, 3), (4096, 3), (64, 30522)]


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
