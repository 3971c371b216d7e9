"""A tokenizer reduced to the pieces that occur."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.tokenizers import compact, load_tokenizer
from kdtoolkit.tokenizers.words import WordTokenizer

WORDS = ["<pad>", "<unk>", "<cls>", "<sep>", *"abcdefgh"]
INNER = WordTokenizer(WORDS)


def counts_of(texts):
    return np.bincount([piece for text in INNER.encode_batch(texts) for piece in text], minlength=len(INNER))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(WORDS[4:]), max_size=6), st.lists(st.sampled_from(WORDS[4:]), max_size=6))
def test_seen_pieces_keep_their_order_and_unseen_ones_are_unknown(seen, asked):
    small = compact(INNER, counts_of([" ".join(seen)]))
    assert len(small) == 4 + len(set(seen))
    numbers = {word: number for number, word in enumerate([*WORDS[:4], *sorted(set(seen))])}
    expected = [numbers.get(word, small.unk) for word in asked] or [small.unk]
    assert small.encode_batch([" ".join(asked)]) == [expected]


def test_special_pieces_are_kept_though_no_text_has_them():
    small = compact(INNER, np.zeros(len(INNER), np.int64))
    assert len(small) == 4 and small.specials == INNER.specials == (0, 1, 2, 3)
    assert small.joint == INNER.joint
    assert small.encode_batch(["a b"]) == [[1, 1]]


def test_what_is_saved_encodes_the_same(tmp_path):
    small = compact(INNER, counts_of(["b d"]))
    small.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode_batch(["a b c d", ""]) == small.encode_batch(["a b c d", ""]) == [[1, 4, 1, 5], [1]]
    assert loaded.fingerprint == small.fingerprint and len(loaded) == 6


def test_other_pieces_are_another_fingerprint():
    prints = {compact(INNER, counts_of([text])).fingerprint for text in ("a", "b", "a b", "b a")} | {INNER.fingerprint}
    assert len(prints) == 4


def test_counts_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match="counts"):
        compact(INNER, np.zeros(3, np.int64))
