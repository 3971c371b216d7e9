"""Preparing: what the recipe asks for is what is on disk, in any format, and wrong data are refused with their line."""

import csv
import gzip
import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdtoolkit.data.prepare import prepare_all, prepare_task
from kdtoolkit.errors import InputError, InputErrors
from kdtoolkit.recipe.schema import Recipe


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def csv_rows(rows, header="text,label"):
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([header.split(","), *rows])
    return stream.getvalue()


def some(n, start=0, names=("no", "yes")):
    return [(f"text {i}", names[i % len(names)]) for i in range(start, start + n)]


def prepare(out, tasks="own", seed=0, evaluate=None, **data):
    recipe = Recipe(tasks=tasks if isinstance(tasks, list) else [tasks], seed=seed, data=data, evaluate=evaluate or {})
    (task,) = recipe.task_list()
    return prepare_task(task, recipe, out)


def own(folder, train, dev=None, *, tasks="own", evaluate=None, seed=0, ending=".csv", **section):
    """Prepares task "own" from the text of its train and dev files."""
    for split, text in {"train": train, "dev": dev}.items():
        if text is not None:
            section[split] = str(write(folder / f"{split}{ending}", text))
    return prepare(folder / "rows", tasks, seed, evaluate, own=section)


def texts(rows):
    return rows.texts(0, len(rows))[0]


def gold(rows):
    return [None if np.isnan(x) else int(x) for x in rows.labels()]


def test_files_named_in_the_recipe_become_rows(tmp_path):
    rows = own(tmp_path, csv_rows(some(6)), csv_rows(some(4, 100)))
    assert rows.task.labels == ("no", "yes") and rows.task.pair is False
    assert (rows.task.text, rows.task.label) == (("text",), "label")
    assert list(rows.splits) == ["train", "dev"]
    assert texts(rows.splits["train"]) == [f"text {i}" for i in range(6)]
    assert gold(rows.splits["train"]) == [0, 1] * 3
    assert rows.notes == ["columns of train: text from text, label from label", "labels found in the data: no, yes"]


names = st.sampled_from(["no", "yes", "b c"])
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=8) | st.sampled_from(['"', 'a "b"', "a\tb", "a\nb"])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(text, text, names), min_size=3, max_size=8).filter(lambda r: len({x[2] for x in r}) > 1))
def test_the_same_rows_in_any_format_are_the_same_ids_and_labels(tmp_path_factory, rows):
    header = ("sentence1", "sentence2", "label")
    table = pa.table({name: list(column) for name, column in zip(header, zip(*rows))})
    parquet = io.BytesIO()
    pq.write_table(table, parquet)
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_ALL).writerows([header, *rows])
    contents = {
        ".csv": csv_rows(rows, ",".join(header)).encode(),
        ".tsv": stream.getvalue().encode(),
        ".jsonl": b"".join(json.dumps(dict(zip(header, row))).encode() + b"\n" for row in rows),
        ".parquet": parquet.getvalue(),
    }
    if not any(c in t for row in rows for t in row for c in "\t\n\r"):
        contents["-plain.tsv"] = "".join("\t".join(row) + "\n" for row in [header, *rows]).encode()
    contents |= {f"{ending}.gz": gzip.compress(data, 1) for ending, data in contents.items()}
    seen = []
    folder = tmp_path_factory.mktemp("formats")
    for ending, data in contents.items():
        quoting = "plain" if "plain" in ending else "auto"
        part = folder / ending.strip(".")
        prepared = own(part, data, data, ending=ending, quoting=quoting)
        train = prepared.splits["train"]
        seen.append((prepared.task.labels, train.ids().tobytes(), train.labels().tolist()))
    assert all(one == seen[0] for one in seen)


@pytest.mark.parametrize(("numbers", "labels"), [(("10", "9"), ("9", "10")), (("0", "1", "2"), ("0", "1", "2"))])
def test_integer_labels_are_the_same_in_csv_and_json(tmp_path, numbers, labels):
    rows = some(12, names=numbers)
    as_json = "\n".join(json.dumps({"text": t, "label": int(n)}) for t, n in rows)
    one = own(tmp_path / "csv", csv_rows(rows), csv_rows(rows))
    two = own(tmp_path / "json", as_json, as_json, ending=".jsonl")
    assert one.task.labels == two.task.labels == labels
    assert gold(one.splits["train"]) == gold(two.splits["train"])


def test_a_built_in_task_takes_names_and_numbers_in_its_own_class_order(tmp_path):
    write(
        tmp_path / "RTE/train.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n1\tc\td\tentailment\n"
    )
    write(tmp_path / "RTE/dev.jsonl", '{"sentence1": "a \\"x\\"", "sentence2": "b", "label": 1}\n')
    rows = prepare(tmp_path / "rows", "rte", folder=str(tmp_path))
    assert gold(rows.splits["train"]) == [1, 0] and gold(rows.splits["dev"]) == [1]
    assert rows.task.labels == ("entailment", "not_entailment")


def test_class_names_kept_in_a_parquet_file_are_used_by_name(tmp_path):
    table = pa.table({"text": ["a", "b", "c"], "label": [0, 1, 2]})
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["z", "y", "x"]}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    for name in ("train", "dev"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    rows = prepare(tmp_path / "rows", folder=str(tmp_path))
    assert rows.task.labels == ("z", "y", "x") and gold(rows.splits["train"]) == [0, 1, 2]
    named = [{"name": "own", "labels": ["x", "y", "z"]}]
    rows = prepare(tmp_path / "named", named, folder=str(tmp_path))
    assert rows.task.labels == ("x", "y", "z") and gold(rows.splits["train"]) == [2, 1, 0]


def test_regression_and_multilabel_tasks_need_no_code(tmp_path):
    dev = '{"text": "a", "label": 1.5}\n'
    score = own(tmp_path / "a", dev + '{"text": "b", "label": null}', dev, ending=".jsonl",
                tasks=[{"name": "own", "kind": "regression"}])  # fmt: skip
    assert score.splits["train"].labels().tolist()[0] == 1.5 and np.isnan(score.splits["train"].labels()[1])
    rows = '{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": []}\n{"text": "c", "labels": ["z"]}\n'
    tags = own(tmp_path / "b", rows, rows, ending=".jsonl", tasks=[{"name": "own", "kind": "multilabel"}])
    assert tags.task.labels == ("x", "y", "z")
    assert tags.splits["train"].labels().tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


# --- which rows serve for what ---


def test_gold_rows_keep_their_labels_transfer_rows_lose_them_and_the_rest_is_left_out(tmp_path):
    train, dev = csv_rows(some(30)), csv_rows(some(4, 100))
    rows = own(tmp_path / "a", train, dev, gold_rows=10, transfer_rows=5).splits["train"]
    assert texts(rows) == [f"text {i}" for i in range(15)]
    assert gold(rows) == [0, 1] * 5 + [None] * 5
    assert gold(own(tmp_path / "b", train, dev, gold_rows=4).splits["train"]) == [0, 1] * 2 + [None] * 26
    assert gold(own(tmp_path / "c", train, dev, gold_rows=4, rows=6).splits["train"]) == [0, 1, 0, 1, None, None]
    assert gold(own(tmp_path / "d", train, dev, gold_rows=0).splits["train"]) == [None] * 30


def test_a_transfer_file_is_appended_without_its_labels(tmp_path):
    transfer = write(tmp_path / "more.jsonl", '{"text": "more", "label": "unheard of"}\n{"text": "", "x": 1}\n')
    rows = own(tmp_path, csv_rows(some(4)), csv_rows(some(4, 50)), transfer=str(transfer))
    assert texts(rows.splits["train"])[4:] == ["more", ""] and gold(rows.splits["train"])[4:] == [None, None]
    assert f"2 rows of transfer text come from {transfer}" in rows.notes
    assert "1 rows of train have an empty text" in rows.notes


def test_a_teacher_file_is_a_split_of_its_own_and_its_classes_count(tmp_path):
    teacher = write(tmp_path / "teacher.csv", csv_rows(some(6, 51, ("no", "yes", "maybe"))))
    train = '{"text": "a"}\n{"text": "b"}\n'
    dev = '{"text": "c", "label": "no"}\n'
    rows = own(tmp_path, train, dev, ending=".jsonl", teacher=str(teacher))
    assert rows.task.labels == ("maybe", "no", "yes")
    assert gold(rows.splits["teacher"]) == [1, 2, 0] * 2 and gold(rows.splits["train"]) == [None, None]
    assert "2 rows of the train file have no gold label and are transfer text" in rows.notes


def test_without_a_dev_file_a_seeded_tenth_of_the_texts_is_held_out(tmp_path):
    train = csv_rows(some(300) + some(300))  # every text twice
    transfer = str(write(tmp_path / "more.csv", csv_rows(some(300))))
    one = own(tmp_path / "a", train, transfer=transfer)
    assert len(one.splits["dev"]) == 60
    assert "dev is a seeded tenth of train (60 rows), because there is no dev file" in one.notes
    assert not set(texts(one.splits["dev"])) & set(texts(one.splits["train"]))
    again, other = own(tmp_path / "b", train, transfer=transfer), own(tmp_path / "c", train, seed=1)
    assert texts(again.splits["dev"]) == texts(one.splits["dev"]) != texts(other.splits["dev"])


def test_calibration_rows_leave_train_with_all_their_copies(tmp_path):
    train, dev = csv_rows(some(600) + some(600)), csv_rows(some(10, 5000))
    rows = own(tmp_path / "a", train, dev, gold_rows=600)
    calibration = set(texts(rows.splits["calibration"]))
    assert len(calibration) == 60 and not calibration & set(texts(rows.splits["train"]))
    assert len(rows.splits["train"]) == 1200 - 2 * 60
    fewer = own(tmp_path / "b", train, dev, evaluate={"calibration_rows": 55})
    assert len(fewer.splits["calibration"]) == 54  # whole texts, each of which stands twice
    assert "calibration" not in own(tmp_path / "c", train, dev, evaluate={"calibration_rows": 0}).splits


def test_dev_serves_for_calibration_where_test_is_reported(tmp_path):
    test = str(write(tmp_path / "test.csv", csv_rows(some(10, 7000))))
    rows = own(tmp_path, csv_rows(some(600)), csv_rows(some(10, 5000)), test=test, evaluate={"split": "test"})
    assert list(rows.splits) == ["train", "dev", "test"] and len(rows.splits["train"]) == 600


def test_an_unlabelled_test_split_is_left_out_unless_it_is_asked_for(tmp_path):
    test = str(write(tmp_path / "test.csv", "text\nsomething\n"))
    rows = own(tmp_path / "a", csv_rows(some(20)), csv_rows(some(4, 50)), test=test)
    assert "test" not in rows.splits and "1 rows of test have no gold label and are left out" in rows.notes
    with pytest.raises(InputError, match=r"no test row with a gold label; give a labelled file with data.own.test"):
        own(tmp_path / "b", csv_rows(some(20)), csv_rows(some(4, 50)), test=test, evaluate={"split": "test"})
    with pytest.raises(InputError, match="task 'own': there is no test row"):
        own(tmp_path / "c", csv_rows(some(20)), csv_rows(some(4, 50)), evaluate={"split": "test"})


def test_dev_rows_without_a_gold_label_or_seen_in_train_are_counted(tmp_path):
    rows = own(tmp_path, csv_rows(some(20)), csv_rows([*some(4, 18), ("x", "-")]))
    assert len(rows.splits["dev"]) == 4
    assert "1 rows of dev have no gold label and are left out" in rows.notes
    assert "the text of 2 of 4 rows of dev also stands in train" in rows.notes


def test_a_missing_mismatched_split_is_a_note_not_an_error(tmp_path):
    header = "premise,hypothesis,label"
    rows = [("a", "b", "neutral"), ("c", "d", "entailment")]
    for split in ("train", "dev_matched"):
        write(tmp_path / f"MNLI/{split}.csv", csv_rows(rows, header))
    assert "there is no dev_mismatched split" in prepare(tmp_path / "a", "mnli", folder=str(tmp_path)).notes
    write(tmp_path / "MNLI/dev_mismatched.csv", csv_rows(rows[:1], header))
    prepared = prepare(tmp_path / "a", "mnli", folder=str(tmp_path))
    assert list(prepared.splits) == ["train", "dev", "dev_mismatched"] and len(prepared.splits["dev_mismatched"]) == 1


def test_a_class_that_no_gold_row_has_is_noted_where_the_names_are_known(tmp_path):
    tasks = [{"name": "own", "labels": ["no", "yes", "maybe"]}]
    rows = own(tmp_path, csv_rows(some(20)), csv_rows(some(3, 50, ("no", "yes", "maybe"))), tasks=tasks)
    assert "dev has rows of a class that no gold row of train has: maybe" in rows.notes


# --- awkward texts ---


def test_a_text_of_a_hundred_thousand_characters_is_cut_counted_and_reported(tmp_path):
    rows = own(tmp_path, csv_rows([("é" * 100_001, "no"), ("x" * 100_000, "yes")]), csv_rows(some(4)))
    assert rows.splits["train"].characters().tolist() == [100_000, 100_000]
    assert "1 texts of train were cut to 100,000 characters" in rows.notes


def test_empty_texts_are_rows_and_are_counted(tmp_path):
    rows = own(tmp_path, csv_rows([("", "no"), ("  ", "yes"), ("a", "no")]), csv_rows([("", "no")]))
    assert texts(rows.splits["train"]) == ["", "  ", "a"]
    assert {"2 rows of train have an empty text", "1 rows of dev have an empty text"} <= set(rows.notes)


# --- what is refused ---

DEV = csv_rows(some(4, 900))


@pytest.mark.parametrize(
    ("train", "dev", "place", "cause"),
    [
        ("text,label\n", DEV, "train.csv", "has no rows"),
        (csv_rows(some(9)), None, "train.csv", "too few to hold a dev split out of it; give a dev file with"),
        (csv_rows(some(9, names=("no",))), DEV, "train.csv", "one class only: every label is 'no'"),
        (csv_rows(some(20)), csv_rows([("a", "no"), ("b", "yess")]), "dev.csv line 3",
         "label 'yess' does not occur in train; did you mean 'yes'?"),
        (csv_rows(some(20)), "text\na\n", "dev.csv", "there is no dev row with a gold label"),
        (csv_rows(some(20)), "", "dev.csv", "is empty"),
        ("text\na\nb\n", DEV, "train.csv", "has no gold label, so the names of the labels are unknown"),
        (csv_rows([("a", "1"), ("b", "2.5")]), DEV, "train.csv", "say `kind: regression`"),
        (csv_rows([*some(9), ("a,b", "no")]).encode() + b"\xff,no\n", DEV, "train.csv line 12", "is no UTF-8"),
        (csv_rows(some(20)), DEV + "a,b,c\n", "dev.csv line 6", "has 3 fields"),
    ],
)  # fmt: skip
def test_wrong_data_are_refused_with_place_and_cause(tmp_path, train, dev, place, cause):
    with pytest.raises(InputError) as caught:
        own(tmp_path, train, dev)
    assert caught.value.place == str(tmp_path / place) and cause in str(caught.value)
    assert not (tmp_path / "rows").exists() and sorted(p.suffix for p in tmp_path.iterdir()) == [".csv"] * len(
        [part for part in (train, dev) if part is not None]
    )


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('{"text": 5, "label": "no"}', "its text is 5, not a string"),
        ('{"text": "\\ud800", "label": "no"}', "holds half a character"),
        ('{"text": "a", "label": ["no"]}', "is no single label"),
        ('{"text": "a", "label": "no"', "is no JSON"),
    ],
)
def test_a_wrong_json_line_is_named(tmp_path, line, cause):
    good = '{"text": "a", "label": "no"}\n{"text": "b", "label": "yes"}\n'
    with pytest.raises(InputError, match=cause) as caught:
        own(tmp_path, good + line, good, ending=".jsonl")
    assert caught.value.place == f"{tmp_path / 'train.jsonl'} line 3"


def test_a_regression_label_that_is_not_a_number_is_named(tmp_path):
    train = "text,label\na,1.5\nb,high\n"
    with pytest.raises(InputError, match=r"train.csv line 3: label 'high' is not a number"):
        own(tmp_path, train, train, tasks=[{"name": "own", "kind": "regression"}])


def test_gold_rows_of_one_class_only_are_refused_with_the_way_out(tmp_path):
    sorted_rows = csv_rows([(f"{i}", "no" if i < 50 else "yes") for i in range(100)])
    with pytest.raises(InputError, match="'no' in the first 40 rows; shuffle the file, or raise gold_rows"):
        own(tmp_path / "a", sorted_rows, DEV, gold_rows=40)
    assert own(tmp_path / "b", sorted_rows, DEV, gold_rows=60).task.labels == ("no", "yes")


def test_transfer_rows_without_gold_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"data.own.transfer_rows: says nothing without gold_rows"):
        own(tmp_path, csv_rows(some(20)), DEV, transfer_rows=5)


def test_a_teacher_file_without_labels_is_refused(tmp_path):
    teacher = str(write(tmp_path / "teacher.csv", "text\na\n"))
    with pytest.raises(InputError, match="no teacher row with a gold label"):
        own(tmp_path, csv_rows(some(20)), DEV, teacher=teacher)


def test_the_problems_of_all_tasks_are_reported_together(tmp_path):
    write(tmp_path / "data/one/train.csv", csv_rows(some(20)))
    write(tmp_path / "data/one/dev.csv", "words,label\na,b\n")
    write(tmp_path / "data/two/train.csv", "")
    recipe = Recipe(tasks=["one", "two", "rte"], data={"folder": str(tmp_path / "data"), "one": {"test": "gone.csv"}})
    with pytest.raises(InputErrors) as caught:
        prepare_all(recipe, tmp_path / "rows")
    assert len(caught.value.problems) == 3
    for part in ("gone.csv: does not exist", "two/train.csv: is empty", "has no folder for task 'rte'"):
        assert part in str(caught.value)
    rows = {"one": csv_rows(some(5, names=("a",))), "two": csv_rows(some(9, names=("a",)))}
    for task, content in rows.items():
        for split in ("train", "dev"):
            write(tmp_path / f"data/{task}/{split}.csv", content)
    with pytest.raises(InputErrors, match="2 problems") as caught:
        prepare_all(Recipe(tasks=["one", "two"], data={"folder": str(tmp_path / "data")}), tmp_path / "rows")
    assert str(caught.value).count("one class only") == 2


# --- the folder ---


def test_a_second_call_opens_what_the_first_one_wrote_and_changed_inputs_are_read_again(tmp_path):
    train, dev = csv_rows(some(200)), csv_rows(some(4, 900))
    first = own(tmp_path, train, dev)
    marker = tmp_path / "rows" / "marker"
    marker.write_text("derived from the rows")

    def again(**changes):
        section = {"train": str(tmp_path / "train.csv"), "dev": str(tmp_path / "dev.csv")} | changes
        rows = prepare(tmp_path / "rows", own=section)
        kept = marker.exists()
        marker.write_text("derived from the rows")
        return rows, kept

    rows, kept = again()
    assert kept and rows.task == first.task and rows.notes == first.notes and list(rows.splits) == list(first.splits)
    assert rows.splits["train"].ids().tobytes() == first.splits["train"].ids().tobytes()
    rows, kept = again(gold_rows=50)
    assert not kept and gold(rows.splits["train"]).count(None) == 150
    assert again(gold_rows=50)[1]
    os.utime(tmp_path / "dev.csv", (1, 1))
    assert not again(gold_rows=50)[1]


def test_rows_outlive_the_files_that_they_were_made_from(tmp_path, monkeypatch):
    for split, rows in {"train": some(200), "dev": some(4, 900)}.items():
        write(tmp_path / "here/data" / f"{split}.csv", csv_rows(rows))
    sections = ({"folder": "data"}, {"own": {"train": "data/train.csv", "dev": "data/dev.csv"}})
    for number, section in enumerate(sections):
        monkeypatch.chdir(tmp_path / "here")
        first = prepare(tmp_path / f"rows{number}", **section)
        monkeypatch.chdir(tmp_path)
        again = prepare(tmp_path / f"rows{number}", **section)
        assert again.splits["train"].ids().tobytes() == first.splits["train"].ids().tobytes()
        assert again.notes == [*first.notes, "the files are not there any more; the rows prepared from them are used"]
        with pytest.raises(InputError, match="data"):
            prepare(tmp_path / f"rows{number}", seed=1, **section)


def test_a_failed_preparation_leaves_the_rows_of_the_last_one(tmp_path):
    own(tmp_path, csv_rows(some(20)), DEV)
    with pytest.raises(InputError):
        own(tmp_path, csv_rows(some(20)), DEV + "broken,row,here\n")
    assert sorted(p.name for p in (tmp_path / "rows").iterdir()) == ["dev.arrow", "task.json", "train.arrow"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dev.csv", "rows", "train.csv"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    write(tmp_path / "file", "in the way")
    with pytest.raises(Exception, match=r"file.*cannot be written"):
        prepare(tmp_path / "file" / "rows", own={"train": str(write(tmp_path / "a.csv", csv_rows(some(20))))})


def test_rows_that_are_held_out_of_train_are_kept_from_the_teacher_too(tmp_path):
    teacher = str(write(tmp_path / "teacher.csv", csv_rows(some(700))))
    rows = own(tmp_path, csv_rows(some(600)), teacher=teacher)
    held = set(texts(rows.splits["dev"])) | set(texts(rows.splits["calibration"]))
    assert len(held) == 60 + 54 and not held & set(texts(rows.splits["teacher"]))
    assert len(rows.splits["teacher"]) == 700 - len(held)
    assert "114 rows of teacher are left out, because their text is held out of train" in rows.notes


def test_reported_text_that_the_teacher_learns_from_is_counted(tmp_path):
    teacher = str(write(tmp_path / "teacher.csv", csv_rows(some(8, 96))))
    rows = own(tmp_path, csv_rows(some(4)), csv_rows(some(4, 100)), teacher=teacher)
    assert "the text of 4 of 4 rows of dev also stands in teacher" in rows.notes


def test_the_digest_is_of_the_rows_and_not_of_their_files(tmp_path):
    train, dev = csv_rows(some(12)), csv_rows(some(4, 50))
    digests = [own(tmp_path / "a", train, dev).digest()]
    digests += [own(tmp_path / "b", "\n".join(train.splitlines()), dev).digest()]
    assert digests[0] == digests[1]
    other_label, other_dev = train.replace("text 3,yes", "text 3,no"), csv_rows(some(4, 51))
    digests += [own(tmp_path / "c", other_label, dev).digest(), own(tmp_path / "d", train, other_dev).digest()]
    assert len(set(digests)) == 3
