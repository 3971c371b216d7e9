"""Masked classes beside rows and classes that are not masked, on each instruction set of the compiled CPU op."""

import math

import pytest
import torch
from op_backends import need_compiled
from op_instructions import available, using

from kdtoolkit.ops import KINDS, SparseTeacher, soft_cross_entropy, soft_cross_entropy_reference
from kdtoolkit.ops.kinds import DIVERGENCES


@pytest.fixture(params=available())
def instructions(request):
    need_compiled()
    with using(request.param):
        yield request.param


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bce"])
def test_a_row_without_teacher_takes_nothing_from_its_neighbours_in_a_vector(instructions, kind):
    """Its masked class, -inf on both sides, is a class that the soft part of other rows leaves out."""
    student = torch.tensor([[1.0, 2.0, -math.inf], [1.0, 2.0, 3.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -math.inf], [0.0, 1.0, 0.0]])
    options = {"kind": torch.full((2,), KINDS[kind]), "alpha": torch.tensor([1.0, 0.0])}
    gradients = [
        torch.autograd.grad(function(student, teacher, torch.tensor([0, 1]), **options), student)[0]
        for function in (soft_cross_entropy, soft_cross_entropy_reference)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
def test_a_bucket_that_holds_masked_classes_alone_has_no_gradient(instructions, kind):
    student = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    teacher = SparseTeacher(torch.tensor([[0, 1]]), probs=torch.tensor([[0.25, 0.75]]))
    gradients = [
        torch.autograd.grad(function(student, teacher, kind=kind), student)[0]
        for function in (soft_cross_entropy, soft_cross_entropy_reference)
    ]
    torch.testing.assert_close(*gradients)
