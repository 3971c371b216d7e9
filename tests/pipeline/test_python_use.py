"""The public Python names: distill, load, predict; and a finished run as the teacher of another."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import kdtoolkit
from kdtoolkit import InputError, Recipe

QUICK = {"evaluate": {"baseline": False}}


@pytest.fixture
def finished(recipe, run_of):
    return run_of(recipe(**QUICK), "first")


def test_distill_takes_a_mapping_a_recipe_or_a_path_and_does_the_same(recipe, run_of, tmp_path, finished):
    results, run = finished
    assert results == json.loads((run / "results.json").read_text())
    (tmp_path / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    others = {"object": Recipe.model_validate(recipe(**QUICK)), "path": tmp_path / "recipe.yaml"}
    for name, given in others.items():
        _, other = run_of(given, name)
        for file in ("student/model.safetensors", "student/config.json"):
            assert (other / file).read_bytes() == (run / file).read_bytes()
    assert run_of(recipe(**QUICK), "first")[0] == results  # found finished


def test_predict_takes_texts_pairs_and_mappings(finished):
    predictor = kdtoolkit.load(finished[1])
    one, two = predictor.predict(["good film", {"text": "good film"}], task="mood")
    assert one == two and set(one.probabilities) == {"low", "high"} and one.label in one.probabilities
    assert sum(one.probabilities.values()) == pytest.approx(1)
    assert one.label == max(one.probabilities, key=one.probabilities.get)
    pair, mapping = predictor.predict([("a film", "a book"), {"two": "a book", "one": "a film"}], task="likeness")
    assert pair == mapping and isinstance(pair.label, float) and pair.probabilities is None
    logits = predictor.predict_logits(["good film", "bad"], task="mood")
    assert logits.shape == (2, 2) and logits.dtype == np.float32
    assert predictor.predict([], task="mood") == []


def test_what_cannot_be_predicted_says_what_is_expected(finished):
    predictor = kdtoolkit.load(finished[1])
    for texts, task, cause in [
        (["good"], None, "several tasks; say which: mood, likeness"),
        (["good"], "mod", "did you mean 'mood'"),
        (["good"], "likeness", "reads two texts"),
        ([("good", "bad")], "mood", "expects a string"),
        ([{"txt": "good"}], "mood", "has no 'text'"),
        ([{"one": "good"}], "likeness", "has no 'two'"),
        ([("a", "b", "c")], "likeness", "expects \\(first, second\\)"),
        ([5], "mood", "received int"),
        ([{"text": None}], "mood", "is None where a text belongs"),
        ([("a", None)], "likeness", "is None where a text belongs"),
    ]:
        with pytest.raises(InputError, match=cause):
            predictor.predict(texts, task=task)
    with pytest.raises(InputError, match="expects a list of texts"):
        predictor.predict("good film", task="mood")


def test_a_finished_run_teaches_another(mood, recipe, run_of, finished):
    results, run = finished
    teacher = str(run)
    again, second = run_of(mood(teachers=[teacher], **QUICK), "second")
    # The teacher is measured as the run itself was.
    assert again["tasks"]["mood"]["teacher"]["value"] == results["tasks"]["mood"]["student"]["value"]
    told = np.load(second / "data/mood/dev-teacher.npy")[:, 0]
    lines = [json.loads(line) for line in (second.parent / "data/mood/dev.jsonl").read_text().splitlines()]
    said = kdtoolkit.load(run).predict_logits([line["text"] for line in lines], task="mood")
    np.testing.assert_allclose(told, said, atol=1e-5)

    turned = [{"name": "mood", "text": "text", "labels": ["high", "low"]}]
    student = {"student": {"name": "transformer", "width": 8, "layers": 1}}
    other, third = run_of(mood(teachers=[str(run / "student")], tasks=turned, **student, **QUICK), "third")
    assert other["tasks"]["mood"]["teacher"]["value"] == again["tasks"]["mood"]["teacher"]["value"]
    np.testing.assert_allclose(np.load(third / "data/mood/dev-teacher.npy")[:, 0], told[:, ::-1], atol=1e-6)

    shutil.rmtree(run)  # its student needs it no more
    assert kdtoolkit.load(second).predict(["good"])[0].label in ("low", "high")


def test_one_run_teaches_all_its_tasks_and_a_task_it_lacks_is_named(recipe, mood, run_of, finished):
    results, run = finished
    again, _ = run_of(recipe(teachers=[str(run)], **QUICK), "second")
    for task, entry in results["tasks"].items():
        assert again["tasks"][task]["teacher"]["value"] == pytest.approx(entry["student"]["value"])
    tasks = [{"name": "feeling", "text": "text", "labels": ["low", "high"]}]
    files = {
        "feeling": {"train": str(run.parent / "data/mood/train.jsonl"), "dev": str(run.parent / "data/mood/dev.jsonl")}
    }
    with pytest.raises(InputError, match="no task 'feeling'"):
        run_of(mood(teachers=[str(run)], tasks=tasks, data=files), "third")
    renamed = [{"name": str(run), "source_task": "mood"}]
    assert run_of(mood(teachers=renamed, tasks=tasks, data=files, **QUICK), "fourth")[0]["tasks"]["feeling"]["teacher"]
