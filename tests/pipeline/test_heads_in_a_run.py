"""Heads in a whole run: trained, saved with the student, resumed, and refused before long work."""

from __future__ import annotations

import json
import random

import pytest
import torch

import kdtoolkit
from kdtoolkit import InputError
from kdtoolkit.data.batch_plan import BatchPlan
from kdtoolkit.objectives import distillation
from kdtoolkit.pipeline import student as student_stage
from kdtoolkit.pipeline.pre_flight import check
from kdtoolkit.recipe.load import recipe_from_dict
from kdtoolkit.student_folder import StudentConfig, build_model, load_student, read_config

LABELLER = """
import numpy as np

version = "1"


def relevance(pairs):
    return np.array([[2.0 * len(set(a.split()) & set(b.split())) - 2.0, 0.0] for a, b in pairs])
"""
QUERIES = ["red film", "blue book", "green song", "old meal", "new view", "long road", "good day", "bad night"]
WORDS = sorted({word for query in QUERIES for word in query.split()})


def candidates(count, seed, lonely=False):
    """A query's candidates: one that shares its words and two that do not; or a single one each."""
    draw = random.Random(seed)
    for number in range(count):
        query = f"{draw.choice(QUERIES)} {number}"
        words = query.split()[:2]
        others = [word for word in WORDS if word not in words]
        texts = [(words[0] + " " + words[1], "entailment")] + [
            (" ".join(draw.sample(others, 2)), "not_entailment") for _ in range(2)
        ]
        draw.shuffle(texts)
        for text, label in texts[: 1 if lonely else 3]:
            yield {"question": query, "sentence": text, "label": label}


@pytest.fixture
def ranked(tmp_path, recipe):
    """ranked(lonely=False, **changes): a recipe of the task `answers`, whose candidates are ranked."""

    def make(lonely=False, **changes):
        for split, count, seed in (("train", 60, 1), ("dev", 15, 2)):
            path = tmp_path / "answers" / f"{split}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in candidates(count, seed, lonely)))
        (tmp_path / "labeller.py").write_text(LABELLER)
        base = {
            "tasks": [
                {"name": "answers", "text": ["question", "sentence"], "labels": ["entailment", "not_entailment"]}
            ],
            "data": {"folder": str(tmp_path / "answers"), "max_tokens": 16},
            "teachers": [{"name": f"python:{tmp_path / 'labeller.py'}:relevance"}],
            "tokenizer": {"name": "words", "vocabulary": 200},
            "heads": {"tasks": {"answers": {"name": "ranking", "positive": "entailment"}}},
            "evaluate": {"baseline": False},
        }
        return recipe(**{**base, **changes})

    return make


@pytest.mark.parametrize("batch", ["one_task", "mixed"])
def test_a_ranked_task_learns_from_its_groups_and_is_measured(ranked, run_of, batch):
    values = ranked(train={"epochs": 8}, sampler={"batch": batch})
    results, folder = run_of(values)
    assert any("answers: the head 'ranking' learns which candidate" in note for note in results["notes"])
    found = []
    student = kdtoolkit.load(folder)
    rows = list(candidates(15, seed=2))
    outputs = student.predict_logits([(row["question"], row["sentence"]) for row in rows])
    for query in range(15):
        own = slice(3 * query, 3 * query + 3)
        found.append(rows[own][int(outputs[own, 0].argmax())]["label"] == "entailment")
    assert sum(found) >= 10  # five by chance
    assert not outputs[:, 1].any()
    model, config, _ = load_student(folder / "student")
    assert config.heads["answers"]["name"] == "ranking" and model.heads.weight["answers"].shape[0] == 1


def test_a_ranked_run_sees_whole_groups(ranked, run_of, monkeypatch):
    seen = []

    def spy(rows, **options):
        seen.append(
            (rows.groups.bincount(minlength=1) if False else rows.groups.unique(return_counts=True)[1]).tolist()
        )
        return original(rows, **options)

    original = distillation.rank
    monkeypatch.setattr(distillation, "rank", spy)
    run_of(ranked())
    assert seen and all(count == 3 for counts in seen for count in counts)


def test_a_task_whose_queries_have_one_candidate_each_is_refused(ranked, run_of):
    values = ranked(lonely=True)
    words = "no first text of 'answers' has two in train; set heads.tasks.answers.name: auto"
    with pytest.raises(InputError, match=words):
        run_of(values)
    with pytest.raises(InputError, match=words):
        check(recipe_from_dict(values))


def three_heads(recipe, **changes):
    heads = {"dropout": 0.1, "tasks": {"mood": {"name": "biattention", "width": 4}, "likeness": {"hidden": 5}}}
    return recipe(**{"heads": heads, "evaluate": {"baseline": False}, "train": {"epochs": 1}, **changes})


@pytest.mark.parametrize("batch", ["one_task", "mixed"])
@pytest.mark.parametrize("pairs", ["separate", "joint"])
def test_a_student_with_its_heads_is_rebuilt_from_its_folder_alone(recipe, run_of, batch, pairs):
    values = three_heads(
        recipe, sampler={"batch": batch}, student={"name": "bilstm", "width": 8, "embedding": 12, "pairs": pairs}
    )
    _, folder = run_of(values)
    config = read_config(folder / "student")
    assert config.heads["mood"]["width"] == 4 and config.heads["likeness"]["hidden"] == 5
    model, _, _ = load_student(folder / "student")
    assert "shared_biattention" in {name.split(".")[0] for name in model.heads.state_dict()}
    again = load_student(folder / "student")[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_a_folder_written_before_there_were_heads_still_loads(recipe, run_of):
    _, folder = run_of(recipe(evaluate={"baseline": False}))
    path = folder / "student/config.json"
    values = json.loads(path.read_text())
    del values["heads"]
    config = StudentConfig.from_dict(values)
    assert config.heads == {}
    old, new = build_model(config).state_dict(), load_student(folder / "student")[0].state_dict()
    assert {name: value.shape for name, value in old.items()} == {name: value.shape for name, value in new.items()}


STATELESS = """
from torch import nn
from kdtoolkit import Student


class Bag(Student):
    def __init__(self, vocab_size):
        super().__init__(width=6)
        self.embed = nn.Embedding(vocab_size, 6, padding_idx=0)

    def encode(self, batch):
        return self.embed(batch.ids).sum(1)
"""


def test_a_head_that_reads_states_is_refused_on_a_student_without(recipe, tmp_path):
    (tmp_path / "bag.py").write_text(STATELESS)
    values = recipe(student={"name": f"{tmp_path / 'bag.py'}:Bag"}, heads={"tasks": {"mood": {"name": "biattention"}}})
    with pytest.raises(InputError, match=r"gives no states of tokens; set heads\.tasks\.mood\.name: auto"):
        check(recipe_from_dict(values))


def test_the_cap_of_the_sampler_reaches_the_plan(recipe, run_of, monkeypatch):
    plans = []

    class Spy(BatchPlan):
        def __init__(self, *sizes, **options):
            super().__init__(*sizes, **options)
            plans.append(self)

    monkeypatch.setattr(student_stage, "BatchPlan", Spy)
    run_of(recipe(sampler={"cap": 20}, evaluate={"baseline": False}, data={"mood": {"rows": 40}}))
    small, large = plans[-1].task_visits(0)
    assert small == large and small > 40
