import pytest
import torch

from kdtoolkit.evaluate import latency, measure


class Clock:
    """Time that passes only when a call says so: what is measured then does not depend on the machine."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    return clock


def test_a_call_of_two_milliseconds_is_measured_as_such(clock):
    sizes = []

    def predict(texts):
        sizes.append(len(texts))
        clock.now += 0.002 if len(texts) == 1 else 0.016

    found = measure(predict, ["a", "b", "c"], seconds=0.6)
    assert found["latency_ms"] == pytest.approx({"p50": 2.0, "p95": 2.0})
    assert found["rows_per_s"] == pytest.approx(2000)
    assert set(sizes) == {1, 32}


def test_time_and_calls_are_bounded(clock):
    calls = []

    def predict(texts):
        calls.append(1)
        clock.now += 0.05

    measure(predict, ["a"], seconds=0.2)
    assert clock.now < 1
    calls.clear()
    measure(predict, ["a"], seconds=1e6, calls=20)
    assert len(calls) <= 10 + 20 + 1 + 20


def test_one_thread_is_used_and_the_number_restored():
    before, seen = torch.get_num_threads(), set()
    torch.set_num_threads(2)
    try:
        measure(lambda texts: seen.add(torch.get_num_threads()), ["a"], calls=3)
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            measure(lambda texts: 1 / 0, ["a"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


def test_nothing_to_time_is_refused():
    with pytest.raises(ValueError, match="at least one text"):
        measure(len, [])
