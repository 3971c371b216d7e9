"""Shares of a batch that take as long as each other."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdtoolkit.data.even_shares import even_cuts


def largest(lengths, bounds):
    return max((b - a) * (max(lengths[a:b]) + 1) for a, b in pairwise(bounds))


@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=9), shares=st.integers(1, 4), ordered=st.booleans())
def test_no_cut_has_a_smaller_largest_share(lengths, shares, ordered):
    shares = min(shares, len(lengths))
    lengths = sorted(lengths) if ordered else lengths
    bounds = even_cuts(np.array(lengths, np.int32), shares).tolist()
    assert bounds[0] == 0 and bounds[-1] == len(lengths) and all(a < b for a, b in pairwise(bounds))
    every = ([0, *inner, len(lengths)] for inner in combinations(range(1, len(lengths)), shares - 1))
    assert largest(lengths, bounds) == min(largest(lengths, other) for other in every)


def test_long_rows_are_fewer():
    assert even_cuts(np.array([1] * 9 + [29]), 2).tolist() == [0, 9, 10]
    assert even_cuts(np.array([4] * 8), 4).tolist() == [0, 2, 4, 6, 8]
