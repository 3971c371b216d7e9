import json

import numpy as np
import pytest

from kdtoolkit.errors import InputError
from kdtoolkit.report import task_result, validate
from kdtoolkit.tasks import Task

BINARY = Task("sst2", labels=("negative", "positive"), metrics=("accuracy", "f1"))
NUMBER = Task("stsb", kind="regression", metrics=("pearson", "spearman"))
MANY = Task("topics", kind="multilabel", labels=("x", "y", "z"))


def results_of(**tasks):
    """A whole results.json around the entries of some tasks."""
    model = {"parameters": 1000, "bytes": 4000, "latency_ms": {"p50": 1.0, "p95": 2.0}, "rows_per_s": 900.0}
    return {
        "schema": 1,
        "tasks": tasks,
        "models": {"teacher": {**model, "bytes": 40_000, "latency_ms": None}, "student": model},
        "stages": {"distill": {"seconds": 1.5, "cpu_seconds": 1.4, "rows": 100, "rows_per_s": 66.7}},
        "versions": {"kdtoolkit": "0.1", "torch": "2.13"},
        "seed": 0,
    }


def entry(task, *, rows=80, teacher=True, gold_only=True, silent=0, temperatures=None, bootstrap=200):
    rng = np.random.default_rng(0)
    if task.kind == "regression":
        labels = rng.uniform(0, 5, rows)
        truth = labels[:, None]
    elif task.kind == "multilabel":
        labels = rng.integers(0, 2, (rows, 3)).astype(float)
        truth = labels * 2 - 1
    else:
        labels = rng.integers(0, task.outputs, rows).astype(float)
        truth = np.eye(task.outputs)[labels.astype(int)]
    outputs = [truth + noise * rng.normal(size=truth.shape) for noise in (0.1, 0.4, 2.0)]
    outputs[0][:silent] = np.nan
    return task_result(
        task, "dev", rows, labels, outputs[1], outputs[0] if teacher else None, outputs[2] if gold_only else None,
        temperatures or {}, bootstrap, 0, None,
    )  # fmt: skip


@pytest.mark.parametrize("task", [BINARY, NUMBER, MANY])
def test_results_follow_the_schema_and_survive_json(task):
    found = entry(task)
    assert list(found) == [
        "metric", "split", "selected_on", "rows", "teacher", "gold_only", "student", "agreement", "gap_closed",
    ]  # fmt: skip
    assert set(found["student"]) == {"value", "ci95", "all", "ece"}
    assert found["student"]["all"][task.metric] == found["student"]["value"]
    assert found["gold_only"]["value"] < found["student"]["value"] <= found["teacher"]["value"]
    assert found["gap_closed"] == pytest.approx(
        (found["student"]["value"] - found["gold_only"]["value"])
        / (found["teacher"]["value"] - found["gold_only"]["value"])
    )
    assert (found["student"]["ece"] is None) == (task.kind == "regression")
    results = results_of(**{task.name: found})
    validate(results)
    validate(json.loads(json.dumps(results, allow_nan=False)))


def test_without_teacher_and_baseline_what_needs_them_is_null():
    found = entry(BINARY, teacher=False, gold_only=False, bootstrap=0)
    assert "teacher" not in found and "gold_only" not in found
    assert (found["agreement"], found["gap_closed"], found["student"]["ci95"]) == (None, None, None)
    validate(results_of(sst2=found))


def test_a_teacher_that_is_silent_on_some_rows_is_measured_on_the_others():
    found = entry(BINARY, silent=30)
    assert found["teacher"]["rows"] == 50 and found["rows"] == 80
    assert found["gap_closed"] is None and found["agreement"] is not None
    validate(results_of(sst2=found))
    found = entry(BINARY, silent=80)
    assert "teacher" not in found and found["agreement"] is None
    validate(results_of(sst2=found))


def test_a_temperature_changes_the_calibration_error_and_nothing_else():
    plain, warm = entry(BINARY), entry(BINARY, temperatures={"student": 5.0})
    assert plain["student"].pop("ece") != warm["student"].pop("ece")
    assert plain == warm


def test_every_departure_from_the_schema_is_named_at_once():
    results = results_of(sst2=entry(BINARY))
    results["seed"] = "0"
    results["tasks"]["sst2"]["agreement"] = float("nan")
    results["tasks"]["sst2"]["student"]["ci95"] = [0.9, 0.1]
    del results["tasks"]["sst2"]["split"]
    del results["stages"]["distill"]["rows"]
    with pytest.raises(InputError) as caught:
        validate(results)
    for place in ("seed", "tasks.sst2.agreement", "tasks.sst2.student.ci95", "tasks.sst2.split", "distill.rows"):
        assert place in str(caught.value)
    assert "5 problems" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"schema": 2}, "schema"),
        ({"tasks": {}}, "tasks"),
        ({"tasks": None}, "tasks"),
        ({"tasks": {"x": []}}, "tasks.x"),
        ({"models": {"student": None}}, "models.student"),
        ({"stages": {"distill": 3}}, "stages.distill"),
        ({"notes": "one"}, "notes"),
        ({"tasks": {"x": {"student": 3}}}, "tasks.x.student"),
        ({"models": {"student": {"parameters": 1, "bytes": 1, "rows_per_s": 1, "latency_ms": 3}}}, "latency_ms"),
    ],
)
def test_other_files_are_refused(change, place):
    with pytest.raises(InputError, match=place):
        validate({**results_of(sst2=entry(BINARY)), **change})
