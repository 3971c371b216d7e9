"""The paper-scale recipes with a randomly initialised BERT-large: what it takes to check them and to take 20 steps.

Also a program: python tests/paper_scale.py WORK_FOLDER GLUE_FOLDER [RECIPE ...]
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HUB_ID = "google-bert/bert-large-uncased"
COMMIT = "0" * 40
RECIPES = ("mkd_bilstm", "mkd_transformer", "mtdnn_kd", "bam")
ROWS = {"train": 40, "dev": 6, "test": 6}
"""Of each task: few, and the shortest, for a BERT-large reads some ten rows a second on a CPU."""

FEW = {
    "train.epochs": "100", "train.max_steps": "20", "train.precision": "bf16", "train.threads": "2",
    "train.checkpoint_every_steps": "null",
    "evaluate.baseline": "false", "evaluate.bootstrap": "0", "evaluate.latency": "false", "evaluate.split": "test",
    "teachers.0.max_steps": "1", "teachers.0.batch_rows": "4", "teachers.0.precision": "bf16",
    "teachers.0.checkpoint_every_steps": "null", "teachers.0.threads": "2",
}  # fmt: skip
"""What makes a run short. As test is reported, dev serves where rows held out of train are needed."""
OWN_FEW = {
    "mkd_bilstm": {"train.batch_rows": "16"},
    "mkd_transformer": {"train.batch_rows": "16"},
    "mtdnn_kd": {
        "teachers.0.members": "2", "teachers.0.keep": "1", "teachers.0.refine": "{epochs: 0.1, learning_rate: 5.0e-5}",
        "train.batch_rows": "2",
    },
    "bam": {"train.batch_rows": "2", "train.accumulate": "1"},
}  # fmt: skip


def write_bert_large(hub: Path, glue: Path) -> Path:
    """Lays out a hub cache with a random BERT-large and a word-piece tokenizer made from GLUE text; returns its folder.

    hub: what HF_HUB_CACHE will be. A cache that is there already is left as it is.
    """
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    store = hub / f"models--{HUB_ID.replace('/', '--')}"
    folder = store / "snapshots" / COMMIT
    if (store / "refs" / "main").is_file():
        return folder
    folder.mkdir(parents=True)
    words = BertWordPieceTokenizer(lowercase=True)
    texts = (str(row.get(key, "")) for task in ("sst-2", "rte", "mrpc") for row in _rows(glue / task / "train.jsonl.gz")
             for key in ("sentence1", "sentence2"))  # fmt: skip
    words.train_from_iterator(texts, vocab_size=30522, min_frequency=1, show_progress=False)
    words.save_model(str(folder))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=30522, **sizes)).save_pretrained(folder)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(COMMIT)
    return folder


def write_few_rows(folder: Path, glue: Path) -> Path:
    """The shortest rows of each task, in three splits, with all labels in each as they come in the data."""
    for task in sorted(path for path in glue.iterdir() if (path / "train.jsonl.gz").is_file()):
        shortest = sorted(
            _rows(task / "train.jsonl.gz"), key=lambda row: len(row["sentence1"] + row.get("sentence2", ""))
        )
        by_label: dict[str, list[dict]] = {}
        for row in shortest:
            by_label.setdefault(str(row["label"]), []).append(row)
        mixed = [
            row for turn in range(sum(ROWS.values())) for rows in by_label.values() for row in rows[turn : turn + 1]
        ]
        start = 0
        for split, count in ROWS.items():
            path = folder / task.name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in mixed[start : start + count]), encoding="utf-8")
            start += count
    return folder


def kdtool(*arguments: str, work: Path, hub: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own, in `work`, without a network."""
    store = str(work / "store")
    environment = {**os.environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "KDTOOLKIT_STORE": store}
    command = [sys.executable, "-m", "kdtoolkit.cli.main", *arguments]
    return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)


def check(recipe: str, glue: Path, *, work: Path, hub: Path, changes: dict[str, str] | None = None) -> str:
    """What `kdtool check` says of the recipe as it is, on all rows. Raises RuntimeError if it refuses."""
    done = kdtool("check", recipe, "--data", str(glue), *_set(changes or {}), work=work, hub=hub)
    if done.returncode:
        raise RuntimeError(f"kdtool check {recipe}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def run(recipe: str, few: Path, *, work: Path, hub: Path, changes: dict[str, str] | None = None) -> dict:
    """The results of 20 steps of the recipe on a few rows. Raises RuntimeError if it fails."""
    settings = _set({**FEW, **OWN_FEW.get(recipe, {}), **(changes or {})})
    out = work / recipe
    done = kdtool("distill", "--recipe", recipe, "--data", str(few), "--out", str(out), *settings, work=work, hub=hub)
    if done.returncode:
        raise RuntimeError(f"kdtool distill {recipe}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return json.loads((out / "results.json").read_text())


def _set(changes: dict[str, str]) -> list[str]:
    return [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]


def _rows(path: Path) -> Iterator[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def main() -> None:
    """Checks and runs the recipes named, or all, and says how long each took."""
    work, glue, recipes = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3:] or RECIPES
    work.mkdir(parents=True, exist_ok=True)
    hub = work / "hub"
    write_bert_large(hub, glue)
    few = write_few_rows(work / "few", glue)
    for recipe in recipes:
        started = time.perf_counter()
        print(check(recipe, glue, work=work, hub=hub))
        print(f"{recipe}: checked in {time.perf_counter() - started:.0f} s", flush=True)
        started = time.perf_counter()
        results = run(recipe, few, work=work, hub=hub)
        print(
            f"{recipe}: 20 steps on {len(results['tasks'])} tasks in {time.perf_counter() - started:.0f} s", flush=True
        )


if __name__ == "__main__":
    main()
