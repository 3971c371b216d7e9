"""The BiLSTM student: against a plain loop over texts, and its options."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from kdtoolkit import plugin
from kdtoolkit.testing import check_student, tiny_tokens

BiLSTM = plugin("student", "bilstm")
bilstm = sys.modules[BiLSTM.__module__]
SMALL = {"width": 5, "embedding": 7}


@pytest.mark.parametrize("pooling", ["max", "mean", "attention"])
@pytest.mark.parametrize("layers", [1, 2])
def test_every_pooling_and_depth_keeps_the_contract(pooling, layers):
    check_student(BiLSTM, **SMALL, pooling=pooling, layers=layers)


def test_joint_reading_keeps_the_contract():
    check_student(BiLSTM, **SMALL, pairs="joint")
    assert BiLSTM(10, pairs="joint").pairs == "joint"
    assert BiLSTM(10).pairs == "separate"


@pytest.mark.parametrize("pooling", ["max", "mean", "attention"])
def test_a_batch_gives_what_each_text_alone_gives_through_torchs_own_lstm(pooling):
    torch.manual_seed(0)
    student = BiLSTM(64, **SMALL, pooling=pooling).eval()
    tokens = tiny_tokens(lengths=(3, 8, 1, 8))
    with torch.no_grad():
        encoded = student(tokens)
        for row, length in enumerate(tokens.lengths):
            states = student.lstm(student.embed(tokens.ids[row, :length])[None])[0][0]
            torch.testing.assert_close(encoded.states[row, :length], states, rtol=0, atol=1e-6)
            assert not encoded.states[row, length:].any()
            if pooling == "max":
                pooled = states.amax(0)
            elif pooling == "mean":
                pooled = states.mean(0)
            else:
                pooled = torch.softmax(student.attend(states.tanh())[:, 0], 0) @ states
            torch.testing.assert_close(encoded.pooled[row], pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize("lengths", [(5, 5, 5), (5, 2, 1)])
def test_only_ragged_batches_are_packed_and_none_on_a_cpu(lengths, monkeypatch):
    seen = []
    student = BiLSTM(64, **SMALL)
    forward = student.lstm.forward
    monkeypatch.setattr(student.lstm, "forward", lambda given: seen.append(type(given)) or forward(given))
    ragged = len(set(lengths)) > 1
    student(tiny_tokens(lengths=lengths))
    assert seen == ([] if ragged else [torch.Tensor])
    monkeypatch.setattr(bilstm, "packs", lambda vectors: True)
    student(tiny_tokens(lengths=lengths))
    assert seen == ([nn.utils.rnn.PackedSequence] if ragged else [torch.Tensor] * 2)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("shown", [False, True])
def test_packing_and_turning_round_agree_in_states_and_gradients(layers, shown, monkeypatch):
    found = []
    for packed in (False, True):
        monkeypatch.setattr(bilstm, "packs", lambda vectors, packed=packed: packed)
        torch.manual_seed(0)
        student = BiLSTM(64, **SMALL, layers=layers, dropout=0.0).double()
        student.output = frozenset({"hidden"} if shown else ())
        encoded = student(tiny_tokens(lengths=(3, 8, 1, 8)))
        shows = encoded.hidden if shown else [encoded.states]
        (encoded.pooled.square().sum() + encoded.states.tanh().sum()).backward()
        found.append([*shows, encoded.pooled, *(parameter.grad for parameter in student.parameters())])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [(5, 5, 5), (5, 2, 1)])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_states_of_every_layer_are_given_when_asked_for(layers, lengths):
    torch.manual_seed(0)
    student = BiLSTM(64, **SMALL, layers=layers).eval()
    tokens = tiny_tokens(lengths=lengths)
    plain = student(tokens)
    assert plain.hidden is None
    student.output = frozenset({"hidden"})
    asked = student(tokens)
    torch.testing.assert_close(asked.states, plain.states, rtol=0, atol=1e-6)
    torch.testing.assert_close(asked.pooled, plain.pooled, rtol=0, atol=1e-6)
    assert [h.shape[-1] for h in asked.hidden] == [7] + [10] * layers
    assert student.shape == (layers, 10, None, 7)
    given = asked.hidden[0]
    for number, states in enumerate(asked.hidden[1:]):
        one = nn.LSTM(given.shape[-1], 5, batch_first=True, bidirectional=True)
        one.load_state_dict({name: getattr(student.lstm, name.replace("_l0", f"_l{number}")).detach()
                             for name in one.state_dict()})  # fmt: skip
        for row, length in enumerate(tokens.lengths):
            torch.testing.assert_close(
                states[row, :length], one(given[row : row + 1, :length])[0][0], rtol=0, atol=1e-6
            )
        given = states


def test_every_layer_learns_from_what_it_shows():
    student = BiLSTM(64, **SMALL, layers=2, dropout=0.5)
    student.output = frozenset({"hidden"})
    student(tiny_tokens(lengths=(5, 2, 1))).hidden[1].square().sum().backward()
    reached = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"embed.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0_reverse"} <= reached
    assert not any("_l1" in name for name in reached)


def test_depths_tell_the_layers():
    student = BiLSTM(64, **SMALL, layers=2, pooling="attention")
    depths = student.depths()
    assert depths.keys() == {name for name, _ in student.named_parameters()}
    assert depths["embed.weight"] == 0 and depths["attend.weight"] == 3
    assert depths["lstm.weight_ih_l0_reverse"] == 1 and depths["lstm.bias_hh_l1"] == 2


def test_padding_changes_neither_the_outputs_nor_the_gradient():
    tokens = tiny_tokens(lengths=(4, 4, 4))
    padded = tokens._make(nn.functional.pad(tensor, (0, 3)) for tensor in tokens)
    gradients = []
    for batch in (tokens, padded):
        torch.manual_seed(0)
        student = BiLSTM(64, **SMALL, dropout=0.0)
        student(batch).pooled.square().sum().backward()
        gradients.append([p.grad for p in student.parameters()])
    for plain, packed in zip(*gradients):
        torch.testing.assert_close(plain, packed, rtol=0, atol=1e-6)


def test_pooled_and_states_have_the_features_of_both_directions():
    student = BiLSTM(64)
    assert student.width == 300
    encoded = student(tiny_tokens(rows=2, longest=3))
    assert encoded.pooled.shape == (2, 300)
    assert encoded.states.shape == (2, 3, 300)


def test_it_runs_in_bfloat16_autocast():
    student = BiLSTM(64, **SMALL)
    for lengths in ((4, 4), (4, 2)):
        with torch.autocast("cpu", torch.bfloat16):
            pooled = student(tiny_tokens(lengths=lengths)).pooled
        pooled.float().sum().backward()
        assert pooled.isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "maximum"}, "pooling: expected one of 'max', 'mean', 'attention', received 'maximum'"),
        ({"pairs": "both"}, "pairs: expected one of 'separate', 'joint', received 'both'"),
        ({"layers": 0}, "layers: expected a whole number of at least 1, received 0"),
        ({"width": 1.5}, "width: expected a whole number of at least 1, received 1.5"),
        ({"embedding": True}, "embedding: expected a whole number"),
        ({"dropout": 1.0}, "dropout: expected a number from 0 to below 1, received 1.0"),
        ({"dropout": "0.3"}, "dropout: expected a number from 0 to below 1, received '0.3'"),
    ],
)
def test_an_option_outside_its_range_is_named_with_what_is_allowed(options, words):
    with pytest.raises(ValueError) as caught:
        BiLSTM(64, **options)
    assert words in str(caught.value)
