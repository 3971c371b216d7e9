"""What the names of teachers and students mean, and what a plug-in's source says without being imported."""

from __future__ import annotations

import json
import sys

import pytest

from kdtoolkit.plugins import installed
from kdtoolkit.recipe.names import resolve_student, resolve_teacher
from kdtoolkit.recipe.schema import StudentSection
from kdtoolkit.recipe.signature import constructor_options


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert-large", ("hugging_face", "bert-large")),
        ("someone/model", ("hugging_face", "someone/model")),
        ("hugging_face:stored.csv", ("hugging_face", "stored.csv")),
        ("python:my_module:score", ("python", "my_module:score")),
        ("labels.parquet", ("stored", "labels.parquet")),
        ("a/labels.JSONL.gz", ("stored", "a/labels.JSONL.gz")),
        ("labels.tsv", ("stored", "labels.tsv")),
        ("my_module:Teacher", ("my_module:Teacher", "my_module:Teacher")),
        ("a/file.py:Teacher", ("a/file.py:Teacher", "a/file.py:Teacher")),
    ],
)
def test_a_teacher_is_told_by_its_name(name, expected):
    assert resolve_teacher(name) == expected


def test_a_run_and_a_student_folder_are_teachers(tmp_path):
    run = tmp_path / "run"
    (run / "student").mkdir(parents=True)
    (run / "results.json").write_text("{}")
    assert resolve_teacher(str(run)) == ("run", str(run))
    config = {"schema": 1, "name": "bilstm", "options": {}, "vocab_size": 9, "tasks": [], "max_tokens": 64}
    (run / "student" / "config.json").write_text(json.dumps(config))
    assert resolve_teacher(str(run / "student"))[0] == "run"


def test_another_folder_is_a_hugging_face_model(tmp_path):
    assert resolve_teacher(str(tmp_path))[0] == "hugging_face"
    (tmp_path / "config.json").write_text('{"model_type": "bert", "vocab_size": 9}')
    assert resolve_teacher(str(tmp_path))[0] == "hugging_face"


def test_hf_names_a_hugging_face_student():
    section = StudentSection.model_validate({"name": "hf:a/b", "layers": 2})
    assert resolve_student(section) == ("hf", {"model": "a/b", "layers": 2})
    assert resolve_student(StudentSection(name="bilstm")) == ("bilstm", {})


def test_options_read_from_source_are_those_of_the_constructor():
    from kdtoolkit import plugins

    checked = 0
    for kind in plugins.GROUPS:
        for name in installed(kind):
            read = constructor_options(kind, name)
            if read is None:
                continue
            real = plugins.options(plugins.plugin(kind, name))
            assert list(read) == list(real)
            assert [option.required for option in read.values()] == [p.default is p.empty for p in real.values()]
            checked += 1
    assert checked > 0


def test_a_users_own_class_is_read_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "lstm_of_mine.py").write_text(
        "raise RuntimeError('imported')\n"
        "class Base:\n"
        "    def __init__(self, vocab_size, *, width: int, shape: Literal['a', 'b'] = 'a', other: Thing = None): ...\n"
        "class Mine(Base):\n"
        "    pass\n"
        "class Open:\n"
        "    def __init__(self, **anything): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    options = constructor_options("student", "lstm_of_mine:Mine")
    assert options is not None and list(options) == ["width", "shape", "other"]
    assert options["width"].required and not options["shape"].required
    assert constructor_options("student", f"{tmp_path}/lstm_of_mine.py:Open") is None
    assert constructor_options("student", "no_such_module_at_all:Thing") is None
    assert "lstm_of_mine" not in sys.modules
