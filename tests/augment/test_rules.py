"""The rules: what they may do to a text, how often they do it, and what a try depends on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtoolkit.augment.replacements import Replacements
from kdtoolkit.augment.rules import generate
from kdtoolkit.augment.words import split
from kdtoolkit.recipe.schema import Augment

ANIMALS, DEEDS = {"cat": 3, "dog": 1}, {"runs": 1, "sleeps": 2, "eats": 1}
REPLACEMENTS = Replacements({("animal", w): n for w, n in ANIMALS.items()} | {("deed", w): n for w, n in DEEDS.items()})
TEXT = "the cat runs , the dog eats"


def tagger(words):
    return ["animal" if w in ANIMALS else "deed" if w in DEEDS else "other" for w in words]


def tries(texts, seconds=None, *, task="t", seed=0, **rules):
    keys = {"mask": 0.0, "replace": 0.0, "ngram": 0.0, **rules}
    return list(generate(texts, seconds, Augment(**keys), tagger, REPLACEMENTS, task=task, seed=seed))


text = st.lists(st.sampled_from(["cat", "dog", "runs", "eats", "the", "a", ",", "it's"]), max_size=9).map(" ".join)


@given(st.lists(st.tuples(text, text), min_size=1, max_size=6), st.randoms(use_true_random=False), st.booleans())
def test_neither_the_order_nor_the_number_of_other_rows_changes_a_rows_texts(rows, random, pair):
    rules = {"mask": 0.3, "replace": 0.3, "ngram": 0.5, "copies": 4}

    def of(some):
        firsts, seconds = [a for a, _ in some], [b for _, b in some] if pair else None
        return dict(zip(zip(firsts, seconds or firsts), tries(firsts, seconds, **rules), strict=True))

    alone = {(a, b if pair else a): of([(a, b)])[a, b if pair else a] for a, b in rows}
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert of(shuffled) == alone


def test_a_try_depends_on_seed_task_row_and_its_number_alone():
    rules = {"mask": 0.5, "ngram": 0.5}
    many = tries([TEXT], copies=20, **rules)[0]
    assert tries([TEXT], copies=7, **rules)[0] == many[:7]
    assert len(set(many)) > 10
    assert tries([TEXT], copies=20, seed=1, **rules)[0] != many
    assert tries([TEXT], copies=20, task="u", **rules)[0] != many


@given(text)
def test_nothing_changes_at_probability_0_and_white_space_stays(words):
    odd = f"  {words}\t"
    assert tries([odd], copies=3) == [[(odd, None)] * 3]


def test_every_word_is_masked_at_probability_1():
    assert tries(["Good, it's"], mask=1.0, copies=2) == [[("[MASK] [MASK] [MASK]", None)] * 2]
    assert tries([TEXT], mask=1.0, mask_token="_", copies=1) == [[("_ _ _ _ _ _ _", None)]]


def test_a_word_is_exchanged_for_one_of_its_part_of_speech_by_their_share_of_the_text():
    drawn = [t.split() for t, _ in tries(["a cat runs"], replace=1.0, copies=4000)[0]]
    assert {words[0] for words in drawn} == {"a"}  # no word of its part of speech is known
    for place, shares in ((1, ANIMALS), (2, DEEDS)):
        for word, count in shares.items():
            share = np.mean([words[place] == word for words in drawn])
            assert share == pytest.approx(count / sum(shares.values()), abs=0.03)  # 4 standard deviations


def test_words_are_masked_and_exchanged_as_often_as_asked():
    found = [t.split() for t, _ in tries(["cat " * 20], mask=0.1, replace=0.4, copies=1000)[0]]
    words = [word for some in found for word in some]
    assert np.mean([w == "[MASK]" for w in words]) == pytest.approx(0.1, abs=0.01)
    assert np.mean([w == "dog" for w in words]) == pytest.approx(0.4 / 4, abs=0.01)


def test_n_grams_have_every_length_and_every_place():
    found = [t for t, _ in tries(["a b c d e f"], ngram=1.0, longest_ngram=3, copies=3000)[0]]
    singles, lengths = [t for t in found if len(t) == 1], [len(t.split()) for t in found]
    assert all(t in "a b c d e f" for t in found)
    assert sorted(set(lengths)) == [1, 2, 3]
    assert np.bincount(lengths)[1:] / 3000 == pytest.approx([1 / 3] * 3, abs=0.04)
    assert [singles.count(c) / len(singles) for c in "abcdef"] == pytest.approx([1 / 6] * 6, abs=0.05)
    whole = [t for t, _ in tries(["a b"], ngram=1.0, longest_ngram=9, copies=50)[0]]
    assert set(whole) == {"a", "b", "a b"}
    some = [t for t, _ in tries(["a b c d e f"], ngram=0.25, longest_ngram=5, copies=4000)[0]]
    assert np.mean([t != "a b c d e f" for t in some]) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("both", [0.0, 1 / 3, 1.0])
def test_of_a_pair_both_texts_are_changed_or_either(both):
    found = tries([TEXT], ["a dog"], mask=1.0, both=both, copies=3000)[0]
    first = np.array([a != TEXT for a, _ in found])
    second = np.array([b != "a dog" for _, b in found])
    assert (first | second).all()
    assert np.mean(first & second) == pytest.approx(both, abs=0.04)
    assert np.mean(first & ~second) == pytest.approx((1 - both) / 2, abs=0.04)


def test_texts_without_words_stay():
    assert tries(["", " "], mask=1.0, ngram=1.0, copies=2) == [[("", None)] * 2, [(" ", None)] * 2]
    assert tries([""], [""], mask=1.0, ngram=1.0, copies=1) == [[("", "")]]


@given(text)
def test_every_word_of_a_try_is_a_mask_or_a_word_that_may_stand_there(words):
    allowed = {"[MASK]", *split(words)[0], *ANIMALS, *DEEDS}
    for found, _ in tries([words], mask=0.3, replace=0.5, ngram=0.5)[0]:
        assert set(found.split()) <= allowed
