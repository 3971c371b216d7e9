"""The teacher's hidden states in a batch: where they belong, and never at other tokens than the student's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdtoolkit.data.collate import Collator, TaskArrays
from kdtoolkit.data.features import RowFeatures
from kdtoolkit.data.tokens import write_arrays
from kdtoolkit.errors import WorkError
from kdtoolkit.feature_name import FeatureName
from kdtoolkit.shape import Shape
from kdtoolkit.tasks import Task
from kdtoolkit.tokenizers import JointTemplate

TEMPLATE = JointTemplate((2,), (3,), (3,))
TASKS = [Task("single", labels=("no", "yes"), pair=False), Task("pairs", labels=("no", "yes"), pair=True),
         Task("plain", labels=("no", "yes"), pair=False)]  # fmt: skip
LENGTHS = {"single": [[3], [1], [5], [2]], "pairs": [[1, 2], [4, 1], [2, 2]], "plain": [[6], [1]]}


class Known:
    """Features that tell task, row, token and name."""

    shape, together = Shape(2, 4, 2), False

    def __init__(self, number, lengths, names):
        self.number, self._lengths, self.names = number, np.array(lengths), names

    def lengths(self):
        return self._lengths

    def of(self, rows):
        lengths = self._lengths[rows]
        values = {}
        for name in self.names:
            one = FeatureName.parse(name)
            values[name] = np.zeros((len(rows), *one.shape(self.shape, lengths.max(initial=1) + 2)), np.float32)
            for place, (row, length) in enumerate(zip(rows, lengths)):
                shape = one.shape(self.shape, length)
                values[name][(place, *map(slice, shape))] = self.item(row, name, shape)
        return RowFeatures(lengths, values)

    def item(self, row, name, shape):
        seed = [self.number, int(row), one_number(name)]
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def one_number(name):
    return sum(name.encode())


def arrays(folder, sources, featured=None):
    made = []
    for task in TASKS:
        texts = np.array([length for row in LENGTHS[task.name] for length in row])
        ids = np.arange(4, 4 + texts.sum(), dtype=np.int32)
        meta = {"rows": len(LENGTHS[task.name]), "texts_per_row": 1 + task.pair, "max_tokens": 12}
        tokens = write_arrays(folder / task.name, [(ids, texts)], 90, {**meta, "fingerprint": "", "rows_digest": ""},
                              lambda: 0)  # fmt: skip
        made.append(
            TaskArrays(tokens, np.zeros(len(tokens), np.float32), features=sources.get(task.name),
                       featured=(featured or {}).get(task.name))
        )  # fmt: skip
    return made


def sources(names):
    special = {"single": 2, "pairs": 3}
    return {
        task: Known(number, [sum(row) + special[task] for row in LENGTHS[task]], names)
        for number, task in enumerate(special)
    }


def test_each_row_gets_its_own_states_padded_to_the_batch(tmp_path):
    names = ("first/1", "hidden/2", "attention/1", "keys/2")
    of = sources(names)
    collator = Collator(TASKS, arrays(tmp_path, of), TEMPLATE, pairs="joint")
    assert [lengths.tolist() for lengths in collator.lengths()] == [[5, 3, 7, 4], [6, 8, 7], [8, 3]]
    for chosen in ([2, 0], [5, 4], [7, 6, 1, 8, 3], [3]):
        batch = collator(np.array(chosen))
        time = batch.tokens.ids.shape[1]
        assert batch.featured.tolist() == [row < 7 for row in chosen]
        for place, row in enumerate(chosen):
            task, own = ("single", row) if row < 4 else ("pairs", row - 4)
            for name in names:
                found, one = batch.features[name][place].numpy(), FeatureName.parse(name)
                assert found.shape == one.shape(Known.shape, time)
                expected = np.zeros_like(found)
                if row < 7:
                    shape = one.shape(Known.shape, of[task].lengths()[own])
                    expected[tuple(map(slice, shape))] = of[task].item(own, name, shape)
                np.testing.assert_array_equal(found, expected)
    moved = batch.to("cpu")
    assert torch.equal(moved.features["first/1"], batch.features["first/1"]) and moved.featured is not None


def test_without_a_task_that_has_them_there_are_none(tmp_path):
    collator = Collator(TASKS, arrays(tmp_path, sources(("first/1",))), TEMPLATE, pairs="joint")
    batch = collator(np.array([7, 8]))
    assert batch.features is None and batch.featured is None


def test_sources_that_are_asked_together_are_asked_for_every_batch_in_the_order_of_the_tasks(tmp_path, monkeypatch):
    asked = []
    usual = Known.of
    monkeypatch.setattr(Known, "of", lambda known, rows: asked.append((known.number, len(rows))) or usual(known, rows))
    of = sources(("hidden/1",))
    collator = Collator(TASKS, arrays(tmp_path, of), TEMPLATE, pairs="joint")
    assert not collator.together
    alone = collator(np.array([4, 5])).features["hidden/1"]
    assert asked == [(1, 2)]
    of["single"].together = of["pairs"].together = True
    assert collator.together
    for chosen, counts in (([4, 5], (0, 2)), ([2, 8], (1, 0)), ([5, 1, 2], (2, 1)), ([7, 8], (0, 0)), ([], (0, 0))):
        asked.clear()
        batch = collator(np.array(chosen, np.int64))
        assert asked == list(enumerate(counts))
        assert int(batch.featured.sum()) == sum(counts)
    assert torch.equal(collator(np.array([4, 5])).features["hidden/1"], alone)


def test_rows_that_are_not_featured_are_zero_and_said(tmp_path):
    mask = np.array([True, False, True, True])
    collator = Collator(TASKS, arrays(tmp_path, sources(("first/1",)), {"single": mask}), TEMPLATE, pairs="joint")
    batch = collator(np.array([1, 2]))
    assert batch.featured.tolist() == [False, True]
    assert not batch.features["first/1"][0].any() and batch.features["first/1"][1].any()


def test_a_row_of_other_tokens_is_named_where_tokens_are_compared(tmp_path):
    of = sources(("hidden/1",))
    of["single"]._lengths[2] += 1
    collator = Collator(TASKS, arrays(tmp_path, of), TEMPLATE, pairs="joint")
    collator(np.array([0, 1]))
    with pytest.raises(WorkError, match=r"task 'single', row 3 of train: the teacher reads 8 tokens and the student 7"):
        collator(np.array([0, 2]))


def test_states_of_whole_texts_suit_a_student_that_reads_other_tokens(tmp_path):
    of = sources(("first/1",))
    of["single"]._lengths += 4
    collator = Collator(TASKS, arrays(tmp_path, of), TEMPLATE, pairs="separate")
    batch = collator(np.array([5, 6]))
    assert batch.features["first/1"].shape == (2, 4) and batch.tokens.ids.shape[0] == 4


@pytest.mark.parametrize("other", [Shape(3, 8, 4), Shape(2, 2, 1)], ids=["wider", "narrower"])
def test_teachers_of_different_sizes_meet_in_a_batch(tmp_path, other):
    names = ("first/1", "hidden/2", "attention/1", "keys/2")
    of = sources(names)
    of["pairs"].shape = other
    batch = Collator(TASKS, arrays(tmp_path, of), TEMPLATE, pairs="joint")(np.array([5, 2, 7]))
    for place, (task, own) in enumerate([("pairs", 1), ("single", 2)]):
        for name in names:
            shape = FeatureName.parse(name).shape(of[task].shape, of[task].lengths()[own])
            expected = np.zeros_like(batch.features[name][place].numpy())
            expected[tuple(map(slice, shape))] = of[task].item(own, name, shape)
            np.testing.assert_array_equal(batch.features[name][place].numpy(), expected)
