"""Word pieces of the run's own text, and what holds for every tokenizer."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.errors import InputError, WorkError
from kdtoolkit.recipe.schema import TokenizerSection
from kdtoolkit.tokenizers import build_tokenizer, compact, load_tokenizer
from kdtoolkit.tokenizers.sampling import sample_texts
from kdtoolkit.tokenizers.sentencepiece import MODEL, SentencePieceTokenizer

TEXTS = [f"the {a} {b} is {c}" for a in ("small", "old", "red") for b in ("cat", "film") for c in ("good", "bad")]


def trained(texts=TEXTS, *, vocabulary=60, seed=0, **options):
    return SentencePieceTokenizer.train(texts, vocabulary=vocabulary, seed=seed, options=options)


@pytest.fixture(scope="module")
def tokenizer():
    return trained()


def section(**keys):
    return TokenizerSection(**{"vocabulary": 60, **keys})


def built(folder, seed=0, texts=TEXTS, **keys):
    return build_tokenizer(section(**keys), lambda: iter(texts), seed=seed, folder=folder, teacher_source=None)


def test_training_twice_gives_equal_bytes(tmp_path):
    for folder in ("one", "two"):
        built(tmp_path / folder)
    one, two = ((tmp_path / folder / MODEL).read_bytes() for folder in ("one", "two"))
    assert one == two


def test_another_seed_is_another_sample_and_the_same_seed_the_same():
    stream = [str(n) for n in range(1000)]
    assert sample_texts(stream, 50, seed=1) == sample_texts(iter(stream), 50, seed=1)
    assert sample_texts(stream, 50, seed=1) != sample_texts(stream, 50, seed=2)
    assert sample_texts(stream, 2000, seed=1) == stream


def test_a_sample_keeps_the_order_of_the_stream_and_reaches_its_end():
    chosen = [int(n) for n in sample_texts(map(str, range(10_000)), 500, seed=3)]
    assert chosen == sorted(chosen) and len(set(chosen)) == 500
    assert 4000 < sum(chosen) / 500 < 6000  # uniform: mean 5000, standard error 129


@pytest.mark.parametrize("texts", [["a"], ["yes", "no", "maybe so"], ["x" * 100_000], ["one\ntwo", "\x00", ""]])
def test_a_tiny_corpus_is_enough(texts):
    tokenizer = trained(texts, vocabulary=8000)
    assert all(tokenizer.encode_batch(texts))
    assert max(map(max, tokenizer.encode_batch(texts))) < len(tokenizer)


@pytest.mark.parametrize("texts", [[], ["", "  \n"]])
def test_no_text_at_all_is_an_input_error(texts):
    with pytest.raises(InputError, match="no text"):
        trained(texts)


def test_fewer_pieces_than_characters_is_an_input_error():
    with pytest.raises(InputError, match=r"tokenizer\.vocabulary: 16 pieces"):
        trained(["abcdefghijklmnopqrstuvwxyz"], vocabulary=16)


@pytest.mark.parametrize("options", [{"lowercas": True}, {"lowercase": "yes"}, {"sample_rows": True},
                                     {"sample_rows": 0}, {"character_coverage": 2.0}])  # fmt: skip
def test_a_wrong_option_is_named(options):
    with pytest.raises(InputError, match=f"tokenizer.{next(iter(options))}"):
        trained(**options)


def test_a_mistyped_option_comes_with_the_right_one():
    with pytest.raises(InputError, match="did you mean 'lowercase'"):
        trained(lowercas=True)


def test_keys_that_belong_to_other_kinds_are_refused(tmp_path):
    for key in ("vectors", "source"):
        with pytest.raises(InputError, match=f"tokenizer.{key}"):
            built(tmp_path, **{key: "x"})


def test_case_is_kept_unless_asked_otherwise():
    texts = ["Good good"] * 5
    first, second = trained(texts, lowercase=True).encode_batch(["Good", "good"])
    assert first == second
    first, second = trained(texts).encode_batch(["Good", "good"])
    assert first != second


def test_an_empty_text_is_the_unknown_piece(tokenizer):
    assert tokenizer.encode_batch(["", "   "]) == [[tokenizer.unk]] * 2
    assert tokenizer.encode_batch([]) == []


def test_half_a_surrogate_pair_is_read_as_an_unknown_character(tokenizer):
    broken, fine = tokenizer.encode_batch(["cat \ud83d", "cat"])
    assert fine and broken[: len(fine)] == fine


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_no_text_gives_padding_or_a_special_piece_other_than_unknown(tokenizer, text):
    pieces = tokenizer.encode_batch([text, text + " [SEP] [CLS] [PAD] </s> <s>"])
    assert all(pieces)
    assert not set(pieces[0] + pieces[1]) & (set(tokenizer.specials) - {tokenizer.unk})
    assert max(pieces[0] + pieces[1]) < len(tokenizer)


def real_texts(glue, split):
    with gzip.open(glue / "mrpc" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row[column] for row in rows for column in ("sentence1", "sentence2")]


@pytest.mark.parametrize("coverage", [0.9995, 0.99995, 1.0])
def test_unknown_pieces_of_real_text_are_the_characters_that_are_not_covered(glue, coverage):
    texts = real_texts(glue, "train")
    tokenizer = trained(texts, vocabulary=2000, character_coverage=coverage)
    unknown = sum(pieces.count(tokenizer.unk) for pieces in tokenizer.encode_batch(texts))
    assert unknown <= (1 - coverage) * sum(map(len, texts))


def test_compaction_makes_unknown_just_what_training_never_saw(glue):
    train, dev = real_texts(glue, "train"), real_texts(glue, "dev")
    # Learned from other text, so that many of its pieces do not occur.
    tokenizer = trained(dev, vocabulary=4000)
    seen = np.bincount(
        [piece for text in tokenizer.encode_batch(train[:500]) for piece in text], minlength=len(tokenizer)
    )
    small = compact(tokenizer, seen)
    assert len(small) < 0.9 * len(tokenizer)
    for full, kept in zip(tokenizer.encode_batch(dev), small.encode_batch(dev)):
        assert [bool(seen[piece]) and piece != tokenizer.unk for piece in full] == [p != small.unk for p in kept]


def test_what_is_saved_encodes_the_same(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert loaded.fingerprint == tokenizer.fingerprint and len(loaded) == len(tokenizer)
    assert loaded.joint == tokenizer.joint and loaded.vectors() is None


def test_a_folder_that_holds_the_tokenizer_is_reopened(tmp_path):
    first = built(tmp_path)
    assert built(tmp_path, texts=()).fingerprint == first.fingerprint
    with pytest.raises(InputError, match="no text"):
        built(tmp_path, texts=(), seed=1)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match=r"kdtoolkit_tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"not a model")])
def test_a_damaged_tokenizer_is_named(tmp_path, tokenizer, damage):
    tokenizer.save(tmp_path)
    damage(tmp_path / MODEL)
    with pytest.raises(WorkError, match=str(tmp_path)):
        load_tokenizer(tmp_path)
