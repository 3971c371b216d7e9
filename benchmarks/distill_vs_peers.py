"""A whole distillation in kdtoolkit and in what people use today: benchmarks/peers has one program a way.

    pip install -r benchmarks/requirements.txt
    pip install --no-deps torchdistill==1.1.5
    python benchmarks/distill_vs_peers.py [--base $TEACHER] [--data $KDTOOLKIT_GLUE] [--rounds 3] [--json FILE]
    python benchmarks/distill_vs_peers.py --ways "hand loop" kdtoolkit      only those with such a part in their title

SST-2, the first 10,000 rows, 3 epochs; the teacher is MiniLM (`make teacher`), fine-tuned on them once by `kdtool
teach`, which is not counted. Students: S1, a BiLSTM, and S2, a 2-layer BERT (peers/job.py). Every run is a process of
its own; the ways take turns in each round, in a random order; medians, and the least and the most in brackets. Ways
with a live teacher are slow: they make --live-visits row visits (0: all), and their time is multiplied up, that of the
first steps with it. CPU seconds are of one thread; trust their ratios. A way whose package is missing is left out, and
the table says so.
"""

from __future__ import annotations

import argparse
import importlib.util
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


INSTALL = {"textbrewer": "-r benchmarks/requirements.txt", "torchdistill": "--no-deps torchdistill==1.1.5"}


class Way(NamedTuple):
    """A program of benchmarks/peers and its switches.

    live: its teacher answers in every step. again: the labels are in the store. needs: a package it cannot do without.
    """

    title: str
    program: str
    switches: tuple[str, ...] = ()
    live: bool = False
    again: bool = False
    needs: str | None = None

    @property
    def missing(self) -> bool:
        return self.needs is not None and importlib.util.find_spec(self.needs) is None


WAYS = (
    Way("TextBrewer, live teacher, padded to 64", "textbrewer_run.py", ("--fixed",), live=True, needs="textbrewer"),
    Way("TextBrewer, live teacher", "textbrewer_run.py", live=True, needs="textbrewer"),
    Way("torchdistill, live teacher", "torchdistill_box.py", live=True, needs="torchdistill"),
    Way("Trainer, live teacher", "hf_trainer.py", live=True),
    Way("TextBrewer, its own cache", "textbrewer_run.py", ("--cached",), needs="textbrewer"),
    Way("hand loop, cached logits", "hand_loop.py"),
    Way("hand loop, compact vocabulary", "hand_loop.py", ("--compact",)),
    Way("kdtoolkit, fp32", "kdtoolkit_run.py"),
    Way("kdtoolkit, teacher in bf16", "kdtoolkit_run.py", ("--bf16",)),
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
    parser.add_argument("--ways", nargs="+", default=[""], metavar="PART", help="those with a PART in their title")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    ways = [way for way in WAYS if any(part.lower() in way.title.lower() for part in given.ways)]
    if not ways:
        parser.error(f"--ways: none has such a part; there are {'; '.join(way.title for way in WAYS)}")
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        teacher = fine_tuned(given, work, given.rows)
        found = [measured(given, work, teacher, student, ways) for student in given.students]
    for student, by_way in zip(given.students, found):
        table(student, ways, by_way, given.rows * given.epochs)
    if given.json:
        given.json.write_text(json.dumps(dict(zip(given.students, found)), indent=1))


def measured(
    given: argparse.Namespace, work: Path, teacher: Path, student: str, ways: list[Way]
) -> dict[str, list[dict[str, Any]]]:
    """What each way took, round by round; nothing of one whose package is missing."""
    ready = [way for way in ways if not way.missing]
    found: dict[str, list[dict[str, Any]]] = {way.title: [] for way in ready}
    for number in range(given.rounds):
        for way in random.Random(number).sample(ready, len(ready)):
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
            "KDTOOLKIT_BENCHMARK_STORE": str(store),
        }  # fmt: skip
        command = [
            sys.executable, str(PROGRAMS / way.program), "--teacher", str(teacher), "--data", str(given.data),
            "--student", student, "--rows", str(rows), "--epochs", str(epochs), "--seed", str(seed),
            *way.switches,
        ]  # fmt: skip
        if way.again and not store.is_dir():
            subprocess.run(command, env=environment, check=True, capture_output=True)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way.title} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    share = given.rows * given.epochs / result["visits"]
    return {**result, "cpu": result["cpu"] * share, "wall": result["wall"] * share, "whole": share == 1}


def table(student: str, ways: list[Way], found: dict[str, list[dict[str, Any]]], visits: int) -> None:
    """Markdown."""
    by_hand = [median_cpu(runs) for title, runs in found.items() if title.startswith("hand loop")]
    print(f"\n{student.upper()}\n\n"
          "| way | CPU s | times the best hand loop | visits per CPU s | peak MB | dev accuracy |\n"
          "|---|---|---|---|---|---|")  # fmt: skip
    for way in ways:
        if way.missing:
            print(f"| {way.title} | not installed (`pip install {INSTALL[str(way.needs)]}`) | | | | |")
            continue
        runs = found[way.title]
        middle, cpu = median_cpu(runs), [run["cpu"] for run in runs]
        reached = f"{statistics.mean(run['accuracy'] for run in runs):.3f}" if runs[0]["whole"] else "not trained out"
        times = f"{middle / min(by_hand):.2f}" if by_hand else "-"
        print(f"| {way.title} | {middle:.0f} [{min(cpu):.0f}, {max(cpu):.0f}] | {times} | {visits / middle:,.0f} "
              f"| {max(run['mb'] for run in runs):,.0f} | {reached} |")  # fmt: skip


def median_cpu(runs: list[dict[str, Any]]) -> float:
    """Seconds."""
    return statistics.median(run["cpu"] for run in runs)


if __name__ == "__main__":
    main()
