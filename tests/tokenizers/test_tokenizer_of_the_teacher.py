"""Hugging Face tokenizers as the student's."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kdtoolkit.errors import InputError, WorkError
from kdtoolkit.recipe.schema import TokenizerSection
from kdtoolkit.tokenizers import JointTemplate, build_tokenizer, compact, load_tokenizer
from kdtoolkit.tokenizers.teacher import TeacherTokenizer, read_embeddings

LETTERS = ["a", "b", "film", "good", "bad"]
# name -> pieces, pair template, special tokens
KINDS = {
    "bert": (["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS] $A [SEP]",
             {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}),
    "roberta": (["<s>", "<pad>", "</s>", "<unk>"], "<s> $A </s> </s> $B </s>", "<s> $A </s>",
                {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}),
    "gpt": (["<|end|>"], None, None, {"eos_token": "<|end|>", "unk_token": "<|end|>"}),
    "padded gpt": (["<|end|>"], None, None, {"eos_token": "<|end|>", "unk_token": "<|end|>", "pad_token": "<|end|>"}),
}  # fmt: skip


def make(folder, kind, width=6):
    """A tokenizer of the kind, with fixed padding as some checkpoints have, and weights of which one is its table."""
    special, pair, single, named = KINDS[kind]
    vocabulary = {piece: number for number, piece in enumerate([*special, *LETTERS])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token=named["unk_token"]))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if pair is not None:
        tokens = [(piece, vocabulary[piece]) for piece in special]
        fast.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)
        fast.enable_padding(length=16)
        fast.enable_truncation(8)
    PreTrainedTokenizerFast(tokenizer_object=fast, **named).save_pretrained(folder)
    table = torch.arange(len(vocabulary) * width, dtype=torch.float32).reshape(-1, width) + 1
    save_file(
        {"bert.embeddings.word_embeddings.weight": table.bfloat16(), "bert.other.weight": torch.zeros(2)},
        folder / "model.safetensors",
    )
    return folder


@pytest.fixture(params=list(KINDS))
def source(request, tmp_path):
    return make(tmp_path / request.param, request.param)


@pytest.fixture
def bert(tmp_path):
    return make(tmp_path / "bert", "bert")


def built(source, vectors=None):
    return TeacherTokenizer.build(str(source), vectors=vectors, options={})


def original(tokenizer, pieces):
    return [int(tokenizer.sources[piece]) for piece in pieces]


def test_pieces_are_those_of_the_original_but_for_their_numbers(source):
    ours, theirs = built(source), AutoTokenizer.from_pretrained(source)
    texts = ["a good film", "b", "nothing known"]
    for text, pieces in zip(texts, ours.encode_batch(texts)):
        assert original(ours, pieces) == theirs(text, add_special_tokens=False)["input_ids"]


def test_padding_is_piece_zero_and_no_text_becomes_it(source):
    ours = built(source)
    assert ours.encode_batch([""]) == [[ours.unk]]
    assert all(0 not in pieces for pieces in ours.encode_batch([*LETTERS, "[PAD] <pad>", "zzz"]))
    assert sorted(ours.sources.tolist())[-1] == max(ours.sources) and ours.unk != 0
    assert len(set(ours.sources.tolist())) == len(ours)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_template_makes_the_sequences_of_the_original(tmp_path, kind):
    folder = make(tmp_path / kind, kind)
    ours, theirs = built(folder), AutoTokenizer.from_pretrained(folder)
    first, second = ours.encode_batch(["a film", "good"])
    prefix, middle, suffix, _ = ours.joint
    joined = original(ours, [*prefix, *first, *middle, *second, *suffix])
    assert joined == theirs("a film", "good", truncation=False, padding=False)["input_ids"]
    alone = original(ours, [*prefix, *first, *suffix])
    assert alone == theirs("a film", truncation=False, padding=False)["input_ids"]


def test_a_tokenizer_without_separators_gets_one(tmp_path):
    ours = built(make(tmp_path, "gpt"))
    assert ours.joint == JointTemplate((), (ours.encode_batch(["unknown"])[0][0],), ())


def test_a_special_piece_written_in_a_text_is_text(bert):
    ours = built(bert)
    assert ours.encode_batch(["a [SEP] b [CLS]"]) == [[4, ours.unk, 5, ours.unk]]


def test_the_saved_folder_needs_nothing_else(tmp_path, source):
    ours = built(source)
    before = ours.encode_batch(["a good film", ""])
    ours.save(tmp_path / "saved")
    shutil.rmtree(source)
    loaded = load_tokenizer(tmp_path / "saved")
    assert loaded.encode_batch(["a good film", ""]) == before
    assert loaded.fingerprint == ours.fingerprint and loaded.joint == ours.joint
    assert str(source) not in "".join(path.read_text() for path in (tmp_path / "saved").iterdir())


def test_a_damaged_definition_is_named(tmp_path, bert):
    built(bert).save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WorkError, match=r"damaged.*tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_embeddings_are_copied_row_by_row(source):
    ours, table = built(source, "copy"), read_embeddings(str(source))
    vectors = ours.vectors()
    assert vectors.shape == (len(ours), 6) and not vectors[0].any()
    np.testing.assert_array_equal(vectors[1:], table[ours.sources[1:]])


def test_embeddings_survive_a_restart(tmp_path, bert):
    section = TokenizerSection(name="teacher", vectors="project")
    one, two = (
        build_tokenizer(section, lambda: iter(()), seed=0, folder=tmp_path / "built", teacher_source=str(bert))
        for _ in range(2)
    )
    np.testing.assert_array_equal(one.vectors(), two.vectors())


def test_weights_in_several_files_are_found_through_their_index(bert):
    expected = read_embeddings(str(bert))
    (bert / "model.safetensors").rename(bert / "part-1.safetensors")
    index = {"weight_map": {"bert.embeddings.word_embeddings.weight": "part-1.safetensors"}}
    (bert / "model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(read_embeddings(str(bert)), expected)


def test_weights_without_a_known_table_are_named(bert):
    save_file({"strange": torch.zeros(2)}, bert / "model.safetensors")
    with pytest.raises(InputError, match="no word embeddings"):
        built(bert, "copy")
    (bert / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        built(bert, "copy")


def test_wrong_options_are_named(tmp_path, bert):
    with pytest.raises(InputError, match="did you mean 'project'"):
        built(bert, "projekt")
    with pytest.raises(InputError, match=r"tokenizer\.lowercase"):
        TeacherTokenizer.build(str(bert), vectors=None, options={"lowercase": True})
    with pytest.raises(InputError, match="nothing is not there"):
        built(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no tokenizer can be loaded"):
        built(tmp_path / "empty")
    with pytest.raises(InputError, match="no teacher brings a tokenizer"):
        build_tokenizer(
            TokenizerSection(name="teacher"), lambda: iter(()), seed=0, folder=tmp_path / "x", teacher_source=None
        )


def test_a_compact_form_knows_the_original_numbers(source):
    ours = built(source)
    counts = np.zeros(len(ours), np.int64)
    counts[ours.encode_batch(["film"])[0]] = 1
    small = compact(ours, counts)
    assert len(small) < len(ours)
    for text in ("film", "bad", ""):
        kept = text if text == "film" else ""
        assert original(small, small.encode_batch([text])[0]) == original(ours, ours.encode_batch([kept])[0])
    assert original(small, small.joint.middle) == original(ours, ours.joint.middle)
