"""The plan of batches: what holds for any sizes, lengths, seed and number of ranks."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.data.batch_plan import MARGIN, BatchPlan
from kdtoolkit.schedule import Schedule

sizes = st.lists(st.integers(0, 60), min_size=1, max_size=5).filter(lambda rows: sum(rows) > 0)
exponents = st.sampled_from([0.0, 0.5, 0.75, 1.0, 1.5, Schedule(from_=1.0, to=0.0)])


def make(task_rows, *, longest=30, data_seed=0, **options):
    generator = np.random.default_rng(data_seed)
    lengths = [generator.integers(1, longest + 1, rows).astype(np.int32) for rows in task_rows]
    return BatchPlan(task_rows, lengths, **{"batch_rows": 8, "epochs": 2, "seed": 0, **options}), np.concatenate(
        lengths
    )


any_plan = st.fixed_dictionaries(
    {
        "task_rows": sizes,
        "batch_rows": st.integers(1, 40),
        "accumulate": st.integers(1, 3),
        "epochs": st.sampled_from([0.4, 1, 2, 2.5]),
        "seed": st.integers(0, 5),
        "exponent": exponents,
        "batch": st.sampled_from(["one_task", "mixed"]),
    }
)


def task_of(plan, rows):
    """Position of the task of each global row."""
    return np.searchsorted(np.cumsum(plan._task_rows), rows, side="right")


def epoch_rows(plan, epoch):
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    return np.concatenate([rows for step in steps for rows in plan.window(step).batches])


@settings(max_examples=80, deadline=None)
@given(any_plan)
def test_an_epoch_has_as_many_steps_as_its_rows_need_whatever_the_sampling(keys):
    plan, _ = make(**keys)
    rows, window = sum(keys["task_rows"]), keys["batch_rows"] * keys["accumulate"]
    assert plan.steps_per_epoch == math.ceil(rows / window)
    assert plan.steps == max(1, math.ceil(keys["epochs"] * plan.steps_per_epoch))


@settings(max_examples=80, deadline=None)
@given(any_plan)
def test_every_row_is_visited_exactly_as_often_as_planned(keys):
    plan, _ = make(**{**keys, "epochs": 3})
    for epoch in range(3):
        counts = np.bincount(epoch_rows(plan, epoch), minlength=plan.rows)
        np.testing.assert_array_equal(counts, plan.visits(epoch))
        assert counts.sum() == plan.rows
        ends = np.cumsum([0, *keys["task_rows"]])
        for task, rows in enumerate(keys["task_rows"]):
            own = counts[ends[task] : ends[task + 1]]
            assert own.sum() == plan.task_visits(epoch)[task]
            if rows:
                assert set(own) <= {own.sum() // rows, -(-own.sum() // rows)}
        if keys["exponent"] == 1.0:
            assert (counts == 1).all()


@settings(max_examples=50, deadline=None)
@given(any_plan, st.integers(1, 6))
def test_over_any_number_of_epochs_the_rows_of_a_task_differ_by_one_visit_at_most(keys, epochs):
    plan, _ = make(**{**keys, "epochs": epochs})
    total = sum(plan.visits(epoch) for epoch in range(epochs))
    ends = np.cumsum([0, *keys["task_rows"]])
    for a, b in itertools.pairwise(ends):
        assert a == b or np.ptp(total[a:b]) <= 1


@settings(max_examples=80, deadline=None)
@given(any_plan, st.integers(1, 7))
def test_any_split_over_ranks_is_the_same_global_window(keys, world_size):
    plan, lengths = make(**keys)
    for step in range(plan.steps):
        whole = plan.window(step)
        ranks = [plan.window(step, rank, world_size) for rank in range(world_size)]
        assert whole.planned_rows == sum(map(len, whole.batches)) == sum(len(b) for r in ranks for b in r.batches)
        for number, batch in enumerate(whole.batches):
            np.testing.assert_array_equal(np.concatenate([rank.batches[number] for rank in ranks]), batch)
        for rank in ranks:
            assert rank.planned_rows == whole.planned_rows and len(rank.batches) == len(whole.batches)
            for own, batch in zip(rank.batches, whole.batches):
                assert len(own) > 0 or len(batch) < world_size
                longest = lengths[batch].max() + 1
                assert len(own) * (lengths[own].max(initial=0) + 1) <= len(batch) * longest / world_size + longest


def test_ranks_get_as_many_tokens_each_with_padding_and_not_as_many_rows():
    lengths = np.arange(10, 110, dtype=np.int32)
    plan = BatchPlan([100], [lengths], batch_rows=100, epochs=1, seed=0)
    shares = [lengths[plan.window(0, rank, 3).batches[0]] for rank in range(3)]
    assert [len(share) for share in shares] == [46, 30, 24]
    padded = [len(share) * share.max() for share in shares]
    assert max(padded) < 1.06 * min(padded)


@settings(max_examples=40, deadline=None)
@given(any_plan, st.randoms(use_true_random=False))
def test_a_step_is_the_same_whatever_was_asked_before(keys, random):
    plan, _ = make(**keys)
    inorder = [plan.window(step).batches for step in range(plan.steps)]
    fresh, _ = make(**keys)
    for step in random.sample(range(plan.steps), plan.steps):
        for one, two in zip(fresh.window(step).batches, inorder[step], strict=True):
            np.testing.assert_array_equal(one, two)


@settings(max_examples=80, deadline=None)
@given(any_plan)
def test_micro_batches_are_never_empty_nor_larger_than_asked_but_for_a_margin(keys):
    plan, _ = make(**keys)
    asked, most = keys["batch_rows"], keys["batch_rows"] + keys["batch_rows"] // MARGIN
    for step in range(plan.steps):
        window = plan.window(step)
        assert all(0 < len(batch) <= most and batch.dtype == np.int32 for batch in window.batches)
        if window.planned_rows <= asked * keys["accumulate"]:
            assert max(map(len, window.batches)) <= asked
        if keys["batch"] == "mixed" or sum(rows > 0 for rows in keys["task_rows"]) == 1:
            assert window.planned_rows <= keys["batch_rows"] * keys["accumulate"]
            assert len(window.batches) <= keys["accumulate"]


@pytest.mark.parametrize("accumulate", [1, 4, 32])
def test_tasks_whose_steps_are_no_whole_number_cost_no_further_passes(accumulate):
    rows = 2222 * accumulate
    plan, _ = make([rows] * 8 + [rows + 2 * accumulate], batch_rows=32, accumulate=accumulate, epochs=1)
    windows = [plan.window(step) for step in range(plan.steps)]
    assert plan.steps == 625 and max(window.planned_rows for window in windows) > 32 * accumulate
    assert {len(window.batches) for window in windows} == {accumulate}
    assert max(len(batch) for window in windows for batch in window.batches) <= 33


@settings(max_examples=80, deadline=None)
@given(any_plan)
def test_a_batch_of_one_task_has_one_task_and_so_has_its_window_if_steps_suffice(keys):
    plan, _ = make(**{**keys, "batch": "one_task"})
    for step in range(plan.steps):
        tasks = [set(task_of(plan, batch).tolist()) for batch in plan.window(step).batches]
        assert all(len(of_batch) == 1 for of_batch in tasks)
        visited = sum(visits > 0 for visits in plan.task_visits(step // plan.steps_per_epoch))
        if visited <= plan.steps_per_epoch:
            assert len(set.union(*tasks)) == 1


def spread(plan, lengths, rows_of_step):
    return sum(int(np.ptp(lengths[rows_of_step(step)])) for step in range(plan.steps_per_epoch))


def whole_window(plan):
    return lambda step: np.concatenate(plan.window(step).batches)


@settings(max_examples=60, deadline=None)
@given(any_plan)
def test_batches_of_all_tasks_spread_no_more_than_the_longest_text(keys):
    # Sorted and cut, the spreads of all windows add up to at most the whole range.
    plan, lengths = make(**{**keys, "batch": "mixed", "epochs": 1})
    assert spread(plan, lengths, whole_window(plan)) <= np.ptp(lengths)


@settings(max_examples=60, deadline=None)
@given(any_plan)
def test_batches_of_one_task_spread_no_more_than_the_longest_text_a_pass(keys):
    plan, lengths = make(**{**keys, "batch": "one_task", "epochs": 1})
    passes = sum(-(-visits // rows) for visits, rows in zip(plan.task_visits(0), keys["task_rows"]) if rows)
    if sum(visits > 0 for visits in plan.task_visits(0)) <= plan.steps_per_epoch:
        assert spread(plan, lengths, whole_window(plan)) <= passes * 30


def test_shares_are_equal_at_exponent_zero_and_as_sizes_at_one():
    rows = [10, 1000, 90]
    assert make(rows, exponent=1.0)[0].task_visits(0) == rows
    assert sorted(make(rows, exponent=0.0)[0].task_visits(0)) == [366, 367, 367]
    shares = make(rows, exponent=0.75)[0].task_visits(0)
    powers = [n**0.75 for n in rows]
    assert all(abs(share - 1100 * p / sum(powers)) < 1 for share, p in zip(shares, powers))


def test_a_scheduled_exponent_goes_from_one_sampling_to_the_other():
    plan, _ = make([10, 90], exponent=Schedule(from_=1.0, to=0.0, end=0.6), epochs=3)
    assert plan.task_visits(0) == [10, 90] and plan.task_visits(2) == [50, 50]
    assert 10 < plan.task_visits(1)[0] < 50


def test_steps_are_shared_in_proportion_to_visits():
    plan, _ = make([800, 160, 1], epochs=1)
    steps = np.bincount([int(task_of(plan, plan.window(s).batches[0])[0]) for s in range(plan.steps)])
    assert steps.sum() == plan.steps == 121
    assert abs(steps[0] - 121 * 800 / 961) <= 1 and abs(steps[1] - 121 * 160 / 961) <= 1 and steps[2] == 1


def test_a_row_does_not_meet_its_own_copy_when_a_task_is_shown_many_times():
    plan, _ = make([40, 4000], exponent=0.0, epochs=1, batch_rows=8, longest=4)
    batches = [b for s in range(plan.steps) for b in plan.window(s).batches if b[0] < 40]
    repeated = sum(len(b) - len(np.unique(b)) for b in batches)
    assert sum(map(len, batches)) == 2020 and repeated < 0.1 * 2020  # only where one pass turns into the next


def test_epochs_and_seeds_differ():
    plan, _ = make([200], longest=1)
    other, _ = make([200], longest=1, seed=1)
    first, second, third = epoch_rows(plan, 0), epoch_rows(plan, 1), epoch_rows(other, 0)
    assert not np.array_equal(first, second) and not np.array_equal(first, third)


def test_windows_do_not_come_in_the_order_of_length():
    plan, lengths = make([800], epochs=1)
    means = [lengths[whole_window(plan)(step)].mean() for step in range(plan.steps)]
    assert abs(np.corrcoef(means, np.arange(plan.steps))[0, 1]) < 0.3


def test_a_fraction_of_an_epoch_is_not_lengthened_by_rounding():
    assert make([80], epochs=0.1 * 3)[0].steps == 3
    assert make([80], epochs=0.31)[0].steps == 4
    assert make([80], epochs=0.001)[0].steps == 1


@pytest.mark.parametrize(
    "keys", [{"task_rows": [0]}, {"task_rows": [3], "epochs": 0}, {"task_rows": [3], "batch_rows": 0},
             {"task_rows": [3], "batch": "other"}],
)  # fmt: skip
def test_nonsense_is_refused(keys):
    with pytest.raises(ValueError):
        make(**keys)
    plan, _ = make([3])
    for arguments in ((plan.steps,), (-1,), (0, 2, 2)):
        with pytest.raises(IndexError):
            plan.window(*arguments)


@pytest.mark.parametrize("batch", ["one_task", "mixed"])
def test_memory_is_a_few_integers_a_row(batch):
    rows = [300_000, 100_000]
    lengths = [np.random.default_rng(0).integers(1, 60, n).astype(np.int32) for n in rows]
    tracemalloc.start()
    try:
        plan = BatchPlan(rows, lengths, batch_rows=64, epochs=3, seed=0, exponent=0.5, batch=batch)
        plan.window(0)
        plan.window(plan.steps - 1)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 12 * sum(rows) and peak < 64 * sum(rows)


@settings(max_examples=60, deadline=None)
@given(any_plan, st.integers(1, 80))
def test_a_cap_counts_a_task_as_if_it_had_no_more_rows(keys, cap):
    plan, _ = make(**keys, cap=cap)
    total = sum(keys["task_rows"])
    for epoch in range(math.ceil(plan.steps / plan.steps_per_epoch)):
        assert sum(plan.task_visits(epoch)) == total
        power = plan._exponents(keys["exponent"])[epoch]
        weights = [min(rows, cap) ** power if rows else 0.0 for rows in keys["task_rows"]]
        for visits, weight in zip(plan.task_visits(epoch), weights):
            assert abs(visits - total * weight / sum(weights)) <= 1


def test_a_cap_by_hand_and_at_its_limits():
    assert make([90, 20, 10], cap=30)[0].task_visits(0) == [60, 40, 20]
    assert make([90, 20, 10], cap=1)[0].task_visits(0) == [40, 40, 40]
    assert make([90, 20, 10], cap=90)[0].task_visits(0) == [90, 20, 10]
    with pytest.raises(ValueError, match="cap"):
        make([3], cap=0)


@st.composite
def grouped_plan(draw, whole_epochs=False):
    """Keys of a plan, and its groups: every task but perhaps one has some, of 1 to 12 rows, in any order."""
    keys = draw(any_plan)
    if whole_epochs:
        keys = {**keys, "exponent": 1.0}
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    groups = []
    for place, rows in enumerate(keys["task_rows"]):
        sizes = generator.integers(1, draw(st.sampled_from([2, 4, 13])), rows + 1)
        numbers = np.repeat(np.arange(rows + 1), sizes)[:rows]
        groups.append(None if place == 1 else generator.permutation(numbers) * 7)
    return {**keys, "groups": groups}


def group_of(keys):
    """A number for the group of each global row; a row without one has a number of its own."""
    found, used = [], 0
    for rows, groups in zip(keys["task_rows"], keys["groups"]):
        numbers = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
        found.append(numbers + used)
        used += rows
    return np.concatenate(found)


@settings(max_examples=100, deadline=None)
@given(grouped_plan(whole_epochs=True), st.integers(1, 5))
def test_a_group_is_in_one_share_of_one_micro_batch(keys, world_size):
    plan, _ = make(**{**keys, "epochs": 1})
    groups = group_of(keys)
    large = set(np.flatnonzero(np.bincount(groups) > keys["batch_rows"]).tolist())
    homes = {}
    for step in range(plan.steps):
        for rank in range(world_size):
            for number, batch in enumerate(plan.window(step, rank, world_size).batches):
                for group in set(groups[batch].tolist()) - large:
                    homes.setdefault(group, set()).add((step, number, rank))
    assert all(len(where) == 1 for where in homes.values())
    assert plan.cut_groups == len(large)
    assert set(homes) | large == set(groups.tolist())


@settings(max_examples=80, deadline=None)
@given(grouped_plan(), st.integers(1, 5))
def test_what_holds_of_plans_without_groups_holds_with_them(keys, world_size):
    plan, _ = make(**keys)
    plain, _ = make(**{**keys, "groups": None})
    assert plan.steps == plain.steps and plan.steps_per_epoch == plain.steps_per_epoch
    for epoch in range(plan.steps // plan.steps_per_epoch):
        assert plan.task_visits(epoch) == plain.task_visits(epoch)
        np.testing.assert_array_equal(np.bincount(epoch_rows(plan, epoch), minlength=plan.rows), plan.visits(epoch))
        ends = np.cumsum([0, *keys["task_rows"]])
        assert all(a == b or np.ptp(plan.visits(epoch)[a:b]) <= 1 for a, b in itertools.pairwise(ends))
    for step in range(plan.steps):
        whole = plan.window(step)
        assert all(0 < len(batch) <= keys["batch_rows"] and batch.dtype == np.int32 for batch in whole.batches)
        assert whole.planned_rows == sum(map(len, whole.batches)) > 0
        ranks = [plan.window(step, rank, world_size) for rank in range(world_size)]
        for number, batch in enumerate(whole.batches):
            np.testing.assert_array_equal(np.concatenate([rank.batches[number] for rank in ranks]), batch)
        assert all(rank.planned_rows == whole.planned_rows for rank in ranks)
        if keys["batch"] == "one_task":
            assert all(len(set(task_of(plan, batch).tolist())) == 1 for batch in whole.batches)


@settings(max_examples=60, deadline=None)
@given(grouped_plan(), st.integers(2, 5))
def test_over_several_epochs_the_rows_of_a_grouped_task_differ_by_one_visit_at_most(keys, epochs):
    plan, _ = make(**{**keys, "epochs": epochs})
    total = sum(plan.visits(epoch) for epoch in range(epochs))
    ends = np.cumsum([0, *keys["task_rows"]])
    assert all(a == b or np.ptp(total[a:b]) <= 1 for a, b in itertools.pairwise(ends))


@settings(max_examples=60, deadline=None)
@given(grouped_plan())
def test_an_epoch_parts_two_groups_of_a_task_at_most(keys):
    plan, _ = make(**{**keys, "epochs": 1, "batch_rows": 20})
    visits, groups = plan.visits(0), group_of(keys)
    ends = np.cumsum([0, *keys["task_rows"]])
    for a, b in itertools.pairwise(ends):
        parted = [g for g in set(groups[a:b].tolist()) if np.ptp(visits[a:b][groups[a:b] == g])]
        assert len(parted) <= 2


def test_groups_of_one_row_each_are_no_groups():
    lone, _ = make([50, 30], groups=[np.arange(50)[::-1], None], accumulate=2)
    plain, _ = make([50, 30], accumulate=2)
    for step in range(plain.steps):
        assert lone.window(step).planned_rows == plain.window(step).planned_rows
    assert lone.cut_groups == 0


def test_windows_of_groups_are_nearly_equal():
    plan, _ = make([240], groups=[np.arange(240) // 3], batch_rows=16, epochs=1)
    sizes = [plan.window(step).planned_rows for step in range(plan.steps)]
    assert len(sizes) == 15 and all(abs(size - 16) <= 3 for size in sizes)


def test_groups_that_do_not_fit_the_rows_are_refused():
    for groups in ([None], [np.zeros(2), None]):
        with pytest.raises(ValueError, match="groups"):
            make([3, 4], groups=groups)
