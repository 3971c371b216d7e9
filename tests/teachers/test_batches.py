"""Batches of texts that a teacher answers for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.errors import WorkError
from kdtoolkit.example import Example
from kdtoolkit.tasks import GLUE
from kdtoolkit_teachers.batches import CALL_TOKENS, by_length, call_rows
from kdtoolkit_teachers.hugging_face import HuggingFaceTeacher

SST2 = GLUE["sst2"]


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), max_size=80),
    batch_tokens=st.integers(1, 200),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_batches_are_of_like_length(lengths, batch_tokens, device):
    batches = list(by_length(np.array(lengths, np.int64), batch_tokens, torch.device(device)))
    rows = [row for batch in batches for row in batch.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)
    for batch in batches:
        own = [lengths[row] for row in batch]
        assert len(own) == 1 or own[0] * len(own) <= batch_tokens
        for length in set(own):
            assert (own[0] - length) * own.count(length) <= CALL_TOKENS[device]
    for one, two in itertools.pairwise(batches):  # cut where it was full, or where a length began
        full = (len(one) + 1) * lengths[one[0]] > batch_tokens
        assert full or lengths[one[-1]] != lengths[two[0]]


@pytest.mark.parametrize(("parameters", "rows"), [(10_000, 1024), (23_000_000, 1024), (110_000_000, 256),
                                                  (335_000_000, 128), (7_000_000_000, 128)])  # fmt: skip
def test_a_large_model_is_asked_for_fewer_texts_at_a_time(parameters, rows):
    assert call_rows(parameters) == rows


def test_a_teacher_asks_for_as_many_texts_as_its_size_allows(checkpoint):
    teacher = HuggingFaceTeacher(str(checkpoint("bert", SST2.labels)), SST2)
    assert teacher.call_rows == call_rows(teacher.parameters()) == 1024


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (4, "3 fit: set batch_tokens: 45 for this teacher"),
        (0, "one does not fit either; lower max_tokens, or take a smaller teacher"),
    ],
)
def test_out_of_memory_tells_which_batch_fits(checkpoint, room, expected):
    teacher = HuggingFaceTeacher(str(checkpoint("bert", SST2.labels)), SST2, batch_tokens=100)
    texts = [Example("sst2", "the film is " + "very " * 8 + f"good {'so ' * (n % 2)}") for n in range(40)]
    model = teacher._loaded.whole
    real = model.outputs

    def outputs(tokens):
        if len(tokens.ids) > room:
            torch.empty(2**52)  # torch's own error
        return real(tokens)

    model.outputs = outputs
    with pytest.raises(WorkError, match=r"out of memory with \d+ texts of \d+ tokens; ") as caught:
        teacher.logits(texts)
    assert expected in str(caught.value)
