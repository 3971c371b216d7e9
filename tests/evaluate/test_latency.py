import time

import pytest
import torch

from kdtoolkit.evaluate import measure


def test_a_call_of_two_milliseconds_is_measured_as_such():
    sizes = []

    def predict(texts):
        sizes.append(len(texts))
        time.sleep(0.002)

    found = measure(predict, ["a", "b", "c"], seconds=0.6)
    assert 2.0 <= found["latency_ms"]["p50"] < 20
    assert found["latency_ms"]["p50"] <= found["latency_ms"]["p95"]
    assert 32 / 0.02 < found["rows_per_s"] <= 32 / 0.002
    assert set(sizes) == {1, 32}


def test_time_and_calls_are_bounded():
    start, calls = time.perf_counter(), []
    measure(lambda texts: (calls.append(1), time.sleep(0.05)), ["a"], seconds=0.2)
    assert time.perf_counter() - start < 1
    calls.clear()
    measure(lambda texts: calls.append(1), ["a"], calls=20)
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
