"""Names become classes: registered ones, "module:Class", "file.py:Class", and what is said when that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from kdtoolkit import InputError, Student, Teacher, plugins
from kdtoolkit.plugins import option_problems, options, plugin

STUDENT = """
    import torch
    from kdtoolkit import Student

    class WordAverage(Student):
        def __init__(self, vocab_size, *, width=8):
            super().__init__(width=width)
            self.embed = torch.nn.Embedding(vocab_size, width, padding_idx=0)

        def encode(self, batch):
            return self.embed(batch.ids).sum(1) / batch.lengths.unsqueeze(1)

    class NoStudent:
        pass

    class Group:
        WordAverage = WordAverage
    """


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with my_students.py in it."""
    (tmp_path / "my_students.py").write_text(textwrap.dedent(STUDENT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_students", None)


def said(kind, name):
    with pytest.raises(InputError) as caught:
        plugin(kind, name)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_built_in_names_are_registered_and_are_what_they_say():
    assert {"bilstm", "transformer", "hf"} <= set(plugins.installed("student"))
    assert {"hugging_face", "stored", "python", "run"} <= set(plugins.installed("teacher"))
    assert issubclass(plugin("student", "bilstm"), Student)
    assert issubclass(plugin("teacher", "python"), Teacher)
    registered = plugins.installed("student")["bilstm"]
    assert registered.target == "kdtoolkit_students.bilstm:BiLSTM"
    assert registered.distribution == "kdtoolkit"
    assert registered.version


def test_a_mistyped_name_is_answered_with_the_nearest():
    assert said("student", "bilsm") == "student.name: no student is called 'bilsm'; did you mean 'bilstm'?"
    assert "known: " in said("teacher", "qqqqqq")


def test_a_student_is_not_found_among_the_teachers():
    assert "no teacher is called 'bilstm'" in said("teacher", "bilstm")


@pytest.mark.parametrize(
    "form",
    [
        "my_students:WordAverage",
        "my_students.py:WordAverage",
        "./my_students.py:Group.WordAverage",
        "{}/my_students.py:WordAverage",
    ],
)
def test_a_class_is_used_as_named_without_packaging(here, form):
    cls = plugin("student", form.format(here))
    assert cls.__name__ == "WordAverage"
    assert issubclass(cls, Student)


def test_a_file_is_run_once_however_it_is_named(here):
    assert plugin("student", "my_students.py:WordAverage") is plugin("student", f"{here}/my_students.py:WordAverage")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_students:WordAvrage", "'my_students' has no 'WordAvrage'; did you mean 'WordAverage'?"),
        ("my_students:NoStudent", "is no subclass of kdtoolkit.Student"),
        ("my_students:torch", "is no subclass of kdtoolkit.Student"),
        ("no_such_module:Thing", "module 'no_such_module' cannot be imported (ModuleNotFoundError"),
        ("absent.py:Thing", "cannot be imported (FileNotFoundError: no file"),
        ("broken.py:Thing", "cannot be imported (ZeroDivisionError: division by zero)"),
    ],
)
def test_what_is_wrong_with_a_class_of_ones_own_is_said(here, name, words):
    (here / "broken.py").write_text("1 / 0\n")
    assert words in said("student", name)


def test_a_broken_file_can_be_repaired_and_named_again(here):
    (here / "mended.py").write_text("1 / 0\n")
    said("student", "mended.py:WordAverage")
    (here / "mended.py").write_text(textwrap.dedent(STUDENT) + "# longer, so that no cached bytecode is taken for it\n")
    assert plugin("student", "mended.py:WordAverage").__name__ == "WordAverage"


def test_options_are_the_keyword_only_arguments(here):
    cls = plugin("student", "my_students:WordAverage")
    assert list(options(cls)) == ["width"]
    assert options(cls)["width"].default == 8


def test_option_problems_name_unknown_and_missing_options():
    class Needy:
        def __init__(self, vocab_size, *, width, depth=1):
            pass

    assert option_problems("student", "needy", Needy, {"width": 3, "depth": 2}) == []
    assert option_problems("student", "needy", Needy, {"widht": 3}) == [
        ("widht", "the student 'needy' has no option 'widht'; did you mean 'width'?"),
        ("width", "the student 'needy' needs a value for 'width'"),
    ]
    assert [key for key, _ in option_problems("student", "needy", Needy, {"vocab_size": 3, "width": 1})] == [
        "vocab_size"
    ]


def test_a_constructor_that_takes_any_option_is_not_questioned():
    class Open:
        def __init__(self, vocab_size, **anything):
            pass

    assert option_problems("student", "open", Open, {"whatever": 1}) == []


# ---------------------------------------------------------------------------------------- other people's distributions
@pytest.fixture
def site(tmp_path):
    """A folder for sys.path with the metadata of a distribution of somebody else."""

    def write(entry_points, name="elsewhere", **modules):
        info = tmp_path / f"{name}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
        for module, text in modules.items():
            (tmp_path / f"{module}.py").write_text(textwrap.dedent(text))
        return tmp_path

    return write


def in_fresh_process(site, code):
    """What the code prints as JSON, with `site` on the path."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_plug_in_of_another_distribution_takes_the_same_road(site):
    folder = site("[kdtoolkit.students]\naverage = other_students:WordAverage\n", other_students=STUDENT)
    found = in_fresh_process(folder, """
        import json
        from kdtoolkit import plugin, plugins
        one = plugins.installed("student")["average"]
        print(json.dumps([one.distribution, one.version, one.target, plugin("student", "average").__name__]))
    """)  # fmt: skip
    assert found == ["elsewhere", "2.5", "other_students:WordAverage", "WordAverage"]


def test_one_broken_plug_in_breaks_neither_the_list_nor_the_others(site):
    folder = site(
        """
        [kdtoolkit.students]
        broken = broken_module:Thing
        absent = no_such_module:Thing
        wrong = json:JSONDecoder
        """,
        broken_module="raise RuntimeError('half installed')",
    )
    found = in_fresh_process(folder, """
        import json, sys
        from kdtoolkit import InputError, plugins
        names = sorted(plugins.installed("student"))
        heavy = [name for name in ("torch", "transformers", "numpy") if name in sys.modules]
        messages = []
        for name in ("broken", "absent", "wrong"):
            try:
                plugins.plugin("student", name)
            except InputError as error:
                messages.append(str(error))
        print(json.dumps([names, heavy, messages, plugins.plugin("student", "bilstm").__name__]))
    """)  # fmt: skip
    names, heavy, (broken, absent, wrong), working = found
    assert {"absent", "bilstm", "broken", "wrong"} <= set(names)
    assert heavy == []
    assert "student 'broken'" in broken
    assert "of elsewhere 2.5 cannot be imported (RuntimeError: half installed); repair or uninstall elsewhere" in broken
    assert "ModuleNotFoundError" in absent
    assert "is no subclass of kdtoolkit.Student" in wrong
    assert working == "BiLSTM"


def test_another_distribution_cannot_take_a_built_in_name(site):
    folder = site("[kdtoolkit.students]\nbilstm = other_students:WordAverage\n", name="aaa", other_students=STUDENT)
    found = in_fresh_process(folder, """
        import json
        from kdtoolkit import plugins
        print(json.dumps(plugins.installed("student")["bilstm"].distribution))
    """)  # fmt: skip
    assert found == "kdtoolkit"
