"""The last layer for the first token alone: where that is the same, it is done, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdtoolkit.example import Example
from kdtoolkit.tasks import GLUE
from kdtoolkit_teachers.hugging_face import HuggingFaceTeacher
from kdtoolkit_teachers.last_layer import LastLayer

SST2 = GLUE["sst2"]
TEXTS = ["the film is good", "awful", "", "very very very bad plot the the the the", "a great film it is so good"]
EXAMPLES = [Example("sst2", text) for text in TEXTS * 3]


def teacher_of(folder):
    teacher = HuggingFaceTeacher(str(folder), SST2, precision="fp32")
    teacher.logits(EXAMPLES[:1])
    return teacher


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_outputs_of_the_shortened_layer_are_those_of_the_whole_one(family, checkpoint):
    teacher = teacher_of(checkpoint(family, SST2.labels))
    assert teacher._loaded.last_layer.is_shortened
    short = teacher.logits(EXAMPLES)
    teacher._loaded.last_layer._found = None
    np.testing.assert_allclose(short, teacher.logits(EXAMPLES), rtol=1e-5, atol=1e-5)


def test_the_layer_gets_one_token_a_text_and_afterwards_all_again(checkpoint):
    teacher = teacher_of(checkpoint("bert", SST2.labels))
    seen = []
    inner = teacher._loaded.whole.model.bert.encoder.layer[-1].intermediate
    inner.register_forward_hook(lambda module, given, output: seen.append(given[0].shape[1]))
    teacher.logits(EXAMPLES)
    assert set(seen) == {1}
    seen.clear()
    teacher.features(EXAMPLES[:1], [f"hidden/{teacher.shape.layers}"])
    assert seen == [len(teacher.read(EXAMPLES[:1])[0].ids)]


def test_an_encoder_of_another_build_is_left_as_it_is(checkpoint):
    teacher = teacher_of(checkpoint("distilbert", SST2.labels))
    assert not teacher._loaded.last_layer.is_shortened


@pytest.mark.parametrize("reads", ["mean", "sum of two"])
def test_a_head_that_reads_other_tokens_keeps_them(reads, checkpoint):
    model = teacher_of(checkpoint("bert", SST2.labels))._loaded.whole

    class Pooler(torch.nn.Module):
        def forward(self, states):
            return states.mean(1) if reads == "mean" else states[:, 0] + states[:, 1]

    model.model.bert.pooler = Pooler()
    assert not LastLayer(model).is_shortened


def test_a_model_that_cannot_read_what_is_made_up_is_left_as_it_is(checkpoint):
    model = teacher_of(checkpoint("bert", SST2.labels))._loaded.whole

    def refuse(tokens):
        raise ValueError("no such text")

    model.outputs = refuse
    assert not LastLayer(model).is_shortened
