"""`both_orders`: which pairs of train are also there the other way round, and which must not be."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdtoolkit.data.prepare import prepare_task
from kdtoolkit.errors import InputError
from kdtoolkit.recipe.load import recipe_from_dict

PAIR = {"name": "alike", "text": ["one", "two"]}


@pytest.fixture
def prepare(tmp_path):
    def call(files, task=PAIR, **section):
        for split, rows in files.items():
            lines = "".join(json.dumps(dict(zip(("one", "two", "label"), row))) + "\n" for row in rows)
            (tmp_path / f"{split}.jsonl").write_text(lines)
            section[split] = str(tmp_path / f"{split}.jsonl")
        recipe = recipe_from_dict(
            {"tasks": [task], "teachers": ["bert-large"], "data": {task["name"]: {"both_orders": True, **section}}}
        )
        (found,) = recipe.task_list()
        return prepare_task(found, recipe, tmp_path / "rows")

    return call


def pairs(rows):
    first, second = rows.texts(0, len(rows))
    labels = [None if np.isnan(label) else int(label) for label in rows.labels()]
    return list(zip(first, second, labels, strict=True))


def some(count, start=0):
    return [(f"a{n}", f"b{n}", ("no", "yes")[n % 2]) for n in range(start, start + count)]


DEV = some(4, 900)


def test_gold_and_transfer_pairs_of_train_stand_there_in_both_orders(prepare):
    rows = prepare({"train": some(4), "dev": DEV, "transfer": [("x", "y", "no")]}, gold_rows=2, transfer_rows=1)
    assert pairs(rows.splits["train"]) == [
        ("a0", "b0", 0), ("b0", "a0", 0), ("a1", "b1", 1), ("b1", "a1", 1), ("a2", "b2", None), ("b2", "a2", None),
        ("x", "y", None), ("y", "x", None),
    ]  # fmt: skip
    ids = rows.splits["train"].ids()
    assert len(np.unique(ids)) == len(ids)
    assert pairs(rows.splits["dev"]) == [(a, b, n % 2) for n, (a, b, _) in enumerate(DEV)]
    assert "4 pairs of train are also there the other way round" in rows.notes


def test_the_teachers_own_rows_are_there_in_both_orders_too(prepare):
    rows = prepare({"train": some(4), "dev": DEV, "teacher": some(2, 50)})
    assert pairs(rows.splits["teacher"]) == [("a50", "b50", 0), ("b50", "a50", 0), ("a51", "b51", 1), ("b51", "a51", 1)]
    assert "2 pairs of teacher are also there the other way round" in rows.notes


def test_a_pair_of_equal_texts_has_one_order(prepare):
    rows = prepare({"train": [*some(2), ("same", "same", "yes")], "dev": DEV})
    assert pairs(rows.splits["train"])[4:] == [("same", "same", 1)]


def test_what_is_held_out_of_train_does_not_come_back_the_other_way_round(prepare):
    both_ways = [row for a, b, label in some(400) for row in ((a, b, label), (b, a, label))]
    rows = prepare({"train": both_ways, "teacher": both_ways})
    held = {(a, b) for split in ("dev", "calibration") for a, b, _ in pairs(rows.splits[split])}
    assert len(held) == 80 + 72
    for split in ("train", "teacher"):
        assert not held & {(a, b) for a, b, _ in pairs(rows.splits[split])}


def test_without_the_key_every_pair_is_there_once(prepare):
    rows = prepare({"train": some(4), "dev": DEV}, both_orders=False)
    assert len(rows.splits["train"]) == 4 and not any("other way round" in note for note in rows.notes)


def test_single_texts_are_refused(prepare):
    with pytest.raises(InputError, match=r"data.alike.both_orders: the rows of 'alike' are single texts; leave it out"):
        prepare({"train": some(4), "dev": DEV}, task={"name": "alike", "text": ["one"]})
    with pytest.raises(InputError, match=r"data.alike.both_orders: the rows of 'alike' are single texts; leave it out"):
        prepare({"train": some(4), "dev": DEV}, task={"name": "alike"}, text=["one"])


@pytest.mark.parametrize(
    ("labels", "warned"),
    [(("entailment", "not_entailment"), True), (("Contradiction", "x"), True), (("no", "yes"), False)],
)
def test_labels_for_which_the_order_matters_are_warned_of(prepare, labels, warned):
    files = {split: [(a, b, labels[n % 2]) for n, (a, b, _) in enumerate(rows)]
             for split, rows in (("train", some(4)), ("dev", DEV))}  # fmt: skip
    notes = prepare(files).notes
    assert any("does not say that (b, a) is" in note for note in notes) == warned


def test_a_pair_that_is_measured_the_other_way_round_is_not_turned_into_it(prepare):
    dev = [*DEV, ("b1", "a1", "yes")]
    rows = prepare(
        {"train": some(4), "dev": dev, "test": [("b2", "a2", "no")], "teacher": [("a1", "b1", "yes"), *some(1)]}
    )
    trained = [pair[:2] for split in ("train", "teacher") for pair in pairs(rows.splits[split])]
    assert ("b1", "a1") not in trained and ("b2", "a2") not in trained
    assert ("a1", "b1") in trained and ("b0", "a0") in trained and ("b3", "a3") in trained
