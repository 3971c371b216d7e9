"""Cutting between groups, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kdtoolkit.data.whole_groups import nearest, split_large, starts_of, whole_cuts, whole_micros, whole_order


def test_large_groups_become_nearly_equal_parts():
    numbers, cut = split_large(np.array([5, 5, 9, 5, 5, 5, 2]), 2)
    assert cut == 1 and numbers.dtype == np.int32
    assert numbers.tolist() == [1, 1, 4, 2, 2, 3, 0]
    assert split_large(np.array([7, 7, 3]), 2) == (pytest.approx([1, 1, 0]), 0)


def test_units_are_ordered_by_their_largest_key_and_stay_together():
    order = whole_order(np.array([3, 9, 1, 4, 2]), np.array([8, 5, 8, 7, 5]), np.argsort)
    assert order.tolist() == [0, 2, 3, 1, 4]
    assert len(whole_order(np.array([]), np.array([]), np.argsort)) == 0


def test_cuts_lie_at_the_nearest_start_and_leave_a_unit_to_each():
    starts = starts_of(np.array([4, 4, 4, 1, 1, 0, 2, 2, 2, 2]))
    assert starts.tolist() == [0, 3, 5, 6, 10]
    assert whole_cuts(starts, 2).tolist() == [0, 5, 10]
    assert whole_cuts(starts, 3).tolist() == [0, 3, 6, 10]
    assert whole_cuts(starts, 4).tolist() == [0, 3, 5, 6, 10]
    assert whole_cuts(np.array([0, 8, 9, 10]), 3).tolist() == [0, 8, 9, 10]
    assert nearest(starts, np.array([0, 4, 8, 10])).tolist() == [0, 1, 3, 4]


def test_micro_batches_are_filled_in_turn_and_shared_between_units():
    starts = np.array([0, 3, 5, 6, 10])
    assert whole_micros(starts, 6, 0, 1) == [(0, 6), (6, 10)]
    assert whole_micros(starts, 5, 0, 1) == [(0, 5), (5, 10)]
    assert [whole_micros(starts, 6, rank, 2) for rank in (0, 1)] == [[(0, 3), (6, 6)], [(3, 6), (6, 10)]]
