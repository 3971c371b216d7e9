"""Induced word classes agree with what the words are, on real text, whatever its order."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter, defaultdict

import pytest

from kdtoolkit.augment.induced import InducedTagger, induce
from kdtoolkit.augment.words import split

KNOWN = {
    "determiner": "the a an this these his her its their our my your every some any no",
    "preposition": "of in on at by for with from into through about without between against during after",
    "pronoun": "i you he she we they it who",
    "modal": "can could will would may might must should",
    "verb": "make take give find get keep see know think feel tell watch leave enjoy become show",
    "verb, third person": "makes takes gives finds gets keeps knows feels tells leaves becomes shows proves offers",
    "adverb": "really simply only never always truly completely surprisingly deeply actually easily quickly",
    "adjective": "funny smart clever dull good bad great strong sweet silly beautiful interesting boring powerful",
    "noun": "film movie story plot comedy drama character director actor script time life world heart scene",
    "nouns": "films movies characters performances scenes moments actors jokes effects images ideas people years",
}


@pytest.fixture(scope="module")
def texts(glue):
    with gzip.open(glue / "sst-2" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        return [split(json.loads(line)["sentence1"])[0] for number, line in enumerate(file) if number % 4 == 0]


@pytest.fixture(scope="module")
def tagger(texts):
    return induce(texts, 64)


def purity(classes):
    """Share of the known words whose part of speech is the commonest of their class; and the number of classes."""
    found = defaultdict(Counter)
    for part, words in KNOWN.items():
        for word in words.split():
            found[classes[word]][part] += 1
    total = sum(sum(some.values()) for some in found.values())
    return sum(max(some.values()) for some in found.values()) / total, len(found)


def test_known_words_share_their_class_with_words_of_their_part_of_speech(tagger):
    pure, classes = purity(tagger.classes)
    assert classes <= 40  # of 134 words: a class of its own for each would be pure and worthless
    assert pure > 0.85
    shuffled = list(tagger.classes.values())
    random.Random(0).shuffle(shuffled)
    by_chance, _ = purity(dict(zip(tagger.classes, shuffled, strict=True)))
    assert pure > by_chance + 0.3


def test_a_replacement_is_of_the_words_part_of_speech_more_often_than_a_random_word(tagger, texts):
    part = {word: name for name, words in KNOWN.items() for word in words.split()}
    counts = Counter(word for text in texts for word in text if word in part)
    by_class = defaultdict(Counter)
    for word, count in counts.items():
        by_class[tagger([word])[0]][part[word]] += count
    total = sum(counts.values())
    parts = Counter()
    for word, count in counts.items():
        parts[part[word]] += count
    # Of known words drawn for known words, from the class and from the whole text.
    drawn = sum(n * n / sum(some.values()) for some in by_class.values() for n in some.values()) / total
    assert drawn > 0.85 > 0.5 > sum(n * n for n in parts.values()) / total**2


def test_the_order_of_the_texts_does_not_matter(texts):
    some = texts[:3000]
    shuffled = list(some)
    random.Random(1).shuffle(shuffled)
    assert induce(some, 16).classes == induce(shuffled, 16).classes


def test_rare_words_go_by_their_ending(tagger, texts):
    members = defaultdict(list)
    for word, tag in tagger.classes.items():
        members[tag].append(word.endswith("ly"))
    adverbial = {tag for tag, some in members.items() if sum(some) > len(some) / 2}
    rare = sorted({word for text in texts for word in text} - tagger.classes.keys())
    shares = [
        sum(tagger([word])[0] in adverbial for word in some) / len(some)
        for some in ([w for w in rare if w.endswith("ly")], [w for w in rare if not w.endswith("ly")])
    ]
    assert shares[0] > 0.7 and shares[1] < 0.05


def test_marks_and_numbers_are_classes_of_their_own(tagger):
    assert tagger([",", "!", "1977", "3.5", "qqx"])[:4] == ["mark", "mark", "number", "number"]
    assert set(tagger.classes.values()) & {"mark", "number"} == set()


@pytest.mark.parametrize("texts_of_words", [[], [[]], [["one"]], [["a", "b"], ["a", "c"]]])
def test_too_little_text_has_the_classes_of_shapes(texts_of_words):
    tagger = induce(texts_of_words, 64)
    assert isinstance(tagger, InducedTagger)
    assert tagger(["a", "Paris", "NATO", "7", "?"]) == ["word", "name", "capitals", "number", "mark"]
    assert tagger([]) == []


def test_a_class_has_several_words_however_many_classes_are_asked_for():
    words = [f"{stem}{ending}" for stem in ("walk", "talk", "look", "turn") for ending in ("ing", "ed")]
    tagger = induce([[word, "it"] for word in words for _ in range(5)], 64)
    assert len(set(tagger.classes.values())) <= len(tagger.classes) // 4
