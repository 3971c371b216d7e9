"""Whole words, and vectors read from a text file."""

import gzip
import pickle
import ssl
import sys

import numpy as np
import pytest

from kdtoolkit.errors import InputError
from kdtoolkit.recipe.schema import TokenizerSection
from kdtoolkit.tokenizers import build_tokenizer, compact, load_tokenizer
from kdtoolkit.tokenizers.words import SPECIALS, WordTokenizer, read_vectors

TEXTS = ["The cat sat .", "the dog sat", "The <sep> end"]
GLOVE = "the 1 2 3\ncat 4 5 6\n. . . 9 9 9\nzebra 7 8 9\nsat 1 0 0\nthe 9 9 9\n"


def trained(texts=TEXTS, *, vocabulary=100, vectors=None, seed=0, **options):
    return WordTokenizer.train(texts, vocabulary=vocabulary, seed=seed, vectors=vectors, options=options)


@pytest.fixture
def glove(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE, encoding="utf-8")
    return path


def test_the_most_frequent_words_are_kept():
    tokenizer = trained(vocabulary=len(SPECIALS) + 2)
    the, sat, unknown = (tokenizer.encode_batch([text])[0] for text in ("THE", "sat", "dog"))
    assert (the, sat, unknown) == ([4], [5], [tokenizer.unk])
    assert len(tokenizer) == 6
    assert len(trained(min_count=2)) == 6


def test_a_text_cannot_write_special_words():
    pieces = trained().encode_batch(["<sep> <cls> <pad> <unk>", ""])
    assert pieces == [[1, 1, 1, 1], [1]]


def test_what_is_saved_encodes_the_same(tmp_path):
    tokenizer = trained(["caf\u00e9 na\u00efve \u2028 x"])
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    texts = ["Caf\u00e9 x y", "\u2028"]
    assert loaded.encode_batch(texts) == tokenizer.encode_batch(texts)
    assert loaded.fingerprint == tokenizer.fingerprint


def test_words_have_the_vectors_of_the_file(glove):
    tokenizer = trained(vectors=str(glove))
    vectors = tokenizer.vectors()
    the, cat = tokenizer.encode_batch(["the cat"])[0]
    assert vectors.shape == (len(tokenizer), 3) and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[[0, the, cat]], [[0, 0, 0], [1, 2, 3], [4, 5, 6]])
    assert np.isfinite(vectors).all() and vectors[1].any()


def test_words_without_a_vector_are_drawn_with_the_seed(glove):
    one, same, other = (trained(vectors=str(glove), seed=seed).vectors() for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_fasttext_header_and_compression_change_nothing(tmp_path, glove):
    words = [*SPECIALS, "the", "cat"]
    packed = tmp_path / "crawl.vec.gz"
    packed.write_bytes(gzip.compress(b"6 3\n" + GLOVE.encode()))
    np.testing.assert_array_equal(read_vectors(packed, words, 0), read_vectors(glove, words, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [("the 1 2\ncat 1\n", "line 2"), ("the\n", "line 1"), ("the 1 2\ncat x 2\n", "line 2"),
     ("zebra 1 2\n", "none of the words"), ("the nan 2\n", "not finite"), ("", "none of the words")],
)  # fmt: skip
def test_a_file_that_is_not_of_vectors_is_named_with_the_line(tmp_path, text, message):
    path = tmp_path / "bad.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        trained(vectors=str(path))
    assert "bad.txt" in str(error.value)


def test_a_missing_vector_file_is_named(tmp_path):
    with pytest.raises(InputError, match="is not a file"):
        trained(vectors=str(tmp_path / "glove.6B.zip"))


def test_certificates_are_still_verified_after_torchtext_was_used(glove):
    before = ssl._create_default_https_context
    assert "torchtext" in sys.modules or trained()
    trained(vectors=str(glove)).encode_batch(["the cat"])
    assert ssl._create_default_https_context is before is not ssl._create_unverified_context


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_no_cache_is_read_or_written(tmp_path, glove, monkeypatch):
    monkeypatch.chdir(tmp_path)
    traps = [tmp_path / "glove.txt.pt", tmp_path / ".vector_cache" / "glove.txt.pt"]
    traps[1].parent.mkdir()
    for trap in traps:
        trap.write_bytes(pickle.dumps(Bomb()))
    before = sorted(tmp_path.rglob("*"))
    assert trained(vectors=str(glove)).vectors()[4].tolist() == [1, 2, 3]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_built_folder_keeps_the_vectors_and_the_student_folder_does_not(tmp_path, glove):
    section = TokenizerSection(name="words", vectors=str(glove), vocabulary=100)
    built = build_tokenizer(section, lambda: iter(TEXTS), seed=0, folder=tmp_path / "built", teacher_source=None)
    glove.unlink()
    again = build_tokenizer(section, lambda: iter(()), seed=0, folder=tmp_path / "built", teacher_source=None)
    np.testing.assert_array_equal(again.vectors(), built.vectors())
    again.save(tmp_path / "student")
    assert load_tokenizer(tmp_path / "student").vectors() is None


def test_words_with_vectors_are_not_compacted(glove):
    tokenizer = trained(vectors=str(glove))
    assert compact(tokenizer, np.zeros(len(tokenizer), np.int64)) is tokenizer


def test_no_word_at_all_is_an_input_error():
    with pytest.raises(InputError, match="no word"):
        trained(["", " ; "])
