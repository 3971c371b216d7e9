"""Two processes that each hold a part of the model give what one process gives, and leave the same files."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest
import sharded_cases
import torch
from accelerate import Accelerator
from launched import launched
from safetensors.torch import load_file

from kdtoolkit.encoder_layers import numbered_layers
from kdtoolkit.errors import InputError
from kdtoolkit.plugins import plugin
from kdtoolkit.recipe.schema import Balance, Train
from kdtoolkit.training.sharding import shared

WORKER = Path(sharded_cases.__file__)
SINGLE = {"mixed float32", "layers float32", "uncertainty", "dwa"}
"""Cases in which something is computed in float32."""


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Where two processes have left what they trained."""
    folder = tmp_path_factory.mktemp("sharded")
    for name in sharded_cases.STOPPED:
        sharded_cases.stopped(name, folder / f"{name}, alone")
    for done in launched(2, "-W", "error", str(WORKER), str(folder), cwd=folder):
        assert done.code == 0, done
    return folder


@functools.cache
def alone(name):
    """Weights of a case that one process has trained, and what it has logged."""
    changes = {"select": None, "checkpoint_every_steps": None} if name == "selected" else {}
    model, said = sharded_cases.trained(name, **changes)
    return {key: value.clone() for key, value in model.state_dict().items()}, said


def worst(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def left(folder, label):
    """The weights of both processes, which are the same."""
    first, second = (load_file(folder / f"{label}-{rank}.safetensors") for rank in (0, 1))
    assert worst(first, second) == 0
    return first


@pytest.mark.parametrize("name", [name for name in sharded_cases.CASES if name != "selected"])
def test_sharded_training_gives_the_weights_and_losses_of_one_process(of_two, name):
    weights, said = alone(name)
    assert worst(left(of_two, name), weights) < (1e-5 if name in SINGLE else 1e-10)
    found = json.loads((of_two / f"{name}.json").read_text())
    assert len(found) == len(said) >= 16
    for mine, theirs in zip(found, said, strict=True):
        assert mine["loss/all"] == pytest.approx(theirs["loss/all"], rel=0, abs=1e-6)
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-5 if name in SINGLE else 1e-9)


def test_gradients_were_clipped_where_their_norms_are_compared():
    for name in ("mixed", "layers", "mixed float32"):
        norms = [values["gradient_norm"] for values in alone(name)[1]]
        assert min(norms) < sharded_cases.ADAM.max_norm < max(norms)


def test_sharded_training_gives_the_weights_of_ddp(of_two):
    assert worst(left(of_two, "layers"), left(of_two, "layers of DDP")) < 1e-10


def test_the_head_of_a_task_without_rows_stays_untouched_and_has_no_moments(of_two):
    fresh, trained = sharded_cases.three_tasks.new_model().double().state_dict(), left(of_two, "rare")
    idle = {name for name in fresh if name.endswith(".moods") or name.startswith("student.idle")}
    assert {name for name in fresh if torch.equal(fresh[name], trained[name])} == idle and len(idle) == 4
    moments = load_file(of_two / "rare" / "step-3" / "optimizer.safetensors")
    assert {name.partition("/")[2] for name in moments} == fresh.keys() - idle


def files_of(folder):
    """By file of the checkpoints in a folder, the shapes and types of its tensors."""
    found = {str(p.relative_to(folder)): load_file(p) for p in sorted(folder.rglob("*.safetensors"))}
    return {path: {n: (t.shape, t.dtype) for n, t in tensors.items()} for path, tensors in found.items()}


@pytest.mark.parametrize("name", sharded_cases.STOPPED)
def test_a_checkpoint_is_the_same_whoever_writes_it(of_two, name):
    sharded = of_two / f"{name}, fsdp"
    assert len(files_of(sharded)) == 4
    for other in ("alone", "none"):
        assert files_of(sharded) == files_of(of_two / f"{name}, {other}")
    for path in sharded.rglob("*.safetensors"):
        assert worst(load_file(path), load_file(of_two / f"{name}, alone" / path.relative_to(sharded))) < 1e-10
        state = (path.parent / "state.json").relative_to(sharded)
        assert (sharded / state).read_bytes() == (of_two / f"{name}, alone" / state).read_bytes()


@pytest.mark.parametrize("name", sharded_cases.STOPPED)
def test_what_sharded_processes_left_unfinished_one_goes_on_with(of_two, tmp_path, name):
    shutil.copytree(of_two / f"{name}, fsdp", tmp_path / "checkpoints")
    model, said = sharded_cases.trained(name, tmp_path / "checkpoints", checkpoint_every_steps=4)
    assert len(said) < len(alone(name)[1])
    assert worst(model.state_dict(), alone(name)[0]) < 1e-10


@pytest.mark.parametrize("before", ["alone", "none"])
@pytest.mark.parametrize("name", sharded_cases.STOPPED)
def test_what_others_left_unfinished_sharded_processes_go_on_with(of_two, name, before):
    label = f"{name}, {before}, then fsdp"
    assert len(json.loads((of_two / f"{label}.json").read_text())) < len(alone(name)[1])
    assert worst(left(of_two, label), alone(name)[0]) < 1e-10


def test_the_best_weights_are_those_that_one_process_selects(of_two, tmp_path):
    selected = sharded_cases.trained("selected", tmp_path)[0].state_dict()
    assert worst(selected, alone("selected")[0]) > 1e-3  # not simply the last ones
    assert worst(left(of_two, "selected"), selected) < 1e-10
    assert files_of(of_two / "selected") == files_of(tmp_path)


def test_one_process_has_all_of_the_model():
    model = sharded_cases.layered()
    assert shared(model, Accelerator(cpu=True), Train(sharding="fsdp"), None).wrapped is model


def test_projected_gradients_are_refused_before_anything_is_sharded(monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(InputError, match=r"train\.sharding: pcgrad compares whole gradients"):
        shared(sharded_cases.layered(), Accelerator(cpu=True), Train(sharding="fsdp"), Balance(gradients="pcgrad"))


def test_a_torch_that_cannot_leave_the_heads_whole_is_refused(monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", lambda module, *, mesh=None: module)
    with pytest.raises(InputError, match=r"train\.sharding: fsdp needs torch 2\.7, and this is"):
        shared(sharded_cases.layered(), Accelerator(cpu=True), Train(sharding="fsdp"), None)


def test_layers_are_the_outermost_numbered_modules_that_share_nothing():
    def names(model, **options):
        return [name for name, _ in numbered_layers(model, **options)]

    model = sharded_cases.layered()
    assert names(model) == [f"student.layers.{number}" for number in range(3)]
    assert names(model, without=[model.student]) == []
    model.student.layers[2].inner.weight = model.student.layers[0].inner.weight
    assert names(model) == ["student.layers.1"]
    config = {
        "model_type": "bert", "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 8,
    }  # fmt: skip
    bert = plugin("student", "hf")(9, config=config)
    assert names(bert) == ["encoder.encoder.layer.0", "encoder.encoder.layer.1"]
    assert names(plugin("student", "bilstm")(9, width=4, embedding=3)) == []
