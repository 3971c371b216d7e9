"""Flat token arrays of a split."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdtoolkit.data import tokens as module
from kdtoolkit.data.rows import write_rows
from kdtoolkit.data.tokens import TokenArrays, remap, tokenize_rows
from kdtoolkit.errors import WorkError
from kdtoolkit.example import Example
from kdtoolkit.tasks import Task
from kdtoolkit.tokenizers import compact
from kdtoolkit.tokenizers.words import WordTokenizer

WORDS = WordTokenizer(["<pad>", "<unk>", "<cls>", "<sep>", *"abcdefgh"])
SINGLE = Task("one", labels=("no", "yes"), pair=False)
PAIR = Task("two", labels=("no", "yes"), pair=True)
TEXTS = ["a b c", "", "zzz a", "h " * 50, "d"]


def rows_of(path, texts, seconds=None):
    task = SINGLE if seconds is None else PAIR
    pairs = zip(texts, seconds if seconds is not None else [None] * len(texts))
    return write_rows(path, task, [[Example(task.name, text, second, 0) for text, second in pairs]])


def texts_of(arrays):
    """All texts as lists of pieces, in order."""
    return [arrays.ids[a:b].tolist() for a, b in zip(arrays.offsets[:-1], arrays.offsets[1:])]


@pytest.mark.parametrize("chunk_rows", [1, 2, 1000])
def test_the_arrays_are_the_truncated_texts_whatever_the_chunk(tmp_path, monkeypatch, chunk_rows):
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk_rows)
    arrays = tokenize_rows(rows_of(tmp_path / "r.arrow", TEXTS), WORDS, tmp_path / "t", max_tokens=8)
    assert texts_of(arrays) == [pieces[:8] for pieces in WORDS.encode_batch(TEXTS)]
    assert arrays.lengths().tolist() == [3, 1, 2, 8, 1] and arrays.lengths().dtype == np.int32
    assert arrays.truncated == 1
    assert arrays.ids.dtype == np.int32 and arrays.offsets.dtype == np.int64
    np.testing.assert_array_equal(arrays.piece_counts, np.bincount(arrays.ids, minlength=len(WORDS)))


def test_the_texts_of_a_pair_follow_each_other(tmp_path):
    arrays = tokenize_rows(rows_of(tmp_path / "r", ["a", "b b"], ["c c c", ""]), WORDS, tmp_path / "t", max_tokens=8)
    assert texts_of(arrays) == [[4], [6, 6, 6], [5, 5], [WORDS.unk]]
    assert arrays.text_lengths().tolist() == [[1, 3], [2, 1]]
    assert arrays.lengths().tolist() == [4, 3] and len(arrays) == 2


def test_a_split_without_rows_is_empty_arrays(tmp_path):
    arrays = tokenize_rows(rows_of(tmp_path / "r", []), WORDS, tmp_path / "t", max_tokens=8)
    assert len(arrays) == 0 and arrays.lengths().shape == (0,) and texts_of(arrays) == []


def test_a_long_text_is_cut_and_counted(tmp_path):
    arrays = tokenize_rows(rows_of(tmp_path / "r", ["a " * 50_000]), WORDS, tmp_path / "t", max_tokens=64)
    assert arrays.lengths().tolist() == [64] and arrays.truncated == 1


class Counting(WordTokenizer):
    calls = 0

    def _encode(self, texts):
        type(self).calls += 1
        return super()._encode(texts)


def test_nothing_is_tokenized_twice_and_a_change_is_noticed(tmp_path):
    tokenizer, rows = Counting(list(WORDS._words)), rows_of(tmp_path / "r", TEXTS)

    def calls(rows=rows, max_tokens=8):
        before = Counting.calls
        tokenize_rows(rows, tokenizer, tmp_path / "t", max_tokens=max_tokens)
        return Counting.calls - before

    assert calls() > 0
    assert calls() == 0
    assert calls(max_tokens=9) > 0
    assert calls(rows=rows_of(tmp_path / "other", TEXTS[::-1])) > 0


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    rows = rows_of(tmp_path / "r", TEXTS)
    monkeypatch.setattr(module, "CHUNK_ROWS", 2)
    monkeypatch.setattr(
        type(rows), "texts", lambda self, start, stop: (TEXTS[start:stop], None) if start < 2 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        tokenize_rows(rows, WORDS, tmp_path / "t", max_tokens=8)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("name", ["ids.npy", "offsets.npy", "piece_counts.npy", "tokens.json"])
def test_damaged_arrays_are_named(tmp_path, name):
    tokenize_rows(rows_of(tmp_path / "r", TEXTS), WORDS, tmp_path / "t", max_tokens=8)
    path = tmp_path / "t" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(WorkError, match=str(tmp_path / "t")):
        TokenArrays(tmp_path / "t")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.lists(st.sampled_from([*"abcdefgh", "z"]), max_size=7).map(" ".join), min_size=1, max_size=8),
    chunk=st.integers(1, 40),
)
def test_remapped_arrays_are_what_the_compact_tokenizer_makes(tmp_path_factory, monkeypatch, texts, chunk):
    folder = tmp_path_factory.mktemp("remap")
    rows = rows_of(folder / "r", texts, texts[::-1])
    full = tokenize_rows(rows, WORDS, folder / "full", max_tokens=5)
    small = compact(WORDS, full.piece_counts)
    monkeypatch.setattr(module, "CHUNK_TOKENS", chunk)
    remapped = remap(full, small, folder / "small")
    direct = tokenize_rows(rows, small, folder / "direct", max_tokens=5)
    assert texts_of(remapped) == texts_of(direct)
    np.testing.assert_array_equal(remapped.piece_counts, direct.piece_counts)
    assert (remapped.fingerprint, remapped.truncated) == (direct.fingerprint, direct.truncated)


def test_remapping_to_the_same_tokenizer_changes_nothing(tmp_path):
    full = tokenize_rows(rows_of(tmp_path / "r", TEXTS), WORDS, tmp_path / "t", max_tokens=8)
    assert remap(full, WORDS, tmp_path / "u") is full
    other = compact(WordTokenizer(["<pad>", "<unk>", "<cls>", "<sep>", "a"]), np.ones(5, np.int64))
    with pytest.raises(ValueError, match="compact form"):
        remap(full, other, tmp_path / "u")
    with pytest.raises(ValueError, match="another folder"):
        remap(full, compact(WORDS, full.piece_counts), tmp_path / "t")
