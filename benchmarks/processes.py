"""Wall time of labelling and of the student's epochs by one process and by several.

    python benchmarks/processes.py [--teacher FOLDER] [--data $KDTOOLKIT_GLUE] [--processes 1 2] [--batch-rows 32 256]
                                   [--rows-each 32] [--stages label distill [baseline]] [--rounds 3] [--torchrun]

FOLDER: a checkpoint fine-tuned on SST-2; without it one is made first. The job is that of peers/job.py: the first
10,000 rows of SST-2, 3 epochs, one thread each, batches of so many rows over all processes, or (--rows-each) of so many
for each, which are fewer and larger steps. Ways take turns; every run labels anew, or none does where the stage is left
out; "both" is labels and epochs of a run together. Seconds are those of run.json, medians, the least and the most in
brackets. With the stage "baseline" the run is a whole one, with the gold-only student, the table and the speed of both
models: "trainings" are the epochs of both students, from the first's begin to the last's end, and "whole" is the
command from its start to its end. Several processes are started by `--workers`, or by torchrun. It needs as many free
cores as there are processes.
"side by side": as many runs of one process at once, which have nothing to do with each other; how much more they do
than one is what these cores can give at most.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from kdtoolkit_run import recipe
from teacher import add_options, fine_tuned

STAGES = ("label", "distill", "baseline")
NAMES = {"label": "labels", "distill": "epochs"}


class Way(NamedTuple):
    """apart: as many runs of one process, at once. each: so many rows for each process."""

    student: str
    batch_rows: int
    each: bool
    processes: int
    apart: bool


def seconds(given: Namespace, way: Way, work: Path) -> dict[str, float]:
    """Wall seconds of the stages in a fresh run; of runs side by side, their mean over their number."""
    runs, begun = way.processes if way.apart else 1, time.perf_counter()
    with tempfile.TemporaryDirectory(dir=work) as folder:
        started = [launched(given, way, work, Path(folder) / str(number)) for number in range(runs)]
        for process in started:
            _, errors = process.communicate()
            if process.returncode:
                raise SystemExit(errors[-3000:])
        took = time.perf_counter() - begun
        found = [json.loads((Path(folder) / str(number) / "run" / "run.json").read_text()) for number in range(runs)]
    stages = [run["stages"] for run in found]
    means = {stage: statistics.mean(of[stage]["seconds"] for of in stages) / runs for stage in given.stages}
    if "baseline" in given.stages:
        spans = [max(of[s]["finished"] for s in STAGES[1:]) - min(of[s]["began"] for s in STAGES[1:]) for of in stages]
        means["trainings"] = statistics.mean(spans) / runs
    return {**means, "whole": took / runs}


def launched(given: Namespace, way: Way, work: Path, folder: Path) -> subprocess.Popen[str]:
    """A run under way in `folder`."""
    folder.mkdir()
    asked = Namespace(teacher=given.teacher, student=way.student, epochs=given.epochs, seed=0, bf16=given.bf16)
    store = folder / "store" if "label" in given.stages else work / "store"
    job: dict[str, Any] = recipe(asked, store, work / "data")
    job["train"]["batch_rows"] = way.batch_rows * (way.processes if way.each else 1)
    if "baseline" in given.stages:
        job["evaluate"] = {"calibration_rows": 0}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    count = 1 if way.apart else way.processes
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    by_torchrun = count > 1 and given.torchrun
    command = [
        sys.executable, *(launcher if by_torchrun else []), "-m", "kdtoolkit", "distill",
        "--recipe", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "--workers", str(count),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="a checkpoint fine-tuned on SST-2; default: --base, fine-tuned here")
    add_options(parser)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--students", nargs="+", default=["s1", "s2"])
    parser.add_argument("--batch-rows", type=int, nargs="*", default=[32, 256])
    parser.add_argument("--rows-each", type=int, nargs="*", default=[])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES[:2]))
    parser.add_argument("--torchrun", action="store_true", help="several processes are started by it")
    parser.add_argument("--bf16", action="store_true", help="the teacher answers in bf16")
    parser.add_argument("--rows", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    ways = [
        Way(student, batch_rows, each, count, apart)
        for student in given.students
        for each, sizes in ((False, given.batch_rows), (True, given.rows_each))
        for batch_rows in sizes
        for apart in (False, True)
        for count in given.processes
        if not apart or (count > 1 and not each)
    ]
    found: dict[Way, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        given.teacher = given.teacher or str(fine_tuned(given, work))
        (work / "data" / "sst2").mkdir(parents=True)
        for split, count in (("train", given.rows), ("dev", None)):
            with gzip.open(given.data / "sst-2" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
                (work / "data" / "sst2" / f"{split}.jsonl").write_text("".join(list(lines)[:count]), encoding="utf-8")
        if "label" not in given.stages:
            seconds(given, ways[0], work)
        for _ in range(given.rounds):
            for way in ways:
                found[way].append(seconds(given, way, work))
    columns = [*given.stages, *(["both"] if {"label", "distill"} <= {*given.stages} else [])]
    if "baseline" in given.stages:
        columns = ["label", "trainings", "both", "whole"]
    for run in (run for runs in found.values() for run in runs):
        run["both"] = run.get("label", 0.0) + run.get("trainings", run.get("distill", 0.0))
    heads = "".join(f" {NAMES.get(column, column)}, s a run | times one |" for column in columns)
    print(f"| student | rows a batch | processes |{heads}\n|---|---|---|{'---|---|' * len(columns)}")
    for way, runs in found.items():
        first = found[way._replace(processes=given.processes[0], apart=False)]
        cells = [f"{way.processes} side by side" if way.apart else str(way.processes)]
        for column in columns:
            own, alone = [run[column] for run in runs], statistics.median(run[column] for run in first)
            middle = statistics.median(own)
            cells += [f"{middle:.1f} [{min(own):.1f}, {max(own):.1f}]", f"{alone / middle:.2f}"]
        rows = f"{way.batch_rows}{' a process' if way.each else ''}"
        print(f"| {way.student.upper()} | {rows} | {' | '.join(cells)} |")
    if given.json:
        given.json.write_text(json.dumps([{**way._asdict(), "runs": runs} for way, runs in found.items()], indent=1))


if __name__ == "__main__":
    main()
