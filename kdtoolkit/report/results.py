"""`results.json`, schema 1: what was measured, on what, with intervals. Other programs read it.

    {"schema": 1, "seed": n, "versions": {NAME: VERSION}, "notes": [SENTENCE, ...] (may be absent),
     "tasks": {TASK: {"metric", "split", "selected_on": NAME | null, "rows": n, "agreement": x | null, "gap_closed": x | null,
                      "teacher" | "gold_only" | "student": {"value", "ci95": [lo, hi] | null, "all": {METRIC: x}, "ece": x | null},
                      "ensemble": {"members": [{"name", "value", "weight", "temperature"}], "value", "disagreement"} | null}},
     "models": {"teacher" | "student": {"parameters", "bytes", "latency_ms": {"p50", "p95"} | null, "rows_per_s"}},
     "stages": {STAGE: {"seconds", "cpu_seconds", "rows", "rows_per_s"}}}

Metrics are fractions, correlations as they are; a number that could not be measured is null, never NaN. `student` is always
there; `teacher` and `gold_only` are absent where there was none. A teacher that says nothing about some labelled rows is
measured on the others and has "rows" of its own; `gap_closed` is then null, for the rows differ.
`ensemble` is null where one teacher teaches the task, and absent in older files. Its "value" is the teacher's: that of the
members together. "disagreement" is the share of rows on which their decisions differ, and for regression the mean standard
deviation of their values; rows that fewer than two of them answer are left out.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import InputErrors
from ..evaluate import LOWER_IS_BETTER, agreement, ece, gap_closed, interval, probabilities, scores
from ..tasks import Task

SCHEMA = 1
MODELS = ("teacher", "gold_only", "student")


def task_result(
    task: Task,
    split: str,
    rows: int,
    labels: np.ndarray,
    student_outputs: np.ndarray,
    teacher_outputs: np.ndarray | None,
    gold_only_outputs: np.ndarray | None,
    temperatures: Mapping[str, float | None],
    bootstrap: int,
    seed: int,
    selected_on: str | None,
) -> dict[str, Any]:
    """The entry of one task under "tasks".

    labels, *_outputs: rows of `split`, as `evaluate.scores` takes them. rows: how many of them are reported.
    temperatures: by "teacher", "gold_only", "student": what logits are divided by before ECE; absent or None: 1.
    bootstrap: number of samples; 0: no interval ("ci95" is null).
    Raises ValueError if shapes do not fit or no row has a label.
    """
    outputs = {"teacher": teacher_outputs, "gold_only": gold_only_outputs, "student": student_outputs}
    result: dict[str, Any] = {"metric": task.metric, "split": split, "selected_on": selected_on, "rows": rows}
    partial = False
    for name, values in outputs.items():
        if values is None:
            continue
        said, known = ~np.isnan(values).any(1), labels
        if name == "teacher" and not said.all():
            partial = True
            values, known = values[said], labels[said]
            if not (~np.isnan(known)).any():
                continue
        result[name] = _model_result(task, values, known, temperatures.get(name) or 1.0, bootstrap, seed)
        if partial and name == "teacher":
            result[name]["rows"] = len(known)
    value = {name: result[name]["value"] for name in MODELS if name in result}
    result["agreement"] = None if teacher_outputs is None else agreement(task, student_outputs, teacher_outputs)
    result["gap_closed"] = None
    if len(value) == len(MODELS) and not partial:
        lower = task.metric in LOWER_IS_BETTER
        result["gap_closed"] = gap_closed(value["student"], value["gold_only"], value["teacher"], lower_is_better=lower)
    return result


def _model_result(
    task: Task, outputs: np.ndarray, labels: np.ndarray, temperature: float, bootstrap: int, seed: int
) -> dict[str, Any]:
    every = scores(task, outputs, labels)
    error = None
    if task.kind != "regression":
        error = ece(probabilities(outputs, temperature, multilabel=task.kind == "multilabel"), labels)
    bounds = interval(task, outputs, labels, task.metric, bootstrap, seed) if bootstrap else None
    return {"value": every[task.metric], "ci95": None if bounds is None else list(bounds), "all": every, "ece": error}


def validate(results: Mapping[str, Any], source: str = "results.json") -> None:
    """Checks a whole `results.json`; raises InputErrors that names every place where it departs from the schema."""
    problems = list(dict.fromkeys(_problems(results)))
    if problems:
        raise InputErrors(source, problems)


_NUMBER, _COUNT, _TEXT = "a number", "a whole number", "a text"


def _problems(results: Mapping[str, Any]) -> Iterator[str]:
    schema = results.get("schema") if isinstance(results, Mapping) else None
    if schema != SCHEMA:
        yield f"schema: expected {SCHEMA}, received {schema!r}"
        return
    yield from _field(results, "", "seed", _COUNT)
    for name in ("tasks", "models", "stages", "versions"):
        if not isinstance(results.get(name), Mapping):
            yield f"{name}: expected a mapping, received {results.get(name)!r}"
            return
    if not results["tasks"]:
        yield "tasks: there is none"
    for task, entry in results["tasks"].items():
        yield from _task_problems(f"tasks.{task}.", entry)
    for model, entry in results["models"].items():
        for name in ("parameters", "bytes"):
            yield from _field(entry, f"models.{model}.", name, _COUNT, null=True)
        yield from _field(entry, f"models.{model}.", "rows_per_s", _NUMBER, null=True)
        if isinstance(entry, Mapping) and entry.get("latency_ms") is not None:
            for name in ("p50", "p95"):
                yield from _field(entry["latency_ms"], f"models.{model}.latency_ms.", name, _NUMBER)
    for stage, entry in results["stages"].items():
        yield from _field(entry, f"stages.{stage}.", "seconds", _NUMBER)
        for name in ("cpu_seconds", "rows", "rows_per_s"):
            yield from _field(entry, f"stages.{stage}.", name, _NUMBER, null=True)
    notes = results.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        yield f"notes: expected a list of sentences, received {notes!r}"
    yield from (f"{place}: {value} is no JSON number" for place, value in _not_finite(results, ""))


def _task_problems(place: str, entry: Mapping[str, Any]) -> Iterator[str]:
    yield from _field(entry, place, "metric", _TEXT)
    yield from _field(entry, place, "split", _TEXT)
    yield from _field(entry, place, "selected_on", _TEXT, null=True)
    yield from _field(entry, place, "rows", _COUNT)
    yield from _field(entry, place, "agreement", _NUMBER, null=True)
    yield from _field(entry, place, "gap_closed", _NUMBER, null=True)
    if not isinstance(entry, Mapping):
        return
    yield from _ensemble_problems(f"{place}ensemble.", entry.get("ensemble"))
    if "student" not in entry:
        yield f"{place}student: is missing"
    for model in MODELS:
        if model not in entry:
            continue
        measured, here = entry[model], f"{place}{model}."
        yield from _field(measured, here, "value", _NUMBER)
        yield from _field(measured, here, "ece", _NUMBER, null=True)
        if not isinstance(measured, Mapping):
            continue
        every = measured.get("all")
        if not isinstance(every, Mapping) or every.get(entry.get("metric")) != measured.get("value"):
            yield f"{here}all: expected every metric, '{entry.get('metric')}' equal to value, received {every!r}"
        bounds = measured.get("ci95", "")
        pair = isinstance(bounds, list) and len(bounds) == 2 and all(_is_number(bound) for bound in bounds)
        if bounds is not None and not (pair and bounds[0] <= bounds[1]):
            yield f"{here}ci95: expected [low, high] or null, received {bounds!r}"


def _ensemble_problems(place: str, entry: Any) -> Iterator[str]:
    if entry is None:
        return
    yield from _field(entry, place, "value", _NUMBER, null=True)
    yield from _field(entry, place, "disagreement", _NUMBER, null=True)
    members = entry.get("members") if isinstance(entry, Mapping) else None
    if not isinstance(members, list) or len(members) < 2:
        yield f"{place}members: expected a list of two or more, received {members!r}"
        return
    for number, member in enumerate(members):
        here = f"{place}members.{number}."
        yield from _field(member, here, "name", _TEXT)
        for name in ("value", "weight", "temperature"):
            yield from _field(member, here, name, _NUMBER, null=name == "value")


def _field(entry: Mapping[str, Any], place: str, name: str, kind: str, *, null: bool = False) -> Iterator[str]:
    if not isinstance(entry, Mapping):
        yield f"{place[:-1]}: expected a mapping, received {entry!r}"
        return
    if name not in entry:
        yield f"{place}{name}: is missing"
        return
    value = entry[name]
    if value is None and null:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = {_TEXT: isinstance(value, str), _COUNT: whole, _NUMBER: _is_number(value)}[kind]
    if not fits:
        yield f"{place}{name}: expected {kind}{' or null' * null}, received {value!r}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _not_finite(value: Any, place: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from _not_finite(item, f"{place}.{name}" if place else str(name))
