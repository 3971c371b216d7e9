"""What a run loads before it needs it: nobody waits, or pays memory, for a library that it does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LATER = ("sklearn", "pandas", "scipy.stats", "scipy.optimize", "ray", "torchtext", "onnx", "matplotlib")


@pytest.mark.parametrize("module", ["kdtoolkit.pipeline.stages", "kdtoolkit.cli"])
def test_heavy_libraries_are_loaded_where_they_are_needed(module):
    script = f"import sys, torch; before = set(sys.modules); import {module}; print(*set(sys.modules) - before)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(LATER) & set(found.stdout.split())


TRAINING = """
import sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from three_tasks import new_model
from kdtoolkit.recipe.schema import Optimizer
from kdtoolkit.training import checkpoint
from kdtoolkit.training.optimizer import build_optimizer
for name in ("adamw", "adamax", "adadelta", "sgd"):
    for lazily in (False, True)[: 2 if name == "adamw" else 1]:
        model = new_model()
        built = lambda: build_optimizer(model, Optimizer(name=name), model.student.embed if lazily else None)
        optimizer = built()
        for step in range(2):
            model.student.embed(torch.tensor([1, 2])).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(Path(folder), 2, model, optimizer, {})
            checkpoint.restore(Path(folder), model, built())
print(*({"torch._dynamo", "sympy"} & set(sys.modules)))
"""


def test_optimizers_do_not_load_a_compiler_that_compiles_nothing():
    found = subprocess.run([sys.executable, "-c", TRAINING, str(TESTS)], capture_output=True, text=True, check=True)
    assert not found.stdout.strip()
