"""The Transformer student: against BERT itself, its optional outputs, and its options."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional

from kdtoolkit import InputError, plugin
from kdtoolkit.heads import MultiTaskHeads
from kdtoolkit.recipe.schema import HeadOptions, Heads
from kdtoolkit.tasks import Task
from kdtoolkit.testing import VOCABULARY, check_student, tiny_tokens
from kdtoolkit.training.model import StudentModel

Transformer = plugin("student", "transformer")
SMALL = {"width": 8, "heads": 2, "positions": 32}


@pytest.fixture(scope="module")
def bert():
    """A BERT of four layers with random weights, as transformers builds it."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=40, initializer_range=0.5, attn_implementation="eager",
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # LayerNorms and biases too are to differ from their defaults
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.embeddings.word_embeddings.weight[0] = 0
    return model


@pytest.fixture
def folder(bert, tmp_path):
    bert.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def initialised(folder, **options):
    student = Transformer(VOCABULARY, **{**SMALL, "feedforward": 24, "init_from": str(folder), **options}).eval()
    student.initialise()
    return student


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("pairs", ["joint", "separate"])
def test_every_pooling_and_way_of_reading_keeps_the_contract(pooling, pairs):
    check_student(Transformer, **SMALL, pooling=pooling, pairs=pairs)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    layers=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=30)
def test_where_no_head_reads_states_the_pooled_features_and_gradients_are_those_of_the_whole_layer(
    lengths, layers, seed
):
    torch.manual_seed(seed)
    student = Transformer(VOCABULARY, **SMALL, layers=layers, dropout=0.0).double()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    tokens, direction = tiny_tokens(lengths=lengths), torch.randn(len(lengths), 8, dtype=torch.float64)

    def found():
        encoded = student(tokens)
        (encoded.pooled * direction).sum().backward()
        gradients = [parameter.grad for parameter in student.parameters()]
        student.zero_grad()
        return encoded, gradients

    whole, of_whole = found()
    student.states_read = False
    short, of_short = found()
    assert whole.states is not None and short.states is None
    torch.testing.assert_close(short.pooled, whole.pooled, rtol=1e-11, atol=1e-11)
    for received, expected in zip(of_short, of_whole, strict=True):
        torch.testing.assert_close(received, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("changed", [{"pooling": "mean"}, {"output": frozenset({"hidden"})}])
def test_a_student_that_needs_the_last_layer_whole_computes_it_though_no_head_reads_states(changed):
    student = Transformer(VOCABULARY, **SMALL, pooling=changed.get("pooling", "first")).eval()
    student.states_read, student.output = False, changed.get("output", frozenset())
    encoded = student(tiny_tokens(lengths=(4, 2)))
    assert encoded.states.shape == (2, 4, 8)


@pytest.mark.parametrize(("head", "read"), [("auto", False), ("san", True), ("biattention", True)])
def test_the_model_tells_its_student_whether_a_head_reads_states(head, read):
    task = Task("pairs", kind="classification", labels=("no", "yes"), pair=True)
    other = Task("texts", kind="classification", labels=("no", "yes"))
    student = Transformer(VOCABULARY, **SMALL, pairs="separate")
    heads = Heads(tasks={"pairs": HeadOptions(name=head)})
    model = StudentModel(student, MultiTaskHeads([other, task], 8, pairs="separate", mixed=True, heads=heads))
    assert model.student.states_read is read


def test_a_student_with_all_layers_copied_computes_what_bert_computes(bert, folder):
    student = initialised(folder, layers=4, positions=40)
    with torch.no_grad():  # in a run, they come with the tokenizer
        student.embed.weight.copy_(bert.embeddings.word_embeddings.weight)
    student.output = frozenset({"hidden", "attentions"})
    tokens = tiny_tokens(lengths=(9, 4, 1, 9), joint=True)
    with torch.no_grad():
        encoded = student(tokens)
        expected = bert(
            input_ids=tokens.ids, attention_mask=tokens.mask.long(), token_type_ids=tokens.segments,
            output_hidden_states=True, output_attentions=True,
        )  # fmt: skip
    for received, of_bert in zip(encoded.hidden, expected.hidden_states, strict=True):
        torch.testing.assert_close(received[tokens.mask], of_bert[tokens.mask], rtol=0, atol=1e-5)
    for received, of_bert in zip(encoded.attentions, expected.attentions, strict=True):
        # transformers gives probabilities: the softmax of our scores over the real tokens.
        received = received.masked_fill(~tokens.mask[:, None, None, :], float("-inf")).softmax(-1)
        received, of_bert = received.transpose(1, 2), of_bert.transpose(1, 2)
        torch.testing.assert_close(received[tokens.mask], of_bert[tokens.mask], rtol=0, atol=1e-5)
    torch.testing.assert_close(encoded.pooled, expected.last_hidden_state[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "chosen", "expected"),
    [(1, None, [0]), (2, None, [0, 3]), (3, None, [0, 2, 3]), (4, None, [0, 1, 2, 3]), (2, [1, 1], [1, 1])],
)
def test_layers_are_copied_evenly_spaced_or_as_chosen(bert, folder, layers, chosen, expected):
    student = initialised(folder, layers=layers, init_layers=chosen)
    for layer, number in zip(student.layers, expected, strict=True):
        of_bert = bert.encoder.layer[number]
        assert torch.equal(layer.outer.weight, of_bert.output.dense.weight)
        assert torch.equal(layer.query_key_value.weight[8:16], of_bert.attention.self.key.weight)


def test_word_embeddings_are_left_to_the_tokenizer_that_knows_their_numbers(bert, folder):
    student = Transformer(VOCABULARY, **SMALL, feedforward=24, init_from=str(folder))
    before = student.embed.weight.clone()
    student.initialise()
    assert torch.equal(student.embed.weight, before)
    assert torch.equal(student.positions.weight, bert.embeddings.position_embeddings.weight[:32])


def test_a_checkpoint_with_a_head_on_top_and_in_several_files_is_read_too(bert, folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    named = {f"bert.{key}": value for key, value in weights.items()}
    half = len(named) // 2
    save_file(dict(list(named.items())[:half]), folder / "model-00001-of-00002.safetensors")
    save_file({**dict(list(named.items())[half:]), "classifier.bias": torch.zeros(2)},
              folder / "model-00002-of-00002.safetensors")  # fmt: skip
    index = {name: f"model-0000{1 + (i >= half)}-of-00002.safetensors" for i, name in enumerate(named)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    student = initialised(folder, layers=4)
    assert torch.equal(student.layers[3].inner.weight, bert.encoder.layer[3].intermediate.dense.weight)


def test_a_hub_id_is_read_from_the_cache_and_a_missing_one_says_which_forms_work(bert, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--someone--bert-mini" / "snapshots" / ("0" * 40)
    bert.save_pretrained(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    student = initialised("someone/bert-mini", layers=4)
    assert torch.equal(student.segments.weight, bert.embeddings.token_type_embeddings.weight)
    with pytest.raises(InputError, match=r"student.init_from: 'someone/absent'.*give a folder"):
        initialised("someone/absent")


def test_an_initialised_student_is_built_again_without_its_source(folder):
    check_student(Transformer, **SMALL, feedforward=24, init_from=str(folder), init_layers=[3, 0])
    student = initialised(folder)
    options = student.resolved_options({**SMALL, "feedforward": 24, "init_from": str(folder)})
    assert str(folder) not in str(options)
    shutil.rmtree(folder)
    again = Transformer(VOCABULARY, **options).eval()
    again.load_state_dict(student.state_dict())
    tokens = tiny_tokens()
    assert torch.equal(again(tokens).pooled, student(tokens).pooled)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 16}, "student.width: '{}' needs width 8, received 16"),
        ({"heads": 4}, "student.heads: '{}' needs heads 2, received 4"),
        ({"feedforward": 32}, "student.feedforward: '{}' needs feedforward 24, received 32"),
        ({"positions": 64}, "student.positions: '{}' has 40 positions, received 64"),
        ({"layers": 5}, "student.layers: 5 layers cannot be copied from the 4 of '{}'"),
        ({"init_layers": [0, 4]}, "student.init_layers: '{}' has layers 0 to 3, received 4"),
        ({"init_from": "./nowhere"}, "student.init_from: nowhere is not there"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused_with_what_it_needs(folder, options, words):
    with pytest.raises(InputError) as caught:
        initialised(folder, **options)
    assert words.format(folder) in str(caught.value)


def test_a_folder_without_usable_weights_says_what_is_wrong(folder):
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    save_file({"encoder.nothing": torch.zeros(1)}, weights)
    with pytest.raises(InputError, match="holds no BERT encoder"):
        initialised(folder)
    tensors.pop("encoder.layer.0.output.dense.bias")
    save_file(tensors, weights)
    with pytest.raises(InputError, match=r"no tensor 'encoder.layer.0.output.dense.bias'"):
        initialised(folder)
    weights.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"model.safetensors cannot be read"):
        initialised(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(InputError, match=r"expected model_type 'bert', received 'gpt2'"):
        initialised(folder)
    weights.unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        initialised(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config.json"):
        initialised(folder)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_what_is_inside_is_given_only_when_asked_for_and_changes_nothing(mode):
    torch.manual_seed(0)
    student = getattr(Transformer(VOCABULARY, **SMALL, layers=3), mode)()
    tokens = tiny_tokens(lengths=(6, 2, 1))
    torch.manual_seed(1)
    plain = student(tokens)
    assert {plain.hidden, plain.attentions, plain.queries, plain.keys, plain.values} == {None}
    student.output = frozenset({"hidden", "attentions", "relations"})
    torch.manual_seed(1)
    asked = student(tokens)
    assert torch.equal(asked.states, plain.states) and torch.equal(asked.pooled, plain.pooled)
    assert [tuple(h.shape) for h in asked.hidden] == [(3, 6, 8)] * 4
    for part in (asked.queries, asked.keys, asked.values):
        assert [tuple(p.shape) for p in part] == [(3, 2, 6, 4)] * 3
    for scores, query, key in zip(asked.attentions, asked.queries, asked.keys, strict=True):
        torch.testing.assert_close(scores, torch.einsum("rhqd,rhkd->rhqk", query, key) / 2)  # 2 is sqrt of 4


def test_shape_and_depths_tell_the_layers():
    student = Transformer(VOCABULARY, **SMALL, layers=3)
    assert student.shape == (3, 8, 2, None)
    depths = student.depths()
    assert depths.keys() == {name for name, _ in student.named_parameters()}
    assert depths["embed.weight"] == depths["positions.weight"] == depths["norm.bias"] == 0
    assert depths["layers.0.inner.weight"] == 1 and depths["layers.2.attended_norm.bias"] == 3


def test_states_are_zero_on_padding():
    student = Transformer(VOCABULARY, **SMALL)
    tokens = tiny_tokens(lengths=(6, 2, 1))
    assert not student(tokens).states[~tokens.mask].any()


@pytest.mark.parametrize("lengths", [(5, 5, 5), (5, 2, 1)])
def test_only_ragged_batches_have_a_mask(lengths, monkeypatch):
    seen = []
    attend = functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention",
                        lambda *parts, **given: seen.append(given["attn_mask"]) or attend(*parts, **given))  # fmt: skip
    Transformer(VOCABULARY, **SMALL)(tiny_tokens(lengths=lengths))
    assert [mask is None for mask in seen] == [len(set(lengths)) == 1] * 2


def test_the_order_of_words_and_the_segment_matter():
    torch.manual_seed(0)
    student = Transformer(VOCABULARY, **SMALL, pooling="mean").eval()
    tokens = tiny_tokens(lengths=(6,))
    pooled = student(tokens).pooled
    assert not torch.allclose(student(tokens._replace(ids=tokens.ids.flip(1))).pooled, pooled)
    assert not torch.allclose(student(tokens._replace(segments=torch.ones_like(tokens.ids))).pooled, pooled)


def test_a_text_longer_than_the_positions_says_what_to_set():
    student = Transformer(VOCABULARY, **SMALL)
    student(tiny_tokens(lengths=(32,)))
    with pytest.raises(InputError, match=r"student.positions: a text has 33 tokens.*at least 33, or data.max_tokens"):
        student(tiny_tokens(lengths=(33,)))


def test_it_runs_in_bfloat16_autocast():
    student = Transformer(VOCABULARY, **SMALL)
    for lengths in ((4, 4), (4, 2)):
        with torch.autocast("cpu", torch.bfloat16):
            pooled = student(tiny_tokens(lengths=lengths)).pooled
        pooled.float().sum().backward()
        assert pooled.isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "max"}, "pooling: expected one of 'first', 'mean', received 'max'"),
        ({"pairs": "both"}, "pairs: expected one of 'joint', 'separate', received 'both'"),
        ({"heads": 3}, "heads: expected a divisor of width (128), received 3"),
        ({"layers": 0}, "layers: expected a whole number of at least 1, received 0"),
        ({"positions": 0}, "positions: expected a whole number of at least 1, received 0"),
        ({"feedforward": -1}, "feedforward: expected a whole number of at least 1, received -1"),
        ({"width": "wide"}, "width: expected a whole number of at least 1, received 'wide'"),
        ({"dropout": -0.1}, "dropout: expected a number from 0 to below 1, received -0.1"),
        ({"init_layers": [0]}, "init_layers: expected 2 layer numbers, received 1"),
        ({"init_layers": [0, -1]}, "init_layers: expected a whole number of at least 0, received -1"),
    ],
)
def test_an_option_outside_its_range_is_named_with_what_is_allowed(options, words):
    with pytest.raises(ValueError) as caught:
        Transformer(VOCABULARY, **options)
    assert words in str(caught.value)
