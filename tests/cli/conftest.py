"""The command line in this process, and a folder in which a run takes a second."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from small_run import RECIPE, TEACHER, moods, write_rows

from kdtoolkit.cli.main import kdtool
from kdtoolkit.progress import log


@pytest.fixture(autouse=True)
def log_as_it_was():
    """The command line sends the log to stderr; other tests listen to it in their own way."""
    before = log.propagate, log.level, list(log.handlers)
    yield
    log.propagate = before[0]
    log.setLevel(before[1])
    log.handlers[:] = before[2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run("distill", ...): the command in this process and in `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **extra):
        return CliRunner().invoke(kdtool, list(arguments), **extra)

    return run


@pytest.fixture
def small(tmp_path):
    """A folder with data/mood, teacher.py and small.yaml."""
    write_rows(tmp_path / "data/mood/train.jsonl", moods(80, 1))
    write_rows(tmp_path / "data/mood/dev.jsonl", moods(20, 2))
    (tmp_path / "teacher.py").write_text(TEACHER)
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def refused(run, small):
    """refused("distill", ..., says=[...]): exit code 2, all that is to be said, and no trace on the disk."""

    def files():
        """When each was written; what Python makes of a module is nobody's trace."""
        return {path: path.stat().st_mtime_ns for path in small.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    def refused(*arguments, says, code=2):
        before = files()
        done = run(*arguments)
        assert done.exit_code == code, done.output
        for text in [says] if isinstance(says, str) else says:
            assert text in done.output, done.output
        assert "Traceback" not in done.output and "a bug" not in done.output
        assert files() == before
        return done

    return refused
