"""Batches made before they are asked for: the same, in order, no more than there is room for, errors in their place."""

from __future__ import annotations

import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtoolkit.training import upcoming
from kdtoolkit.training.upcoming import Upcoming, idle


class Lack(MemoryError):
    """An error that can be referred to weakly."""


def numbers(count, made, fails=None):
    for number in range(count):
        if number == fails:
            raise Lack(f"at {number}")
        made.append(number)
        yield number


@given(st.integers(0, 40), st.integers(1, 20), st.integers(1, 9), st.lists(st.integers(0, 3), max_size=60))
def test_items_come_in_order_whenever_they_are_made(count, lot, size, between):
    """between: how often, before each item is asked for, there is time to make one."""
    made, found = [], []
    items = Upcoming(numbers(count, made), lambda _: size, lot=lot)
    room = min(lot, -(-upcoming.BYTES // size))
    while True:
        for _ in range(between.pop() if between else 0):
            before = len(made)
            assert items.ahead() == (len(made) == before + 1)
            assert len(made) - len(found) <= room
        try:
            found.append(next(items))
        except StopIteration:
            break
        assert 1 <= len(made) - len(found) + 1 <= room
    assert found == made == list(range(count))
    with pytest.raises(StopIteration):
        next(items)


def test_one_at_a_time_nothing_is_made_ahead():
    made = []
    items = Upcoming(numbers(5, made), lambda _: 1, lot=1)
    for number in range(5):
        assert not items.ahead() and len(made) == number
        assert next(items) == number


@pytest.mark.parametrize(("size", "count"), [(1, upcoming.LOT), (upcoming.BYTES // 4, 4), (3 * upcoming.BYTES, 1)])
def test_no_more_is_made_than_there_is_room_for(size, count):
    made = []
    items = Upcoming(numbers(100, made), lambda _: size)
    assert next(items) == 0 and len(made) == count
    for number in range(1, count):
        assert next(items) == number and len(made) == count  # the next lot when this one is used up
    assert next(items) == count and len(made) == 2 * count


@pytest.mark.parametrize("ahead", [True, False])
def test_an_error_comes_where_its_item_would_and_is_not_kept(ahead):
    items, found = Upcoming(numbers(9, [], fails=3), lambda _: 1), []
    while ahead and items.ahead():
        pass
    held = None
    try:
        while True:
            found.append(next(items))
    except Lack as error:
        assert str(error) == "at 3"
        held = weakref.ref(error)
    assert found == [0, 1, 2] and held is not None and held() is None
    with pytest.raises(StopIteration):
        next(items)


def test_what_is_closed_makes_nothing_more():
    made = []
    items = Upcoming(numbers(99, made), lambda _: 1)
    next(items)
    items.close()
    assert len(made) == upcoming.LOT
    assert not idle()
