"""Wall time of labelling and of the student's epochs by one process and by several, started by torchrun.

    python benchmarks/processes.py [--teacher FOLDER] [--data $KDTOOLKIT_GLUE] [--processes 1 2] [--rounds 3]

FOLDER: a checkpoint fine-tuned on SST-2; without it one is made first. The job is that of peers/job.py: the first
10,000 rows of SST-2, 3 epochs, batches of 32 over all processes, one thread each. Numbers of processes take turns;
every run labels anew. Seconds are those of run.json, medians, the least and the most in brackets. It needs as many free
cores as there are processes.
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
from argparse import Namespace
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from kdtoolkit_run import recipe
from teacher import add_options, fine_tuned

STAGES = ("label", "distill")


def seconds(given: Namespace, student: str, count: int, work: Path) -> dict[str, float]:
    """Wall seconds of the stages in a fresh run."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        asked = Namespace(teacher=given.teacher, student=student, epochs=given.epochs, seed=0)
        written = Path(folder) / "recipe.yaml"
        written.write_text(yaml.safe_dump(recipe(asked, Path(folder) / "store", work / "data")), encoding="utf-8")
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", "29651",
            "-m", "kdtoolkit", "distill", "--recipe", str(written), "--out", str(Path(folder) / "run"),
            "--processes", str(count),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        stages = json.loads((Path(folder) / "run" / "run.json").read_text())["stages"]
    return {stage: stages[stage]["seconds"] for stage in STAGES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="a checkpoint fine-tuned on SST-2; default: --base, fine-tuned here")
    add_options(parser)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--students", nargs="+", default=["s1", "s2"])
    parser.add_argument("--rows", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, dict[int, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        given.teacher = given.teacher or str(fine_tuned(given, work))
        (work / "data" / "sst2").mkdir(parents=True)
        for split, count in (("train", given.rows), ("dev", None)):
            with gzip.open(given.data / "sst-2" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
                (work / "data" / "sst2" / f"{split}.jsonl").write_text("".join(list(lines)[:count]), encoding="utf-8")
        for student in given.students:
            found[student] = {count: [] for count in given.processes}
            for _ in range(given.rounds):
                for count in given.processes:
                    found[student][count].append(seconds(given, student, count, work))
    print("| student | processes | labels, s | times one | three epochs, s | times one |\n|---|---|---|---|---|---|")
    for student, by_count in found.items():
        for count, runs in by_count.items():
            cells = []
            for stage in STAGES:
                own = [run[stage] for run in runs]
                first = statistics.median(run[stage] for run in by_count[given.processes[0]])
                middle = statistics.median(own)
                cells += [f"{middle:.1f} [{min(own):.1f}, {max(own):.1f}]", f"{first / middle:.2f}"]
            print(f"| {student.upper()} | {count} | {' | '.join(cells)} |")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
