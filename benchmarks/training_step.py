"""The loss's share of a training step of each student, with plain PyTorch ("before") and the compiled op ("after").

    python benchmarks/training_step.py [--quick] [--json FILE]

A step is the loop's: a batch collated, student and heads, the objective, backward, clipping, AdamW, the meter. Sizes
and options are those of the recipe glue_STUDENT; texts are random pieces, all of one length; each row has a teacher,
half of them have a label. "One task" is sst2; "nine tasks" is all of GLUE in each batch, regression among them.
Loss: the whole call of DistillationObjective, and backward from its loss to the heads' outputs; of this, "op" is the
call of soft_cross_entropy without its backward. Time: CPU milliseconds of the one thread. Before and after take turns,
one step each, in a random order, on one model; medians, and quartiles in brackets.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from op.tables import machine
from op.timing import Spread
from torch import nn

from kdtoolkit import Recipe
from kdtoolkit.data.collate import Collator, TaskArrays
from kdtoolkit.data.tokens import write_arrays
from kdtoolkit.objectives import DistillationObjective, distillation
from kdtoolkit.ops import backend
from kdtoolkit.student_folder import build_model, student_config
from kdtoolkit.tasks import GLUE, Task
from kdtoolkit.tokenizers import JointTemplate
from kdtoolkit.training.meter import Meter
from kdtoolkit.training.optimizer import build_optimizer

STUDENTS = ("bilstm", "transformer")
VARIABLE = "KDTOOLKIT_OP_BACKEND"
BACKENDS = {"before": "reference", "after": "auto"}
ROWS_OF_TASK = 512


def arrays_of(task: Task, tokens: int, pieces: int, folder: Path, generator: np.random.Generator) -> TaskArrays:
    """Random rows of a task, `tokens` pieces each, both texts of a pair together."""
    texts = 2 if task.pair else 1
    lengths = np.full(ROWS_OF_TASK * texts, tokens // texts)
    ids = generator.integers(4, pieces, int(lengths.sum()), dtype=np.int32)
    meta = {"rows": ROWS_OF_TASK, "texts_per_row": texts, "max_tokens": 128, "fingerprint": "", "rows_digest": ""}
    read = write_arrays(folder / task.name, iter([(ids, lengths)]), pieces, meta, lambda: 0)
    labels = generator.integers(0, max(task.outputs, 2), ROWS_OF_TASK).astype(np.float32)
    labels[::2] = np.nan
    return TaskArrays(read, labels, generator.standard_normal((ROWS_OF_TASK, 1, task.outputs), np.float32))


class Stopwatch:
    """CPU seconds of this thread, by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable[..., Any], *values: Any, **options: Any) -> Any:
        begin = time.thread_time()
        result = work(*values, **options)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - begin
        return result


def stepper(student: str, tasks: list[Task], rows: int, tokens: int, folder: Path) -> Callable[[Stopwatch], None]:
    """A function that takes one step of a new student."""
    recipe = Recipe.load(f"glue_{student}")
    generator, mixed = np.random.default_rng(0), len(tasks) > 1
    pieces = recipe.tokenizer.vocabulary
    arrays = [arrays_of(task, tokens, pieces, folder, generator) for task in tasks]
    config = student_config(
        recipe.student, tasks, vocab_size=pieces, max_tokens=128, mixed=mixed, scaling={"stsb": (0.5, 0.5)}
    )
    torch.manual_seed(0)
    model = build_model(config).train()
    collator = Collator(tasks, arrays, JointTemplate((2,), (3,), (3,)), pairs=model.student.pairs)
    scales = [config.scaling.get(task.name, (0.0, 1.0)) for task in tasks]
    objective = DistillationObjective(tasks, recipe.objective, steps=1000, scaling=scales)
    optimizer, meter = build_optimizer(model, recipe.optimizer), Meter(tasks)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    max_norm = recipe.optimizer.max_norm or 1.0

    def step(watch: Stopwatch) -> None:
        begin = time.thread_time()
        batch = collator(generator.choice(collator.rows, rows, replace=False))
        heads = model(batch)
        # Cut here, so that the two halves of the backward pass can be told apart.
        logits = heads.outputs.detach().requires_grad_()
        result = watch.time("loss", objective, heads._replace(outputs=logits.float()), batch, 0)
        watch.time("loss", (result.loss * (1 / rows)).backward)
        heads.outputs.backward(logits.grad)
        meter.add(result)
        nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        watch.seconds["step"] = time.thread_time() - begin

    return step


def measure(step: Callable[[Stopwatch], None], seconds: float) -> dict[str, dict[str, Spread]]:
    """Step, loss and op, before and after."""
    found: dict[str, dict[str, list[float]]] = {which: {"step": [], "loss": [], "op": []} for which in BACKENDS}
    real, draw, order, used, rounds = distillation.soft_cross_entropy, random.Random(0), list(BACKENDS), 0.0, -2
    before = os.environ.get(VARIABLE)
    try:
        while rounds < 9 or used < seconds:
            draw.shuffle(order)
            for which in order:
                os.environ[VARIABLE] = BACKENDS[which]
                watch = Stopwatch()
                distillation.soft_cross_entropy = lambda *v, watch=watch, **o: watch.time("op", real, *v, **o)
                step(watch)
                used += watch.seconds["step"]
                for name in found[which] if rounds >= 0 else ():  # the first rounds are to warm up
                    found[which][name].append(watch.seconds[name])
            rounds += 1
    finally:
        distillation.soft_cross_entropy = real
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
    return {which: {name: spread(values) for name, values in parts.items()} for which, parts in found.items()}


def spread(values: list[float]) -> Spread:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def row(title: str, found: dict[str, dict[str, Spread]]) -> str:
    """A line of the table."""
    cells = []
    for which in BACKENDS:
        step, loss, op = (found[which][name] for name in ("step", "loss", "op"))
        cells.append(f"{step.median * 1e3:.2f} ({step.low * 1e3:.2f} to {step.high * 1e3:.2f})")
        quartiles = f"({loss.low * 1e3:.3f} to {loss.high * 1e3:.3f})"
        cells.append(f"{loss.median * 1e3:.3f} {quartiles}, {loss.median / step.median:.1%}")
        cells.append(f"{op.median * 1e3:.3f}")
    ratios = [found["before"][name].median / found["after"][name].median for name in ("step", "loss", "op")]
    return f"| {title} | " + " | ".join(cells + [f"{value:.2f}" for value in ratios]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one size, one second each")
    parser.add_argument("--json", type=Path, help="write all figures there, in seconds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.pop(VARIABLE, None)
    print(f"{machine()}. After: {backend().name}, {backend().reason}.\n")
    columns = [f"{part} {which}" for which in BACKENDS for part in ("step", "loss", "op")]
    columns += [f"{part}, before / after" for part in ("step", "loss", "op")]
    print("| student, batch | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    results = {}
    for student in STUDENTS:
        for name, tasks in (("one task", [GLUE["sst2"]]), ("nine tasks", list(GLUE.values()))):
            for rows, tokens in [(32, 20)] if arguments.quick else [(32, 20), (64, 20), (32, 64), (64, 64)]:
                title = f"{student}, {name}, {rows} rows of {tokens} tokens"
                with tempfile.TemporaryDirectory() as folder:
                    step = stepper(student, tasks, rows, tokens, Path(folder))
                    results[title] = measure(step, 1.0 if arguments.quick else 4.0)
                print(row(title, results[title]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
