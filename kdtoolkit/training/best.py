"""The best weights of a training so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from .. import processes
from ..files import atomic_file, read_json
from . import checkpoint


class Best:
    """The best weights so far, by a figure on held-out rows; part of the checkpoint, so that it resumes with it."""

    def __init__(self, folder: Path | None, state: dict[str, Any] | None) -> None:
        self.folder = folder
        self.figure: float | None = state.get("best_figure") if state else None
        self.step: int | None = state.get("best_step") if state else None

    def offer(self, figure: float, step: int, model: nn.Module) -> None:
        """Keeps the model's weights if their figure is higher than any before."""
        if self.folder is not None and (self.figure is None or figure > self.figure):
            self.figure, self.step = figure, step
            if not processes.is_first():
                return
            # One file per step: a run killed before its next checkpoint still finds the file of its last one.
            with atomic_file(self.folder / f"best-{step}.safetensors") as temporary:
                save_file(checkpoint.weights(model), temporary)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"best_figure": self.figure, "best_step": self.step}

    def prune(self) -> None:
        """Removes weights that no kept checkpoint speaks of."""
        if self.folder is not None and self.step is not None:
            saved = [self.folder / f"step-{step}" / "state.json" for step in checkpoint.steps_saved(self.folder)]
            kept = {f"best-{read_json(path).get('best_step')}.safetensors" for path in saved}
            for path in self.folder.glob("best-*.safetensors"):
                if path.name not in kept:
                    path.unlink()

    def restore(self, model: nn.Module) -> None:
        """Puts the best weights into the model, if there are any."""
        if self.folder is not None and self.step is not None:
            path = self.folder / f"best-{self.step}.safetensors"
            checkpoint.load_weights(model, checkpoint.read_tensors(path), str(path))
