"""Which layer of the teacher a layer of the student learns from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtoolkit.objectives.terms.layers import layer_map, one_layer


@pytest.mark.parametrize(
    ("rule", "student", "teacher", "last", "expected"),
    [
        # TinyBERT: 4 layers of 12.
        ("uniform", 4, 12, True, [3, 6, 9, 12]),
        # PKD-Skip and PKD-Last: 6 layers of 12, the last one left out.
        ("uniform", 6, 12, False, [2, 4, 6, 8, 10]),
        ("last", 6, 12, False, [7, 8, 9, 10, 11]),
        ("last", 3, 12, True, [10, 11, 12]),
        ("first", 3, 12, True, [1, 2, 3]),
        ("uniform", 2, 3, True, [2, 3]),
        ("uniform", 1, 7, True, [7]),
        ([5, 1, 5], 3, 6, True, [5, 1, 5]),
        ([12], 2, 12, False, [12]),
    ],
)
def test_maps_of_the_papers(rule, student, teacher, last, expected):
    count = student if last else student - 1
    assert layer_map(rule, student, teacher, last=last) == list(zip(range(1, count + 1), expected))


@given(st.integers(1, 24), st.integers(0, 24), st.sampled_from(["uniform", "last", "first"]))
def test_maps_rise_and_stay_within_the_teacher(student, more, rule):
    layers = [layer for _, layer in layer_map(rule, student, student + more)]
    assert layers == sorted(set(layers))
    assert layers[0] >= 1 and layers[-1] <= student + more
    assert (layers[-1] == student + more) or rule == "first"
    assert more or layers == list(range(1, student + 1))


@pytest.mark.parametrize(
    ("rule", "student", "teacher", "last", "message"),
    [
        ("unifrom", 2, 4, True, "'unifrom' is unknown; one of: uniform, last, first, or a list"),
        ("last", 3, 2, True, r"the student has 3 layers and the teacher 2.*layers: \[1, 2, 2\]"),
        ([1, 2], 3, 4, True, "2 given, and 3 of the student's layers learn"),
        ([1, 5], 2, 4, True, "the teacher has no layer 5; it has 1 to 4"),
        ([0, 1], 2, 4, True, "the teacher has no layer 0"),
        ("last", 1, 4, False, "has none below its last; use a deeper student"),
    ],
)
def test_maps_that_do_not_fit_are_refused(rule, student, teacher, last, message):
    with pytest.raises(ValueError, match=message):
        layer_map(rule, student, teacher, last=last)


def test_no_layer_named_is_the_last():
    assert one_layer("layer", None, 12) == 12
    with pytest.raises(ValueError, match="layer: the teacher has no layer 13; it has 1 to 12"):
        one_layer("layer", 13, 12)
