"""What batches a student answers in is a matter of speed alone: answers do not depend on the texts beside them."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_data import WORDS

import kdtoolkit
from kdtoolkit import predictor
from kdtoolkit.cli.predict import predict
from kdtoolkit.predictor import BATCH_TOKENS, FEW_ROWS, of_like_length

STUDENTS = {
    "apart": {"name": "bilstm", "width": 8, "embedding": 12},
    "joint": {"name": "transformer", "width": 8, "layers": 1, "pairs": "joint"},
}


def texts(count, seed=0):
    """Of 0 to 40 words, the longest beyond the student's 16 tokens; most short, so that some lengths are frequent."""
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=min(int(generator.expovariate(0.2)), 40))) for _ in range(count)]


@pytest.mark.parametrize("rows", [0, 1, FEW_ROWS, 1000])
def test_each_row_is_in_one_batch_and_frequent_lengths_are_not_padded(rows):
    lengths = np.minimum(np.random.default_rng(rows).geometric(0.1, rows), 60)
    batches = list(of_like_length(lengths))
    assert sorted(row for batch in batches for row in batch) == list(range(rows))
    counts = dict(zip(*np.unique(lengths, return_counts=True)))
    for batch in batches:
        of_batch = set(lengths[batch])
        assert len(of_batch) == 1 or all(counts[length] < FEW_ROWS for length in of_batch)
        assert len(batch) * max(of_batch) <= BATCH_TOKENS


def test_a_text_longer_than_a_batch_is_a_batch_alone():
    sizes = [len(batch) for batch in of_like_length(np.full(3, BATCH_TOKENS + 1))]
    assert sizes == [1, 1, 1]


@pytest.mark.parametrize("student", STUDENTS)
def test_a_text_is_answered_alone_as_among_others(recipe, run_of, monkeypatch, student):
    _, run = run_of(recipe(student=STUDENTS[student], evaluate={"baseline": False}))
    loaded = kdtoolkit.load(run)
    given = {"mood": texts(150), "likeness": list(zip(texts(150, 1), texts(150, 2)))}
    for task, some in given.items():
        together = loaded.predict_logits(some, task=task)
        alone = np.concatenate([loaded.predict_logits([text], task=task) for text in some])
        np.testing.assert_allclose(together, alone, atol=1e-5)
        monkeypatch.setattr(predictor, "SORTED_TEXTS", 7)
        np.testing.assert_allclose(loaded.predict_logits(some, task=task), alone, atol=1e-5)
        monkeypatch.undo()


def test_probabilities_are_the_softmax_of_the_logits_by_label_name(recipe, run_of):
    _, run = run_of(recipe(evaluate={"baseline": False}))
    loaded = kdtoolkit.load(run)
    some = texts(40)
    logits = loaded.predict_logits(some, task="mood").astype(np.float64) / loaded.config.temperature.get("mood", 1.0)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for prediction, row in zip(loaded.predict(some, task="mood"), expected):
        assert prediction.probabilities == pytest.approx({"low": row[0], "high": row[1]})
        assert prediction.label == ("low", "high")[int(row.argmax())]
        assert {type(value) for value in prediction.probabilities.values()} == {float}


def test_the_command_gives_a_file_the_answers_of_single_lines(recipe, run_of, tmp_path):
    _, run = run_of(recipe(evaluate={"baseline": False}))
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{text}\n" for text in texts(60)), encoding="utf-8")
    answers = []
    for more in ([], ["--batch", "1"]):
        done = CliRunner().invoke(predict, [str(run), str(file), "--task", "mood", *more])
        assert done.exit_code == 0, done.output
        answers.append([json.loads(line) for line in done.output.splitlines()])
    assert [answer["text"] for answer in answers[0]] == texts(60)
    for among, alone in zip(*answers, strict=True):
        assert among["label"] == alone["label"]
        assert among["probabilities"] == pytest.approx(alone["probabilities"], abs=2e-5)
