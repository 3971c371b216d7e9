"""The store of hidden states: what goes in comes out, in parts, and nothing is computed twice."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.data.rows import write_rows
from kdtoolkit.errors import InputError, WorkError
from kdtoolkit.example import Example
from kdtoolkit.feature_name import FeatureName, by_token
from kdtoolkit.labels import features
from kdtoolkit.labels.features import LiveFeatures, StoredFeatures, store_features
from kdtoolkit.shape import Shape
from kdtoolkit.tasks import Task
from kdtoolkit.teacher import Features, Teacher

TASK = Task("mood", labels=("low", "high"), pair=False)
SHAPE = Shape(2, 4, 2, embedding=3)
NAMES = ("attention/1", "first/0", "first/2", "hidden/0", "hidden/2", "keys/1", "queries/2", "values/2")


class Spelling(Teacher):
    """A teacher whose tokens are letters, and whose features are functions of them."""

    def __init__(self, scale=1.0):
        super().__init__("spelling", TASK)
        self.scale, self.asked, self.fail_after = scale, [], None

    shape = SHAPE
    fingerprint = "abc"

    def logits(self, examples):
        return np.zeros((len(examples), 2), np.float32)

    def features(self, examples, names):
        if names:
            if self.fail_after is not None and len(self.asked) >= self.fail_after:
                raise KeyboardInterrupt
            self.asked.append([example.text for example in examples])
        lengths = [len(example.text) for example in examples]
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        ids = np.zeros(mask.shape, np.int64)
        ids[mask] = np.frombuffer("".join(e.text for e in examples).encode(), np.uint8)
        values = {}
        for name in names:
            one = FeatureName.parse(name)
            out = np.zeros((len(examples), *one.shape(SHAPE, mask.shape[1])), np.float32)
            for row, length in enumerate(lengths):
                shape = one.shape(SHAPE, length)
                generator = np.random.default_rng([*ids[row, :length].tolist(), one.layer, len(one.kind)])
                out[(row, *map(slice, shape))] = self.scale * generator.standard_normal(shape)
            values[name] = out
        return Features(ids, mask, values)


def rows_of(tmp_path, texts):
    return write_rows(tmp_path / "train.arrow", TASK, [[Example("mood", text, label=0) for text in texts]])


def test_the_bytes_are_those_of_the_files(tmp_path):
    rows = rows_of(tmp_path, ["a", "good film", "it"])
    folder = store_features(Spelling(), rows, NAMES, tmp_path / "store")
    found = {path.stem.replace("-", "/"): np.load(path).nbytes for path in folder.glob("*-*.npy")}
    for name in NAMES:
        assert features.stored_bytes([name], SHAPE, np.array([9, 2, 1])) == found[name] > 0
    assert features.stored_bytes(NAMES, SHAPE, np.array([9, 2, 1])) == sum(found.values())
    # By hand: 4 features of float16 for each of 12 tokens.
    assert features.stored_bytes(["hidden/2"], SHAPE, np.array([9, 2, 1])) == 2 * 4 * 12


TEXTS = ["a", "good film", "so so", "an awful plot", "it"] * 2 + ["b" * n for n in range(1, 60)]


@pytest.fixture
def few(monkeypatch):
    """Small batches and parts, so that there are several."""
    monkeypatch.setattr(features, "BATCH_ROWS", 4)
    monkeypatch.setattr(features, "PART_BATCHES", 2)


def same(found, expected, tolerance=0.0):
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    assert found.values.keys() == expected.values.keys()
    for name, values in expected.values.items():
        np.testing.assert_allclose(found.values[name], values, rtol=tolerance, atol=tolerance, err_msg=name)


def test_stored_states_are_the_live_ones_within_float16(tmp_path, few):
    rows, teacher = rows_of(tmp_path, TEXTS), Spelling()
    stored = StoredFeatures(store_features(teacher, rows, NAMES, tmp_path / "store"), rows.ids())
    assert sorted(text for call in teacher.asked for text in call) == sorted(set(TEXTS))  # each text once
    live = LiveFeatures(teacher, rows, stored.names)
    assert stored.names == NAMES and stored.shape == SHAPE == live.shape
    np.testing.assert_array_equal(stored.lengths(), [len(text) for text in TEXTS])
    np.testing.assert_array_equal(live.lengths(), stored.lengths())
    for some in ([0], [3, 1, 3, 40], list(range(len(TEXTS)))):
        same(stored.of(np.array(some)), live.of(np.array(some)), 2e-3)
    flat = stored.of(np.array([0, 8])).values["hidden/2"]
    assert flat.dtype == np.float32 and not flat[0, 1:].any()  # padding


@settings(max_examples=25)
@given(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=6))
def test_a_row_has_the_same_states_whatever_it_is_asked_with(tmp_path_factory, some):
    stored = shared(tmp_path_factory)
    found = stored.of(np.array(some))
    for place, row in enumerate(some):
        alone = stored.of(np.array([row]))
        for name in NAMES:
            one = alone.values[name][0]
            np.testing.assert_array_equal(found.values[name][(place, *map(slice, one.shape))], one)


_shared = {}


def shared(factory):
    if not _shared:
        folder = factory.mktemp("features")
        rows = rows_of(folder, TEXTS)
        _shared["stored"] = StoredFeatures(store_features(Spelling(), rows, NAMES, folder / "store"), rows.ids())
    return _shared["stored"]


def test_neither_order_nor_repeats_of_rows_change_what_is_stored(tmp_path, few):
    first = rows_of(tmp_path / "a", TEXTS)
    again = rows_of(tmp_path / "b", [*reversed(TEXTS), "it"])
    teacher = Spelling()
    folder = store_features(teacher, first, NAMES, tmp_path / "store")
    asked = len(teacher.asked)
    assert store_features(teacher, again, tuple(reversed(NAMES)), tmp_path / "store") == folder
    assert len(teacher.asked) == asked
    assert store_features(teacher, first, ("hidden/2",), tmp_path / "store") != folder
    stored = StoredFeatures(folder, again.ids())
    same(stored.of(np.array([len(TEXTS)])), StoredFeatures(folder, first.ids()).of(np.array([4])))


def test_what_a_stopped_process_has_finished_is_not_computed_again(tmp_path, few):
    rows = rows_of(tmp_path, TEXTS)
    straight = store_features(Spelling(), rows, NAMES, tmp_path / "straight")
    stopped = Spelling()
    stopped.fail_after = 7  # three parts of two calls, and one call more
    with pytest.raises(KeyboardInterrupt):
        store_features(stopped, rows, NAMES, tmp_path / "store")
    assert not list((tmp_path / "store").glob("*/*/features-*"))
    teacher = Spelling()
    folder = store_features(teacher, rows, NAMES, tmp_path / "store")
    assert stopped.asked[:6] + teacher.asked == calls(straight, rows)
    for file in sorted(straight.glob("*.npy")):
        assert file.read_bytes() == (folder / file.name).read_bytes(), file.name
    assert not list(folder.parent.glob("unfinished-*"))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(0, 20), st.integers(0, 2**31))
def test_any_number_of_processes_fill_the_same_bytes(tmp_path_factory, world_size, calls_before, seed):
    work = tmp_path_factory.mktemp("shares")
    rows, whole = rows_of(work, TEXTS), Spelling()
    asked, pauses, numbers, begun = [], random.Random(seed), itertools.count(), threading.Barrier(world_size)

    def turns():
        begun.wait(60)
        return iter(lambda: (time.sleep(pauses.random() / 1000), next(numbers))[1], None)

    def fill(teacher):
        features._fill(unfinished, teacher, features.Texts.of([rows]), NAMES, SHAPE, turns)
        return teacher.asked

    with pytest.MonkeyPatch.context() as few:
        few.setattr(features, "BATCH_ROWS", 4)
        few.setattr(features, "PART_BATCHES", 2)
        straight = store_features(whole, rows, NAMES, work / "straight")
        stopped = Spelling()
        stopped.fail_after = calls_before  # by one process, which others then go on from
        try:
            unfinished = store_features(stopped, rows, NAMES, work / "shared")
        except KeyboardInterrupt:
            (unfinished,) = (work / "shared").glob("*/*/unfinished-*")
            with ThreadPoolExecutor(world_size) as threads:
                asked = list(itertools.chain(*threads.map(fill, [Spelling() for _ in range(world_size)])))
    kept = stopped.asked[: len(stopped.asked) // 2 * 2] if asked else stopped.asked
    assert sorted(kept + asked) == sorted(whole.asked)  # each text once, with the same others
    for file in sorted(straight.glob("*.npy")):
        assert file.read_bytes() == (unfinished / file.name).read_bytes(), file.name


def calls(folder, rows):
    """What an unstopped teacher is asked, call by call."""
    teacher = Spelling()
    store_features(teacher, rows, NAMES, folder.parents[2] / "again")
    return teacher.asked


def test_a_full_disk_is_refused_with_the_size_before_the_teacher_works(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 5, 5))
    teacher = Spelling()
    with pytest.raises(InputError, match=r"take 0.0 GB in .*store.*, where 0.0 GB are free.*hidden_states: live"):
        store_features(teacher, rows_of(tmp_path, TEXTS), NAMES, tmp_path / "store")
    assert not teacher.asked


def test_what_float16_cannot_hold_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(InputError, match=r"values that float16 cannot hold.*hidden_states: live"):
        store_features(Spelling(1e6), rows_of(tmp_path, TEXTS), ("first/1",), tmp_path / "store")


def test_a_damaged_folder_is_named(tmp_path):
    rows = rows_of(tmp_path, TEXTS)
    folder = store_features(Spelling(), rows, NAMES, tmp_path / "store")
    with pytest.raises(WorkError, match="lacks hidden states of some rows"):
        StoredFeatures(folder, rows_of(tmp_path / "other", ["unknown"]).ids())
    (folder / "hidden-2.npy").write_bytes((folder / "hidden-2.npy").read_bytes()[:-40])
    with pytest.raises(WorkError, match=f"{re.escape(str(folder))}: the hidden states are damaged"):
        StoredFeatures(folder, rows.ids())


@pytest.mark.parametrize("name", ["hidden", "hidden/", "hidden/x", "state/1", "attention/0", "values/0", "hidden/-1"])
def test_what_is_no_feature_is_said(name):
    with pytest.raises(ValueError, match=r"is no feature|embeddings"):
        FeatureName.parse(name)


def test_names_know_their_shapes():
    shapes = {name: FeatureName.parse(name).shape(SHAPE, 5) for name in NAMES}
    assert shapes["first/0"] == (3,) and shapes["first/2"] == (4,) and shapes["hidden/0"] == (5, 3)
    assert shapes["attention/1"] == (2, 5, 5) and shapes["keys/1"] == (2, 5, 2)
    assert [name for name in NAMES if not by_token(name)] == ["first/0", "first/2"]
    with pytest.raises(ValueError, match="there are 2 layers"):
        FeatureName.parse("hidden/3").shape(SHAPE, 5)
    with pytest.raises(ValueError, match="no attention"):
        FeatureName.parse("attention/1").shape(Shape(2, 4), 5)
