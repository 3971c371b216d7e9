"""A tiny run: three small tasks, a callable teacher, a small BiLSTM; a few seconds from start to table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from tiny_data import TEACHER, WORDS, rows

RECIPE = """
# kdtool distill --recipe tiny.yaml
seed: 3
tasks:
  - {name: mood, text: text, labels: [low, high]}
  - {name: likeness, kind: regression, text: [one, two]}
data: {folder: data, max_tokens: 16}
teachers:
  - {name: "python:teacher_module:score", tasks: [mood]}
  - {name: "python:teacher_module:distance", tasks: [likeness]}
student: {name: bilstm, width: 8, embedding: 12, dropout: 0.3}
tokenizer: {name: sentencepiece, vocabulary: 64}
optimizer: {learning_rate: 0.01}
train: {epochs: 2, batch_rows: 16, checkpoint_every_steps: 5, log_every_steps: 5}
evaluate: {bootstrap: 50, latency: false}
"""


@pytest.fixture
def tiny(tmp_path):
    """A folder with data, teacher module and tiny.yaml."""
    for name, pair in (("mood", False), ("likeness", True)):
        for split, count, seed in (("train", 220, 1), ("dev", 60, 2)):
            path = tmp_path / "data" / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(row) for row in rows(count, seed + 10 * pair, pair=pair)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "teacher_module.py").write_text(TEACHER, encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def kdtool(tmp_path):
    """Runs the command in a process of its own: kdtool("distill", ..., cwd=folder, prelude="code run first")."""

    def call(*arguments: str, cwd: Path, prelude: str = "", check: int | None = 0, stdin: str | None = None):
        code = f"{prelude}\nfrom kdtoolkit.cli.main import main\nmain()"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(cwd), "COLUMNS": "100"}
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, input=stdin)
        if check is not None:
            assert done.returncode == check, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return call


def merged(base, changes):
    """`base` with the sections of `changes` merged into its sections; None takes a section out."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict) and "name" not in value:
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


@pytest.fixture
def recipe(tiny):
    """recipe(section={...}): tiny.yaml as a mapping that works from any folder, with sections merged in."""
    module = tiny / "teacher_module.py"
    base = {
        "seed": 3,
        "tasks": [
            {"name": "mood", "text": "text", "labels": ["low", "high"]},
            {"name": "likeness", "kind": "regression", "text": ["one", "two"]},
        ],
        "data": {"folder": str(tiny / "data"), "max_tokens": 16},
        "teachers": [
            {"name": f"python:{module}:score", "tasks": ["mood"]},
            {"name": f"python:{module}:distance", "tasks": ["likeness"]},
        ],
        "student": {"name": "bilstm", "width": 8, "embedding": 12, "dropout": 0.3},
        "tokenizer": {"name": "sentencepiece", "vocabulary": 64},
        "optimizer": {"learning_rate": 0.01},
        "train": {"epochs": 1, "batch_rows": 16, "checkpoint_every_steps": None, "log_every_steps": 5},
        "evaluate": {"bootstrap": 0, "latency": False},
    }
    return lambda **changes: merged(base, changes)


@pytest.fixture
def mood(recipe, tiny):
    """As `recipe`, with the task mood alone."""
    teachers = [{"name": f"python:{tiny / 'teacher_module.py'}:score"}]
    tasks = [{"name": "mood", "text": "text", "labels": ["low", "high"]}]
    return lambda **changes: recipe(**{"tasks": tasks, "teachers": teachers, **changes})


@pytest.fixture
def run_of(tmp_path):
    """run_of(recipe, name="run"): the results and the folder of a whole run in this process."""
    import kdtoolkit

    def run(values, name="run"):
        return kdtoolkit.distill(values, tmp_path / name), tmp_path / name

    return run


@pytest.fixture
def small_parts(monkeypatch):
    """The label stage stores parts of 16 texts, so that each of several workers has some."""
    import functools

    import kdtoolkit.pipeline.label  # noqa: F401  (whose name the function `label` hides)
    from kdtoolkit.labels import label_rows

    module = sys.modules["kdtoolkit.pipeline.label"]
    monkeypatch.setattr(module, "label_rows", functools.partial(label_rows, batch_rows=8, part_batches=2))


@pytest.fixture
def parts():
    """parts(folder): by name, the digests of the label store's files there."""
    return lambda folder: {p.name: sha256(p.read_bytes()).hexdigest() for p in folder.rglob("part-*.parquet")}


@pytest.fixture
def events():
    """events(folder): what TensorBoard reads there: {tag: {step: value}}, and {tag: text}."""

    def read(folder):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        scalars = {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in found.Tags()["scalars"]}
        texts = {tag: found.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
        return scalars, texts

    return read


@pytest.fixture
def bert(tmp_path):
    """bert(labels=..., seed=...): a tiny random checkpoint that knows the words of the tiny data."""
    made = []

    def make(family="bert", labels=None, **options):
        made.append(tmp_path / f"{family}-{len(made)}")
        return write_checkpoint(made[-1], family, labels, words=WORDS, initializer_range=0.1, **options)

    return make
