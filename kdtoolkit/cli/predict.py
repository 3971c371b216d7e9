"""`kdtool predict`."""

from __future__ import annotations

import gc
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError

if TYPE_CHECKING:
    from ..predictor import Prediction
    from ..tasks import Task

_json = json.JSONEncoder(ensure_ascii=False).encode

PIPED_TEXTS = 256
"""Texts at a time of standard input: fewer than of a file, for whoever sends them may be slow and wait for answers."""


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--task", metavar="TASK", help="Which task to answer; needed if the student has several.")
@click.option(
    "--batch",
    metavar="N",
    type=click.IntRange(min=1),
    help="Texts at a time; default 4096 of a file, 256 of standard input, 1 at a terminal. More is faster.",
)
def predict(run: str, file: str | None, task: str | None, batch: int | None) -> None:
    """Label text with a finished student: text in, JSON lines out.

    Text comes from standard input or a .txt file, one text a line, with a tab between the two texts of a pair; or from
    a .csv, .tsv, .jsonl or .parquet file, from the columns that the task has. Every line of output is an object with
    the text, the label and the probability of every label, in the order of the input. Memory does not grow with it.

    \b
      echo "a lovely film" | kdtool predict runs/demo --task demo_sentiment
      kdtool predict runs/glue pairs.tsv --task mrpc > answers.jsonl
    """
    import kdtoolkit

    from ..predictor import SORTED_TEXTS

    student = kdtoolkit.load(run)
    asked = student.task(task)
    texts = _lines(file, asked) if file is None or _is_plain(file) else _records(file, asked)
    size = batch or (SORTED_TEXTS if file else 1 if sys.stdin.isatty() else PIPED_TEXTS)
    gc.freeze()  # looking through all that was loaded, again and again, costs 4 % of the time of short texts
    for some in _batches(texts, size):
        given: list[Any] = [pair if asked.pair else pair[0] for pair in some]
        predictions = student.predict(given, task=asked.name)
        sys.stdout.writelines(_line(pair, one, asked) for pair, one in zip(some, predictions, strict=True))
        sys.stdout.flush()


def _line(pair: tuple[str, str], prediction: Prediction, task: Task) -> str:
    """An object in JSON. Put together from its parts: of a whole one, json makes an encoder anew, in 3 % of the time
    that an answer takes."""
    parts = [f'{{"text": {_json(pair[0])}']
    if task.pair:
        parts.append(f', "second": {_json(pair[1])}')
    parts.append(f', "label": {_json(prediction.label)}')
    if prediction.probabilities is not None:
        shares = ", ".join([f"{_json(name)}: {_number(p)}" for name, p in prediction.probabilities.items()])
        parts.append(f', "probabilities": {{{shares}}}')
    return "".join([*parts, "}\n"])


def _number(share: float) -> str:
    """As `json` writes it, which has names of its own for what is not finite."""
    return repr(round(share, 6)) if math.isfinite(share) else _json(share)


def _batches(texts: Iterator[tuple[str, str]], size: int) -> Iterator[Sequence[tuple[str, str]]]:
    while some := list(itertools.islice(texts, size)):
        yield some


def _is_plain(file: str) -> bool:
    return Path(file.lower().removesuffix(".gz")).suffix not in (
        ".csv",
        ".tsv",
        ".jsonl",
        ".ndjson",
        ".json",
        ".parquet",
    )


def _lines(file: str | None, task: Task) -> Iterator[tuple[str, str]]:
    """(text, second text or "") of each line of a file or of standard input."""
    from ..data.readers import lines

    if file is None:
        name, numbered = "standard input", enumerate(_standard_input(), 1)
    else:
        name, numbered = file, lines(Path(file))  # type: ignore[assignment]
    for number, line in numbered:
        text = line.rstrip("\r\n")
        first, tab, second = text.partition("\t")
        if not task.pair:
            yield text, ""
        elif not tab:
            cause = f"has one text, but '{task.name}' reads two"
            raise InputError(f"{name} line {number}", cause, "put a tab between the two texts")
        else:
            yield first, second


def _standard_input() -> Iterator[str]:
    stream = sys.stdin.buffer
    for number, data in enumerate(iter(stream.readline, b""), 1):
        try:
            yield data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"standard input line {number}", "is no UTF-8", "send UTF-8 text") from error


def _records(file: str, task: Task) -> Iterator[tuple[str, str]]:
    """The task's text columns of each record; a file without them is read by its only text columns."""
    from ..data.readers import open_source

    source = open_source(Path(file))
    usual = ("sentence1", "sentence2") if task.pair else ("text",)
    columns = task.text or usual
    missing = [column for column in columns if column not in source.columns]
    if missing and all(column in source.columns for column in usual):
        columns = usual
    elif missing:
        raise source.missing_column(missing[0])
    for number, values in source.records(columns):
        if any(value is None for value in values):
            raise InputError(source.where(number), f"has no '{columns[list(values).index(None)]}'")
        texts = [str(value) for value in values]
        yield texts[0], texts[1] if task.pair else ""
