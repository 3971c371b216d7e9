"""Gold labels: classes are matched by name, and a cell that is no label says so."""

import pytest

from kdtoolkit.data.gold import GoldReader, LabelNames, number_of
from kdtoolkit.tasks import GLUE, Task

NLI = GLUE["mnli"]
TAGS = Task("tags", kind="multilabel", labels=("red", "green", "blue"))


def found(cells, kind="classification", stored=None):
    names = LabelNames(Task("own", kind=kind))
    for cell in cells:
        names.see(cell, stored)
    return names.names()


@pytest.mark.parametrize("cell", [1, 1.0, "1", "1.0", " 1 ", "neutral", "Neutral"])
def test_every_way_to_say_a_class_is_that_class(cell):
    assert GoldReader(NLI)(cell) == 1


@pytest.mark.parametrize("cell", [None, float("nan"), "", "  ", "-", "-1", -1, -1.0])
def test_every_way_to_say_nothing_is_no_label(cell):
    assert GoldReader(NLI)(cell) is None


@pytest.mark.parametrize("cell", ["contradicton", 3, "3", -2, 1.5, True, [1], {"a": 1}])
def test_what_is_no_class_of_the_task_is_refused(cell):
    with pytest.raises(ValueError, match="label"):
        GoldReader(NLI)(cell)


def test_a_mistyped_class_names_the_nearest_one():
    with pytest.raises(ValueError, match=r"is no label of the task; did you mean 'contradiction'\?"):
        GoldReader(NLI)("contradicton")
    with pytest.raises(ValueError, match="'x' does not occur in train; known: entailment, neutral, contradiction"):
        GoldReader(NLI, found=True)("x")


def test_an_integer_is_a_name_first_and_a_position_second():
    assert GoldReader(Task("stars", labels=("1", "2", "3")))(1) == 0
    assert GoldReader(Task("sides", labels=("-1", "1")))(-1) == 0
    with pytest.raises(ValueError, match="'0'"):
        GoldReader(Task("stars", labels=("1", "2", "3")))(0)


def test_integers_are_read_through_the_names_that_the_file_keeps():
    other_order = ("contradiction", "neutral", "entailment")
    assert [GoldReader(NLI, other_order)(n) for n in (0, 1, 2, -1)] == [2, 1, 0, None]
    with pytest.raises(ValueError, match="'other' is no label"):
        GoldReader(NLI, ("other", "neutral"))(0)


def test_names_that_differ_in_case_only_stay_apart():
    reader = GoldReader(Task("case", labels=("us", "US")))
    assert (reader("us"), reader("US")) == (0, 1)


def test_minus_is_a_class_where_it_is_called_so():
    assert GoldReader(Task("sign", labels=("+", "-")))("-") == 1
    assert found(["+", "-", "+"]) == ("+", "-")
    assert found(["b", "-", "a"]) == ("a", "b")


def test_names_are_sorted_and_whole_numbers_by_value():
    assert found(["10", "9", "-1", ""]) == ("-1", "9", "10")
    assert found([10, 9.0, None, float("nan")]) == ("9", "10")
    assert found(["b", "10", "a", "9"]) == ("10", "9", "a", "b")
    assert found([True, False]) == ("False", "True")
    assert found([1, 0], stored=("no", "yes")) == ("no", "yes")
    assert found([]) == ()


def test_labels_with_fractions_are_no_classes():
    with pytest.raises(ValueError, match="kind: regression"):
        found(["1", "2.5", "3"])
    with pytest.raises(ValueError, match="more than 10000 different labels"):
        found(range(10_001))


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        (["red", "blue"], (1, 0, 1)), ("blue|red", (1, 0, 1)), ("blue", (0, 0, 1)), (2, (0, 0, 1)),
        ([1, 0, 1], (1, 0, 1)), ("1|0|1", (1, 0, 1)), ([], (0, 0, 0)), ("|", (0, 0, 0)), ("", None), (None, None),
        ((0, 0, 0), (0, 0, 0)),
    ],
)  # fmt: skip
def test_a_multilabel_cell_is_names_or_zeros_and_ones(cell, label):
    assert GoldReader(TAGS)(cell) == label


def test_multilabel_names_are_found_in_lists():
    assert found([["b", "a"], [], ["c"]], "multilabel") == ("a", "b", "c")
    assert found(["b|a", "", "c"], "multilabel") == ("a", "b", "c")
    assert found([[0, 1, 0], [1, 1, 0]], "multilabel") == ("0", "1", "2")
    with pytest.raises(ValueError, match="'purple' is no label"):
        GoldReader(TAGS)(["red", "purple"])
    with pytest.raises(ValueError, match="empty name"):
        GoldReader(TAGS)(["red", None])


def test_a_regression_label_is_a_finite_number():
    assert [number_of(cell) for cell in ("1.5", " 2 ", 3, 4.5, "1e-3")] == [1.5, 2, 3, 4.5, 0.001]
    assert [number_of(cell) for cell in (None, "", "-", float("nan"))] == [None] * 4
    for cell in ("abc", "nan", "inf", float("inf"), True, [1]):
        with pytest.raises(ValueError, match="is not a number"):
            number_of(cell)
    # The hub marks the rows of STS-B's test split with -1; in any other task that is a number.
    assert GoldReader(GLUE["stsb"])(-1.0) is None
    assert GoldReader(Task("own", kind="regression"))(-1.0) == -1
