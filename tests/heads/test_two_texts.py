"""The texts of each row are found however the student reads pairs."""

from __future__ import annotations

import torch

from kdtoolkit import Tokens
from kdtoolkit.heads.two_texts import two_texts


def tokens(mask, segments=None):
    mask = torch.tensor(mask, dtype=torch.bool)
    zeros = torch.zeros(mask.shape, dtype=torch.int64)
    return Tokens(zeros, mask, zeros if segments is None else torch.tensor(segments))


def test_a_joint_sequence_is_parted_by_its_segments():
    states = torch.arange(10.0).reshape(2, 5, 1) + 1
    read = tokens([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], [[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]])
    one, other = two_texts(states, read, torch.tensor([1, 0]), None, pair=True, pairs="joint")
    assert one.states.squeeze(2).tolist() == [[6, 0, 0], [1, 2, 3]]
    assert other.states.squeeze(2).tolist() == [[7, 8], [4, 5]]
    assert one.mask.tolist() == [[True, False, False], [True] * 3] and bool(other.mask.all())


def test_texts_read_apart_are_taken_by_number_without_spare_columns():
    states = torch.arange(12.0).reshape(3, 4, 1) + 1
    read = tokens([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    one, other = two_texts(states, read, torch.tensor([1, 1]), torch.tensor([0, 1]), pair=True, pairs="separate")
    assert one.states.squeeze(2).tolist() == [[5], [5]]
    assert other.states.squeeze(2).tolist() == [[1, 2, 3], [5, 0, 0]]


def test_a_single_text_is_whole_and_has_no_second():
    states = torch.arange(4.0).reshape(1, 4, 1) + 1
    for pairs in ("joint", "separate"):
        read = tokens([[1, 1, 1, 0]])
        one, other = two_texts(states, read, torch.tensor([0]), torch.tensor([0]), pair=False, pairs=pairs)
        assert other is None and one.states.squeeze(2).tolist() == [[1, 2, 3]]
