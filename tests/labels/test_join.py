"""Rows and what the teachers said about them are joined by text, whatever the order."""

import numpy as np
import pytest

from kdtoolkit import Example, InputError, Task
from kdtoolkit.data.rows import write_rows
from kdtoolkit.labels import LabelStore, teacher_array

TASK = Task("mood", text=("text",), labels=("bad", "good"))


def rows_of(folder, texts):
    return write_rows(folder / "rows.arrow", TASK, [[Example("mood", text) for text in texts]])


def store_of(folder, name, texts, values, **options):
    options = {"kind": "logits", "outputs": 2, "labels": TASK.labels, "description": name, **options}
    store = LabelStore(folder, name, "mood", **options)
    ids = np.array([Example("mood", text).id for text in texts], "S16")
    middle = len(texts) // 2
    store.write("x", ids[middle:], values[middle:])
    store.write("y", ids[:middle], values[:middle])
    return store


def test_every_member_is_aligned_with_the_rows_repeats_included(tmp_path):
    texts = [f"text {number}" for number in range(40)]
    values = np.random.default_rng(0).normal(size=(2, 40, 2)).astype(np.float32)
    stores = [store_of(tmp_path, name, texts, values[member]) for member, name in enumerate(("a1", "b2"))]
    order = np.random.default_rng(1).integers(0, 40, 100)
    array = teacher_array(rows_of(tmp_path, [texts[i] for i in order]), stores, tmp_path / "teacher.npy")
    assert isinstance(array, np.memmap) and array.shape == (100, 2, 2) and array.dtype == np.float32
    np.testing.assert_array_equal(array, values[:, order].transpose(1, 0, 2))
    np.testing.assert_array_equal(np.load(tmp_path / "teacher.npy"), array)


def test_a_partial_member_is_nan_where_it_says_nothing(tmp_path):
    store = store_of(tmp_path, "a1", ["one", "two"], np.array([[1.0, 2.0], [np.nan, np.nan]]), partial=True)
    array = teacher_array(rows_of(tmp_path, ["one", "two", "three"]), [store], tmp_path / "t.npy")
    assert array[0, 0].tolist() == [1, 2] and np.isnan(array[1:]).all()


def test_rows_that_were_never_labelled_are_counted_and_one_is_shown(tmp_path):
    store = store_of(tmp_path, "a1", ["one", "two"], np.zeros((2, 2)))
    rows = rows_of(tmp_path, ["one", "never seen", "two", "nor this"])
    with pytest.raises(InputError, match=r"a1, task mood: 2 of 4 rows .* row 2: 'never seen'"):
        teacher_array(rows, [store], tmp_path / "t.npy")
    assert not (tmp_path / "t.npy").exists()


def test_a_store_of_other_labels_does_not_join(tmp_path):
    store = store_of(tmp_path, "a1", ["one"], np.zeros((1, 2)), labels=("good", "bad"))
    with pytest.raises(InputError, match=r"\['good', 'bad'\].*\['bad', 'good'\]"):
        teacher_array(rows_of(tmp_path, ["one"]), [store], tmp_path / "t.npy")


def test_no_rows_make_an_empty_array(tmp_path):
    store = store_of(tmp_path, "a1", ["one"], np.zeros((1, 2)))
    assert teacher_array(rows_of(tmp_path, []), [store], tmp_path / "t.npy").shape == (0, 1, 2)
