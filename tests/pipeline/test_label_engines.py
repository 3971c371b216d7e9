"""Labelling by worker processes: the same store, bit for bit, and nothing lost when a worker dies."""

from __future__ import annotations

import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from kdtoolkit.errors import InputError, WorkError
from kdtoolkit.labels import LabelStore
from kdtoolkit.labels.labelling import Labeller
from kdtoolkit.labels.workers import Job, Workers
from kdtoolkit.pipeline import run_stages, start_run
from kdtoolkit.pipeline.members import Maker
from kdtoolkit.recipe.load import recipe_from_dict
from kdtoolkit.tasks import Task

pytestmark = pytest.mark.usefixtures("small_parts")
TASK = Task("mood", labels=("low", "high"), pair=False)


@pytest.fixture
def labelled(recipe, tiny):
    """labelled(name, engine, store="...", section={...}): the label stage of a run; how many texts it labelled."""

    def work(name, engine=None, *, store, **changes):
        run = start_run(recipe_from_dict(recipe(store=str(tiny / store), **changes)), tiny / name)
        return run_stages(run, "label", engine)["stages"]["label"]["rows"]

    return work


def test_workers_fill_the_store_as_one_process_does_and_go_on_where_another_stopped(labelled, bert, tiny, parts):
    teachers = [
        {"name": str(bert(labels=["low", "high"])), "tasks": ["mood"]},
        {"name": f"python:{tiny / 'teacher_module.py'}:distance", "tasks": ["likeness"]},
    ]
    alone = labelled("alone", store="plain", teachers=teachers)
    assert labelled("spread", Workers(2), store="shared", teachers=teachers) == alone > 400
    whole = parts(tiny / "plain")
    assert parts(tiny / "shared") == whole and len(whole) > 20
    lost = 0
    for path in sorted((tiny / "shared").rglob("part-*.parquet"))[::3]:
        lost += pq.read_metadata(path).num_rows
        path.unlink()
    assert labelled("again", Workers(2), store="shared", teachers=teachers) == lost > 0
    assert parts(tiny / "shared") == whole


def test_a_worker_that_dies_loses_nothing_that_was_finished(labelled, tiny, parts):
    module = tiny / "teacher_module.py"
    before = module.read_text()
    flag, count = tiny / "is-ill", tiny / "count"
    # After some batches of all workers together, the one that comes next dies.
    module.write_text(before.replace("import numpy as np", "import numpy as np, os, signal").replace(
        "    margin =",
        f"    if os.path.exists({str(flag)!r}):\n        with open({str(count)!r}, 'a') as f: f.write('x')\n"
        f"        if os.path.getsize({str(count)!r}) > 12: os.kill(os.getpid(), signal.SIGKILL)\n    margin =",
    ))  # fmt: skip
    teachers = [{"name": f"python:{module}:score", "tasks": ["mood"]}]
    flag.touch()
    with pytest.raises(WorkError, match=r"task mood: a worker died, .* is stored: start again, with fewer than 2"):
        labelled("ill", Workers(2), store="shared", teachers=teachers)
    flag.unlink()
    kept = parts(tiny / "shared")
    assert 0 < len(kept) < 12
    rest = labelled("well", Workers(2), store="shared", teachers=teachers)
    assert rest > 0 and labelled("whole", store="plain", teachers=teachers) > rest
    assert parts(tiny / "shared") == parts(tiny / "plain") and kept.items() <= parts(tiny / "plain").items()


@pytest.fixture
def labeller(tiny):
    maker = Maker("python", f"{tiny / 'teacher_module.py'}:score", TASK, {})
    teacher = maker()
    teacher.maker = maker
    return Labeller(teacher, [], LabelStore.of(teacher, tiny / "store"), 8)


def test_a_teacher_of_this_process_alone_is_refused(labeller):
    labeller.teacher.maker = None
    with pytest.raises(InputError, match="is an object of this process, and workers build their own; name it"):
        Job.of(labeller)


def test_a_worker_with_another_teacher_is_refused(labeller, tiny):
    job = Job.of(labeller)
    assert job.labeller().store.folder == labeller.store.folder.resolve()
    other = tiny / "other_module.py"
    other.write_text((tiny / "teacher_module.py").read_text().replace('version = "1"', 'version = "2"'))
    with pytest.raises(InputError, match=r"has other files, settings or versions on .*; give every machine"):
        replace(job, make=replace(job.make, source=f"{other}:score")).labeller()


def test_a_teacher_s_relative_path_means_the_same_to_a_worker(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    for source, name in (("teacher_module.py:score", "teacher_module.py:score"), ("data", "data")):
        state = Maker("python", source, TASK, {}).__getstate__()
        assert state["source"] == str(tiny / name)
    assert (
        Maker("hugging_face", "google-bert/bert-large", TASK, {}).__getstate__()["source"] == "google-bert/bert-large"
    )


def test_without_ray_its_engine_is_refused(monkeypatch):
    from kdtoolkit.labels.ray_engine import RayData

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--engine ray: Ray Data is not installed .*; pip install 'kdtoolkit\[ray\]'"):
        RayData()


@pytest.mark.parametrize("options", ["--engine ray", "--workers 2"])
def test_engines_and_several_processes_exclude_each_other(monkeypatch, capsys, options):
    from kdtoolkit.cli.main import kdtool

    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("kdtoolkit.processes.os._exit", sys.exit)
    with pytest.raises(SystemExit) as left:
        kdtool.main(["label", "--recipe", "demo", *options.split()], prog_name="kdtool")
    assert left.value.code == 2
    assert f"{options.split()[0]}: the launcher started 2 processes, which label together" in capsys.readouterr().err
