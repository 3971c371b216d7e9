"""Train and its generated text on disk: what is in it, what is not, and that it is the same again."""

from __future__ import annotations

import random
from hashlib import sha256

import numpy as np
import pytest

from kdtoolkit.augment import rows as module
from kdtoolkit.augment.language import learn, refuse_non_text
from kdtoolkit.augment.rows import augmented, preview
from kdtoolkit.augment.tagger import PythonTagger
from kdtoolkit.data.rows import write_rows
from kdtoolkit.errors import InputError
from kdtoolkit.example import Example
from kdtoolkit.recipe.schema import Augment
from kdtoolkit.tasks import Task

WORDS = [
    "the",
    "a",
    "old",
    "new",
    "film",
    "plot",
    "actor",
    "is",
    "was",
    "good",
    "bad",
    "dull",
    "very",
    "so",
    "and",
    "but",
]


def sentence(draw):
    return " ".join(draw.choices(WORDS, k=draw.randint(2, 7)))


def split_of(path, examples, *, pair=False):
    labels = {"labels": ("no", "yes"), "text": ("a", "b") if pair else ("a",)}
    return write_rows(path, Task("t", **labels), [examples])


@pytest.fixture
def splits(tmp_path):
    draw = random.Random(5)
    made = {}
    for name, count in (("train", 60), ("dev", 400), ("test", 400)):
        examples = [Example("t", sentence(draw), None, n % 2) for n in range(count)]
        made[name] = split_of(tmp_path / f"{name}.arrow", examples)
    return made


def texts(rows):
    first, second = rows.texts(0, len(rows))
    return first if second is None else list(zip(first, second, strict=True))


def test_train_comes_first_and_generated_rows_are_new_different_and_unlabelled(splits, tmp_path):
    rules = Augment(copies=20, ngram=0.5)
    rows, counts = augmented(splits, rules, tmp_path / "augmented", seed=1)
    train = splits["train"]
    assert rows.examples(slice(0, len(train))) == train.examples(slice(0, len(train)))
    generated = texts(rows)[len(train) :]
    assert len(generated) == counts.generated > 300
    assert len(set(generated)) == len(generated)
    for some in splits.values():
        assert not set(generated) & set(texts(some))
    assert np.isnan(rows.labels()[len(train) :]).all() and np.isfinite(rows.labels()[: len(train)]).all()
    assert all(text.replace("[MASK]", "").strip() for text in generated)
    assert counts.tries == 20 * len(train)
    assert counts.tries == counts.generated + counts.repeated + counts.empty + counts.sampled_out
    assert counts.empty > 0 and counts.repeated > 0
    assert sorted(path.name for path in (tmp_path / "augmented").iterdir()) == ["facts.json", "rows.arrow"]


def test_a_text_of_dev_would_have_been_generated_but_for_dev(splits, tmp_path):
    rules = Augment(ngram=0.5)
    without = {"train": splits["train"]}
    free, _ = augmented(without, rules, tmp_path / "free", seed=1)
    held, _ = augmented(splits, rules, tmp_path / "held", seed=1)
    lost = set(texts(free)) - set(texts(held))
    assert lost and lost <= set(texts(splits["dev"])) | set(texts(splits["test"]))


def test_the_same_rows_give_the_same_bytes_and_other_rules_or_rows_others(splits, tmp_path, monkeypatch):
    def digest(name, **changes):
        augmented(splits, Augment(**changes), tmp_path / name, seed=1)
        return sha256((tmp_path / name / "rows.arrow").read_bytes()).hexdigest()

    first = digest("one")
    assert digest("two") == first
    assert digest("three", mask=0.2) != first
    with monkeypatch.context() as patch:
        patch.setattr(module, "learn", lambda *a: pytest.fail("it was there already"))
        assert digest("one") == first
    assert digest("one", copies=3) != first
    (tmp_path / "one" / "facts.json").unlink()
    assert digest("one") == first


def test_the_generated_texts_do_not_depend_on_the_order_of_the_rows(splits, tmp_path):
    train = splits["train"]
    backwards = split_of(tmp_path / "back.arrow", train.examples(np.arange(len(train))[::-1]))
    for limit in (None, 50):
        rules = Augment(rows=limit)
        rows, _ = augmented(splits, rules, tmp_path / f"forth-{limit}", seed=1)
        other, counts = augmented({**splits, "train": backwards}, rules, tmp_path / f"back-{limit}", seed=1)
        assert set(texts(rows)) == set(texts(other))
    assert counts.generated == 50 and counts.sampled_out > 0


def test_the_preview_is_what_comes(splits, tmp_path):
    for rules in (Augment(), Augment(rows=7)):
        _, counts = augmented(splits, rules, tmp_path / "augmented", seed=1)
        found = preview(splits, rules, seed=1)
        assert found.rows == counts.generated
        assert len(found.examples) == 3
    everything, _ = augmented(splits, Augment(), tmp_path / "all", seed=1)
    for (before, none), (after, _) in found.examples:
        assert none is None and before in texts(splits["train"]) and after in texts(everything) and before != after


def test_pairs_are_generated_as_pairs(tmp_path):
    draw = random.Random(6)
    pairs = [Example("t", sentence(draw), sentence(draw), n % 2) for n in range(40)]
    train = split_of(tmp_path / "train.arrow", pairs, pair=True)
    rows, counts = augmented({"train": train}, Augment(copies=10), tmp_path / "augmented", seed=0)
    known = set(texts(train))
    first, second = {a for a, _ in known}, {b for _, b in known}
    generated = texts(rows)[len(train) :]
    changed = [(a not in first, b not in second) for a, b in generated]
    assert {(True, True), (True, False), (False, True)} <= set(changed)
    assert not set(generated) & known and counts.generated > 200


def test_what_is_no_text_is_refused(tmp_path):
    numbers = split_of(tmp_path / "n.arrow", [Example("t", f"{n} 3.5 {n + 1} x", None, n % 2) for n in range(20)])
    with pytest.raises(InputError, match=r"'t' is no text .* 25% of its words hold a letter.*augment.tasks"):
        refuse_non_text(numbers)
    empty = split_of(tmp_path / "e.arrow", [Example("t", " ", None, 0)] * 3)
    with pytest.raises(InputError, match="its texts are empty"):
        refuse_non_text(empty)
    half = split_of(tmp_path / "h.arrow", [Example("t", "good 7", None, 0)] * 3)
    refuse_non_text(half)


TAGGERS = """
def by_length(words):
    return [str(len(word)) for word in words]

def short(words):
    return ["x"] * (len(words) - 1)

def numbers(words):
    return [1] * len(words)

def text(words):
    return "x" * len(words)

def fails(words):
    raise KeyError("verb")

class Table:
    def __repr__(self):
        return "[[1 2]\\n   [3 4]]"

def table(words):
    return Table()

thing = 3
"""


@pytest.fixture
def module_of_taggers(tmp_path):
    path = tmp_path / "taggers.py"
    path.write_text(TAGGERS, encoding="utf-8")
    return path


def test_a_tagger_of_ones_own_decides_what_is_exchanged_for_what(splits, tmp_path, module_of_taggers):
    rules = Augment(mask=0, ngram=0, replace=0.5, tagger=f"python:{module_of_taggers}:by_length")
    rows, counts = augmented(splits, rules, tmp_path / "augmented", seed=1)
    lengths = {tuple(map(len, text.split())) for text in texts(splits["train"])}
    assert counts.generated > 100
    assert all(tuple(map(len, text.split())) in lengths for text in texts(rows))


def test_another_tagger_under_the_same_name_makes_another_augmentation(
    splits, tmp_path, module_of_taggers, monkeypatch
):
    rules = Augment(mask=0, ngram=0, replace=0.5, tagger=f"python:{module_of_taggers}:by_length")

    def made():
        """How often texts were tagged anew."""
        learnt = []
        with monkeypatch.context() as patch:
            patch.setattr(module, "learn", lambda *arguments: learnt.append(1) or learn(*arguments))
            augmented(splits, rules, tmp_path / "augmented", seed=1)
        return len(learnt)

    assert [made(), made()] == [1, 0]
    module_of_taggers.write_text(TAGGERS + "\n# another one\n", encoding="utf-8")
    assert [made(), made()] == [1, 0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "gave 2 tags for the 3 words of 'a good film'.*one tag for each word"),
        ("numbers", r"gave \[1, 1, 1\], no list of tags"),
        ("text", "gave 'xxx', no list of tags"),
        ("table", r"gave \[\[1 2\] \[3 4\]\], no list of tags"),
        ("fails", "failed on 3 words .KeyError: 'verb'."),
    ],
)
def test_a_tagger_that_does_not_tag_is_refused(module_of_taggers, name, message):
    with pytest.raises(InputError, match=message):
        PythonTagger(f"{module_of_taggers}:{name}")(["a", "good", "film"])


def test_a_tagger_that_is_not_there_is_refused(module_of_taggers):
    with pytest.raises(InputError, match=r"has no 'shrot'.*did you mean 'short'"):
        PythonTagger(f"{module_of_taggers}:shrot")
    with pytest.raises(InputError, match="is a int, which cannot be called"):
        PythonTagger(f"{module_of_taggers}:thing")


def test_what_is_learned_are_the_words_of_train_and_no_others(splits):
    language = learn(splits["train"], Augment())
    for word in WORDS:
        tag = language.tagger([word])[0]
        assert {language.replacements.draw(tag, word, draw / 50) for draw in range(50)} <= set(WORDS)
