"""Checkpoints of the loop: safetensors for tensors, JSON for the rest, whole or not there at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import InputError, WorkError
from ..files import atomic_folder, read_json, write_json

KEEP = 2


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's state as contiguous tensors on the CPU, each shared tensor once."""
    seen: set[int] = set()
    kept: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        kept[name] = tensor.detach().cpu().contiguous()
    return kept


def load_weights(model: nn.Module, tensors: dict[str, Tensor], place: str) -> None:
    """Copies saved weights into the model; shared tensors may stand under one of their names."""
    state = model.state_dict()
    unknown = sorted(set(tensors) - set(state))
    held = {state[name].data_ptr() for name in tensors if name in state}
    missing = sorted(name for name in state if name not in tensors and state[name].data_ptr() not in held)
    wrong = sorted(n for n in tensors if n in state and state[n].shape != tensors[n].shape)
    if unknown or missing or wrong:
        raise WorkError(
            f"{place}: the weights do not fit the model (missing: {missing[:3]}, unknown: {unknown[:3]}, "
            f"other shape: {wrong[:3]}); they belong to another version or another recipe"
        )
    model.load_state_dict(tensors, strict=False)


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Any]) -> None:
    """Writes folder/step-N: the state after `step` optimizer steps; older checkpoints but one are removed."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    moments = {
        f"{key}/{names[parameter]}": value.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    with atomic_folder(folder / f"step-{step}") as temporary:
        save_file(weights(model), temporary / "model.safetensors")
        save_file(moments, temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", {"schema": 1, "step": step, **extra})
    for old in steps_saved(folder)[:-KEEP]:
        shutil.rmtree(folder / f"step-{old}")


def steps_saved(folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name.removeprefix("step-")) for p in folder.glob("step-*") if p.name[5:].isdigit())


def restore(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    own: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
) -> dict[str, Any] | None:
    """Loads the newest checkpoint into model and optimizer and returns its state.json, or None if there is none.

    own: by a parameter's name, the part of a whole tensor that the model has here (`sharding.Sharing.own`).
    """
    saved = steps_saved(folder)
    if not saved:
        return None
    place = folder / f"step-{saved[-1]}"
    try:
        state = read_json(place / "state.json")
    except (InputError, WorkError) as error:
        raise WorkError(
            f"{place / 'state.json'}: is damaged or missing; delete the folder {place} and start again with --resume"
        ) from error
    tensors = read_tensors(place / "model.safetensors")
    load_weights(model, {name: own(name, tensor) for name, tensor in tensors.items()}, str(place))
    parameters = dict(model.named_parameters())
    beside = {parameter: bool(g.get("fused")) for g in optimizer.param_groups for parameter in g["params"]}
    for key, tensor in read_tensors(place / "optimizer.safetensors").items():
        part, _, name = key.partition("/")
        parameter = parameters[name]
        # torch keeps the step counter of a fused optimizer beside the parameter, of any other on the CPU.
        on_device = part != "step" or beside[parameter]
        # Cloned, for a part must not keep the whole in memory.
        kept = own(name, tensor)
        kept = tensor if kept is tensor else kept.clone()
        optimizer.state[parameter][part] = kept.to(parameter.device) if on_device else kept
    return state


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; a damaged one is named, with what to do."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WorkError(
            f"{path}: is damaged or missing ({error}); delete the folder {path.parent} and start again with --resume"
        ) from error
