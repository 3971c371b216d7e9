"""Memory of labelling and training against the number of rows.

    OMP_NUM_THREADS=1 python benchmarks/memory.py [10000 100000 1000000]

For each size a process of its own generates the rows as JSONL, then runs prepare, label (a trivial callable), tokenize
and 300 training steps. Printed: the peak of anonymous memory (what the process itself holds) by stage, and of the
mapped files beside it, which the system may drop at any time. Flat means: anonymous memory grows by the few index
arrays alone (bytes a row are printed).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STEPS, BATCH_ROWS, EVERY_S = 300, 32, 0.02
WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nrst"]
TEACHER = """
import numpy as np
version = "1"
def score(texts):
    return np.array([[0.0, len(text) % 7 - 3.0] for text in texts], dtype=np.float32)
"""


def write_rows(path: Path, rows: int, seed: int) -> None:
    generator = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            text = " ".join(generator.choices(WORDS, k=generator.randint(8, 24)))
            file.write(json.dumps({"text": text, "label": "odd" if number % 2 else "even"}) + "\n")


class Peak(threading.Thread):
    """The highest RssAnon and RssFile of this process since the last `take`, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = self.mapped = 0.0

    def run(self) -> None:
        while True:
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.anonymous = max(self.anonymous, int(fields["RssAnon"].split()[0]) / 1000)
            self.mapped = max(self.mapped, int(fields["RssFile"].split()[0]) / 1000)
            time.sleep(EVERY_S)

    def take(self) -> tuple[float, float]:
        time.sleep(2 * EVERY_S)
        values = self.anonymous, self.mapped
        self.anonymous = self.mapped = 0.0
        return values


def measure(rows: int, folder: Path) -> None:
    """In a process of its own: prints one JSON line."""
    (folder / "my_teacher.py").write_text(TEACHER)
    write_rows(folder / "train.jsonl", rows, 1)
    write_rows(folder / "dev.jsonl", 200, 2)
    os.chdir(folder)
    os.environ["KDTOOLKIT_STORE"] = str(folder / "store")

    from kdtoolkit.pipeline import run_stages, start_run
    from kdtoolkit.pipeline.run_folder import RunFolder
    from kdtoolkit.recipe.load import recipe_from_dict

    recipe = recipe_from_dict(
        {
            "tasks": [{"name": "made", "text": "text", "label": "label"}],
            "data": {"made": {"train": "train.jsonl", "dev": "dev.jsonl"}, "max_tokens": 32},
            "teachers": [{"name": "python:my_teacher:score"}],
            "student": {"name": "bilstm", "width": 32, "embedding": 32},
            "tokenizer": {"name": "words", "vocabulary": 1000},
            "train": {"epochs": STEPS * BATCH_ROWS / rows, "batch_rows": BATCH_ROWS},
            "evaluate": {"baseline": False, "latency": False},
        }
    )
    run = start_run(recipe, folder / "run")
    peak = Peak()
    found: dict[str, tuple[float, float]] = {}
    peak.start()
    real = RunFolder.stage

    @contextmanager
    def watched(run: RunFolder, name: str) -> Iterator[Any]:
        peak.take()
        with real(run, name) as facts:
            yield facts
        found[name] = peak.take()

    RunFolder.stage = watched  # type: ignore[method-assign]
    run_stages(run)
    seconds = {stage: facts["seconds"] for stage, facts in run.state()["stages"].items()}
    print(json.dumps({"rows": rows, "peaks": found, "seconds": seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # in a process of its own
    given = parser.parse_args()
    if given.one:
        measure(given.rows[0], given.one)
        return
    results = []
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, __file__, str(rows), "--one", folder], capture_output=True, text=True
            )
        if done.returncode:
            sys.exit(done.stderr)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    shown = ("prepare", "label", "tokenize", "distill")
    print("anonymous / mapped memory at the peak of each stage, MB; seconds")
    print(f"{'rows':>10}" + "".join(f"{stage:>24}" for stage in shown))
    for result in results:
        cells = [
            "{:7.0f} /{:6.0f} {:7.1f}s".format(*result["peaks"][stage], result["seconds"][stage]) for stage in shown
        ]
        print(f"{result['rows']:>10,}" + "".join(f"{cell:>24}" for cell in cells))
    if len(results) > 1:
        first, last = results[0], results[-1]
        for stage in shown:
            grown = (last["peaks"][stage][0] - first["peaks"][stage][0]) * 1e6 / (last["rows"] - first["rows"])
            print(f"{stage}: {grown:.0f} bytes of anonymous memory a further row")


if __name__ == "__main__":
    main()
