import json
import subprocess
import sys
from collections import Counter
from random import Random

import pytest

from kdtoolkit.demo import SUITE, write_suite
from kdtoolkit.demo.suite import DEV, GOLD, TEACHER, TRANSFER

TASKS = {task.name: task for task in SUITE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    write_suite(folder)
    return folder


def read(folder, task, split):
    return [json.loads(line) for line in (folder / task.name / f"{split}.jsonl").read_text("utf-8").splitlines()]


def texts(task, row):
    return tuple(row[name] for name in task.text)


def test_the_suite_has_the_promised_files_rows_and_columns(folder):
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) == sorted(
        f"{task.name}/{split}.jsonl" for task in SUITE for split in ("train", "dev", "teacher")
    )
    for task in SUITE:
        train, dev, teacher = (read(folder, task, split) for split in ("train", "dev", "teacher"))
        assert (len(train), len(dev), len(teacher)) == (GOLD + TRANSFER, DEV, TEACHER)
        assert all(set(row) == {*task.text, "label"} for row in (*train, *dev, *teacher))
        assert all(row["label"] is None for row in train[GOLD:])
        for row in (*train[:GOLD], *dev, *teacher):
            if task.kind == "regression":
                assert 0 <= row["label"] <= 5
            else:
                assert row["label"] in task.labels


def test_a_seed_gives_the_same_bytes_in_every_process_and_another_seed_other_text(folder, tmp_path):
    code = f"from kdtoolkit.demo import write_suite; write_suite({str(tmp_path / 'again')!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": "7"})
    write_suite(tmp_path / "other", seed=1)
    for task in SUITE:
        for split in ("train", "dev", "teacher"):
            name = f"{task.name}/{split}.jsonl"
            assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
            assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


@pytest.mark.parametrize("task", SUITE, ids=TASKS)
def test_no_row_is_there_twice_and_no_text_of_dev_is_elsewhere(folder, task):
    rows = {split: [texts(task, row) for row in read(folder, task, split)] for split in ("train", "dev", "teacher")}
    every = [row for split in rows.values() for row in split]
    assert len(set(every)) == len(every)
    assert all(len(set(row)) == len(row) for row in every)
    dev = {text for row in rows["dev"] for text in row}
    assert not dev & {text for split in ("train", "teacher") for row in rows[split] for text in row}


@pytest.mark.parametrize("task", [task for task in SUITE if task.kind == "classification"], ids=lambda task: task.name)
@pytest.mark.parametrize("split", ["dev", "teacher", "train"])
def test_labels_are_balanced(folder, task, split):
    counts = Counter(row["label"] for row in read(folder, task, split) if row["label"] is not None)
    fair = sum(counts.values()) / len(task.labels)
    assert all(abs(counts[label] - fair) < 0.25 * fair for label in task.labels)


def test_similarity_uses_the_whole_scale(folder):
    labels = [row["label"] for row in read(folder, TASKS["demo_similarity"], "teacher")]
    assert min(labels) == 0 and max(labels) == 5
    assert all(sum(low <= x < low + 1 for x in labels) > 200 for low in range(5))


def test_texts_are_short_sentences_of_a_broad_vocabulary(folder):
    lengths, words = [], set()
    for task in SUITE:
        for row in read(folder, task, "teacher"):
            for text in texts(task, row):
                assert text[0].isupper() and text.endswith(".") and "  " not in text and text == text.strip()
                lengths.append(len(text.split()))
                words.update(text.lower().strip(".").replace(",", "").split())
    assert min(lengths) >= 3 and max(lengths) <= 22 and 6 <= sum(lengths) / len(lengths) <= 12
    assert len(words) > 800


def test_few_labels_meet_only_a_part_of_the_words(folder):
    def words(rows, task):
        return {word for row in rows for text in texts(task, row) for word in text.lower().strip(".").split()}

    task = TASKS["demo_sentiment"]
    train = read(folder, task, "train")
    assert len(words(train[:GOLD], task)) < 0.8 * len(words(train, task))


def test_labels_cannot_be_told_from_the_length_or_from_one_side(folder):
    """A pair task whose second sentence gives the label away teaches nothing about pairs."""
    task = TASKS["demo_paraphrase"]
    rows = read(folder, task, "teacher")
    length = {label: [len(r["sentence2"].split()) for r in rows if r["label"] == label] for label in task.labels}
    means = [sum(x) / len(x) for x in length.values()]
    assert abs(means[0] - means[1]) < 1


def test_the_demo_needs_neither_torch_nor_numpy():
    code = "import sys, kdtoolkit.demo; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_random_is_the_only_source_of_chance():
    from kdtoolkit.demo import pairs, sentiment

    for grammar in (sentiment.review, pairs.entailment, pairs.paraphrase, pairs.similarity):
        one, two = Random(5), Random(5)
        assert [grammar(one) for _ in range(50)] == [grammar(two) for _ in range(50)]
