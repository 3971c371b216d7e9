"""A whole distillation in kdtoolkit and in what people use today: benchmarks/peers has one program a way.

    pip install -r benchmarks/requirements.txt
    python benchmarks/distill_vs_peers.py [--base $TEACHER] [--data $KDTOOLKIT_GLUE] [--rounds 3] [--json FILE]

SST-2, the first 10,000 rows, 3 epochs; the teacher is MiniLM (`make teacher`), fine-tuned on them once by `kdtool
teach`, which is not counted. Students: S1, a BiLSTM, and S2, a 2-layer BERT (peers/job.py). Every run is a process of
its own; the ways take turns in each round, in a random order; medians, and the least and the most in brackets. Ways
with a live teacher are slow: they make --live-visits row visits (None: all), and their time is multiplied up, which
flatters them, for the first steps' costs are the others' as well. CPU seconds are of one thread; trust their ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from teacher import add_options, fine_tuned

PROGRAMS = Path(__file__).resolve().parent / "peers"


class Way(NamedTuple):
    """A program of benchmarks/peers. live: its teacher answers in every step. again: the labels are in the store."""

    title: str
    program: str
    live: bool = False
    again: bool = False
    precision: str = "fp32"


WAYS = (
    Way("TextBrewer, live teacher", "textbrewer_general.py", live=True),
    Way("Trainer, live teacher", "hf_trainer.py", live=True),
    Way("hand loop, cached logits", "hand_loop.py"),
    Way("kdtoolkit, fp32", "kdtoolkit_run.py"),
    Way("kdtoolkit, teacher in bf16", "kdtoolkit_run.py", precision="bf16"),
    Way("kdtoolkit, labels stored", "kdtoolkit_run.py", again=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--students", nargs="+", default=["s1", "s2"])
    parser.add_argument("--rows", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--live-visits", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        teacher = fine_tuned(given, work, given.rows)
        found = [measured(given, work, teacher, student) for student in given.students]
    for student, by_way in zip(given.students, found):
        table(student, by_way, given.rows * given.epochs)
    if given.json:
        given.json.write_text(json.dumps(dict(zip(given.students, found)), indent=1))


def measured(given: argparse.Namespace, work: Path, teacher: Path, student: str) -> dict[str, list[dict[str, Any]]]:
    """What each way took, round by round."""
    found: dict[str, list[dict[str, Any]]] = {way.title: [] for way in WAYS}
    for number in range(given.rounds):
        for way in random.Random(number).sample(WAYS, len(WAYS)):
            found[way.title].append(one(given, work, teacher, student, way, number))
            print(f"{student}, round {number}: {way.title}: {found[way.title][-1]}", file=sys.stderr, flush=True)
    return found


def one(given: argparse.Namespace, work: Path, teacher: Path, student: str, way: Way, seed: int) -> dict[str, Any]:
    """One run of a way, its times those of all visits."""
    rows, epochs = (given.live_visits, 1) if way.live and given.live_visits else (given.rows, given.epochs)
    with tempfile.TemporaryDirectory(dir=work) as fresh:
        store = work / "store" if way.again else Path(fresh)
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
            "KDTOOLKIT_BENCHMARK_STORE": str(store), "KDTOOLKIT_BENCHMARK_PRECISION": way.precision,
        }  # fmt: skip
        command = [
            sys.executable, str(PROGRAMS / way.program), "--teacher", str(teacher), "--data", str(given.data),
            "--student", student, "--rows", str(rows), "--epochs", str(epochs), "--seed", str(seed),
        ]  # fmt: skip
        if way.again and not store.is_dir():
            subprocess.run(command, env=environment, check=True, capture_output=True)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way.title} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    share = given.rows * given.epochs / result["visits"]
    return {**result, "cpu": result["cpu"] * share, "wall": result["wall"] * share, "whole": share == 1}


def table(student: str, found: dict[str, list[dict[str, Any]]], visits: int) -> None:
    """Markdown."""
    least = statistics.median(run["cpu"] for run in found["hand loop, cached logits"])
    print(f"\n{student.upper()}\n\n| way | CPU s | times the hand loop | visits per CPU s | peak MB | dev accuracy |\n"
          "|---|---|---|---|---|---|")  # fmt: skip
    for title, runs in found.items():
        cpu = [run["cpu"] for run in runs]
        middle = statistics.median(cpu)
        reached = f"{statistics.mean(run['accuracy'] for run in runs):.3f}" if runs[0]["whole"] else "not trained out"
        times = f"{middle:.0f} [{min(cpu):.0f}, {max(cpu):.0f}] | {middle / least:.2f} | {visits / middle:,.0f}"
        print(f"| {title} | {times} | {max(run['mb'] for run in runs):,.0f} | {reached} |")


if __name__ == "__main__":
    main()
