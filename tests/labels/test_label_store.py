"""The store gives back what was put in, refuses what cannot be right, and names what is damaged."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit import InputError, WorkError
from kdtoolkit.example import example_id
from kdtoolkit.labels import LabelStore, default_store
from kdtoolkit.labels.store import id_array, ids_of


def store_in(folder, teacher="ab12", **changes):
    options = {"kind": "logits", "outputs": 3, "labels": ("a", "b", "c"), "description": "big-model", **changes}
    return LabelStore(folder, teacher, "abc", **options)


def some_ids(rows, salt=""):
    return np.array([example_id(f"{salt}{row}") for row in range(rows)], "S16")


def some_values(rows, outputs=3):
    return np.random.default_rng(rows).normal(size=(rows, outputs)).astype(np.float32)


def test_what_is_written_is_read_in_any_order_and_with_repeats(tmp_path):
    store, ids, values = store_in(tmp_path), some_ids(50), some_values(50)
    store.write("one", ids[:20], values[:20])
    store.write("two", ids[20:], values[20:])
    order = np.random.default_rng(0).integers(0, 50, 200)
    assert np.array_equal(store.read(ids[order]), values[order])
    assert store.read(ids[order]).dtype == np.float32


def test_ids_that_end_in_zero_bytes_are_ids_like_others(tmp_path):
    ids = np.frombuffer(b"".join([b"x" * 16, b"x" * 15 + b"\0", b"x" * 14 + b"\0\0", b"\0" * 16]), "S16")
    store = store_in(tmp_path)
    store.write("zeros", ids, some_values(4))
    assert np.array_equal(store.read(ids), some_values(4))
    assert pq.read_table(store.parts()[0]).column("id").to_pylist()[1] == b"x" * 15 + b"\0"
    assert ids_of(id_array(ids[1:])).tobytes() == ids[1:].tobytes()


def test_missing_says_which_ids_are_not_held(tmp_path):
    store, ids = store_in(tmp_path), some_ids(10)
    assert store.missing(ids).all() and len(store.ids()) == 0
    store.write("even", ids[::2], some_values(5))
    assert store.missing(ids).tolist() == [False, True] * 5
    with pytest.raises(InputError, match=r"5 of 10 ids have no values"):
        store.read(ids)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40), st.lists(st.integers(0, 30), max_size=40))
def test_read_into_finds_exactly_the_rows_whose_id_is_held(tmp_path_factory, held, asked):
    held, ids, values = sorted(set(held)), some_ids(31), some_values(31)
    store = store_in(tmp_path_factory.mktemp("store"))
    store.write("p", ids[held], values[held])
    out = np.full((len(asked), 3), np.nan, np.float32)
    found = store.read_into(out, ids[asked])
    assert found.tolist() == [number in held for number in asked]
    assert np.array_equal(out[found], values[np.array(asked, int)][found])
    assert np.isnan(out[~found]).all()


def test_the_manifest_says_what_the_columns_are_and_opens_the_store(tmp_path):
    store = store_in(tmp_path, dtype="float16")
    store.write("p", some_ids(4), some_values(4))
    fields = json.loads((tmp_path / "ab12" / "abc" / "manifest.json").read_text())
    assert fields == store.manifest()
    assert (fields["kind"], fields["labels"], fields["outputs"]) == ("logits", ["a", "b", "c"], 3)
    opened = LabelStore.open(store.folder)
    assert opened.manifest() == fields
    assert pq.read_schema(store.parts()[0]).field("values").type == pa.list_(pa.float16(), 3)
    np.testing.assert_allclose(opened.read(some_ids(4)), some_values(4), atol=2e-3)


@pytest.mark.parametrize(
    "change", [{"labels": ("a", "c", "b")}, {"outputs": 2, "labels": ("a", "b")}, {"kind": "logprobs"}], ids=str
)
def test_a_store_of_other_labels_is_refused(tmp_path, change):
    store_in(tmp_path).write("p", some_ids(1), some_values(1))
    with pytest.raises(InputError, match=r"big-model gives"):
        store_in(tmp_path, **change)


@pytest.mark.parametrize(
    "value, cause", [(np.nan, "NaN among the logits"), (np.inf, r"\+inf among the logits \(-inf is allowed\)")]
)
def test_nan_and_infinite_logits_are_refused_with_teacher_task_and_id_and_nothing_is_stored(tmp_path, value, cause):
    store, ids, values = store_in(tmp_path), some_ids(5), some_values(5)
    values[3, 1] = value
    with pytest.raises(InputError, match=rf"big-model, task abc: {cause} in 1 of 5 rows.*{example_id('3').hex()}"):
        store.write("p", ids, values)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_logit_that_float16_cannot_hold_is_refused_and_not_stored_as_infinity(tmp_path):
    with pytest.raises(InputError, match=r"\+inf"):
        store_in(tmp_path, dtype="float16").write("p", some_ids(1), np.array([[1e6, 0, 0]]))


def test_a_partial_teacher_may_be_silent_about_a_row_but_not_about_half_of_it(tmp_path):
    store, values = store_in(tmp_path, partial=True), some_values(3)
    values[1] = np.nan
    store.write("p", some_ids(3), values)
    assert np.array_equal(store.read(some_ids(3)), values, equal_nan=True)
    values[2, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        store.write("q", some_ids(3), values)
    values[2] = -np.inf
    with pytest.raises(InputError, match="-inf"):
        store.write("q", some_ids(3), values)


def test_log_probabilities_of_nothing_are_floored_and_counted(tmp_path):
    store = store_in(tmp_path, kind="logprobs")
    store.write("p", some_ids(2), np.log(np.array([[1, 1e-9, 1e-300], [0.5, 0.25, 0.25]])))
    store.write("q", some_ids(1, "q"), np.array([[0, -np.inf, -1.0]]))
    assert store.floored == 3
    assert store.read(some_ids(1, "q"))[0, 1] == np.float32(math.log(1e-7))
    with pytest.raises(InputError, match="above 0"):
        store.write("r", some_ids(1), np.array([[0.5, -1, -1]]))


def test_masked_classes_may_be_minus_infinity_in_logits(tmp_path):
    store = store_in(tmp_path)
    store.write("p", some_ids(1), np.array([[1.0, -np.inf, 0]]))
    assert store.read(some_ids(1)).tolist() == [[1.0, -math.inf, 0.0]]


def test_the_same_rows_make_the_same_bytes(tmp_path):
    parts = [store_in(tmp_path / name).write("p", some_ids(100), some_values(100)) for name in "xy"]
    assert parts[0].read_bytes() == parts[1].read_bytes()


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "column"])
def test_a_damaged_part_is_named_with_what_to_do(tmp_path, damage):
    store = store_in(tmp_path)
    part = store.write("p", some_ids(1000), some_values(1000))
    data = bytearray(part.read_bytes())
    if damage == "cut":
        part.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        part.write_bytes(b"")
    elif damage == "flip":
        place = bytes(data).find(some_values(1000)[500].tobytes())
        data[place] ^= 1
        part.write_bytes(data)
    else:
        pq.write_table(pa.table({"id": id_array(some_ids(2))}), part)
    with pytest.raises(WorkError, match=r"part-p\.parquet.*delete this file and run again"):
        store.read(some_ids(1000))


def test_parts_that_another_program_wrote_are_read(tmp_path):
    store, ids, values = store_in(tmp_path), some_ids(6), some_values(6)
    store.write("p", ids[:1], values[:1])
    table = {"id": pa.array([example_id(str(i)) for i in range(6)], pa.binary()), "values": pa.array(values.tolist())}
    pq.write_table(pa.table(table), store.folder / "part-spark.parquet", row_group_size=2)
    np.testing.assert_array_equal(store.read(ids), values)
    pq.write_table(pa.table({**table, "values": pa.array([[1.0, 2.0]] * 6)}), store.folder / "part-spark.parquet")
    with pytest.raises(WorkError, match=r"part-spark\.parquet: a row has 2 values where 3 belong"):
        store.read(ids)


def test_the_default_store_is_the_recipes_then_the_environments_then_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("KDTOOLKIT_STORE", str(tmp_path / "environment"))
    assert default_store(tmp_path / "recipe") == tmp_path / "recipe"
    assert default_store(None) == tmp_path / "environment"
    monkeypatch.delenv("KDTOOLKIT_STORE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store() == tmp_path / ".cache" / "kdtoolkit"
