"""The groups of a batch: candidates of a query get one number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdtoolkit import Task
from kdtoolkit.data.collate import Collator, TaskArrays, _copies
from kdtoolkit.data.rows import write_rows
from kdtoolkit.data.tokens import write_arrays
from kdtoolkit.example import Example
from kdtoolkit.pipeline.queries import query_groups
from kdtoolkit.tokenizers import JointTemplate

QNLI = Task("qnli", labels=("yes", "no"), text=("a", "b"))
SST2 = Task("sst2", labels=("bad", "good"), text=("s",))
WNLI = Task("wnli", labels=("yes", "no"), text=("a", "b"))


@given(st.lists(st.integers(0, 5), max_size=20))
def test_copies_are_counted_in_order(rows):
    assert _copies(np.array(rows, np.int64)).tolist() == [rows[:place].count(row) for place, row in enumerate(rows)]


def test_queries_are_the_equal_first_texts(tmp_path):
    texts = ["who?", "when?", "who?", "", "when?", "why? ", "why?"]
    examples = [Example("qnli", text, str(i), 0) for i, text in enumerate(texts)]
    rows = write_rows(tmp_path / "rows.arrow", QNLI, [examples])
    for chunk in (2, 4096):
        assert query_groups(rows, chunk=chunk).tolist() == [0, 1, 0, 3, 1, 5, 6]


@pytest.fixture
def collator(tmp_path):
    """Six rows of a task without groups, four of one with, four of another with."""

    def arrays(task, rows, groups):
        texts = 1 + bool(task.pair)
        meta = {"rows": rows, "texts_per_row": texts, "max_tokens": 4, "fingerprint": "", "rows_digest": ""}
        lengths = np.full(rows * texts, 2)
        tokens = write_arrays(
            tmp_path / task.name, [(np.full(2 * len(lengths), 5, np.int32), lengths)], 9, meta, lambda: 0
        )
        return TaskArrays(tokens, np.zeros(rows, np.float32), groups=None if groups is None else np.array(groups))

    some = [arrays(SST2, 6, None), arrays(QNLI, 4, [0, 1, 0, 0]), arrays(WNLI, 4, [0, 0, 2, 2])]
    return Collator([SST2, QNLI, WNLI], some, JointTemplate((2,), (3,), (3,)), pairs="separate")


def shared(batch):
    """For each row, which rows of the batch have its number."""
    return [(batch.groups == number).nonzero().squeeze(1).tolist() for number in batch.groups]


def test_rows_of_one_query_have_one_number_and_no_others_have_it(collator):
    batch = collator(np.array([6, 0, 8, 1, 7, 10, 12, 13]))
    assert shared(batch) == [[0, 2], [1], [0, 2], [3], [4], [5], [6, 7], [6, 7]]
    assert torch.equal(batch.to("cpu").groups, batch.groups)


def test_a_query_that_is_twice_in_a_batch_is_two_queries(collator):
    assert shared(collator(np.array([6, 8, 6, 9, 8]))) == [[0, 1, 3], [0, 1, 3], [2, 4], [0, 1, 3], [2, 4]]


def test_a_batch_of_tasks_without_groups_has_none(collator):
    assert collator(np.array([0, 3])).groups is None
    assert collator(np.array([], np.int64)).groups is None
