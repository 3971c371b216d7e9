"""Rows: what is written is read back, in pieces or whole, and the file is never half there."""

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdtoolkit.data import rows as rows_module
from kdtoolkit.data.rows import Rows, write_rows
from kdtoolkit.errors import InputError, WorkError
from kdtoolkit.example import Example
from kdtoolkit.tasks import Task

TASKS = {
    "single": Task("single", labels=("a", "b", "c"), pair=False),
    "pair": Task("pair", labels=("a", "b"), pair=True),
    "score": Task("score", kind="regression", pair=False),
    "tags": Task("tags", kind="multilabel", labels=("x", "y", "z"), pair=True),
}
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
gold = {
    "single": st.integers(0, 2),
    "pair": st.integers(0, 1),
    "score": st.floats(-1e6, 1e6),
    "tags": st.tuples(*[st.integers(0, 1)] * 3),
}


def examples_of(name):
    second = texts if TASKS[name].pair else st.none()
    return st.lists(st.builds(Example, st.just(name), texts, second, st.none() | gold[name]), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_is_read_back(tmp_path, monkeypatch, data):
    monkeypatch.setattr(rows_module, "BATCH_ROWS", 4)
    name = data.draw(st.sampled_from(sorted(TASKS)))
    task, examples = TASKS[name], data.draw(examples_of(name))
    cut = data.draw(st.integers(0, len(examples)))
    rows = write_rows(tmp_path / "split.arrow", task, [examples[:cut], examples[cut:]])
    assert len(rows) == len(examples)
    assert rows.examples(slice(None)) == examples
    assert rows.ids().dtype == "S16" and rows.ids().tobytes() == b"".join(e.id for e in examples)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, 12), st.integers(0, 12))))
    first, second = rows.texts(start, stop)
    assert first == [e.text for e in examples[start:stop]]
    assert second == ([e.second for e in examples[start:stop]] if task.pair else None)
    assert rows.characters().tolist() == [len(e.text) + len(e.second or "") for e in examples]
    if examples:
        order = data.draw(st.lists(st.integers(0, len(examples) - 1), max_size=20))
        assert rows.examples(np.array(order, dtype=np.int32)) == [examples[n] for n in order]


@pytest.mark.parametrize("name", TASKS)
def test_labels_are_floats_and_nan_where_there_is_none(tmp_path, name):
    task = TASKS[name]
    label = {"single": 2, "pair": 1, "score": 3.25, "tags": (1, 0, 1)}[name]
    second = "t" if task.pair else None
    examples = [Example(name, "s", second, label), Example(name, "s", second), Example(name, "u", second, label)]
    labels = write_rows(tmp_path / "a.arrow", task, [examples]).labels()
    known = np.array(label, dtype=np.float32)
    np.testing.assert_array_equal(labels, np.stack([known, np.full_like(known, np.nan), known]))
    assert labels.dtype == np.float32
    empty = write_rows(tmp_path / "b.arrow", task, [])
    assert len(empty) == 0 and len(empty.labels()) == 0 and len(empty.ids()) == 0 and empty.texts(0, 5)[0] == []


def test_ids_of_one_batch_are_a_view_of_the_file(tmp_path):
    task = TASKS["single"]
    rows = write_rows(tmp_path / "a.arrow", task, [[Example("single", str(n), None, 0) for n in range(100)]])
    assert not rows.ids().flags.owndata and not rows.ids().flags.writeable


def test_a_row_that_does_not_exist_is_refused(tmp_path):
    rows = write_rows(tmp_path / "a.arrow", TASKS["single"], [[Example("single", "s")]])
    for wrong in (1, -1):
        with pytest.raises(IndexError, match="has 1 rows"):
            rows.examples(np.array([0, wrong]))


def test_rows_travel_between_processes_as_a_path(tmp_path):
    rows = write_rows(tmp_path / "a.arrow", TASKS["single"], [[Example("single", "s", None, 1)]])
    assert len(rows.ids()) == 1
    again = pickle.loads(pickle.dumps(rows))
    assert again.examples(slice(None)) == rows.examples(slice(None))


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.arrow"
    write_rows(path, TASKS["single"], [[Example("single", "kept")]])

    def failing():
        yield [Example("single", "new")]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_rows(path, TASKS["single"], failing())
    assert Rows.open(path, TASKS["single"]).texts(0, 9) == (["kept"], None)
    assert [p.name for p in tmp_path.iterdir()] == ["a.arrow"]


def test_a_damaged_missing_or_foreign_file_is_named(tmp_path):
    path = tmp_path / "a.arrow"
    with pytest.raises(InputError, match="does not exist"):
        Rows.open(path, TASKS["single"])
    write_rows(path, TASKS["single"], [[Example("single", "s" * 1000)]])
    with pytest.raises(WorkError, match="holds no rows of task 'pair'"):
        Rows.open(path, TASKS["pair"])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WorkError, match="is damaged"):
        Rows.open(path, TASKS["single"])
