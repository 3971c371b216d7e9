"""The mask of generated text is one piece to every student tokenizer that is told of it, and text to others."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from kdtoolkit.recipe.schema import TokenizerSection
from kdtoolkit.tokenizers import build_tokenizer, load_tokenizer
from kdtoolkit.tokenizers.teacher import mask_of

TEXTS = ["a good film and [MASK] plot", "[MASK] is very good, [MASK] bad", "so [MASK] it was a film"] * 30


def build(folder, mask, source=None, texts=TEXTS, **section):
    return build_tokenizer(
        TokenizerSection(**section), lambda: iter(texts), seed=0, folder=folder, teacher_source=source, mask=mask
    )


@pytest.fixture(params=["[MASK]", "<mask>"])
def checkpoint(request, tmp_path):
    """A word-piece tokenizer with this mask, and another special piece."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]", "mask_token": request.param}
    words = [*specials.values(), "a", "good", "film", "[", "]", "<", ">", "mask", ","]
    fast = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    fast.normalizer = normalizers.Lowercase()
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=fast, **specials).save_pretrained(tmp_path / "hf")
    return str(tmp_path / "hf"), request.param


@pytest.mark.parametrize("lowercase", [False, True])
def test_to_sentencepiece_it_is_a_piece_wherever_it_stands_between_spaces(tmp_path, lowercase):
    tokenizer = build(tmp_path / "t", "[MASK]", vocabulary=60, lowercase=lowercase)
    for one in (tokenizer, load_tokenizer(tmp_path / "t")):
        (mask,), rest, text = one.encode_batch(["[MASK]", "good [MASK] film", "good film"])
        assert rest.count(mask) == 1 and [piece for piece in rest if piece != mask] == text
        assert mask not in text and mask != one.unk


def test_it_is_a_piece_even_if_hardly_a_text_has_it(tmp_path):
    tokenizer = build(tmp_path / "t", "[MASK]", texts=["a good film, a bad plot"] * 50, vocabulary=40)
    assert len(tokenizer.encode_batch(["[MASK]"])[0]) == 1


def test_to_whole_words_it_is_a_word(tmp_path):
    tokenizer = build(tmp_path / "t", "[MASK]", name="words", vocabulary=60)
    pieces, unknown = tokenizer.encode_batch(["[MASK] , good [MASK]", "nowhere"])
    assert pieces[0] == pieces[-1] != unknown[0]


def test_the_teachers_tokenizer_reads_its_own_mask_and_no_other_special_piece(tmp_path, checkpoint):
    source, mask = checkpoint
    assert mask_of(source) == mask
    own = AutoTokenizer.from_pretrained(source).mask_token_id
    tokenizer = build(tmp_path / "t", mask, source, name="teacher")
    plain = build(tmp_path / "plain", None, source, name="teacher")
    for one in (tokenizer, load_tokenizer(tmp_path / "t")):
        pieces, sep = one.encode_batch([f"a {mask} film", "[SEP]"])
        assert [one.sources[piece] for piece in pieces].count(own) == 1 and len(pieces) == 3
        assert len(sep) > 1
        assert one.encode_batch(["a good film"]) == plain.encode_batch(["a good film"])
    assert len(plain.encode_batch([mask])[0]) == 3
    assert plain.fingerprint != tokenizer.fingerprint


def test_another_mask_is_another_tokenizer_in_the_same_folder(tmp_path):
    first = build(tmp_path / "t", None, vocabulary=60)
    assert build(tmp_path / "t", "[MASK]", vocabulary=60).fingerprint != first.fingerprint
    assert build(tmp_path / "t", None, vocabulary=60).fingerprint == first.fingerprint


def test_a_tokenizer_without_a_mask_reads_it_as_text(tmp_path):
    from checkpoints import write_tokenizer

    write_tokenizer(tmp_path / "hf", "bert")
    assert mask_of(str(tmp_path / "hf")) is None
    assert len(build(tmp_path / "t", "[MASK]", str(tmp_path / "hf"), name="teacher").encode_batch(["[MASK]"])[0]) > 1
