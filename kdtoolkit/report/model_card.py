"""README.md of the student's folder, in Markdown as on the Hugging Face hub: what it is and how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..tasks import Task
from .ensemble import ensemble_sentences
from .table import NAMES, verdict

EXAMPLES = ('"a text to judge"', '("the first text", "the second text")')


def model_card(results: Mapping[str, Any], recipe: Mapping[str, Any], tasks: Sequence[Task]) -> str:
    """The card's text.

    results: as in `results.json`. recipe: the resolved recipe as plain values. tasks: with their labels. Paths of the
    recipe are shortened to their last part, so that the card can be published as it is.
    """
    student = dict(recipe["student"])
    origin = f" from {_teachers(recipe)}" if recipe.get("teachers") else ""
    return f"""{_front_matter(results)}

# A `{student["name"]}` student for {_and(f"`{task.name}`" for task in tasks)}

One small model for all the tasks below, distilled with kdtoolkit{origin}.

## Tasks

{_task_table(tasks)}

## Results

{_result_table(results)}

{_sentences(results)}

Metrics are fractions, intervals 95% bootstrap intervals. `gold only` is the same student trained on gold labels alone
with as many updates. ECE is the expected calibration error in 15 bins.

## Use

{_usage(tasks)}

## Training

{_training(results, recipe, student)}

## Licence

Not stated: it is for whoever publishes this model to choose one that its training data and its teacher allow. Add
`license:` to the front matter.
"""


def _sentences(results: Mapping[str, Any]) -> str:
    ensembles = [f"- {text}" for text in ensemble_sentences(results["tasks"])]
    return "\n".join([verdict(results["tasks"]), *(["", *ensembles] if ensembles else [])])


def _front_matter(results: Mapping[str, Any]) -> str:
    metrics = sorted({task["metric"] for task in results["tasks"].values()})
    lines = ["library_name: kdtoolkit", "pipeline_tag: text-classification", "tags:", "- knowledge-distillation"]
    return "\n".join(["---", *lines, "metrics:", *(f"- {metric}" for metric in metrics), "---"])


def _task_table(tasks: Sequence[Task]) -> str:
    def answer(task: Task) -> str:
        return "a number" if task.kind == "regression" else ", ".join(f"`{_cell(label)}`" for label in task.labels)

    return _table(
        ("task", "kind", "input", "answer"),
        ([task.name, task.kind, "two texts" if task.pair else "one text", answer(task)] for task in tasks),
    )


def _result_table(results: Mapping[str, Any]) -> str:
    rows = []
    for name, task in results["tasks"].items():
        for model, shown in NAMES.items():
            if model not in task:
                continue
            measured = task[model]
            ci = measured["ci95"]
            others = ", ".join(f"{n} {x:.3f}" for n, x in measured["all"].items() if n != task["metric"])
            rows.append([
                name, f"{task['split']}, {task['rows']:,} rows", shown, f"{task['metric']} {measured['value']:.3f}",
                f"{ci[0]:.3f} to {ci[1]:.3f}" if ci else "", others,
                f"{measured['ece']:.3f}" if measured["ece"] is not None else "",
                f"{task['agreement']:.3f}" if model == "student" and task["agreement"] is not None else "",
            ])  # fmt: skip
    head = (
        "task",
        "measured on",
        "model",
        "metric",
        "95% interval",
        "further metrics",
        "ECE",
        "agreement with teacher",
    )
    return _table(head, rows)


def _usage(tasks: Sequence[Task]) -> str:
    calls = [
        f"student.predict([{EXAMPLES[bool(task.pair)]}]{f', task={task.name!r}' if len(tasks) > 1 else ''})".replace(
            "'", '"'
        )
        for task in tasks
    ]
    return "\n".join(
        ["```python", "import kdtoolkit", "", 'student = kdtoolkit.load("path/to/this/folder")', *calls, "```"]
    )


def _training(results: Mapping[str, Any], recipe: Mapping[str, Any], student: dict[str, Any]) -> str:
    model = results.get("models", {}).get("student", {})
    objective = recipe.get("objective", {})
    facts = [
        ("student", _options(student)),
        ("tokenizer", _options(recipe.get("tokenizer", {}))),
        ("objective", _options({k: v for k, v in objective.items() if k in ("kind", "temperature", "alpha")})),
        ("parameters", f"{model['parameters']:,}" if model.get("parameters") else ""),
        ("seed", str(results["seed"])),
        ("selected on", _and(sorted({t["selected_on"] or "nothing: last step" for t in results["tasks"].values()}))),
        *((f"{stage} stage", _stage(entry)) for stage, entry in results.get("stages", {}).items()),
        ("versions", ", ".join(f"{name} {version}" for name, version in results["versions"].items())),
    ]
    notes = [f"- {note}" for note in results.get("notes", [])]
    return "\n".join(
        [_table(("", ""), ([name, text] for name, text in facts if text)), *(["", *notes] if notes else [])]
    )


def _stage(entry: Mapping[str, Any]) -> str:
    rows = f"{entry['rows']:,} rows, " if entry.get("rows") else ""
    return f"{rows}{entry['seconds']:,.0f} s"


def _teachers(recipe: Mapping[str, Any]) -> str:
    return _and(f"`{_public(str(teacher['name']))}`" for teacher in recipe["teachers"])


def _options(section: Mapping[str, Any]) -> str:
    options = ", ".join(f"{k}: {_public(str(v))}" for k, v in section.items() if k != "name" and v is not None)
    return ", ".join(part for part in (f"`{section['name']}`" if "name" in section else "", options) if part)


def _public(name: str) -> str:
    """The last part of an absolute or home path; hub ids ("google/bert") and plain names as they are."""
    return PurePath(name).name if name.startswith(("/", "~", ".")) or "\\" in name else name


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _and(items: Iterable[str]) -> str:
    names = list(items)
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""
