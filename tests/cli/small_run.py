"""What the smallest run is made of."""

from __future__ import annotations

import json
import random

TEACHER = """
import numpy as np

version = "1"


def score(texts):
    margin = np.array([2.0 * sum(word in ("good", "fine") for word in text.split()) - 1 for text in texts])
    return np.stack([-margin, margin], 1)


def nan(texts):
    return np.full((len(texts), 2), np.nan)


def infinite(texts):
    return np.full((len(texts), 2), np.inf)


def three(texts):
    return np.zeros((len(texts), 3))


def broken(texts):
    raise RuntimeError("the service is down")
"""

RECIPE = """
seed: 3
tasks: [{name: mood, text: text, labels: [low, high]}]
data: {folder: data, max_tokens: 16}
teachers: ["python:teacher.py:score"]
student: {name: bilstm, width: 4, embedding: 6}
tokenizer: {vocabulary: 64}
train: {epochs: 1, batch_rows: 8, checkpoint_every_steps: 4, log_every_steps: 4}
evaluate: {bootstrap: 10, latency: false}
"""

WORDS = ["good", "fine", "bad", "dull", "film", "book", "meal", "road"]


def moods(count, seed):
    """Rows of the task mood."""
    generator = random.Random(seed)
    texts = [" ".join(generator.choices(WORDS, k=4)) for _ in range(count)]
    return [{"text": text, "label": "high" if "good" in text or "fine" in text else "low"} for text in texts]


def write_rows(path, rows):
    """A JSONL file of mappings, or what is given as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, list):
        rows = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(rows if isinstance(rows, bytes) else rows.encode())
