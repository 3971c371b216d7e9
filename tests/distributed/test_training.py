"""The loop on several processes gives what it gives on one."""

from __future__ import annotations

from pathlib import Path

import pytest
import three_tasks
import torch
import train_cases
from launched import launched
from safetensors.torch import load_file

WORKER = Path(train_cases.__file__)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Where two processes have left what they trained."""
    folder = tmp_path_factory.mktemp("two")
    for done in launched(2, str(WORKER), str(folder), cwd=folder):
        assert done.code == 0, done
    return folder


def worst(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


WAYS = [
    *((name, "") for name in train_cases.CASES),
    *((name, ", overlapping") for name in train_cases.OVERLAPPING),
    ("mixed", ", in small messages"),
    *((name, f", {way}") for name in train_cases.IN_ROUNDS for way in ("in rounds", "with little room")),
    *((name, ", by gloo") for name in train_cases.BY_GLOO),
]


@pytest.mark.parametrize(("name", "way"), WAYS, ids="".join)
def test_two_processes_give_the_weights_of_one(of_two, name, way):
    bound = 1e-10 if name in train_cases.DOUBLE else 1e-5
    alone = train_cases.trained(name).state_dict()
    first, second = (load_file(of_two / f"{name}{way}-{rank}.safetensors") for rank in (0, 1))
    assert worst(first, alone) < bound
    assert worst(first, second) == 0


@pytest.mark.parametrize("way", ["", ", overlapping"])
def test_the_head_of_a_task_without_rows_stays_untouched(of_two, way):
    fresh = three_tasks.new_model().state_dict()
    found = load_file(of_two / f"rare{way}-0.safetensors")
    alone = train_cases.trained("rare").state_dict()
    idle = [name for name in found if name.endswith(".moods") or name.startswith("student.idle")]
    assert len(idle) >= 3
    for name in fresh:
        assert torch.equal(found[name], fresh[name]) == torch.equal(alone[name], fresh[name]) == (name in idle), name


@pytest.mark.parametrize("name", ["mixed", "sparse"])
def test_what_two_processes_left_unfinished_one_goes_on_with(of_two, name):
    alone = train_cases.trained(name).state_dict()
    resumed = train_cases.trained(name, of_two / f"stopped {name}", checkpoint_every_steps=10).state_dict()
    assert worst(resumed, alone) < 1e-10


def test_two_processes_with_sparse_embeddings_resume_to_the_same_bits(of_two):
    found = [load_file(of_two / f"{name}-{rank}.safetensors") for name in ("whole", "resumed") for rank in (0, 1)]
    for other in found[1:]:
        assert worst(found[0], other) == 0


def test_after_sparse_embeddings_a_model_can_be_trained_with_dense_ones(of_two):
    first, second = (load_file(of_two / f"dense after sparse-{rank}.safetensors") for rank in (0, 1))
    assert worst(first, second) == 0
