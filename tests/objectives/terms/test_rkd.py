"""RKD: distances and angles by hand, and every motion that they do not see."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.objectives.terms.rkd import RKD, angle_loss, distance_loss
from kdtoolkit.shape import Shape

LOSSES = pytest.mark.parametrize("loss", [distance_loss, angle_loss])


def test_distances_by_hand():
    # Student: 0, 1, 3 on a line: distances 1, 2, 3, mean 2. Teacher: 0, 2, 4: distances 2, 2, 4, mean 8 / 3.
    student, teacher = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0], [4.0]])
    differences = [1 / 2 - 2 / (8 / 3), 2 / 2 - 2 / (8 / 3), 3 / 2 - 4 / (8 / 3)]
    expected = sum(difference**2 / 2 for difference in differences) / 3
    torch.testing.assert_close(distance_loss(student, teacher), torch.tensor(expected))


def test_a_large_difference_counts_linearly():
    # Huber(x) is x - 1 / 2 above 1.
    student, teacher = torch.tensor([[0.0], [1.0], [100.0]]), torch.tensor([[0.0], [100.0], [101.0]])
    mean = (1 + 99 + 100) / 3, (100 + 1 + 101) / 3
    differences = [1 / mean[0] - 100 / mean[1], 99 / mean[0] - 1 / mean[1], 100 / mean[0] - 101 / mean[1]]
    expected = sum(x * x / 2 if abs(x) <= 1 else abs(x) - 0.5 for x in differences) / 3
    assert max(map(abs, differences)) > 1
    torch.testing.assert_close(distance_loss(student, teacher), torch.tensor(expected))


def test_angles_by_hand():
    # A triangle with sides 3, 4, 5 against an equilateral one: cosines 0, 3 / 5, 4 / 5 against 1 / 2 thrice.
    student = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    expected = sum((x - 0.5) ** 2 / 2 for x in (0.0, 0.6, 0.8)) / 3
    torch.testing.assert_close(angle_loss(student, teacher), torch.tensor(expected))


def test_angles_are_those_of_triplets_of_different_rows_also_where_rows_are_equal():
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    student[1] = student[0]

    def cosine(rows, i, j, k):
        return torch.nn.functional.cosine_similarity(rows[i] - rows[j], rows[k] - rows[j], dim=0)

    triplets = list(itertools.permutations(range(4), 3))
    differences = [cosine(student, *triplet) - cosine(teacher, *triplet) for triplet in triplets]
    expected = sum(x * x / 2 if abs(x) <= 1 else abs(x) - 0.5 for x in differences) / len(triplets)
    torch.testing.assert_close(angle_loss(student, teacher), expected)


@LOSSES
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 10.0))
def test_shifting_turning_and_scaling_one_side_changes_nothing(loss, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(5, 3, generator=generator), torch.randn(5, 4, generator=generator)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    moved = scale * student @ rotation + torch.randn(3, generator=generator)
    torch.testing.assert_close(loss(moved, teacher), loss(student, teacher), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(loss(student, scale * teacher), loss(student, teacher), rtol=1e-3, atol=1e-4)


@LOSSES
def test_a_student_of_another_width_can_agree_exactly(loss):
    teacher = torch.randn(5, 3)
    wide = torch.cat([teacher, teacher, torch.zeros(5, 2)], 1)
    torch.testing.assert_close(loss(wide, teacher), torch.tensor(0.0), rtol=0, atol=1e-6)


@LOSSES
@pytest.mark.parametrize("rows", [1, 2])
def test_too_few_rows_give_nothing(loss, rows):
    student = torch.randn(rows, 3, requires_grad=True)
    value = loss(student, torch.randn(rows, 4))
    value.backward()
    assert float(value.detach()) == 0 and float(student.grad.abs().max()) < 1e-6


@LOSSES
def test_equal_rows_leave_gradients_finite(loss):
    student = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0], [3.0, 0.0]], requires_grad=True)
    loss(student, torch.randn(4, 3)).backward()
    assert bool(student.grad.isfinite().all()) and float(student.grad.abs().max()) > 0
    collapsed = torch.ones(4, 2, requires_grad=True)
    loss(collapsed, torch.randn(4, 3)).backward()
    assert bool(collapsed.grad.isfinite().all())


def test_weights_are_those_of_the_options():
    with pytest.raises(ValueError, match="angle: a weight of -1 is negative"):
        RKD(None, Shape(2, 4), angle=-1.0)
    with pytest.raises(ValueError, match="distance and angle both weigh 0"):
        RKD(None, Shape(2, 4), distance=0.0, angle=0.0)
    assert RKD(None, Shape(2, 4), layer=1).teacher_needs == ("first/1",)
    assert RKD(None, None, on="logits").outputs and not RKD(None, Shape(2, 4)).outputs
