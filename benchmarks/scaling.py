"""Time and memory of labelling and of training, against the number of rows and of tasks.

    python benchmarks/scaling.py [--rows 10000 100000 1000000] [--tasks 1 3 9] [--task-rows 30000] [--rounds 3]
                                 [--teacher tiny|callable] [--width 32] [--steps 3000] [--json FILE]

Texts are generated: 4,000 words drawn evenly, 2 to 50 a text, 10 on average. The teacher costs next to nothing, so that
it is the pipeline that is measured: "callable" is a function of the texts' lengths, "tiny" a BERT of 2 layers of 16
with random weights. The student is a BiLSTM of `--width` features a direction, batches of 32, one thread.

Labelling (prepare and label) and training (tokenize and distill) are processes of their own. Training takes one epoch,
or `--steps` steps where that is less. CPU seconds by stage are those of run.json. Memory: the highest resident set of
the process (ru_maxrss), how much that is above what it had after its imports, and how much of all is anonymous: the
rest are mapped files, which the system may drop at any time.

Rows: one task. Tasks: `--task-rows` rows in all, split evenly, batches of one task and mixed; the numbers of tasks take
turns, and their medians are given, the least and the most in brackets. Bars: time a row is constant, memory flat; nine
tasks cost at most 10 % more a row than one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BATCH_ROWS, DEV_ROWS, MAX_TOKENS, EVERY_S = 32, 900, 64, 0.05
WORDS = [f"{a}{b}{c}{d}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfglmnrst" for d in ("", *"aeinorst")][
    :4000
]
LABELS = ("even", "odd")
SOURCE = """
import numpy as np

version = "1"


def score(texts):
    lengths = np.fromiter(map(len, texts), np.float32, len(texts)) % 7 - 3
    return np.stack([-lengths, lengths], 1)
"""
STAGES = ("prepare", "label", "tokenize", "distill")
Result = dict[str, Any]


def write_texts(path: Path, rows: int, seed: int) -> None:
    """JSON lines of texts about as long as SST-2's."""
    generator = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            count = min(2 + int(generator.expovariate(1 / 8.5)), 50)
            text = " ".join(generator.choices(WORDS, k=count))
            file.write(json.dumps({"text": text, "label": LABELS[number % 2]}) + "\n")


def write_tiny_bert(folder: Path) -> Path:
    """A classifier with random weights that reads the words above."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    numbers = {piece: number for number, piece in enumerate((*special, *WORDS))}
    fast = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special))
    PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=MAX_TOKENS, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(numbers), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=MAX_TOKENS, id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def write_run(given: Namespace, folder: Path, rows: int, tasks: int, batch: str) -> None:
    """Data, teacher and recipe of one run. The same texts whatever the number of tasks."""
    names = [f"task{number}" for number in range(tasks)]
    for split, count, seed in (("train", rows, 1), ("dev", DEV_ROWS, 2)):
        whole = folder / f"{split}.jsonl"
        write_texts(whole, count, seed)
        with whole.open(encoding="utf-8") as lines:
            files = [(folder / f"{name}-{split}.jsonl").open("w", encoding="utf-8") for name in names]
            for number, line in enumerate(lines):
                files[number // 2 % tasks].write(line)  # by twos, so that each task has both labels
            for file in files:
                file.close()
    if given.teacher == "tiny":
        teacher: dict[str, Any] = {"name": str(write_tiny_bert(folder / "teacher")), "max_tokens": MAX_TOKENS}
    else:
        (folder / "made_teacher.py").write_text(SOURCE, encoding="utf-8")
        teacher = {"name": f"python:{folder / 'made_teacher.py'}:score"}
    recipe = {
        "tasks": [{"name": name, "text": "text", "labels": list(LABELS)} for name in names],
        "data": {
            **{n: {split: str(folder / f"{n}-{split}.jsonl") for split in ("train", "dev")} for n in names},
            "max_tokens": MAX_TOKENS,
        },
        "teachers": [teacher],
        "student": {"name": "bilstm", "width": given.width, "embedding": 2 * given.width},
        "tokenizer": {"name": "words", "vocabulary": len(WORDS) + 2},
        "sampler": {"batch": batch},
        "train": {
            "epochs": 1, "max_steps": given.steps, "batch_rows": BATCH_ROWS, "checkpoint_every_steps": None,
        },
        "evaluate": {"baseline": False, "latency": False, "bootstrap": 0, "calibration_rows": 0},
        "store": str(folder / "store"),
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")


class Anonymous(threading.Thread):
    """The highest RssAnon of this process, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest = 0.0

    def run(self) -> None:
        while True:
            self.look()
            time.sleep(EVERY_S)

    def look(self) -> None:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        self.highest = max(self.highest, int(fields["RssAnon"].split()[0]) / 1024)


def part(name: str, folder: Path) -> None:
    """In a process of its own: labelling or training; prints its memory and its stages."""
    from kdtoolkit.pipeline import resume_run, run_stages, stages, start_run  # noqa: F401
    from kdtoolkit.plugins import plugin
    from kdtoolkit.recipe.load import recipe_from_dict

    recipe = json.loads((folder / "recipe.json").read_text())
    if name == "train":
        plugin("student", "bilstm")
    elif not recipe["teachers"][0]["name"].startswith("python:"):
        plugin("teacher", "hugging_face")
        from transformers import BertForSequenceClassification  # noqa: F401
    before, anonymous = peak_mb(), Anonymous()
    anonymous.start()
    if name == "label":
        run_stages(start_run(recipe_from_dict(recipe), folder / "run"), "label")
    else:
        run_stages(resume_run(folder / "run"))
    anonymous.look()
    facts = json.loads((folder / "run" / "run.json").read_text())["stages"]
    wanted = STAGES[:2] if name == "label" else STAGES[2:]
    print(
        json.dumps(
            {
                "stages": {stage: facts[stage] for stage in wanted},
                "memory": {"peak": peak_mb(), "grown": peak_mb() - before, "anonymous": anonymous.highest},
            }
        )
    )


def peak_mb() -> float:
    """The highest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(given: Namespace, rows: int, tasks: int = 1, batch: str = "one_task") -> Result:
    """CPU seconds and rows by stage, and memory by part, of a fresh run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    found: Result = {"rows": rows, "tasks": tasks, "batch": batch, "stages": {}, "memory": {}}
    with tempfile.TemporaryDirectory() as folder:
        write_run(given, Path(folder), rows, tasks, batch)
        for name in ("label", "train"):
            done = subprocess.run(
                [sys.executable, __file__, "--part", name, folder], env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            said = json.loads(done.stdout.splitlines()[-1])
            found["stages"] |= said["stages"]
            found["memory"][name] = said["memory"]
    found["us"] = per_row(found)
    return found


def counts(found: Result) -> dict[str, int]:
    """By stage, what it did so often: rows, texts that were labelled, rows, visits of rows."""
    stages = found["stages"]
    visits = stages["distill"]["steps"] * BATCH_ROWS
    rows = found["rows"] + DEV_ROWS
    return {"prepare": rows, "label": stages["label"]["rows"], "tokenize": rows, "distill": visits}


def per_row(found: Result) -> dict[str, float]:
    """CPU microseconds for each of `counts`."""
    return {stage: found["stages"][stage]["cpu_seconds"] / count * 1e6 for stage, count in counts(found).items()}


def further(first: Result, last: Result) -> dict[str, float]:
    """CPU microseconds for each of `counts` that the larger run has more, so that what a run costs anyway is out."""
    more = {stage: counts(last)[stage] - count for stage, count in counts(first).items()}
    return {
        stage: (last["stages"][stage]["cpu_seconds"] - first["stages"][stage]["cpu_seconds"]) / count * 1e6
        for stage, count in more.items()
        if count
    }


def row_tables(results: Sequence[Result]) -> None:
    """Markdown."""
    print("\nCPU microseconds: a row, a labelled text, a row, a visit of a row\n")
    print("| rows | prepare | label | tokenize | distill | steps |\n|---|---|---|---|---|---|")
    for found in results:
        cells = " | ".join(f"{value:,.1f}" for value in found["us"].values())
        print(f"| {found['rows']:,} | {cells} | {found['stages']['distill']['steps']:,} |")
    for before, after in itertools.pairwise(results):
        more = further(before, after)
        cells = " | ".join(f"{more[stage]:,.1f}" if stage in more else "" for stage in STAGES)
        print(f"| each from {before['rows']:,} to {after['rows']:,} | {cells} | |")
    print("\nMemory, MB\n\n| rows | process | peak | above its imports | anonymous, at most |\n|---|---|---|---|---|")
    for found in results:
        for name, memory in found["memory"].items():
            cells = " | ".join(f"{memory[kind]:,.0f}" for kind in ("peak", "grown", "anonymous"))
            print(f"| {found['rows']:,} | {name} | {cells} |")
    if len(results) > 1:
        first, last = results[0], results[-1]
        for name in first["memory"]:
            peak, anonymous = (
                (last["memory"][name][kind] - first["memory"][name][kind]) * 2**20 / (last["rows"] - first["rows"])
                for kind in ("peak", "anonymous")
            )
            print(f"\n{name}: {peak:.0f} bytes a further row at the peak, {anonymous:.0f} of them anonymous")


def task_table(results: Sequence[Result], order: Sequence[tuple[int, str]]) -> None:
    """Markdown."""
    print("\nCPU microseconds as above; times one task\n")
    print("| tasks | batches |" + "".join(f" {stage} | times |" for stage in STAGES) + " peak, MB |")
    print("|---|---|" + "---|---|" * len(STAGES) + "---|")
    for tasks, batch in order:
        own = [found for found in results if (found["tasks"], found["batch"]) == (tasks, batch)]
        cells = []
        for stage in STAGES:
            values = [found["us"][stage] for found in own]
            one = [found["us"][stage] for found in results if (found["tasks"], found["batch"]) == (order[0][0], batch)]
            middle = statistics.median(values)
            cells += [
                f"{middle:,.1f} [{min(values):,.1f}, {max(values):,.1f}]",
                f"{middle / statistics.median(one):.2f}",
            ]
        peak = statistics.median(max(memory["peak"] for memory in found["memory"].values()) for found in own)
        print(f"| {tasks} | {batch} | {' | '.join(cells)} | {peak:,.0f} |")


def main() -> None:
    if sys.argv[1:2] == ["--part"]:
        part(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--tasks", type=int, nargs="*", default=[1, 3, 9])
    parser.add_argument("--task-rows", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--teacher", choices=("tiny", "callable"), default="callable")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    by_rows = [measured(given, rows) for rows in given.rows]
    if by_rows:
        row_tables(by_rows)
    order = [(tasks, batch) for batch in ("one_task", "mixed") for tasks in given.tasks]
    by_tasks = []
    for number in range(given.rounds):
        for tasks, batch in random.Random(number).sample(order, len(order)):
            by_tasks.append(measured(given, given.task_rows, tasks, batch))
    if by_tasks:
        task_table(by_tasks, order)
    if given.json:
        given.json.write_text(json.dumps({"rows": by_rows, "tasks": by_tasks}, indent=1))


if __name__ == "__main__":
    main()
