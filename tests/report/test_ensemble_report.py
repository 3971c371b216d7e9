"""What results.json, the table and the model card say of an ensemble."""

from __future__ import annotations

import numpy as np
import pytest

from kdtoolkit.errors import InputErrors
from kdtoolkit.report import ensemble_result, validate
from kdtoolkit.report.ensemble import ensemble_sentences
from kdtoolkit.tasks import Task

MOOD, SCORE = Task("mood", labels=("low", "high")), Task("likeness", kind="regression")
MEMBERS = [{"name": name, "weight": 1.0, "temperature": 1.0} for name in ("a", "b")]
NAN = float("nan")


def logits(*decided):
    return np.eye(2)[np.array(decided)].astype(np.float32)


def test_members_alone_together_and_apart():
    outputs, labels = logits([0, 0], [1, 0], [1, 1], [0, 0]), np.array([0.0, 1, 1, 1])
    found = ensemble_result(MOOD, outputs, labels, MEMBERS, {"value": 0.7})
    assert [member["value"] for member in found["members"]] == [0.75, 0.5]
    assert (found["value"], found["disagreement"]) == (0.7, 0.25)
    said = ensemble_sentences({"mood": {"metric": "accuracy", "ensemble": found}})
    assert said == ["mood: ensemble of 2: 0.750, 0.500 alone, 0.700 together; they disagree on 25.0% of the rows."]


def test_values_lie_apart_and_do_not_disagree():
    outputs = np.array([[[1.0], [3.0]], [[2.0], [4.0]], [[3.0], [5.0]]])
    found = ensemble_result(SCORE, outputs, np.array([1.0, 2, 3]), MEMBERS, {"value": 1.0})
    assert found["disagreement"] == 1.0
    (said,) = ensemble_sentences({"likeness": {"metric": "pearson", "ensemble": found}})
    assert said.endswith("1.000 together; their values lie 1 apart (mean standard deviation).")


def test_a_member_is_measured_on_what_it_answers():
    outputs, labels = logits([0, 0], [1, 0]), np.array([0.0, 1])
    outputs[1, 1] = NAN
    found = ensemble_result(MOOD, outputs, labels, MEMBERS, {"value": 1.0})
    assert [member["value"] for member in found["members"]] == [1.0, 1.0]
    outputs[0, 1] = NAN
    found = ensemble_result(MOOD, outputs, labels, MEMBERS, None)
    assert found["members"][1]["value"] is None and found["disagreement"] is None
    assert ensemble_sentences({"mood": {"metric": "accuracy", "ensemble": found}}) == [
        "mood: ensemble of 2: 1.000, - alone."
    ]


def test_one_teacher_or_none_is_no_ensemble():
    assert ensemble_result(MOOD, None, np.zeros(1), [], None) is None
    assert ensemble_result(MOOD, logits([0], [1]), np.zeros(2), MEMBERS[:1], {"value": 0.5}) is None
    assert ensemble_sentences({"mood": {"metric": "accuracy", "ensemble": None}, "old": {"metric": "mcc"}}) == []


def results(ensemble):
    measured = {"value": 0.5, "ci95": None, "all": {"accuracy": 0.5}, "ece": None}
    task = {"metric": "accuracy", "split": "dev", "selected_on": None, "rows": 4, "agreement": None, "gap_closed": None}
    tasks = {"mood": {**task, "student": measured, "ensemble": ensemble}}
    return {"schema": 1, "seed": 0, "versions": {}, "tasks": tasks, "models": {}, "stages": {}}


def test_the_schema_knows_ensembles():
    good = {"members": [{**member, "value": 0.5} for member in MEMBERS], "value": None, "disagreement": None}
    validate(results(good))
    validate(results(None))
    for wrong, said in (
        ({**good, "members": good["members"][:1]}, "two or more"),
        ({**good, "members": [good["members"][0], {"name": "b"}]}, r"members\.1\.weight: is missing"),
        ({**good, "disagreement": "much"}, "disagreement: expected a number or null"),
        ([], "expected a mapping"),
    ):
        with pytest.raises(InputErrors, match=said):
            validate(results(wrong))
