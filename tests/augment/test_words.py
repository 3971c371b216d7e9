"""Words of a text, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtoolkit.augment.words import join, split


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's good, isn't it?", ["It's", "good", ",", "isn't", "it", "?"]),
        ("it 's a film that does n't work .", ["it", "'s", "a", "film", "that", "does", "n't", "work", "."]),
        ("$3.50 for 10,000 (well-known) films", ["$", "3.50", "for", "10,000", "(", "well-known", ")", "films"]),
        ("'quoted' words", ["'", "quoted", "'", "words"]),
        ("Öl über naïve café", ["Öl", "über", "naïve", "café"]),
        ("東京は好き", ["東", "京", "は", "好", "き"]),
        ("", []),
        (" \t\n", []),
    ],
)
def test_marks_and_characters_without_spaces_are_words_of_their_own(text, words):
    assert split(text)[0] == words


@given(st.text(max_size=80))
def test_the_words_put_together_are_the_text_up_to_its_white_space(text):
    words, apart = split(text)
    assert join(words, apart, "[MASK]").split() == text.split()
    assert "".join(words) == "".join(text.split())


def test_the_lone_word_has_spaces_around_it_and_others_stand_as_they_stood():
    words, apart = split("(good), he said.")
    assert join(words, apart, "[MASK]") == "(good), he said."
    words[1] = words[-1] = "[MASK]"
    assert join(words, apart, "[MASK]") == "( [MASK] ), he said [MASK]"
