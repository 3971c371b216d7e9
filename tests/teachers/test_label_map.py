"""Label names are reconciled by name, never by position."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.errors import InputError
from kdtoolkit.tasks import GLUE
from kdtoolkit_teachers.label_map import explicit, generic, identity, reconcile

MNLI = GLUE["mnli"].labels


@given(st.permutations(range(5)), st.lists(st.text(min_size=1), min_size=5, max_size=5, unique=True))
@settings(max_examples=50, deadline=None)
def test_columns_follow_their_names_whatever_the_order(order, labels):
    outputs = torch.arange(10.0).view(2, 5)
    shuffled = outputs[:, list(order)]
    names = [labels[column] for column in order]
    found = reconcile(names, labels)
    assert found is not None
    torch.testing.assert_close(found.apply(shuffled), outputs)


@pytest.mark.parametrize(
    ("names", "task"),
    [
        (["ENTAILMENT", "NEUTRAL", "CONTRADICTION"], "mnli"),
        (["contradictory", "neutral", "entail"], "mnli"),
        (["POS", "NEG"], "sst2"),
        (["not entailment", "Entailment"], "rte"),
        (["not-equivalent", "EQUIVALENT"], "mrpc"),
        (["duplicate", "Not_Duplicate"], "qqp"),
    ],
)
def test_case_punctuation_and_known_synonyms_do_not_matter(names, task):
    found = reconcile(names, GLUE[task].labels)
    assert found is not None
    assert sorted(column for (column,) in found.columns) == list(range(len(names)))


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["LABEL_0", "LABEL_1"], ("negative", "positive")),
        (["negative", "neutral", "positive"], ("negative", "positive")),
        (["sadness", "joy"], ("negative", "positive")),
        (["a", "a"], ("a", "b")),
        ([], ()),
    ],
)
def test_other_names_have_no_map(names, labels):
    found = reconcile(names, labels)
    assert found is None or not labels


def test_a_generic_name_is_its_number_and_nothing_else():
    found = reconcile(["LABEL_1", "LABEL_0"], ("0", "1"))
    assert found is not None and found.columns == ((1,), (0,))
    assert reconcile(["LABEL_0", "LABEL_1"], ("1", "2")) is None
    assert generic(["LABEL_0", "label_1"]) and not generic(["LABEL_0", "positive"]) and not generic([])


def test_names_that_differ_in_punctuation_alone_are_kept_apart():
    found = reconcile(["C++", "C", "C#"], ("C", "C#", "C++"))
    assert found is not None and found.columns == ((1,), (2,), (0,))


def test_merged_columns_add_their_probabilities():
    outputs = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
    three_to_two = {"entailment": "entailment", "neutral": "not_entailment", "contradiction": "not_entailment"}
    found = explicit(MNLI, GLUE["rte"].labels, three_to_two, "here", merge=True)
    probabilities = outputs.softmax(1)
    expected = torch.stack([probabilities[:, 0], probabilities[:, 1] + probabilities[:, 2]], 1)
    torch.testing.assert_close(found.apply(outputs).softmax(1), expected)


def test_a_written_map_takes_names_and_numbers():
    labels = ("negative", "positive")
    for given_map in (
        {"LABEL_0": "positive", "LABEL_1": "negative"},
        {0: "positive", 1: "Negative"},
        {"0": "pos", "1": "neg"},
    ):
        assert explicit(["LABEL_0", "LABEL_1"], labels, given_map, "here", merge=True).columns == ((1,), (0,))


@pytest.mark.parametrize(
    ("given_map", "message"),
    [
        ({"sad": "negative", "joy": "positive"}, "has no label 'joy'; did you mean 'joyful'"),
        ({"sad": "negative", "joyful": "positve"}, "has no label 'positve'; did you mean 'positive'"),
        ({"sad": "negative"}, "no checkpoint label stands for 'positive'"),
        ({"sad": "negative", "0": "positive"}, "named twice"),
        ({"sad": "negative", "angry": "negative", "joyful": "positive"}, "two checkpoint labels"),
    ],
)
def test_a_wrong_map_is_refused_with_the_way_out(given_map, message):
    with pytest.raises(InputError, match=message):
        explicit(["sad", "joyful", "angry"], ("negative", "positive"), given_map, "here", merge=False)


def test_identity_changes_nothing():
    outputs = torch.randn(3, 4)
    torch.testing.assert_close(identity(4).apply(outputs), outputs)
