"""kdtoolkit: the recipe as a user runs it, prepare to distill; labels that are in the store are not made again."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from job import BATCH, MAX_TOKENS, RATE, TEMPERATURE, arguments, tell

from kdtoolkit.pipeline import run_stages, start_run
from kdtoolkit.recipe.load import recipe_from_dict

STUDENTS = {
    "s1": {"name": "bilstm", "layers": 1, "width": 150, "embedding": 300, "pooling": "max", "dropout": 0.3},
    "s2": {"name": "transformer", "layers": 2, "width": 128, "heads": 2, "feedforward": 512},
}
STAGES = ("prepare", "label", "tokenize", "distill")


def recipe(given: object, store: Path, data: Path) -> dict[str, object]:
    """The job as a recipe."""
    student = given.student  # type: ignore[attr-defined]
    heads = {"hidden": 150, "dropout": 0.3} if student == "s1" else {"dropout": 0.1}
    return {
        "seed": given.seed,  # type: ignore[attr-defined]
        "tasks": ["sst2"],
        "data": {"folder": str(data), "max_tokens": MAX_TOKENS},
        "teachers": [{"name": given.teacher, "max_tokens": MAX_TOKENS,  # type: ignore[attr-defined]
                      "precision": "bf16" if given.bf16 else "fp32"}],  # type: ignore[attr-defined]
        "student": STUDENTS[student],
        "heads": heads,
        "tokenizer": {"name": "teacher"},
        "objective": {"kind": "kl", "temperature": TEMPERATURE, "alpha": 0.5},
        "optimizer": {"learning_rate": RATE[student], "weight_decay": 0.0, "warmup_fraction": 0.1, "max_norm": 1.0},
        "train": {"epochs": given.epochs, "batch_rows": BATCH, "checkpoint_every_steps": None},  # type: ignore[attr-defined]
        "evaluate": {"baseline": False, "latency": False, "bootstrap": 0, "calibration_rows": 0},
        "store": str(store),
    }  # fmt: skip


def main() -> None:
    given = arguments(__doc__, "bf16")
    store = Path(os.environ["KDTOOLKIT_BENCHMARK_STORE"])
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data" / "sst2"
        data.mkdir(parents=True)
        import gzip

        for split, count in (("train", given.rows), ("dev", None)):
            with gzip.open(given.data / "sst-2" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
                (data / f"{split}.jsonl").write_text("".join(list(lines)[:count]), encoding="utf-8")
        # No other way labels dev, so the store has that before the clock starts.
        apart = Path(folder) / "apart" / "sst2"
        apart.mkdir(parents=True)
        for split in ("train", "dev"):
            (apart / f"{split}.jsonl").write_bytes((data / "dev.jsonl").read_bytes())
        run_stages(start_run(recipe_from_dict(recipe(given, store, apart.parent)), Path(folder) / "first"), "label")
        run = start_run(recipe_from_dict(recipe(given, store, data.parent)), Path(folder) / "run")
        results = run_stages(run)
        stages = json.loads((run.path / "run.json").read_text())["stages"]
        times = {
            "cpu": sum(stages[s]["cpu_seconds"] for s in STAGES),
            "wall": sum(stages[s]["seconds"] for s in STAGES),
        }
        times |= {f"cpu {stage}": stages[stage]["cpu_seconds"] for stage in STAGES}
        tell(times, given, lambda: results["tasks"]["sst2"]["student"]["value"])


if __name__ == "__main__":
    main()
