"""The evaluate stage: outputs on the reported split, fitted temperatures, results.json, model card, TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.prepare import TaskRows
from ..data.rows import Rows
from ..errors import InputError
from ..evaluate import combined
from ..evaluate.calibration import fit_temperature
from ..evaluate.latency import measure
from ..files import write_json, write_text
from ..predictor import Predictor, Text
from ..recipe import Recipe
from ..report import ensemble_result, model_card, task_result, validate
from ..student_folder import CONFIG
from ..tasks import Task
from ..training.board import Board
from .ensemble import kept_names, kept_standings, member_weights
from .held_out import calibration_rows, held_out_split
from .label import teacher_outputs
from .run_folder import RunFolder, versions

LATENCY_SECONDS = 8.0
TABLE_ROWS = 8


def evaluate(run: RunFolder, data: Mapping[str, TaskRows], split: str | None = None) -> dict[str, Any]:
    """Measures student and baseline on the reported split; returns results.json's value. Writes nothing."""
    recipe = run.recipe
    asked = split or recipe.evaluate.split
    student = Predictor(run.student)
    baseline = Predictor(run.gold_only) if (run.gold_only / CONFIG).is_file() else None
    tasks: dict[str, Any] = {}
    for name, rows in data.items():
        for key, where in reported_splits(rows, asked):
            measured = rows.splits[where]
            outputs = teacher_outputs(run, name, where)
            weights = member_weights(run, name)
            # Where no row has a gold label, the baseline's head is as random as it began.
            learned = baseline is not None and bool(np.isfinite(rows.splits["train"].labels()).any())
            tasks[key] = task_result(
                rows.task,
                split=where,
                rows=len(measured),
                labels=measured.labels(),
                student_outputs=outputs_of(student, measured),
                teacher_outputs=None
                if outputs is None
                else combined(rows.task, outputs, weights, how=recipe.objective.ensemble),
                gold_only_outputs=outputs_of(baseline, measured) if baseline is not None and learned else None,
                temperatures={
                    "student": student.config.temperature.get(name, 1.0),
                    "gold_only": baseline.config.temperature.get(name, 1.0) if baseline else 1.0,
                },
                bootstrap=recipe.evaluate.bootstrap,
                seed=recipe.seed,
                selected_on=held_out_split(rows, recipe) if recipe.train.select else None,
            )
            tasks[key]["ensemble"] = ensemble_result(
                rows.task, outputs, measured.labels(), _said_of(run, name), tasks[key].get("teacher")
            )
    if not tasks:
        raise InputError("--split", f"no task has labelled rows in the split '{asked}'")
    results = {
        "schema": 1,
        "tasks": tasks,
        "models": _models(run, data, student, asked),
        "stages": _stages(run),
        "notes": [f"{name}: {note}" for name, rows in data.items() for note in rows.notes],
        "versions": versions(),
        "seed": recipe.seed,
    }
    validate(results)
    return results


def calibrate(folder: Path, data: Mapping[str, TaskRows], recipe: Recipe) -> dict[str, float]:
    """Fits one temperature a task on rows that are not reported, and stores them in the student's config."""
    predictor = Predictor(folder)
    fitted = {}
    for name, rows in data.items():
        held_out = calibration_rows(rows, recipe)
        if held_out is not None and rows.task.kind != "regression":
            temperature = fit_temperature(outputs_of(predictor, held_out), held_out.labels())
            if temperature is not None:
                fitted[name] = float(temperature)
    write_json(folder / CONFIG, replace(predictor.config, temperature=fitted).to_dict())
    return fitted


def reported_splits(rows: TaskRows, split: str) -> list[tuple[str, str]]:
    """(key in results.json, split) of what is reported for a task: the asked split, and mnli's mismatched one."""
    found = [(rows.task.name, split)] if split in rows.splits else []
    if split == "dev":
        found += [(f"{rows.task.name}_{s.removeprefix('dev_')}", s) for s in rows.task.splits if s in rows.splits]
    return found


def outputs_of(predictor: Predictor, rows: Rows, chunk: int = 4096) -> np.ndarray:
    """The student's raw outputs for every row, (rows, outputs) float32."""
    parts = []
    for start in range(0, len(rows), chunk):
        first, second = rows.texts(start, min(start + chunk, len(rows)))
        texts: Sequence[Text] = first if second is None else [(a, b or "") for a, b in zip(first, second)]
        parts.append(predictor.predict_logits(texts, task=rows.task.name))
    return np.concatenate(parts) if parts else np.zeros((0, rows.task.outputs), np.float32)


def write_results(run: RunFolder, data: Mapping[str, TaskRows], results: Mapping[str, Any]) -> None:
    """results.json, the student's model card, and the last values in TensorBoard."""
    recipe = run.recipe.model_dump(mode="json", by_alias=True)
    tasks = [rows.task for rows in data.values()]
    write_text(run.student / "README.md", model_card(dict(results), recipe, tasks))
    board = Board(run.tensorboard / "student")
    values: dict[str, float] = {}
    for name, result in results["tasks"].items():
        for key, value in result["student"]["all"].items():
            values[f"{result['split']}/{name}/{key}"] = value
        if result.get("agreement") is not None:
            values[f"agreement/{name}"] = result["agreement"]
    step = (run.done("distill") or {}).get("steps", 0)
    board.scalars({tag: value for tag, value in values.items() if value is not None}, step)
    predictor = Predictor(run.student)
    for name, rows in data.items():
        some = rows.splits.get(run.recipe.evaluate.split)
        if some is not None and len(some):
            board.table(f"predictions/{name}", *_predictions(run, predictor, some, name), step)
    board.close()
    hparams = Board(run.tensorboard)
    hparams.hparams(_flat(recipe), {f"hparam/{tag}": value for tag, value in values.items() if value is not None})
    hparams.close()
    write_json(run.results, results)


def _said_of(run: RunFolder, task: str) -> list[dict[str, Any]]:
    """Name, weight and temperature of each teacher of a task."""
    return [
        {"name": name, "weight": standing.weight, "temperature": standing.temperature}
        for name, standing in zip(kept_names(run, task), kept_standings(run, task), strict=True)
    ]


def _predictions(run: RunFolder, predictor: Predictor, rows: Rows, name: str) -> tuple[list[str], list[list[object]]]:
    examples = rows.examples(slice(0, min(TABLE_ROWS, len(rows))))
    texts: list[Text] = [e.text if e.second is None else (e.text, e.second) for e in examples]
    split = run.recipe.evaluate.split
    outputs, task = teacher_outputs(run, name, split), rows.task
    weights = member_weights(run, name)
    table: list[list[object]] = []
    taught = (
        None
        if outputs is None
        else combined(task, np.asarray(outputs[: len(examples)]), weights, how=run.recipe.objective.ensemble)
    )
    for number, (example, prediction) in enumerate(zip(examples, predictor.predict(texts, task=name))):
        said = "" if taught is None else _said(task, taught[number])
        gold = "" if example.label is None else example.label
        if task.kind == "classification" and isinstance(example.label, int):
            gold = task.labels[example.label]
        text = example.text if example.second is None else f"{example.text} / {example.second}"
        sure = "" if prediction.probabilities is None else f"{max(prediction.probabilities.values()):.2f}"
        table.append([text, gold, said, prediction.label, sure])
    return ["text", "gold", "teacher", "student", "probability"], table


def _said(task: Task, values: np.ndarray) -> str:
    if np.isnan(values).any():
        return ""  # the teacher says nothing
    if task.kind == "regression":
        return f"{float(values[0]):.2f}"
    if task.kind == "multilabel":
        return ", ".join(label for label, value in zip(task.labels, values) if value > 0)
    return task.labels[int(values.argmax())]


def _models(run: RunFolder, data: Mapping[str, TaskRows], student: Predictor, split: str) -> dict[str, Any]:
    models: dict[str, Any] = {}
    teacher = (run.done("label") or {}).get("model")
    if teacher:
        models["teacher"] = teacher
    size = {"parameters": student.parameters, "bytes": student.bytes}
    models["student"] = {**size, "latency_ms": None, "rows_per_s": None}
    if run.recipe.evaluate.latency:
        name, rows = next((n, r) for n, r in data.items() if split in r.splits)
        some = rows.splits[split]
        first, second = some.texts(0, min(len(some), 200))
        texts: list[Text] = list(first) if second is None else [(a, b or "") for a, b in zip(first, second)]
        models["student"].update(
            measure(lambda t: student.predict_logits(t, task=name), texts, seconds=LATENCY_SECONDS)
        )
    return models


def _stages(run: RunFolder) -> dict[str, Any]:
    stages = {}
    for stage, facts in run.state()["stages"].items():
        seconds, rows = facts.get("seconds", 0.0), facts.get("rows", 0)
        stages[stage] = {
            "seconds": seconds,
            "cpu_seconds": facts.get("cpu_seconds", 0.0),
            "rows": rows,
            "rows_per_s": rows / seconds if seconds > 0 else 0.0,
        }
    return stages


def _flat(value: Any, place: str = "") -> dict[str, float | str | bool]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{place}.{key}".lstrip(".")).items()}
    if isinstance(value, list):
        return {place: ", ".join(str(item.get("name", item) if isinstance(item, dict) else item) for item in value)}
    return {place: value if isinstance(value, (bool, int, float, str)) else str(value)}
