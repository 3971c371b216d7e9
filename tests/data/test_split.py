"""Holding rows out of train: by text, by seed, and never a text on two sides."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.data.split import LEAST_CALIBRATION_ROWS, Role, assign_roles, held_out
from kdtoolkit.example import example_id


def ids_of(numbers):
    return np.array([example_id(str(number)) for number in numbers], dtype="S16")


plans = {
    "numbers": st.lists(st.integers(0, 900), min_size=10, max_size=900),
    "seed": st.integers(0, 9),
    "hold_out_dev": st.booleans(),
    "gold_rows": st.none() | st.integers(0, 900),
    "transfer_rows": st.none() | st.integers(0, 900),
    "calibration_rows": st.integers(0, 90),
}


@settings(max_examples=150, deadline=None)
@given(data=st.data(), **plans)
def test_no_text_is_on_two_sides_and_the_counts_hold(
    data, numbers, seed, hold_out_dev, gold_rows, transfer_rows, calibration_rows
):
    ids = ids_of(numbers)
    labelled = np.random.default_rng(seed).random(len(ids)) < data.draw(st.sampled_from([1.0, 0.9, 0.3]))
    roles, held = assign_roles(
        ids, labelled, seed=seed, hold_out_dev=hold_out_dev, gold_rows=gold_rows, transfer_rows=transfer_rows,
        calibration_rows=calibration_rows,
    )  # fmt: skip
    sides = {role: set(ids[roles == role].tolist()) for role in (Role.DEV, Role.CALIBRATION)}
    trained = set(ids[(roles == Role.GOLD) | (roles == Role.TRANSFER)].tolist())
    assert not sides[Role.DEV] & sides[Role.CALIBRATION]
    assert not trained & (sides[Role.DEV] | sides[Role.CALIBRATION])
    assert set(held.tolist()) == sides[Role.DEV] | sides[Role.CALIBRATION]
    count = {role: int((roles == role).sum()) for role in Role}
    assert labelled[(roles == Role.DEV) | (roles == Role.CALIBRATION)].all()
    assert count[Role.DEV] <= labelled.sum() // 10 and (hold_out_dev or not count[Role.DEV])
    assert count[Role.CALIBRATION] == 0 or LEAST_CALIBRATION_ROWS <= count[Role.CALIBRATION] <= calibration_rows
    if gold_rows is None:
        assert not count[Role.TRANSFER]
    else:
        assert count[Role.GOLD] + count[Role.CALIBRATION] <= gold_rows
        assert transfer_rows is None or count[Role.TRANSFER] <= transfer_rows


def test_without_holding_out_gold_rows_come_first_then_transfer_rows():
    roles, _ = assign_roles(ids_of(range(100)), np.ones(100, bool), seed=0, hold_out_dev=False, gold_rows=30,
                            transfer_rows=50, calibration_rows=0)  # fmt: skip
    assert roles.tolist() == [Role.GOLD] * 30 + [Role.TRANSFER] * 50 + [Role.OUT] * 20


def test_the_choice_depends_on_texts_and_seed_not_on_order():
    ids = ids_of(range(1000))
    chosen = held_out(ids, 100, 0, "dev")
    assert len(chosen) == 100
    np.testing.assert_array_equal(chosen, held_out(ids[::-1], 100, 0, "dev"))
    assert set(chosen.tolist()) != set(held_out(ids, 100, 1, "dev").tolist())
    assert set(chosen.tolist()) != set(held_out(ids, 100, 0, "calibration").tolist())


def test_dev_does_not_depend_on_how_many_rows_keep_their_label():
    ids, labelled = ids_of(range(1000)), np.ones(1000, bool)
    dev = [
        assign_roles(ids, labelled, seed=3, hold_out_dev=True, gold_rows=n, transfer_rows=None, calibration_rows=50)[0]
        == Role.DEV
        for n in (None, 10, 700)
    ]
    assert dev[0].sum() == 100
    assert all((dev[0] == other).all() for other in dev)


def test_an_id_that_ends_in_zero_bytes_is_an_id_like_any_other():
    ids = np.frombuffer(bytes(15) + b"\1" + bytes(16) + b"\1" + bytes(15), dtype="S16")
    assert len(held_out(ids, 3, 0, "dev")) == 3
    assert held_out(ids, 3, 0, "dev").dtype == "S16"


def test_calibration_is_a_tenth_or_less_and_none_if_that_is_too_little():
    def rows(n, wanted):
        roles, _ = assign_roles(ids_of(range(n)), np.ones(n, bool), seed=0, hold_out_dev=False, gold_rows=None,
                                transfer_rows=None, calibration_rows=wanted)  # fmt: skip
        return int((roles == Role.CALIBRATION).sum())

    assert [rows(499, 500), rows(500, 500), rows(3000, 200), rows(3000, 49), rows(3000, 0)] == [0, 50, 200, 0, 0]
