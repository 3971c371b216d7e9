"""Trains models with `train.sharding: fsdp`, in as many processes as there are: sharded_cases.py FOLDER.

Each process writes the weights it ends with, the first also what was logged. What one process has left unfinished is in
FOLDER already, as "NAME, alone".
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import three_tasks
import torch
from safetensors.torch import save_file

from kdtoolkit import processes
from kdtoolkit.heads import MultiTaskHeads
from kdtoolkit.plugins import plugin
from kdtoolkit.recipe.schema import Optimizer
from kdtoolkit.training import SCORE, StudentModel
from kdtoolkit.training.checkpoint import weights

ADAM = Optimizer(learning_rate=0.05, weight_decay=0.1, max_norm=0.5)
LONG: dict[str, Any] = {"epochs": 15.0, "optimizer": ADAM, "balance": None}
"""60 steps of 8 rows."""
SHORT = {**LONG, "epochs": 4.0}
CASES: dict[str, dict[str, Any]] = {
    "mixed": LONG,
    "mixed float32": LONG,
    "layers": LONG,
    # No Adam: the gradient of a key's bias is nothing but rounding, which it would divide by its own size. And small
    # steps: the products of a few rows round otherwise than those of a few more, which a rate of 0.3 makes 1e-6 of.
    "layers float32": {**LONG, "optimizer": Optimizer(name="sgd", learning_rate=0.1, momentum=0.5, max_norm=0.5)},
    "one task a batch": {**SHORT, "batch": "one_task"},
    "accumulated": {**SHORT, "rows": 2, "accumulate": 4},
    "fewer rows than processes": {**SHORT, "rows": 1, "epochs": 1.0},
    "layer decay": {**SHORT, "optimizer": ADAM.model_copy(update={"layer_decay": 0.7})},
    "as BERT's": {**SHORT, "optimizer": ADAM.model_copy(update={"bias_correction": False})},
    "adamax": {**SHORT, "optimizer": ADAM.model_copy(update={"name": "adamax"})},
    "as MT-DNN's": {**SHORT, "optimizer": ADAM.model_copy(update={"name": "adamax", "bias_correction": False})},
    "adadelta": {**SHORT, "optimizer": ADAM.model_copy(update={"name": "adadelta", "learning_rate": 1.0})},
    "sgd": {**SHORT, "optimizer": ADAM.model_copy(update={"name": "sgd", "momentum": 0.9})},
    "uncertainty": {**SHORT, "balance": three_tasks.BALANCES["uncertainty"]},
    "dwa": {**SHORT, "balance": three_tasks.BALANCES["dwa"]},
    "selected": {**SHORT, "select": {"every_steps": 3}, "checkpoint_every_steps": 10},
}
RARE = {"sizes": [40, 30, 1], "balance": None, "batch": "one_task", "rows": 8, "epochs": 0.3, "optimizer": ADAM}
"""Three steps, of which none has a row of the last task."""
STOPPED = {"layers": 25, "as MT-DNN's": 13}
"""Cases of which a run is stopped, and at which step."""


class Notes:
    """Keeps what a board is told."""

    def __init__(self) -> None:
        self.said: list[dict[str, float]] = []

    def scalars(self, values: dict[str, float], step: int) -> None:
        if "loss/all" in values:
            self.said.append({name: values[name] for name in ("loss/all", "gradient_norm")})

    def resume_at(self, step: int) -> None:
        pass

    def flush(self) -> None:
        pass


def layered() -> StudentModel:
    """A student with layers, whose sizes no number of processes divides."""
    torch.manual_seed(3)
    student = plugin("student", "transformer")(three_tasks.PIECES, layers=3, width=6, heads=2, dropout=0.0, positions=7)
    return StudentModel(student, MultiTaskHeads(three_tasks.TASKS, 6, pairs="joint", mixed=True))


def measured(model: Any) -> dict[str, float]:
    """A figure that has its highest value somewhere on the way; it needs the model to be whole."""
    assert not model.training
    batch = three_tasks.collate(range(0, sum(three_tasks.ROWS), 3))
    with torch.no_grad():
        outputs = model(batch).outputs.double()
    return {SCORE: -abs(outputs.abs().mean().item() - 1.0)}


def trained(name: str, folder: Path | None = None, **changes: Any) -> tuple[torch.nn.Module, list[dict[str, float]]]:
    """The model of a case after training, and what was logged of each step; in float64 unless the name says so."""
    options = {**(RARE if name == "rare" else CASES[name]), **changes}
    model = layered() if name.startswith("layer") else None
    measure = measured if name == "selected" else None
    notes: Any = Notes()
    double = "float32" not in name
    model = three_tasks.run(
        folder=folder, double=double, model=model, measure=measure, board=notes, log_every_steps=1, **options
    )
    return model, notes.said


def stopped(name: str, folder: Path, **changes: Any) -> None:
    """Leaves the checkpoints of a run that was stopped."""
    with contextlib.suppress(KeyboardInterrupt):
        trained(name, folder, stop=STOPPED[name], checkpoint_every_steps=4, **changes)


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    processes.start()

    def keep(name: str, label: str, place: Path | None, **changes: Any) -> None:
        model, said = trained(name, place, **changes)
        assert all(type(parameter) is torch.nn.Parameter for parameter in model.parameters()) and not model.training
        save_file(weights(model), folder / f"{label}-{processes.rank()}.safetensors")
        if processes.is_first():
            (folder / f"{label}.json").write_text(json.dumps(said))

    for name in CASES:
        keep(name, name, folder / name if name == "selected" else None, sharding="fsdp")
    keep("rare", "rare", folder / "rare", sharding="fsdp")
    keep("layers", "layers of DDP", None)
    # Runs that are stopped half-way, and go on with another number of processes, or otherwise shared.
    for name in STOPPED:
        for sharding in ("fsdp", "none"):
            stopped(name, folder / f"{name}, {sharding}", sharding=sharding)
            processes.wait()
        for before in ("alone", "none"):
            place = folder / f"{name}, {before}, then fsdp"
            with processes.first_then_all():
                if processes.is_first():
                    shutil.copytree(folder / f"{name}, {before}", place)
            keep(name, place.name, place, sharding="fsdp", checkpoint_every_steps=4)
    processes.wait()
    processes.leave(0)


if __name__ == "__main__":
    main()
