"""Work done ahead: in order, no further ahead than asked, errors in their place, nothing left running."""

from __future__ import annotations

import threading

import pytest

from kdtoolkit.ahead import ahead


@pytest.mark.parametrize("by", [0, 1, 3, 20])
def test_results_come_in_order_whatever_is_ahead(by):
    assert list(ahead(lambda number: number * number, range(9), by=by)) == [n * n for n in range(9)]
    assert list(ahead(str, [], by=by)) == []


@pytest.mark.parametrize("by", [0, 1, 3])
def test_no_more_is_done_than_asked(by):
    begun: list[int] = []
    done = threading.Event()

    def note(number):
        begun.append(number)
        if len(begun) == by + 1:
            done.set()
        return number

    results = ahead(note, range(100), by=by)
    assert next(results) == 0
    done.wait(10)
    assert begun == list(range(by + 1))
    results.close()
    assert begun == list(range(by + 1))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("by", [0, 2])
def test_an_error_comes_where_its_result_would(by, error):
    def fails(number):
        if number == 3:
            raise error("three")
        return number

    found = []
    with pytest.raises(error, match="three"):
        for number in ahead(fails, range(9), by=by):
            found.append(number)
    assert found == [0, 1, 2]


def test_the_thread_ends_with_the_work():
    results = ahead(lambda number: number, range(9), by=2)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("kdtoolkit-ahead")]


def test_while_one_is_used_the_next_is_made():
    used = threading.Event()

    def make(number):
        if number == 1:
            assert used.wait(10)
        return number

    results = ahead(make, range(3), by=1)
    first = next(results)  # the second waits for it to be used, and is under way
    used.set()
    assert [first, *results] == [0, 1, 2]
