"""Where the time of a run goes: stage by stage, and inside the two that take most, labelling and training.

    python benchmarks/stages.py [--students s1 s2] [--rows 10000] [--epochs 3] [--json FILE]

The job of distill_vs_peers.py as a user has it, with the table at the end: the baseline on gold labels, the bootstrap,
the latencies. CPU seconds of one thread, by stage from run.json, what no stage counts (the teacher's speed is measured
between label and tokenize), and as shares. Then labelling and training once more
under torch's profiler, with 2,000 rows: the share of each kind of operation in what torch computes; what Python takes
between operations is counted to the operation it called last.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import torch
from job import MAX_TOKENS, rows
from kdtoolkit_run import recipe
from teacher import add_options, fine_tuned

from kdtoolkit.pipeline import run_stages, start_run
from kdtoolkit.recipe.load import recipe_from_dict

KINDS = {
    "LSTM": ("rnn", "lstm"),
    "matrix products": ("mm", "linear", "addmm", "bmm", "baddbmm", "matmul"),
    "attention": ("scaled_dot", "softmax", "flash"),
    "optimizer and clipping": ("adamw", "optimizer", "norm_except", "vector_norm", "foreach", "coalesce", "index_copy"),
    "dropout": ("dropout", "bernoulli", "random_"),
    "embeddings": ("embedding", "index_select"),
    "normalisation and activation": ("layer_norm", "gelu", "tanh", "sigmoid"),
    "loss": ("soft_cross_entropy", "kdtoolkit"),
    "copies and fills": ("copy_", "fill_", "zero_", "contiguous", "cat", "_to_copy", "clone"),
}
PROFILED_ROWS = 2000
REST = "the teacher's speed, and what else is in no stage"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--students", nargs="+", default=["s1", "s2"])
    parser.add_argument("--rows", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        teacher = fine_tuned(given, given.work or work)
        for student in given.students:
            stages = by_stage(given, work / f"{student}-whole", teacher, student, given.rows)
            kinds = by_kind(given, work / f"{student}-profiled", teacher, student)
            found[student] = {"stages": stages, **kinds}
    for student, of_student in found.items():
        for title, seconds in of_student.items():
            table(f"{student.upper()}, {title}", seconds)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def job(given: Namespace, folder: Path, teacher: Path, student: str, count: int) -> dict[str, Any]:
    """The recipe, its data written into `folder`."""
    data = folder / "data" / "sst2"
    data.mkdir(parents=True)
    for split, limit in (("train", count), ("dev", None)):
        texts, labels = rows(given.data, split, limit)
        lines = [json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels)]
        (data / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    asked = Namespace(student=student, seed=0, teacher=str(teacher), epochs=given.epochs, bf16=False)
    found = recipe(asked, folder / "store", data.parent)
    del found["evaluate"]
    found["teachers"] = [{"name": str(teacher), "max_tokens": MAX_TOKENS}]
    return found


def by_stage(given: Namespace, folder: Path, teacher: Path, student: str, count: int) -> dict[str, float]:
    """CPU seconds of each stage of a whole run, and of what no stage counts."""
    run = start_run(recipe_from_dict(job(given, folder, teacher, student, count)), folder / "run")
    started = time.process_time()
    run_stages(run)
    whole = time.process_time() - started
    stages = json.loads((run.path / "run.json").read_text(encoding="utf-8"))["stages"]
    found = {name: stage["cpu_seconds"] for name, stage in stages.items()}
    return {**found, REST: whole - sum(found.values())}


def by_kind(given: Namespace, folder: Path, teacher: Path, student: str) -> dict[str, dict[str, float]]:
    """Seconds of each kind of operation, when labelling and when training."""
    from torch.profiler import ProfilerActivity, profile

    found = job(given, folder, teacher, student, PROFILED_ROWS)
    found["evaluate"] = {"baseline": False, "latency": False, "bootstrap": 0, "calibration_rows": 0}
    run = start_run(recipe_from_dict(found), folder / "run")
    seconds = {}
    for title, last in (("labelling", "label"), ("training", "report")):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            run_stages(run, last)
        seconds[title] = by_name({e.key: e.self_cpu_time_total / 1e6 for e in profiler.key_averages()})
    return seconds


def by_name(events: dict[str, float]) -> dict[str, float]:
    """Seconds of operations, by kind."""
    found: dict[str, float] = defaultdict(float)
    for name, seconds in events.items():
        lower = name.lower()
        kind = next((kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), "other")
        found[kind] += seconds
    return dict(found)


def table(title: str, seconds: dict[str, float]) -> None:
    """Markdown, the largest first."""
    whole = sum(seconds.values())
    print(f"\n{title}: {whole:.1f} CPU s\n\n| part | CPU s | share |\n|---|---|---|")
    for name, taken in sorted(seconds.items(), key=lambda item: -item[1]):
        if taken / whole >= 0.005:
            print(f"| {name} | {taken:.1f} | {taken / whole:.0%} |")


if __name__ == "__main__":
    main()
