"""MiniLM and MiniLMv2: by hand, and what a softmax of relations does not see."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from term_cases import STUDENT, TEACHER, encoded, features_of, mask_of, seen_of

from kdtoolkit.objectives.terms.divergence import kl
from kdtoolkit.objectives.terms.minilm import MiniLM
from kdtoolkit.objectives.terms.minilmv2 import MiniLMv2
from kdtoolkit.objectives.terms.relations import regroup, relation, relation_divergence
from kdtoolkit.shape import Shape


def test_divergence_by_hand():
    # Two tokens, one head. First query: p = (3/4, 1/4), q = (1/2, 1/2); second: p = q.
    teacher = torch.tensor([[[[math.log(3.0), 0.0], [1.0, 1.0]]]])
    student = torch.tensor([[[[0.0, 0.0], [5.0, 5.0]]]])
    first = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    both, one = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    torch.testing.assert_close(relation_divergence(student, teacher, both), torch.tensor([first / 2]))
    # With one real token there is nothing to compare: its softmax is 1.
    torch.testing.assert_close(relation_divergence(student, teacher, one), torch.zeros(1))


def test_a_probability_of_zero_costs_nothing_whatever_the_other_side_says():
    log_p = torch.tensor([[0.0, -math.inf], [math.log(0.5), math.log(0.5)]])
    log_q = torch.tensor([[math.log(0.25), -math.inf], [math.log(0.25), math.log(0.75)]], requires_grad=True)
    value = kl(log_p, log_q)
    expected = [math.log(4), 0.5 * math.log(2) + 0.5 * math.log(2 / 3)]
    torch.testing.assert_close(value, torch.tensor(expected))
    value.sum().backward()
    torch.testing.assert_close(log_q.grad, -log_p.exp())


def test_relation_by_hand():
    states = torch.tensor([[[[1.0, 2.0, 2.0, 0.0], [0.0, 1.0, 0.0, 1.0]]]])
    torch.testing.assert_close(relation(states), torch.tensor([[[[4.5, 1.0], [1.0, 1.0]]]]))


def test_regrouping_lays_heads_side_by_side_and_cuts_them_anew():
    side_by_side = torch.arange(24.0).reshape(1, 2, 12)  # (rows, time, width)
    three = side_by_side.reshape(1, 2, 3, 4).transpose(1, 2)  # (rows, heads, time, head width)
    two = regroup(three, 2)
    assert two.shape == (1, 2, 2, 6)
    assert torch.equal(two[0, 1, 0], torch.arange(6.0, 12.0))
    assert torch.equal(regroup(two, 3), three) and torch.equal(regroup(side_by_side, 3), three)


@settings(max_examples=15, deadline=None)
@drawn(st.integers(0, 2**31))
def test_rotating_every_head_changes_no_relation(seed):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(2, 3, 4, 5, generator=generator)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    torch.testing.assert_close(relation(states @ rotation), relation(states), rtol=1e-4, atol=1e-4)


def test_a_constant_added_to_the_scores_of_a_token_changes_nothing():
    student, teacher, mask = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), mask_of((4, 2))
    shift = torch.randn(2, 3, 4, 1)
    value = relation_divergence(student, teacher, mask)
    torch.testing.assert_close(relation_divergence(student + shift, teacher - shift, mask), value)


def test_permuting_the_heads_of_both_sides_changes_nothing():
    student, teacher, mask = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), mask_of((4, 2))
    order = torch.tensor([2, 0, 1])
    value = relation_divergence(student, teacher, mask)
    torch.testing.assert_close(relation_divergence(student[:, order], teacher[:, order], mask), value)


def test_minilm_adds_attention_and_value_relation_of_the_last_layers():
    mask = mask_of()
    given, features = encoded(STUDENT, mask), features_of(TEACHER, mask)
    term = MiniLM(STUDENT, TEACHER)
    parts = relation_divergence(given.attentions[-1], features["attention/4"], mask)
    parts = parts + relation_divergence(relation(given.values[-1]), relation(features["values/4"]), mask)
    torch.testing.assert_close(term.loss(seen_of(term, given, mask, features)), parts)


def test_minilmv2_is_a_weighted_sum_of_three_relations():
    mask = mask_of()
    given, features = encoded(STUDENT, mask), features_of(TEACHER, mask)
    weights = {"queries": 1.0, "keys": 0.5, "values": 2.0}

    def value(**options):
        term = MiniLMv2(STUDENT, TEACHER, heads=6, **options)
        return term.loss(seen_of(term, given, mask, features))

    alone = [value(**{name: weights[name] if name == one else 0.0 for name in weights}) for one in weights]
    torch.testing.assert_close(value(**weights), sum(alone))


def test_minilmv2_takes_heads_of_any_number_that_divides_both_widths():
    odd = Shape(2, 12, 4)
    mask = mask_of()
    for heads in (1, 2, 12):
        term = MiniLMv2(odd, TEACHER, heads=heads)
        assert bool(term.loss(seen_of(term, encoded(odd, mask), mask, features_of(TEACHER, mask))).isfinite().all())
    with pytest.raises(ValueError, match="8 relation heads do not divide the student's width 12; set heads to "):
        MiniLMv2(odd, TEACHER, heads=8)
    with pytest.raises(ValueError, match="0 relation heads"):
        MiniLMv2(odd, TEACHER, heads=0)
    with pytest.raises(ValueError, match="all weigh 0"):
        MiniLMv2(odd, TEACHER, queries=0.0, keys=0.0, values=0.0)
    with pytest.raises(ValueError, match="keys: a weight of -1 is negative"):
        MiniLMv2(odd, TEACHER, keys=-1.0)


def test_a_student_without_attention_learns_relations_of_its_states():
    lstm = Shape(1, 12)
    term = MiniLMv2(lstm, TEACHER, states=True)
    assert term.student_needs == {"hidden"} and term.heads == 3
    assert term.teacher_needs == ("queries/4", "keys/4", "values/4")
