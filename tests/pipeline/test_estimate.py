"""Counts of steps and seconds, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdtoolkit import Example, Task
from kdtoolkit.data.rows import write_rows
from kdtoolkit.pipeline.estimate import (
    Estimate,
    Length,
    answering_seconds,
    duration,
    length,
    mean_tokens,
    memory_line,
    training_seconds,
    usual_rows,
)
from kdtoolkit.pipeline.trial import Trial
from kdtoolkit.recipe.load import recipe_from_dict

TRIAL = Trial(
    token_seconds=0.01, update_seconds=0.5, row_tokens=20, batch_rows=8, parameters=100, weights=400, gradients=400,
    state=800, token_activations=1e6,
)  # fmt: skip


def test_steps_and_visits_by_hand():
    assert length(100, epochs=2, batch_rows=8, accumulate=2) == Length(200, 14)
    assert length(100, epochs=2, batch_rows=8, accumulate=2, max_steps=3) == Length(48, 3)
    assert length(100, epochs=0.5, batch_rows=32) == Length(50, 2)


@example(rows=430, epochs=1.1, batch_rows=1, accumulate=1)
@given(st.integers(1, 5000), st.floats(0.1, 9), st.integers(1, 64), st.integers(1, 4))
def test_steps_are_those_of_the_batch_plan(rows, epochs, batch_rows, accumulate):
    from kdtoolkit.data.batch_plan import BatchPlan

    plan = BatchPlan(
        [rows], [np.ones(rows, np.int32)], batch_rows=batch_rows, accumulate=accumulate, epochs=epochs, seed=0,
        exponent=1.0, batch="one_task",
    )  # fmt: skip
    assert length(rows, epochs=epochs, batch_rows=batch_rows, accumulate=accumulate).steps == plan.steps


def test_seconds_are_those_of_the_tokens_and_of_the_updates():
    assert training_seconds(TRIAL, Length(200, 14), 20.0) == pytest.approx(200 * 20 * 0.01 + 14 * 0.5)
    assert answering_seconds(TRIAL, 30, 20.0) == pytest.approx(2.0)


def test_memory_is_that_of_a_batch_of_the_longest_text():
    assert "activations 0.8 GB (32 rows of 25 tokens)" in memory_line(TRIAL, 32, 25.0, "adamw")
    assert "activations 12.0 MB (4 rows of 3 tokens)" in memory_line(TRIAL, 4, 3.0, "adamw")


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [({}, (900 * 10 + 100 * 50) / 1000), ({"exponent": 0.0}, 30.0), ({"cap": 100}, 30.0),
     ({"exponent": 0.5}, (30 * 10 + 10 * 50) / 40), ({"exponent": {"from": 1.0, "to": 0.0}}, 20.0)],
)  # fmt: skip
def test_the_tokens_of_a_row_follow_the_sampler(sampler, expected):
    recipe = recipe_from_dict({"tasks": ["sst2", "rte"], "teachers": ["a/b"], "sampler": sampler})
    assert mean_tokens(recipe, {"sst2": 900, "rte": 100}, {"sst2": 10.0, "rte": 50.0}) == pytest.approx(expected)


def test_usual_rows_are_labelled_ones_of_about_mean_length(tmp_path):
    task = Task("mood", text=("text",), labels=("low", "high"))
    lengths = [1, 5, 9, 5, 6, 20, 1, 5]
    labels = [0, 1, 0, None, 1, 0, 1, 0]
    made = [Example("mood", "x" * n, None, label) for n, label in zip(lengths, labels)]
    rows = write_rows(tmp_path / "rows.arrow", task, [made])
    # Labelled ones are 1, 5, 9, 6, 20, 1, 5 long, 6.7 in the mean.
    assert usual_rows(rows, 3).tolist() == [1, 4, 7]
    bare = write_rows(tmp_path / "bare.arrow", task, [[Example("mood", "x" * n) for n in lengths]])
    assert usual_rows(bare, 2).tolist() == [1, 4]  # 6.5 in the mean
    assert len(usual_rows(rows, 100)) == 7


def test_the_sum_tells_its_parts_and_what_is_not_known():
    estimate = Estimate()
    for what, seconds in (("teaching", 3600.0), ("labelling", 30.0), ("teaching", 3600.0)):
        estimate.add(what, seconds)
    assert estimate.total() == "in all: about 2.0 h on this machine (teaching 2.0 h, labelling 30 s)"
    estimate.unknown = ["what x takes", "what x takes"]
    assert estimate.total().endswith("labelling 30 s), and what x takes")


def test_times_for_people():
    assert [duration(s) for s in (0.4, 89, 91, 5500, 200_000)] == ["0 s", "89 s", "2 min", "1.5 h", "2.3 days"]
