"""Progress stays readable where there is no terminal, and silent where nobody listens."""

from __future__ import annotations

import logging

import pytest

from kdtoolkit import progress


@pytest.fixture
def listening(caplog):
    with caplog.at_level(logging.INFO, logger="kdtoolkit"):
        before, progress.log.propagate = progress.log.propagate, True
        yield caplog
        progress.log.propagate = before


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_without_a_terminal_there_is_a_line_every_ten_seconds_and_one_at_the_end(listening, clock):
    with progress.track("labelling", 100) as advance:
        for _ in range(100):
            clock.now += 0.25
            advance()
    assert [record.getMessage() for record in listening.records] == [
        "labelling: 40 of 100 rows, 4 rows/s, 15 s left",
        "labelling: 80 of 100 rows, 4 rows/s, 5 s left",
        "labelling: done: 100 rows, 4 rows/s, 25 s",
    ]


def test_a_short_job_says_one_line(listening):
    with progress.track("reading", None, "texts") as advance:
        advance(1000)
    assert len(listening.records) == 1
    assert listening.records[0].getMessage().startswith("reading: done: 1,000 texts")


def test_a_job_that_fails_says_how_far_it_came(listening):
    with pytest.raises(KeyError), progress.track("reading", 10) as advance:
        advance(3)
        raise KeyError("x")
    assert "stopped after 3" in listening.records[-1].getMessage()


def test_nothing_is_said_where_nobody_listens(caplog):
    with caplog.at_level(logging.WARNING, logger="kdtoolkit"), progress.track("reading", 10) as advance:
        advance()
    assert not caplog.records


def test_only_the_first_process_speaks(listening, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with progress.track("reading", 10) as advance:
        advance()
    assert not listening.records


def test_bars_within_bars_share_one_display(listening, monkeypatch):
    monkeypatch.setattr(progress, "_is_terminal", lambda: True)
    with progress.track("outer", 2) as outer:
        with progress.track("inner", None) as inner:
            inner(5)
        outer(2)
    assert not progress._running
    assert [record.getMessage().split(":")[0] for record in listening.records] == ["inner", "outer"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_times_are_said_as_people_say_them(seconds, said):
    assert progress.duration(seconds) == said
