"""Teachers of which each process keeps a part, in as many processes as there are: teacher_cases.py FOLDER.

FOLDER has two checkpoints, the folder of a student, and the data of two tasks. Each process writes what it was shown by
whole teachers and by sharded ones, and the weights of students that learned from either.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from kdtoolkit import Example, Task, Teacher, processes
from kdtoolkit.errors import PeerFailed, WorkError
from kdtoolkit.labels.features import LiveFeatures
from kdtoolkit.objectives import DistillationObjective
from kdtoolkit.parts import InParts
from kdtoolkit.pipeline.features import with_sources
from kdtoolkit.pipeline.stages import prepare
from kdtoolkit.pipeline.student import refinements, student_trainings
from kdtoolkit.pipeline.student_data import StudentData, tokenize
from kdtoolkit.recipe.load import recipe_from_dict
from kdtoolkit.training.board import Board
from kdtoolkit_teachers.hugging_face import HuggingFaceTeacher
from kdtoolkit_teachers.joint import JointTeacher
from kdtoolkit_teachers.run import RunTeacher

MOOD = Task("mood", labels=("low", "high"), text=("text",), pair=False)
LIKENESS = Task("likeness", kind="regression", text=("one", "two"), pair=True)
NAMES = ("first/0", "first/2", "hidden/1", "hidden/2", "attention/1", "attention/2", "queries/2", "keys/1", "values/2")
WORDS = ["good", "fine", "great", "bad", "poor", "film", "book", "the", "a", "very"]
TEACHERS: dict[str, Callable[[Path], Teacher]] = {
    "bert": lambda folder: HuggingFaceTeacher(str(folder / "bert"), MOOD, batch_tokens=24),
    "bert in bf16": lambda folder: HuggingFaceTeacher(str(folder / "bert"), MOOD, batch_tokens=24, precision="bf16"),
    "roberta": lambda folder: HuggingFaceTeacher(str(folder / "roberta"), LIKENESS, batch_tokens=24),
    "albert": lambda folder: HuggingFaceTeacher(str(folder / "albert"), MOOD, batch_tokens=24),
    "run": lambda folder: RunTeacher(str(folder / "student"), MOOD),
    "joint": lambda folder: JointTeacher(str(folder / "student"), MOOD),
}
COUNTS = [(5, 5), (7, 0), (0, 3), (0, 0), (1, 40), (600, 2)]
"""How many texts the first process asks about, and the second."""
SPREAD = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.5, "max_norm": 0.5}
"""No Adam: what is nothing but rounding, it would divide by its own size."""
MIXED, PARTS = {"sampler": {"batch": "mixed"}}, {"teacher_sharding": "fsdp"}
CASES: dict[str, dict[str, Any]] = {
    "mixed, whole": MIXED,
    "mixed, sharded": {**MIXED, "train": PARTS},
    "mixed, ahead": {**MIXED, "train": {**PARTS, "prefetch": 2}},
    "mixed, both": {**MIXED, "train": {**PARTS, "sharding": "fsdp"}},
    "one task, whole": {},
    "one task, sharded": {"train": PARTS},
    "apart, sharded": {"train": {**PARTS, "joint": False}},
    "refined, sharded": {"train": PARTS, "refine": {"epochs": 1, "alpha": 0.5, "learning_rate": 0.05}},
}
TERMS = [{"name": "hidden", "tasks": ["mood"]}, {"name": "attention", "tasks": ["likeness"], "weight": 0.2},
         {"name": "pkd", "layers": [1]}]  # fmt: skip
NEEDED = {
    "mood": ("first/1", "hidden/0", "hidden/1", "hidden/2"),
    "likeness": ("attention/1", "attention/2", "first/1"),
}


def examples(task: Task, count: int) -> list[Example]:
    """Texts of 0 to 8 words."""
    texts = [" ".join(WORDS[(3 * row + place) % len(WORDS)] for place in range(row * 5 % 9)) for row in range(count)]
    return [Example(task.name, text, text[:9] if task.pair else None) for text in texts]


def kept(teacher: Teacher) -> float:
    """Which part of the parameters of what a teacher calls this process has."""
    called: Any = getattr(teacher, "trained", teacher)
    parts = called._loaded.parts if isinstance(called, HuggingFaceTeacher) else called._parts
    parameters = list(parts.model.parameters())
    return sum(p.to_local().numel() for p in parameters) / sum(p.numel() for p in parameters)


def shown(name: str, folder: Path) -> dict[str, float]:
    """How far what a sharded teacher shows is from what a whole one does, at most; and which part is kept."""
    whole, sharded = TEACHERS[name](folder), TEACHERS[name](folder)
    assert sharded.shardable
    sharded.shard()
    sharded.shard()  # once is enough
    found, parts = {}, []
    for counts in COUNTS:
        some = examples(whole.task, counts[processes.rank()])
        expected, seen = (teacher.features(some, NAMES) for teacher in (whole, sharded))
        np.testing.assert_array_equal(seen.ids, expected.ids)
        assert set(seen.values) == set(NAMES) or not some
        distances = [float(np.abs(seen.values[n] - expected.values[n]).max()) for n in NAMES] if some else []
        found[f"{counts}"] = max(distances, default=0.0)
        if any(counts):
            parts.append(kept(sharded))
        if processes.is_first():  # without names nobody waits
            np.testing.assert_array_equal(sharded.features(some, ()).mask, expected.mask)
    return {**found, "least": min(parts), "most": max(parts)}


class Scaled(torch.nn.Module):
    """A map with a scalar and a buffer, and less rows than there are processes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = torch.nn.Linear(3, 1), torch.nn.Parameter(torch.tensor(2.0))
        self.register_buffer("shift", torch.ones(1))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.layer(values) * self.scale + self.shift


@torch.no_grad()
def distance_in_parts() -> float:
    """How far the answers of a small model in parts are from those of a whole one."""
    torch.manual_seed(1)
    model, values = Scaled(), torch.randn(4, 3)
    expected = model(values)
    parts = InParts(model, torch.device("cpu"))
    return max(float((parts(values) - expected).abs().max()) for _ in parts.rounds([None] * (2 * processes.rank())))


class Counted(LiveFeatures):
    """Notes for how many rows it was asked."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[int] = []

    def of(self, rows: np.ndarray) -> Any:
        self.asked.append(len(rows))
        return super().of(rows)


def prepared(name: str, folder: Path, work: Path) -> tuple[Any, StudentData]:
    """The recipe of a case, and its rows with live teachers."""
    changes = CASES[name]
    recipe = recipe_from_dict(
        {
            "seed": 3,
            "tasks": [{"name": "mood", "text": "text", "labels": ["low", "high"]},
                      {"name": "likeness", "kind": "regression", "text": ["one", "two"]}],
            "data": {"folder": str(folder / "data"), "max_tokens": 16},
            "teachers": [{"name": str(folder / "bert"), "tasks": ["mood"]},
                         {"name": str(folder / "roberta"), "tasks": ["likeness"]}],
            "student": {"name": "transformer", "layers": 2, "width": 8, "heads": 2, "positions": 24, "dropout": 0.0},
            "tokenizer": {"name": "teacher", "source": str(folder / "bert")},
            "objective": {"terms": TERMS, "hidden_states": "live"},
            "optimizer": SPREAD,
            **changes,
            "train": {"epochs": 2, "batch_rows": 8, "checkpoint_every_steps": None, **changes.get("train", {})},
        }
    )  # fmt: skip
    data = prepare(recipe, work)
    tasks = [rows.task for rows in data.values()]
    rows = {name: some.splits["train"] for name, some in data.items()}
    said = {
        task.name: np.random.default_rng(1).normal(size=(len(rows[task.name]), 1, task.outputs)).astype(np.float32)
        for task in tasks
    }
    tokens = tokenize(recipe, tasks, rows, work, teacher=said.get, teacher_source=str(folder / "bert"))
    sources = {}
    for task in tasks:
        teacher = HuggingFaceTeacher(str(folder / "bert"), task, head="new", max_tokens=16, batch_tokens=24)
        sources[task.name] = Counted(teacher, rows[task.name], NEEDED[task.name])
    return recipe, with_sources(tokens, sources)


def trained(name: str, folder: Path, work: Path) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
    """The weights of a case's student, and for how many rows each task's teacher was asked, call by call.

    work: where all processes find what the first one writes.
    """
    recipe, tokens = prepared(name, folder, work / f"data-{processes.rank()}")
    options: dict[str, Any] = {"out": work / "student", "boards": lambda _: Board(None)}
    student_trainings(recipe, tokens, checkpoints=work / "checkpoints", **options).carry_out(recipe.train)
    if recipe.refine is not None:
        refinements(recipe, tokens, checkpoints=work / "refine", **options).carry_out(recipe.train)
    out = options["out"]
    found = {f"{path.stem}/{n}": t for path in sorted(out.glob("*.safetensors")) for n, t in load_file(path).items()}
    return found, {task.name: array.features.asked for task, array in zip(tokens.tasks, tokens.arrays)}  # type: ignore[union-attr]


def out_of_memory(folder: Path, work: Path) -> dict[str, Any]:
    """What becomes of each process where the second has no memory for a step."""
    calls: list[int] = []
    usual = DistillationObjective.__call__

    def called(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if processes.rank() == 1 and len(calls) == 3:
            raise MemoryError
        return usual(*arguments, **options)

    DistillationObjective.__call__ = called  # type: ignore[method-assign]
    try:
        trained("mixed, ahead", folder, work)
    except PeerFailed:
        return {"lost": True}
    except WorkError as error:
        return {"said": str(error)}
    except RuntimeError as error:
        return {"lost": processes.lost(error)}
    return {}


def main(arguments: Sequence[str]) -> None:
    folder = Path(arguments[0])
    torch.set_num_threads(1)
    processes.start()
    rank = processes.rank()
    facts: dict[str, Any] = {name: shown(name, folder) for name in TEACHERS}
    facts["small"] = distance_in_parts()
    for name in CASES:
        weights, facts[f"asked, {name}"] = trained(name, folder, folder / f"work, {name}")
        if processes.is_first():
            save_file(weights, folder / f"{name}.safetensors")
    (folder / f"facts-{rank}.json").write_text(json.dumps(facts))
    processes.wait()
    (folder / f"memory-{rank}.json").write_text(json.dumps(out_of_memory(folder, folder / "work, memory")))
    processes.leave(0)


if __name__ == "__main__":
    main(sys.argv[1:])
