"""Labelling: kdtoolkit's label_rows, transformers' pipeline, and the bare forward pass on kdtoolkit's own batches.

    python benchmarks/labelling.py [--teacher FOLDER] [--data $KDTOOLKIT_GLUE] [--rows 2000] [--rounds 3] [--json FILE]

FOLDER: a checkpoint fine-tuned on SST-2; without it one is made first.
Texts: train of SST-2, in file order, then QNLI's questions and sentences joined, which are long and of mixed length.
label_rows reads rows from the disk, tokenizes, answers and writes the store; the pipeline tokenizes and answers in
batches of 32, in file order, as its documentation shows; "bare" has everything tokenized and cut beforehand. The ways
take turns in one process, each once before the clock counts; medians of CPU seconds of the one thread.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from teacher import add_options, fine_tuned

from kdtoolkit.data.rows import write_rows
from kdtoolkit.example import Example
from kdtoolkit.labels import LabelStore, label_rows
from kdtoolkit.labels.labelling import Texts
from kdtoolkit.tasks import GLUE
from kdtoolkit_teachers.batches import by_length
from kdtoolkit_teachers.hugging_face import HuggingFaceTeacher
from kdtoolkit_teachers.sequences import padded

TASK = GLUE["sst2"]
MAX_TOKENS = 128


def texts_of(data: Path, name: str, count: int) -> list[str]:
    """The first distinct texts of a GLUE task, those of pairs joined."""
    with gzip.open(data / name / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        found = dict.fromkeys(" ".join(filter(None, (row["sentence1"], row.get("sentence2")))) for row in rows)
    return list(found)[:count]


def ways(folder: str, precision: str, texts: list[str], work: Path) -> dict[str, Callable[[], object]]:
    """By name, a function that answers for all texts once."""
    from transformers import pipeline

    teacher = HuggingFaceTeacher(folder, TASK, max_tokens=MAX_TOKENS, precision=precision)
    rows = write_rows(work / "rows.arrow", TASK, [[Example("sst2", text) for text in texts]])

    def ours() -> None:
        with tempfile.TemporaryDirectory(dir=work) as root:
            label_rows(teacher, [rows], LabelStore.of(teacher, root))

    ordered = Texts.of([rows])
    reader, model = teacher._reading(), teacher._loaded.whole
    batches = []
    for start in range(0, len(ordered), teacher.call_rows):
        sequences = reader.encode([e.text for e in ordered.examples(slice(start, start + teacher.call_rows))])
        lengths = np.array([len(sequence.ids) for sequence in sequences])
        chosen = by_length(lengths, teacher.batch_tokens, torch.device("cpu"))
        batches += [padded([sequences[row] for row in some], reader.pad_id) for some in chosen]

    @torch.inference_mode()
    def bare() -> None:
        for tokens in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                model.outputs(tokens)

    found: dict[str, Callable[[], object]] = {f"kdtoolkit, {precision}": ours, f"bare, {precision}": bare}
    if precision == "fp32":
        asked = pipeline("text-classification", model=folder, device="cpu", batch_size=32, top_k=None)
        asked.tokenizer.model_max_length = MAX_TOKENS
        asked.tokenizer.backend_tokenizer.no_padding()
        found["pipeline, batches of 32"] = lambda: asked(texts, truncation=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="a checkpoint fine-tuned on SST-2; default: --base, fine-tuned here")
    add_options(parser)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = tempfile.TemporaryDirectory()
    given.teacher = given.teacher or str(fine_tuned(given, Path(made.name)))
    results: dict[str, dict[str, list[float]]] = {}
    for name in ("sst-2", "qnli"):
        texts = texts_of(given.data, name, given.rows)
        with tempfile.TemporaryDirectory() as folder:
            every = {}
            for precision in ("fp32", "bf16"):
                work = Path(folder) / precision
                work.mkdir()
                every |= ways(given.teacher, precision, texts, work)
            seconds: dict[str, list[float]] = {way: [] for way in every}
            for number in range(given.rounds + 1):
                for way in random.Random(number).sample(list(every), len(every)):
                    begin = time.process_time()
                    every[way]()
                    seconds[way].append(time.process_time() - begin)
        results[name] = {way: taken[1:] for way, taken in seconds.items()}  # the first round warms up
        table(name, len(texts), results[name])
    made.cleanup()
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


def table(name: str, rows: int, seconds: dict[str, list[float]]) -> None:
    """Markdown."""
    middle = {way: statistics.median(taken) for way, taken in seconds.items()}
    print(
        f"\n{name}, {rows:,} texts\n\n| way | rows per CPU s | times the pipeline | share of bare |\n|---|---|---|---|"
    )
    for way, taken in middle.items():
        bare = f"{middle['bare, ' + way.partition(', ')[2]] / taken:.0%}" if way.startswith("kdtoolkit") else ""
        low, high = rows / max(seconds[way]), rows / min(seconds[way])
        speed = f"{rows / taken:,.0f} [{low:,.0f}, {high:,.0f}]"
        print(f"| {way} | {speed} | {middle['pipeline, batches of 32'] / taken:.2f} | {bare} |", flush=True)


if __name__ == "__main__":
    main()
