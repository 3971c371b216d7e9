"""README's code is run as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdtoolkit.recipe import Recipe
from kdtoolkit.recipe.load import load_recipe

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"README has no {language} block"
    return found


@pytest.fixture
def student_text():
    [text] = [block for block in blocks("python") if "(Student)" in block]
    return text


def test_the_third_party_student_is_complete_in_under_15_lines(student_text):
    assert len([line for line in student_text.splitlines() if line.strip()]) < 15


def test_the_third_party_student_keeps_the_contract(student_text, tmp_path):
    from kdtoolkit.plugins import plugin
    from kdtoolkit.testing import check_student

    (tmp_path / "word_average.py").write_text(student_text)
    check_student(plugin("student", f"{tmp_path / 'word_average.py'}:WordAverage"), width=16)


def test_the_third_party_student_is_distilled_loaded_and_used_by_the_commands_shown(student_text, tmp_path):
    (tmp_path / "word_average.py").write_text(student_text)
    [command] = [line for block in blocks("console") for line in block.splitlines() if "WordAverage" in line]
    small = [
        "--tasks", "demo_sentiment", "--set", "train.epochs=0.2", "--set", "teachers.0.epochs=0.2",
        "--set", "evaluate.latency=false", "--set", "student.width=16", "--out", "run",
    ]  # fmt: skip
    kdtool = [sys.executable, "-c", "from kdtoolkit.cli.main import main; main()"]
    done = subprocess.run(
        [*kdtool, *command.removeprefix("$ kdtool ").split(), *small], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "gold only" in done.stdout
    code = "import kdtoolkit; print(kdtoolkit.load('run').predict(['a fine film'])[0].label)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() in ("negative", "positive"), done.stderr
    config = json.loads((tmp_path / "run/student/config.json").read_text())
    assert config["options"] == {"width": 16}


def test_the_recipe_shown_is_valid(tmp_path, monkeypatch):
    [text] = blocks("yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    assert isinstance(load_recipe("mine.yaml"), Recipe)


def test_every_command_shown_exists():
    from click.testing import CliRunner

    from kdtoolkit.cli.main import kdtool

    for block in blocks("console"):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"kdtool (\w+)(.*)", line.split("#")[0])
            if found is None:
                continue
            help_text = CliRunner().invoke(kdtool, [found[1], "--help"]).output
            for option in re.findall(r"(?<!\S)--[a-z-]+", found[2]):
                assert option in help_text, f"kdtool {found[1]} has no {option}"
