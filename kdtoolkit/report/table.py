"""The table that ends every run: was distillation worth it, and how sure is that?"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

from ..evaluate.metrics import LOWER_IS_BETTER
from .ensemble import ensemble_sentences

NAMES = {"teacher": "teacher", "gold_only": "gold only", "student": "student"}
DASH = "-"


def render_table(results: Mapping[str, Any], width: int | None = None) -> str:
    """The results as plain text of at most `width` columns (default: the terminal's, between 80 and 100).

    results: as `results.json` holds them (see report/results.py). Values are fractions, as in the file.
    """
    width = width or min(max(shutil.get_terminal_size((80, 24)).columns, 80), 100)
    blocks = [_tasks(results["tasks"]), _summary(results["tasks"]), _models(results.get("models", {}), width)]
    sentences = [verdict(results["tasks"]), *ensemble_sentences(results["tasks"]), *_notes(results)]
    text = "\n\n".join("\n".join(block) for block in blocks if block)
    wrapped = [textwrap.fill(s, width, initial_indent="* ", subsequent_indent="  ") for s in sentences if s]
    return text + "\n\n" + "\n".join(wrapped) + "\n"


def _tasks(tasks: Mapping[str, Any]) -> list[str]:
    lines = [f"{'':<24}{'value':>8}  {'95% interval':<16}{'agreement':>9}{'ECE':>8}{'gap closed':>12}"]
    for name, task in tasks.items():
        lines.append(f"{name}: {task['metric']} on {task['rows']:,} {task['split']} rows")
        for model, shown in NAMES.items():
            if model not in task:
                continue
            measured, student = task[model], model == "student"
            ci = measured["ci95"]
            lines.append(
                f"{'  ' + shown:<24}{measured['value']:>8.3f}  {_bounds(ci):<16}"
                f"{_percent(task['agreement']) if student else '':>9}{_fixed(measured['ece']):>8}"
                f"{_percent(task['gap_closed']) if student else '':>12}".rstrip()
            )
    return lines


def _summary(tasks: Mapping[str, Any]) -> list[str]:
    """The plain mean over tasks, for those models that every task has, of metrics where more is better."""
    means = _means(tasks)
    if len(tasks) < 2 or not means:
        return []
    gap = means["teacher"] - means["gold_only"] if {"teacher", "gold_only"} <= means.keys() else 0.0
    lines = [f"average of {len(_comparable(tasks))} tasks"]
    for model, value in means.items():
        closed = _percent((value - means["gold_only"]) / gap) if model == "student" and gap > 0 else ""
        lines.append(f"{'  ' + NAMES[model]:<24}{value:>8.3f}{closed:>47}".rstrip())
    return lines


def _comparable(tasks: Mapping[str, Any]) -> dict[str, Any]:
    return {name: task for name, task in tasks.items() if task["metric"] not in LOWER_IS_BETTER}


def _means(tasks: Mapping[str, Any]) -> dict[str, float]:
    chosen = _comparable(tasks).values()
    models = [model for model in NAMES if chosen and all(model in task for task in chosen)]
    return {model: sum(task[model]["value"] for task in chosen) / len(chosen) for model in models}


def _models(models: Mapping[str, Any], width: int) -> list[str]:
    if not models:
        return []
    lines = [f"{'on one CPU thread':<24}{'parameters':>13}{'size':>11}{'p50 ms':>9}{'p95 ms':>9}{'rows/s':>10}"]
    for model in ("teacher", "student"):
        if model not in models:
            continue
        entry = models[model]
        latency = entry.get("latency_ms") or {}
        lines.append(
            f"{'  ' + model:<24}{_count(entry.get('parameters')):>13}{_size(entry.get('bytes')):>11}"
            f"{_milliseconds(latency.get('p50')):>9}{_milliseconds(latency.get('p95')):>9}"
            f"{_count(entry.get('rows_per_s')):>10}"
        )
    lines.append("  (milliseconds for one row; rows per second in batches of 32)")
    ratios = _ratios(models.get("teacher", {}), models.get("student", {}))
    if ratios:
        sentence = f"the student is {ratios}"
        lines += textwrap.wrap(sentence, width, initial_indent="  ", subsequent_indent="  ")
    return lines


def _ratios(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> str:
    """What the student saves, or costs, against the teacher, in words."""
    said = []
    if teacher.get("bytes") and student.get("bytes"):
        said.append(_times(teacher["bytes"] / student["bytes"], "smaller", "larger"))
    slow, fast = (entry.get("latency_ms") or {} for entry in (teacher, student))
    if slow.get("p50") and fast.get("p50"):
        said.append(_times(slow["p50"] / fast["p50"], "faster on one row", "slower on one row"))
    if teacher.get("rows_per_s") and student.get("rows_per_s"):
        said.append(_times(student["rows_per_s"] / teacher["rows_per_s"], "faster in batches", "slower in batches"))
    return ", ".join(said)


def _times(ratio: float, more: str, less: str) -> str:
    return f"{ratio:.1f} times {more}" if ratio >= 1 else f"{1 / ratio:.1f} times {less}"


def verdict(tasks: Mapping[str, Any]) -> str:
    """One or two sentences: whether the distilled student beats the same student trained on gold labels alone."""
    both = {name: task for name, task in tasks.items() if "gold_only" in task}
    if not both:
        return "No gold-only baseline was trained, so this run cannot say whether distillation was worth it."
    gains = {name: _sign(t) * (t["student"]["value"] - t["gold_only"]["value"]) for name, t in both.items()}
    better = [name for name in both if gains[name] > 0 and _apart(both[name])]
    worse = [name for name in both if gains[name] < 0 and _apart(both[name])]
    level = [name for name in both if name not in better and name not in worse]
    comparable = [gains[name] for name in _comparable(both)]
    mean = sum(comparable) / len(comparable) if comparable else None
    average = "" if mean is None else f" ({mean:+.3f} on average)" if len(comparable) > 1 else f" ({mean:+.3f})"
    against = "the same student trained on gold labels alone with as many updates"
    if better and not worse and (mean is None or mean > 0):
        # Said of those tasks alone where the others are not certain: an average can hide that it is about one task.
        where = f" on {_list(better)}" if level else ""
        text = f"Distillation was worth it{where}: the student beats {against}, with intervals apart{average}."
    elif worse and not better:
        text = f"Distillation was not worth it: the student is behind {against}{average}, clearly so on {_list(worse)}."
    elif better and worse:
        text = (
            f"Distillation cut both ways against {against}{average}: clearly better on {_list(better)}, "
            f"clearly worse on {_list(worse)}."
        )
    elif mean is not None and mean > 0:
        return (
            f"Not certain that distillation was worth it: the student is ahead of {against}{average}, "
            "but the intervals overlap."
        )
    else:
        return (
            f"Distillation did not help here: the student is not ahead of {against}{average}, "
            "and the intervals overlap."
        )
    if level:
        text += f" The intervals overlap on {_list(level)}, so nothing is certain there."
    return text


def _notes(results: Mapping[str, Any]) -> list[str]:
    """The run's own notes, then what the figures call for."""
    notes = [str(note) for note in results.get("notes", [])]
    for name, task in results["tasks"].items():
        teacher, baseline = task.get("teacher"), task.get("gold_only")
        if teacher is None:
            notes.append(f"{name}: there was no teacher to compare with.")
            continue
        if "rows" in teacher:
            notes.append(f"{name}: the teacher was measured on the {teacher['rows']:,} rows that it has outputs for.")
        if baseline and _sign(task) * (teacher["value"] - baseline["value"]) <= 0:
            notes.append(
                f"{name}: the teacher does not beat the student trained on gold labels alone: little to distil."
            )
        if _sign(task) * (task["student"]["value"] - teacher["value"]) > 0:
            notes.append(f"{name}: the student is ahead of its teacher.")
    if any(task["selected_on"] == task["split"] for task in results["tasks"].values()):
        notes.append("The checkpoint was selected on the reported split, so the values are optimistic.")
    return notes


def _apart(task: Mapping[str, Any]) -> bool:
    """Whether the intervals of student and gold_only do not overlap; False where one is missing."""
    one, two = task["student"]["ci95"], task["gold_only"]["ci95"]
    return bool(one and two) and (one[0] > two[1] or two[0] > one[1])


def _sign(task: Mapping[str, Any]) -> int:
    return -1 if task["metric"] in LOWER_IS_BETTER else 1


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _bounds(ci: list[float] | None) -> str:
    return DASH if ci is None else f"{ci[0]:.3f} to {ci[1]:.3f}"


def _fixed(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{value:.0%}"


def _count(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def _milliseconds(value: float | None) -> str:
    return DASH if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _size(value: float | None) -> str:
    if value is None:
        return DASH
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
