"""Answers of the teacher and of two students: milliseconds a call, sentences a second, and what kdtoolkit adds.

    python benchmarks/inference.py [--teacher FOLDER] [--data $KDTOOLKIT_GLUE] [--rows 20000] [--rounds 3] [--json FILE]

FOLDER: a checkpoint fine-tuned on SST-2; without it one is made first. S1 is a BiLSTM and S2 a 2-layer BERT, those of
peers/job.py, with the vocabulary of the first 10,000 rows of SST-2; five steps of training, for speed does not depend
on the weights. One thread; CPU time; the ways take turns.

First tables: dev of SST-2, one sentence a call, then 32 in file order and sorted by length. "kdtoolkit": predict_logits
of a loaded student, `logits` of the teacher; it tokenizes, and sorts what it is given. "bare": the model on tensors
that are ready. Percentiles are of the calls of a round; of these, and of the rates, the median of the rounds is given,
the least and the most in brackets.

Last table: many sentences of train. "bare" tokenizes, makes tensors and calls the model, in a plain loop over the very
batches that kdtoolkit makes; its share is what is asked of `kdtool predict`: 95 %. The command is a process of its own
and meets every shape of a batch for the first time, which costs the model itself more; so beside it stands the bare
loop in a process of its own. What each takes for one sentence is its start, which is taken off.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from job import rows as texts_and_labels
from kdtoolkit_run import recipe
from teacher import add_options, fine_tuned

import kdtoolkit
from kdtoolkit import Tokens
from kdtoolkit.data.collate import Batch
from kdtoolkit.example import Example
from kdtoolkit.pipeline import run_stages, start_run
from kdtoolkit.predictor import SORTED_TEXTS, Predictor, of_like_length
from kdtoolkit.recipe.load import recipe_from_dict
from kdtoolkit.tasks import GLUE
from kdtoolkit_teachers.hugging_face import HuggingFaceTeacher
from kdtoolkit_teachers.sequences import padded

TRAIN_ROWS, STEPS, WARM_UP = 10000, 5, 20
PROCESSES = {"bare, a process": (__file__, "--bare"), "kdtool predict": ("-m", "kdtoolkit", "predict")}
Call = Callable[[], object]
Seconds = dict[str, list[list[float]]]


def trained(student: str, given: Namespace, work: Path) -> Predictor:
    """A student after a few steps on gold labels, loaded from its folder."""
    data = work / "data" / "sst2"
    if not data.is_dir():
        data.mkdir(parents=True)
        for split, count in (("train", TRAIN_ROWS), ("dev", None)):
            with gzip.open(given.data / "sst-2" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
                (data / f"{split}.jsonl").write_text("".join(list(lines)[:count]), encoding="utf-8")
    job = Namespace(teacher=given.teacher, student=student, epochs=1, seed=0, bf16=False)
    settings = recipe(job, work / "store", data.parent)
    settings |= {"teachers": [], "tokenizer": {"name": "teacher", "source": given.teacher}, "objective": {"alpha": 1.0}}
    settings["train"] = {**settings["train"], "max_steps": STEPS}  # type: ignore[dict-item]
    run = start_run(recipe_from_dict(settings), work / student)
    run_stages(run)
    return kdtoolkit.load(run.path)


def calls_of_teacher(folder: str) -> tuple[Callable[[Sequence[str]], Call], Callable[[Sequence[str]], Call]]:
    """From texts to a call: through kdtoolkit, and of the bare model on tensors."""
    teacher = HuggingFaceTeacher(folder, GLUE["sst2"], max_tokens=128, precision="fp32")
    reader, model = teacher._reading(), teacher._loaded.whole

    def through(texts: Sequence[str]) -> Call:
        examples = [Example("sst2", text) for text in texts]
        return lambda: teacher.logits(examples)

    def bare(texts: Sequence[str]) -> Call:
        tokens = padded(reader.encode(list(texts)), reader.pad_id)
        return torch.inference_mode()(lambda: model.outputs(tokens))

    return through, bare


def calls_of_student(student: Predictor) -> tuple[Callable[[Sequence[str]], Call], Callable[[Sequence[str]], Call]]:
    """As `calls_of_teacher`."""

    def bare(texts: Sequence[str]) -> Call:
        batch = student.batch([(text, None) for text in texts], task="sst2")
        return torch.inference_mode()(lambda: student.model(batch))

    return lambda texts: lambda: student.predict_logits(texts), bare


def cut(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def one_by_one(calls: list[Call]) -> list[float]:
    """CPU seconds of each call."""
    seconds = []
    for call in calls:
        begin = time.process_time()
        call()
        seconds.append(time.process_time() - begin)
    return seconds


def in_turn(ways: dict[str, Callable[[], list[float]]], rounds: int) -> Seconds:
    """By way and round, the seconds that it gave."""
    found: Seconds = {way: [] for way in ways}
    for number in range(rounds):
        for way in random.Random(number).sample(list(ways), len(ways)):
            found[way].append(ways[way]())
    return found


def bare_loop(student: Predictor, texts: Sequence[str]) -> np.ndarray:
    """All logits, as one would compute them by hand: the student's tokenizer, its template, tensors, its model."""
    joint = student.tokenizer.joint
    before, after = ([], []) if student.model.student.pairs == "separate" else (list(joint.prefix), list(joint.suffix))
    longest = student.config.max_tokens
    logits = np.empty((len(texts), 2), np.float32)
    with torch.inference_mode():
        for start in range(0, len(texts), SORTED_TEXTS):
            pieces = student.tokenizer.encode_batch(texts[start : start + SORTED_TEXTS])
            room = longest - len(before) - len(after)
            for rows in of_like_length(np.minimum([len(own) for own in pieces], longest)):
                own = [[*before, *pieces[row][:room], *after] for row in rows]
                time_steps = len(own[-1])
                ids = torch.tensor([some + [0] * (time_steps - len(some)) for some in own])
                logits[start + rows] = student.model(batch_of(ids)).outputs.numpy()
    return logits


def batch_of(ids: Tensor) -> Batch:
    """Single texts of the only task."""
    rows = torch.arange(len(ids))
    nothing = torch.zeros_like(rows)
    return Batch(Tokens(ids, ids != 0, torch.zeros_like(ids)), rows, None, nothing, nothing.float())


def process(*arguments: str) -> list[float]:
    """CPU seconds of Python with these arguments."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return [after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime]


def middle(values: Sequence[float], digits: int = 0) -> str:
    """Median, the least and the most."""
    median, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} [{low}, {high}]"


def table_of_calls(title: str, sentences: int, seconds: Seconds) -> None:
    """Markdown."""
    print(f"\n{title}\n\n| model | way | p50, ms | p95, ms | sentences a CPU s |\n|---|---|---|---|---|")
    for way, rounds in seconds.items():
        tails = [[np.percentile(of_round, share) * 1000 for of_round in rounds] for share in (50, 95)]
        rates = [sentences / sum(of_round) for of_round in rounds]
        model, _, through = way.partition(", ")
        print(f"| {model} | {through} | {middle(tails[0], 2)} | {middle(tails[1], 2)} | {middle(rates)} |", flush=True)


def table_of_rates(name: str, sentences: int, seconds: Seconds) -> None:
    """Markdown. The seconds of the command lose those of its start."""
    taken = {way: [sum(of_round) for of_round in rounds] for way, rounds in seconds.items()}
    for way in PROCESSES:
        start = statistics.median(taken.pop(f"{way}, one sentence"))
        taken[way] = [own - start for own in taken[way]]
    of_command = middle([own[0] for own in seconds["kdtool predict, one sentence"]], 2)
    print(f"\n{name}, {sentences:,} sentences of train; the start of `kdtool predict` takes {of_command} CPU s\n")
    print("| way | sentences a CPU s | share of bare |\n|---|---|---|")
    for way, own in taken.items():
        bare = taken["bare, a process" if way in PROCESSES else "bare"]
        share = statistics.median(bare) / statistics.median(own)
        print(f"| {way} | {middle([sentences / s for s in own])} | {share:.1%} |", flush=True)


def calls(given: Namespace, students: dict[str, Predictor]) -> dict[str, Seconds]:
    """One sentence a call, and 32."""
    dev = texts_and_labels(given.data, "dev")[0][: given.sentences]
    models = {"teacher": calls_of_teacher(given.teacher)}
    models |= {name: calls_of_student(student) for name, student in students.items()}
    tokenizer = next(iter(students.values())).tokenizer  # the teacher's own pieces, which both students read
    lengths = [len(pieces) for pieces in tokenizer.encode_batch(dev)]
    by_length = [dev[row] for row in np.argsort(lengths, kind="stable")]
    found = {}
    for title, texts, size in (
        ("One sentence a call", dev, 1),
        ("32 sentences a call, in file order", dev, 32),
        ("32 sentences a call, sorted by length", by_length, 32),
    ):
        ways: dict[str, Callable[[], list[float]]] = {}
        for model, makers in models.items():
            for through, maker in zip(("kdtoolkit", "bare"), makers):
                ready = [maker(some) for some in cut(texts, size)]
                one_by_one(ready[:WARM_UP])
                ways[f"{model}, {through}"] = lambda ready=ready: one_by_one(ready)  # type: ignore[misc]
        found[title] = in_turn(ways, given.rounds)
        table_of_calls(title, len(texts), found[title])
    return found


def throughput(given: Namespace, name: str, student: Predictor, work: Path) -> Seconds:
    """Many sentences at once, bare and through kdtoolkit."""
    texts = texts_and_labels(given.data, "train", given.rows)[0]
    files = {count: work / f"{count}.txt" for count in (1, len(texts))}
    for count, file in files.items():
        file.write_text("".join(f"{text}\n" for text in texts[:count]), encoding="utf-8")
    difference = np.abs(bare_loop(student, texts) - student.predict_logits(texts)).max()
    if difference > 1e-5:
        raise SystemExit(f"{name}: the ways differ by {difference}")
    pieces = student.tokenizer.encode_batch(texts)
    lengths = np.minimum([len(own) for own in pieces], student.config.max_tokens)
    ready = []
    for start in range(0, len(texts), SORTED_TEXTS):
        for rows in of_like_length(lengths[start : start + SORTED_TEXTS]):
            ready.append(student.batch([(texts[start + row], None) for row in rows], task="sst2"))

    @torch.inference_mode()
    def forward() -> None:
        for batch in ready:
            student.model(batch)

    ways: dict[str, Callable[[], list[float]]] = {
        "bare": lambda: one_by_one([lambda: bare_loop(student, texts)]),
        "bare, without tokenizing": lambda: one_by_one([forward]),
        "Predictor.predict_logits": lambda: one_by_one([lambda: student.predict_logits(texts)]),
        "Predictor.predict": lambda: one_by_one([lambda: student.predict(texts)]),
    }
    for way, arguments in PROCESSES.items():
        for ending, file in (("", files[len(texts)]), (", one sentence", files[1])):
            ways[way + ending] = lambda a=arguments, f=file: process(*a, str(student.folder), str(f))  # type: ignore[misc]
    seconds = in_turn(ways, given.rounds)
    table_of_rates(name, len(texts), seconds)
    return seconds


def main() -> None:
    if sys.argv[1:2] == ["--bare"]:
        torch.set_num_threads(1)
        bare_loop(kdtoolkit.load(sys.argv[2]), Path(sys.argv[3]).read_text(encoding="utf-8").splitlines())
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="a checkpoint fine-tuned on SST-2; default: --base, fine-tuned here")
    add_options(parser)
    parser.add_argument("--sentences", type=int, help="of dev, for the tables of calls; default: all 872")
    parser.add_argument("--rows", type=int, default=20000, help="sentences of train, for the last table")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        given.teacher = given.teacher or str(fine_tuned(given, work))
        students = {name.upper(): trained(name, given, work) for name in ("s1", "s2")}
        results: dict[str, Seconds] = calls(given, students)
        for name, student in students.items():
            results[name] = throughput(given, name, student, work)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
