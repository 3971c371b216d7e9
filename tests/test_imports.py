"""What a run loads before it needs it: nobody waits, or pays memory, for a library that it does not use."""

from __future__ import annotations

import subprocess
import sys

import pytest

LATER = ("sklearn", "pandas", "scipy.stats", "scipy.optimize", "ray", "torchtext", "onnx", "matplotlib")


@pytest.mark.parametrize("module", ["kdtoolkit.pipeline.stages", "kdtoolkit.cli"])
def test_heavy_libraries_are_loaded_where_they_are_needed(module):
    script = f"import sys, torch; before = set(sys.modules); import {module}; print(*set(sys.modules) - before)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(LATER) & set(found.stdout.split())
