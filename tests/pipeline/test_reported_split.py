"""The reported split is touched once: nothing that is learned, selected or fitted depends on it."""

from __future__ import annotations

import json
from hashlib import sha256

import numpy as np
import pytest
from tiny_data import rows

import kdtoolkit
from kdtoolkit.pipeline import RunFolder, evaluate_run
from kdtoolkit.report import render_table

SLICE = {"calibration_rows": 60}


def grow(tiny, count=700, test=0):
    """More training rows of the task mood, so that a slice can be kept apart; and a labelled test file."""
    for split, size, seed in (("train", count, 5), ("test", test, 6)):
        if size:
            lines = "".join(json.dumps(row) + "\n" for row in rows(size, seed, pair=False))
            (tiny / f"data/mood/{split}.jsonl").write_text(lines)


def learned(run):
    return {
        str(path.relative_to(run)): sha256(path.read_bytes()).hexdigest()
        for folder in ("student", "gold_only", "data/tokenizer")
        for path in sorted((run / folder).rglob("*"))
        if path.is_file() and path.name not in ("README.md", "built_from.json")
    }


def test_changed_dev_labels_change_the_reported_numbers_and_nothing_else(mood, tiny, run_of):
    grow(tiny)
    changes = {"evaluate": SLICE, "train": {"select": {"every_steps": 7}, "epochs": 2}}
    results, run = run_of(mood(**changes), "run")
    dev = tiny / "data/mood/dev.jsonl"
    turned = [json.loads(line) for line in dev.read_text().splitlines()]
    for row in turned:
        row["label"] = "low" if row["label"] == "high" else "high"
    dev.write_text("".join(json.dumps(row) + "\n" for row in turned))
    again, other = run_of(mood(**changes), "other")
    assert learned(run) == learned(other)
    for model in ("student", "gold_only", "teacher"):
        value, flipped = results["tasks"]["mood"][model]["value"], again["tasks"]["mood"][model]["value"]
        assert value + flipped == pytest.approx(1.0) and value != flipped
    # Dev text is not trained on either.
    dev.write_text("".join(json.dumps({**row, "text": "zebra " + row["text"]}) + "\n" for row in turned))
    assert learned(run_of(mood(**changes), "third")[1]) == learned(run)


def test_the_student_reads_dev_rows_in_the_evaluate_stage_only(mood, tiny, run_of, monkeypatch):
    from kdtoolkit.data.rows import Rows

    grow(tiny)
    stage, read = ["before"], set()
    finish, labels = RunFolder.finish, Rows.labels
    monkeypatch.setattr(RunFolder, "finish", lambda self, name, facts: (stage.append(name), finish(self, name, facts)))

    def watched(self):
        read.add((stage[-1], self.path.name))
        return labels(self)

    monkeypatch.setattr(Rows, "labels", watched)
    run_of(mood(evaluate=SLICE, train={"select": {"every_steps": 7}}))
    # Preparing compares the classes of dev with those of train, to say so if one was never seen.
    after = {(where, name) for where, name in read if where not in ("before",)}
    assert {name for where, name in after if where == "baseline"} >= {"dev.arrow", "calibration.arrow"}
    assert not [where for where, name in after if name == "dev.arrow" and where != "baseline"]


def test_selection_keeps_the_best_weights_of_the_slice_and_says_so(mood, tiny, run_of, events):
    grow(tiny)
    changes = {"train": {"select": {"every_steps": 4}, "epochs": 2}, "evaluate": SLICE}
    results, run = run_of(mood(**changes, optimizer={"learning_rate": 0.05}))
    assert results["tasks"]["mood"]["selected_on"] == "calibration"
    scores = events(run / "tensorboard/student")[0]["held_out/score"]
    best = json.loads((run / "run.json").read_text())["stages"]["distill"]["best_step"]
    assert scores[best] == max(scores.values())
    assert best == min(step for step, score in scores.items() if score == scores[best])
    slice_rows = [*_rows(run, "calibration")]
    said = kdtoolkit.load(run).predict([text for text, _ in slice_rows])
    right = np.mean([p.label == ("low", "high")[int(label)] for p, (_, label) in zip(said, slice_rows)])
    assert right == pytest.approx(scores[best], abs=1e-6)


def test_selection_without_a_slice_is_refused_before_long_work(mood, run_of, tmp_path):
    with pytest.raises(kdtoolkit.InputError, match=r"train.select: there are no rows to select on"):
        run_of(mood(train={"select": {"every_steps": 5}}))
    assert not (tmp_path / "run/data/mood/train-teacher.npy").exists()


def test_temperatures_are_fitted_on_the_slice_stored_and_used(mood, tiny, run_of):
    grow(tiny)
    _, run = run_of(mood(evaluate=SLICE))
    predictor = kdtoolkit.load(run)
    temperature = predictor.config.temperature["mood"]
    assert temperature != 1.0
    logits = predictor.predict_logits(["good film"]).astype(np.float64)[0] / temperature
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    probabilities = predictor.predict(["good film"])[0].probabilities
    np.testing.assert_allclose(list(probabilities.values()), expected, rtol=1e-6)
    assert json.loads((run / "gold_only/config.json").read_text())["temperature"].keys() == {"mood"}
    texts = {split: {text for text, _ in _rows(run, split)} for split in ("train", "calibration", "dev")}
    assert not texts["calibration"] & texts["train"]


def test_too_few_rows_fit_no_temperature(mood, run_of):
    assert kdtoolkit.load(run_of(mood())[1]).config.temperature == {}


def test_the_test_split_is_reported_when_asked_for_and_dev_fits_the_temperature(mood, tiny, run_of):
    grow(tiny, test=80)
    results, run = run_of(mood(evaluate={"split": "test"}))
    assert (results["tasks"]["mood"]["split"], results["tasks"]["mood"]["rows"]) == ("test", 80)
    assert not (run / "data/mood/calibration.arrow").exists()
    assert "mood" in kdtoolkit.load(run).config.temperature


def test_a_finished_run_is_measured_on_another_split_and_stays_as_it_is(mood, tiny, run_of, kdtool):
    grow(tiny, test=80)
    results, run = run_of(mood())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    test = evaluate_run(RunFolder.open(run), "test")
    assert (test["tasks"]["mood"]["split"], test["tasks"]["mood"]["rows"]) == ("test", 80)
    again = evaluate_run(RunFolder.open(run))
    assert again["tasks"] == results["tasks"]
    said = json.loads(kdtool("evaluate", "run", "--split", "test", "--json", cwd=tiny).stdout)
    assert said["tasks"] == test["tasks"]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_without_a_dev_file_a_tenth_of_train_is_held_out_and_the_table_says_so(mood, tiny, run_of):
    grow(tiny)
    (tiny / "data/mood/dev.jsonl").unlink()
    results, run = run_of(mood())
    assert 60 <= results["tasks"]["mood"]["rows"] <= 70
    assert "seeded tenth of train" in render_table(results)
    texts = [{text for text, _ in _rows(run, split)} for split in ("train", "dev")]
    assert not texts[0] & texts[1]


def _rows(run, split):
    from kdtoolkit.data.rows import Rows
    from kdtoolkit.tasks import Task

    rows = Rows.open(run / f"data/mood/{split}.arrow", Task("mood", text=("text",), labels=("low", "high")))
    return zip(rows.texts(0, len(rows))[0], rows.labels())


def test_dev_is_named_where_weights_are_selected_on_it(mood, tiny, run_of):
    grow(tiny, test=80)
    results, _ = run_of(mood(evaluate={"split": "test"}, train={"select": {"every_steps": 8}}))
    assert results["tasks"]["mood"]["selected_on"] == "dev"


def test_of_an_error_the_smallest_is_selected(recipe, tiny, run_of, events):
    lines = "".join(json.dumps(row) + "\n" for row in rows(700, 5, pair=True))
    (tiny / "data/likeness/train.jsonl").write_text(lines)
    task = {"name": "likeness", "kind": "regression", "text": ["one", "two"], "metric": "mse"}
    changes = {
        "train": {"select": {"every_steps": 5}, "epochs": 2},
        "evaluate": SLICE,
        "teachers": [],
        "objective": {"alpha": 1.0},
    }
    _, run = run_of(recipe(tasks=[task], **changes))
    errors = events(run / "tensorboard/student")[0]["held_out_mse/likeness"]
    assert len(set(errors.values())) > 2
    best = json.loads((run / "run.json").read_text())["stages"]["distill"]["best_step"]
    assert errors[best] == min(errors.values())


def test_a_student_that_has_become_nan_is_no_figure_but_an_error_with_a_way_out(mood, tiny, run_of):
    grow(tiny)
    student = {"name": "transformer", "width": 8, "layers": 1}
    wild = {"optimizer": {"learning_rate": 1e25, "max_norm": None}, "train": {"log_every_steps": 1000}}
    with pytest.raises(kdtoolkit.WorkError, match=r"mood: the student gives NaN; lower optimizer.learning_rate"):
        run_of(mood(student=student, **wild))
