"""What the names of teachers and students in a recipe mean. Decided by name and file alone; nothing is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plugins import installed

if TYPE_CHECKING:
    from .schema import StudentSection

STORED_FORMATS = (".parquet", ".jsonl", ".csv", ".tsv")


def resolve_teacher(name: str) -> tuple[str, str]:
    """(plug-in name, source) of a teacher's name in a recipe. The first rule that fits decides:

    `NAME` or `NAME:REST` of a registered teacher (`python:my_module:score`) is that plug-in, with REST as its source;
    a file that ends in .parquet, .jsonl, .csv or .tsv (also .gz) holds stored outputs;
    the folder of a run, or of a student, is that student as a teacher;
    `module:Class` or `path/to/file.py:Class` is a class of the user's own;
    anything else (an alias such as bert-large, a folder, a hub id) is a Hugging Face model.
    """
    registered, _, rest = name.partition(":")
    if registered in installed("teacher"):
        return registered, rest or name
    if is_stored_file(name):
        return "stored", name
    if is_student_folder(Path(name)):
        return "run", name
    if ":" in name and not Path(name).exists():
        return name, name
    return "hugging_face", name


def is_stored_file(name: str) -> bool:
    """Whether the name is that of a file of stored outputs."""
    return name.lower().removesuffix(".gz").endswith(STORED_FORMATS) and not Path(name).is_dir()


def is_student_folder(path: Path) -> bool:
    """Whether the folder is a finished run (results.json and student/) or a trained student of kdtoolkit."""
    if (path / "student").is_dir() and ((path / "results.json").is_file() or (path / "run.json").is_file()):
        return True
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"schema", "vocab_size", "tasks", "max_tokens"} <= config.keys()


def resolve_student(section: StudentSection) -> tuple[str, dict[str, Any]]:
    """(plug-in name, constructor options) of the recipe's student; `hf:NAME` is plug-in "hf" with model=NAME."""
    return student_plugin(section.name, section.options)


def student_plugin(name: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """As `resolve_student`, from the name and the options."""
    if name.startswith("hf:"):
        return "hf", {"model": name.removeprefix("hf:"), **options}
    return name, dict(options)
