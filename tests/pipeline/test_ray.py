"""Labelling by Ray Data, on this machine. Slow, and part of `make test-slow`, which installs Ray."""

from __future__ import annotations

import pytest

from kdtoolkit.errors import WorkError
from kdtoolkit.pipeline import run_stages, start_run
from kdtoolkit.recipe.load import recipe_from_dict

pytestmark = [pytest.mark.usefixtures("small_parts"), pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", autouse=True)
def ray():
    import ray

    yield ray
    ray.shutdown()


@pytest.fixture
def labelled(recipe, tiny):
    def work(name, *, by_ray, store, **changes):
        from kdtoolkit.labels.ray_engine import RayData

        run = start_run(recipe_from_dict(recipe(store=str(tiny / store), **changes)), tiny / name)
        return run_stages(run, "label", RayData(2) if by_ray else None)["stages"]["label"]["rows"]

    return work


def dying(tiny, *, once):
    """The module of a teacher whose worker dies, at its third batch or at every one after; its section."""
    module = tiny / "teacher_module.py"
    flag, count = tiny / "has-died", tiny / "count"
    condition = f"os.path.getsize({str(count)!r}) > 2" + (f" and not os.path.exists({str(flag)!r})" if once else "")
    module.write_text(module.read_text().replace("import numpy as np", "import numpy as np, os, signal").replace(
        "    margin =",
        f"    with open({str(count)!r}, 'a') as f: f.write('x')\n    if {condition}:\n"
        f"        open({str(flag)!r}, 'w').close()\n        os.kill(os.getpid(), signal.SIGKILL)\n    margin =",
    ))  # fmt: skip
    return {"name": f"python:{module}:score", "tasks": ["mood"]}


def test_ray_fills_the_store_as_one_process_does(labelled, bert, tiny, parts):
    teachers = [{"name": str(bert(labels=["low", "high"])), "tasks": ["mood"]}]
    assert labelled("one", by_ray=False, store="plain", teachers=teachers) == labelled(
        "ray", by_ray=True, store="shared", teachers=teachers
    )
    assert parts(tiny / "plain") == parts(tiny / "shared") != {}
    for path in sorted((tiny / "shared").rglob("part-*.parquet"))[:3]:
        path.unlink()
    assert labelled("again", by_ray=True, store="shared", teachers=teachers) == 48
    assert parts(tiny / "plain") == parts(tiny / "shared")


def test_a_worker_that_dies_is_replaced_and_nothing_is_lost_or_stored_twice(labelled, tiny, parts):
    teachers = [dying(tiny, once=True)]
    rows = labelled("ray", by_ray=True, store="shared", teachers=teachers)
    assert (tiny / "has-died").exists()
    assert labelled("one", by_ray=False, store="plain", teachers=teachers) == rows
    assert parts(tiny / "plain") == parts(tiny / "shared")


def test_a_text_that_kills_every_worker_does_not_do_so_for_ever(labelled, tiny):
    with pytest.raises(WorkError, match=r"Ray could not label \(.*\); what was finished is stored: start again"):
        labelled("ray", by_ray=True, store="shared", teachers=[dying(tiny, once=False)])


def test_an_error_of_the_teacher_is_told(labelled, tiny):
    module = tiny / "teacher_module.py"
    module.write_text(module.read_text().replace("    margin =", "    raise OSError('no more ink')\n    margin ="))
    with pytest.raises(WorkError, match=r"task mood: Ray could not label \(.*no more ink\)"):
        labelled("ray", by_ray=True, store="shared", teachers=[{"name": f"python:{module}:score", "tasks": ["mood"]}])
