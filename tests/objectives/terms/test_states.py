"""PKD, TinyBERT's hidden states and embeddings, DistilBERT's cosine: by hand, and what they do not see."""

from __future__ import annotations

import math

import pytest
import torch
from term_cases import STUDENT, TEACHER, encoded, features_of, mask_of, seen_of

from kdtoolkit.objectives.terms.averages import mean_over_tokens, squared_error
from kdtoolkit.objectives.terms.cosine import Cosine, cosine_distance
from kdtoolkit.objectives.terms.pkd import PKD, pkd
from kdtoolkit.objectives.terms.tinybert import Attention, Embedding, Hidden, attention_error
from kdtoolkit.shape import Shape


def test_pkd_by_hand():
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    teacher = torch.tensor([[8.0, 6.0], [-5.0, 0.0], [0.0, 7.0], [0.0, 1.0]])
    # (0.6, 0.8) and (0.8, 0.6); opposite; at a right angle; a state of zeros is no direction.
    torch.testing.assert_close(pkd(student, teacher), torch.tensor([0.08, 4.0, 2.0, 1.0]))


def test_pkd_and_cosine_do_not_see_lengths_nor_a_common_rotation():
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    rotation = torch.linalg.qr(torch.randn(4, 4)).Q
    for loss in (pkd, cosine_distance):
        torch.testing.assert_close(loss(3.0 * student, 0.2 * teacher), loss(student, teacher))
        torch.testing.assert_close(loss(student @ rotation, teacher @ rotation), loss(student, teacher))
    # |a - b|^2 of unit vectors is 2 (1 - cos).
    torch.testing.assert_close(pkd(student, teacher), 2 * cosine_distance(student, teacher))


def test_the_mean_of_the_authors_is_over_layers_and_the_width_that_is_compared():
    mask, student = mask_of(), Shape(3, 12, 3)
    given, features = encoded(student, mask), features_of(TEACHER, mask)
    summed, averaged = (PKD(student, TEACHER, reduction=reduction) for reduction in ("sum", "mean"))
    averaged.load_state_dict(summed.state_dict())
    values = [term.loss(seen_of(term, given, mask, features)) for term in (summed, averaged)]
    torch.testing.assert_close(values[0], 2 * TEACHER.width * values[1])


def test_cosine_by_hand():
    student = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [5.0, 5.0]]])
    teacher = torch.tensor([[[2.0, 0.0], [1.0, 0.0]], [[0.0, -1.0], [1.0, 1.0]]])
    distance = cosine_distance(student, teacher)
    torch.testing.assert_close(distance, torch.tensor([[0.0, 1 - math.sqrt(0.5)], [2.0, 0.0]]))
    mask = torch.tensor([[True, True], [True, False]])
    torch.testing.assert_close(mean_over_tokens(distance, mask), torch.tensor([(1 - math.sqrt(0.5)) / 2, 2.0]))


def test_hidden_states_by_hand():
    student = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[1.0, 1.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[0.0, 0.0], [2.0, 0.0]], [[1.0, 3.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    # ((1 + 4) / 2 + 4 / 2) / 2 and 4 / 2; the second row's second token is padding.
    torch.testing.assert_close(squared_error(student, teacher, mask), torch.tensor([2.25, 2.0]))


def test_attention_scores_by_hand():
    student = torch.zeros(2, 1, 2, 2)
    teacher = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, 6.0], [7.0, 8.0]]]])
    mask = torch.tensor([[True, True], [True, False]])
    torch.testing.assert_close(attention_error(student, teacher, mask), torch.tensor([30 / 4, 25.0]))
    doubled = attention_error(student.repeat(1, 3, 1, 1), teacher.repeat(1, 3, 1, 1), mask)
    torch.testing.assert_close(doubled, torch.tensor([30 / 4, 25.0]))


def test_the_matrix_is_applied_before_the_difference():
    term = Hidden(Shape(1, 2), Shape(1, 1))
    with torch.no_grad():
        term.projection.weight.copy_(torch.tensor([[2.0, -1.0]]))
    mask = torch.tensor([[True]])
    given = encoded(Shape(1, 2, 1), mask)
    with torch.no_grad():
        given.hidden[1].copy_(torch.tensor([[[3.0, 1.0]]]))
    seen = seen_of(term, given, mask, {"hidden/1": torch.tensor([[[1.0]]])})
    torch.testing.assert_close(term.loss(seen), torch.tensor([16.0]))


def test_layers_add_up():
    mask, student = mask_of(), Shape(2, 24, 3)
    given, features = encoded(student, mask), features_of(TEACHER, mask)
    both = Hidden(student, TEACHER, layers=[1, 4], project=None)
    parts = [squared_error(given.hidden[own], features[f"hidden/{other}"], mask) for own, other in ((1, 1), (2, 4))]
    torch.testing.assert_close(both.loss(seen_of(both, given, mask, features)), sum(parts))
    scores = Attention(student, TEACHER, layers="last")
    assert scores.teacher_needs == ("attention/3", "attention/4")


def test_projections_where_the_widths_differ_and_where_they_are_asked_for():
    same = TEACHER._replace(layers=2)
    assert list(PKD(same, TEACHER).parameters()) == [] == list(Cosine(same, TEACHER).parameters())
    assert [tuple(p.shape) for p in PKD(STUDENT, TEACHER).parameters()] == [(24, 12)]
    assert [tuple(p.shape) for p in Hidden(same, TEACHER).parameters()] == [(24, 24)]
    assert list(Hidden(same, TEACHER, project=None).parameters()) == []
    narrow = STUDENT._replace(embedding=7)
    assert [tuple(p.shape) for p in Embedding(narrow, TEACHER).parameters()] == [(24, 7)]
    with pytest.raises(ValueError, match="the widths differ, student 12 and teacher 24; leave project out"):
        PKD(STUDENT, TEACHER, project=False)


def test_a_first_token_alone_needs_no_common_tokens():
    assert Cosine(STUDENT, TEACHER).tokens and not Cosine(STUDENT, TEACHER, first=True).tokens
    assert Cosine(STUDENT, TEACHER, first=True).teacher_needs == ("first/4",)
    assert not PKD(STUDENT, TEACHER).tokens
