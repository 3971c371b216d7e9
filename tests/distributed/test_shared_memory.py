"""Processes of one machine meet in memory that they share."""

from __future__ import annotations

import memory_cases
import pytest
from launched import launched


@pytest.mark.parametrize(
    ("case", "count"),  # three are more than CI has cores
    [("values", 3), ("races", 2), ("races", 3), ("meanwhile", 2), ("off", 2), ("no_room", 2), ("apart", 3)],
)
def test_what_each_has_all_see(case, count, tmp_path):
    done = launched(count, memory_cases.__file__, str(tmp_path), case, cwd=tmp_path)
    assert [each.code for each in done] == [0] * count, done
    assert not list(tmp_path.iterdir())  # the file has no name any more


def test_who_waits_for_a_dead_one_is_told(tmp_path):
    done = launched(3, memory_cases.__file__, str(tmp_path), "death", cwd=tmp_path)
    assert [each.code for each in done] == [5, 5, -9], done
    assert not list(tmp_path.iterdir())
