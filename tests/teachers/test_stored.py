"""Values from files of any kind reach the right text and the right label, or are refused by file and row."""

import csv
import gzip
import io
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit import Example, InputError, Recipe, Task, plugin
from kdtoolkit.data.prepare import prepare_task
from kdtoolkit.data.rows import write_rows
from kdtoolkit.example import example_id
from kdtoolkit.labels import LabelStore, label_rows, teacher_array
from kdtoolkit.tasks import GLUE
from kdtoolkit.testing import check_teacher

TASK = Task("mood", text=("text",), labels=("bad", "so so", "good"))
PAIR = Task("rte", text=("sentence1", "sentence2"), labels=("entailment", "not_entailment"))
NUMBER = Task("sim", kind="regression", text=("text",))
TAGS = Task("tags", kind="multilabel", text=("text",), labels=("x", "y"))

TEXTS = ["plain", 'a "quoted", text', "café\u2028é", "", "tab and, comma"]
PROBABILITIES = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8], [0.25, 0.25, 0.5], [0.3, 0.4, 0.3]]
LOGITS = [[-1.5, 0.25, 3.0], [2.0, 1.0, -4.5], [0.0, 0.5, 9.0], [1.0, 1.0, 1.0], [-7.0, 2.5, 0.125]]


def stored(path, task=TASK, **options):
    return plugin("teacher", "stored")(str(path), task, **options)


def examples(texts=TEXTS, task=TASK):
    return [Example(task.name, text) for text in texts]


def wide(values=LOGITS, names=TASK.labels, **more):
    return [dict(text=text, **dict(zip(names, row)), **more) for text, row in zip(TEXTS, values)]


def write(path, records):
    """Writes records by the name's ending: csv, tsv, jsonl or parquet, gzipped or not."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
        return path
    if kind == "jsonl":
        text = "".join(json.dumps(record) + "\n" for record in records)
    else:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(records[0]), delimiter="," if kind == "csv" else "\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        text = stream.getvalue()
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet", "t.csv.gz", "t.tsv.gz", "t.jsonl.gz"])
def test_every_format_gives_the_same_values(tmp_path, name):
    teacher = stored(write(tmp_path / name, wide()))
    assert teacher.kind == "logits"
    np.testing.assert_array_equal(teacher.logits(examples()), np.float32(LOGITS))
    np.testing.assert_array_equal(teacher.logits(examples(TEXTS[::-1] * 2)), np.float32(LOGITS[::-1] * 2))


@pytest.mark.parametrize(
    "records",
    [
        wide(PROBABILITIES),
        [{"text": t, "id": "7", "prob_good": p[2], "prob_bad": p[0], "prob_so_so": p[1], "score": 1}
         for t, p in zip(TEXTS, PROBABILITIES)],
        [{"id": example_id(t).hex(), "Good": p[2], "Bad": p[0], "So-So": p[1]} for t, p in zip(TEXTS, PROBABILITIES)],
        [{"text": t, "values": p, "labels": list(TASK.labels)} for t, p in zip(TEXTS, PROBABILITIES)],
        [{"text": t, "probs": [p[1], p[0], p[2]], "labels": ["so so", "bad", "good"]}
         for t, p in zip(TEXTS, PROBABILITIES)],
        [{"text": t, "probabilities": dict(zip(TASK.labels, p))} for t, p in zip(TEXTS, PROBABILITIES)],
        [{"text": t, "probabilities": json.dumps(p), "labels": json.dumps(TASK.labels)}
         for t, p in zip(TEXTS, PROBABILITIES)],
    ],
    ids=["wide", "prefixed", "ids", "list", "other order", "mapping", "json cells"],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_every_layout_gives_the_same_log_probabilities(tmp_path, records, ending):
    teacher = stored(write(tmp_path / f"t.{ending}", records))
    assert teacher.kind == "logprobs"
    np.testing.assert_allclose(np.exp(teacher.logits(examples())), PROBABILITIES, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(3)), st.permutations(range(5)), st.sampled_from(["csv", "jsonl", "parquet"]))
def test_neither_the_order_of_columns_nor_that_of_rows_matters(tmp_path_factory, columns, rows, ending):
    records = [dict(text=TEXTS[r], **{TASK.labels[c]: LOGITS[r][c] for c in columns}) for r in rows]
    teacher = stored(write(tmp_path_factory.mktemp("case") / f"t.{ending}", records))
    np.testing.assert_array_equal(teacher.logits(examples()), np.float32(LOGITS))


def test_what_is_left_of_a_top_labels_score_is_spread_evenly(tmp_path):
    records = [{"text": "a", "label": "GOOD", "score": 0.8}, {"text": "b", "label": "so so", "score": 1.0}]
    teacher = stored(write(tmp_path / "t.csv", records))
    got = np.exp(teacher.logits(examples(["a", "b"])))
    np.testing.assert_allclose(got, [[0.1, 0.1, 0.8], [0, 1, 0]], atol=1e-6)
    with pytest.raises(InputError, match=r"line 3: label 1 is none of|line 3: label '1' is none of"):
        stored(write(tmp_path / "n.csv", [records[0], {"text": "b", "label": 1, "score": 1.0}]))


def test_label_names_in_parquet_metadata_are_used(tmp_path):
    table = pa.table({"text": TEXTS, "logits": LOGITS})
    pq.write_table(table.replace_schema_metadata({"labels": json.dumps(TASK.labels)}), tmp_path / "t.parquet")
    np.testing.assert_array_equal(stored(tmp_path / "t.parquet").logits(examples()), np.float32(LOGITS))
    pq.write_table(table, tmp_path / "u.parquet")
    with pytest.raises(InputError, match=r"nothing says which label.*labels: \[\.\.\.\]"):
        stored(tmp_path / "u.parquet")
    swapped = stored(tmp_path / "u.parquet", labels=["good", "so so", "bad"])
    np.testing.assert_array_equal(swapped.logits(examples()), np.float32(LOGITS)[:, ::-1])


def test_pairs_are_found_by_both_texts(tmp_path):
    records = [
        {"sentence1": a, "sentence2": b, "entailment": x, "not_entailment": -x}
        for a, b, x in [("ab", "c", 1.0), ("a", "bc", 2.0), ("a", "", 3.0)]
    ]
    teacher = stored(write(tmp_path / "t.jsonl", records), PAIR)
    asked = [Example("rte", "a", ""), Example("rte", "ab", "c"), Example("rte", "a", "bc")]
    assert teacher.logits(asked)[:, 0].tolist() == [3.0, 1.0, 2.0]


def test_regression_and_multilabel_values_keep_their_meaning(tmp_path):
    numbers = stored(write(tmp_path / "n.csv", [{"text": "a", "score": "4.5"}, {"text": "b", "score": "-1e2"}]), NUMBER)
    assert numbers.kind == "values"
    assert numbers.logits(examples(["b", "a"], NUMBER)).tolist() == [[-100.0], [4.5]]
    tags = stored(
        write(tmp_path / "t.csv", [{"text": "a", "x": 0.5, "y": 1.0}, {"text": "b", "x": 0.9, "y": 0.9}]), TAGS
    )
    got = tags.logits(examples(["a", "b"], TAGS))
    assert tags.kind == "logits"
    np.testing.assert_allclose(1 / (1 + np.exp(-got)), [[0.5, 1.0], [0.9, 0.9]], atol=1e-6)
    assert np.isfinite(got).all()


def test_a_column_of_tasks_selects_rows(tmp_path):
    records = [*wide(task="mood"), *wide([[9, 9, 9]] * 5, task="other")]
    np.testing.assert_array_equal(stored(write(tmp_path / "t.csv", records)).logits(examples()), np.float32(LOGITS))
    with pytest.raises(InputError, match=r"t\.csv: no row is of task 'weather'"):
        stored(tmp_path / "t.csv", TASK.with_(name="weather"))


def test_a_folder_has_a_file_for_each_task_or_parts(tmp_path):
    write(tmp_path / "SST-2.jsonl", [{"sentence": "a", "negative": 1.0, "positive": -2.0}])
    write(tmp_path / "mood.csv", wide())
    sst2 = Task("sst2", text=("sentence",), labels=("negative", "positive"))
    assert stored(tmp_path, sst2).logits([Example("sst2", "a")]).tolist() == [[1.0, -2.0]]
    np.testing.assert_array_equal(stored(tmp_path).logits(examples()), np.float32(LOGITS))
    with pytest.raises(InputError, match=r"no file for this task; it holds SST-2.jsonl, mood.csv"):
        stored(tmp_path, NUMBER)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "_SUCCESS").touch()
    for number in range(5):
        write(tmp_path / "parts" / f"part-{number}.parquet", wide()[number : number + 1])
    np.testing.assert_array_equal(stored(tmp_path / "parts").logits(examples()), np.float32(LOGITS))


@pytest.mark.parametrize("form", ["task folder", "teacher folder", "one part"])
def test_a_label_store_is_a_teacher_with_labels_by_name(tmp_path, form):
    store = LabelStore(tmp_path, "f00d", "mood", kind="logits", outputs=3, labels=("good", "bad", "so so"))
    ids = np.array([example.id for example in examples()], "S16")
    part = store.write("p", ids, np.float32(LOGITS)[:, [2, 0, 1]])
    source = {"task folder": store.folder, "teacher folder": store.folder.parent, "one part": part}[form]
    np.testing.assert_array_equal(stored(source).logits(examples()), np.float32(LOGITS))
    with pytest.raises(InputError, match=r"\['good', 'bad', 'so so'\]"):
        stored(source, TASK.with_(labels=("bad", "good")))


def test_a_text_that_the_file_lacks_is_an_error_unless_the_file_is_partial(tmp_path):
    path = write(tmp_path / "t.csv", wide())
    asked = [*examples(), *examples(["who knows", "what else"])]
    with pytest.raises(InputError, match=r"no values for 2 of 7 texts, such as 'who knows'"):
        stored(path).logits(asked)
    ids = np.array([example.id for example in asked], "S16")
    assert stored(path).answers(ids).tolist() == [True] * 5 + [False] * 2
    partial = stored(path, partial=True)
    values = partial.logits(asked)
    np.testing.assert_array_equal(values[:5], np.float32(LOGITS))
    assert np.isnan(values[5:]).all()


def test_a_stored_teacher_is_labelled_and_joined_like_any_other(tmp_path):
    teacher = stored(write(tmp_path / "t.csv", wide(PROBABILITIES)), partial=True)
    rows = write_rows(tmp_path / "rows.arrow", TASK, [examples([*TEXTS, "unknown"])])
    store = LabelStore.of(teacher, tmp_path)
    assert label_rows(teacher, [rows], store).floored == 2
    array = teacher_array(rows, [store], tmp_path / "t.npy")
    assert array[1, 0].tolist() == [0.0, np.float32(math.log(1e-7)), np.float32(math.log(1e-7))]
    assert np.isnan(array[5]).all() and not np.isnan(array[:5]).any()


@pytest.mark.parametrize(
    "records, cause",
    [
        (wide([[0.2, 0.3, 0.5]] * 3 + [[0.2, 0.3, 0.4]] * 2), r"line 5: probabilities that do not sum to one.*0\.9"),
        (wide([[0.2, 0.3, 0.5]] * 4 + [[-0.2, 0.7, 0.5]]), r"line 6: a negative probability"),
        (wide([*LOGITS[:2], [1, math.nan, 2], *LOGITS[3:]]), r"line 4: NaN among the logits"),
        (wide([*LOGITS[:4], [1, math.inf, 2]]), r"line 6: \+inf among the logits"),
        (wide([*LOGITS[:4], [1, "x1", 2]]), r"line 6: column 'so so' holds 'x1' where a number belongs"),
        (wide([*LOGITS[:4], [None] * 3]), r"line 6: NaN among the logits.*partial: true"),
        ([*wide(), {**wide()[1], "bad": 5.5}], r"line 7: the same text as in .*line 3 has other values"),
        (wide(names=("bad", "so so", "fine")), r"\['bad', 'so so', 'fine'\] \(3\).*\['bad', 'so so', 'good'\] \(3\)"),
        (wide(names=("bad", "good")), r"\['bad', 'good'\] \(2\).*\['bad', 'so so', 'good'\] \(3\)"),
        (wide(great=0.25), r"\['bad', 'so so', 'good', 'great'\] \(4\).*\(3\)"),
        ([{"text": "a", "label": "great", "score": 0.5}], r"line 2: label 'great' is none of"),
        ([{"text": "a", "label": "good", "score": 1.5}], r"line 2: .*(negative|above 1)"),
        ([{"text": "a", "n": 1}], r"no values for labels .* among the columns \['text', 'n'\]"),
        ([{"words": "a", "bad": 1.5, "so so": 1, "good": 1}], r"neither an `id` column .* `text`"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_file_and_line(tmp_path, records, cause):
    with pytest.raises(InputError, match=rf"(?s)t\.csv.*{cause}"):
        stored(write(tmp_path / "t.csv", records))


@pytest.mark.parametrize(
    "records, options, cause",
    [
        ([{"text": "a", "logits": [1, 2, 3]}, {"text": "b", "logits": [1, 2]}], {"labels": list(TASK.labels)},
         r"line 2: column 'logits' holds 2 values where a list of 3"),
        ([{"text": "a", "probs": {"bad": 1, "so so": 0, "good": 0}}, {"text": "b", "probs": {"bad": 1}}], {},
         r"line 2: column 'probs' has labels \['bad'\]"),
        ([{"text": "a", "values": [1, 2, 3], "labels": ["bad", "so so", "good"]},
          {"text": "b", "values": [1, 2, 3], "labels": ["good", "so so", "bad"]}], {},
         r"line 2: column 'labels' holds \['good'"),
        ([{"id": "7", "logits": [1, 2, 3]}], {"id": "id", "labels": list(TASK.labels)}, r"line 1: id '7' is neither"),
        ([{"text": None, "bad": 1, "so so": 2, "good": 3.5}], {}, r"line 1: column 'text' holds None"),
        (wide(), {"values": "probabilities"}, r"line 1: a negative probability"),
        (wide(), {"text": "txt"}, r"there is no column 'txt'"),
        (wide(), {"values": "odds"}, r"values 'odds' is unknown"),
    ],
)  # fmt: skip
def test_wrong_options_and_rows_of_json_are_refused(tmp_path, records, options, cause):
    with pytest.raises(InputError, match=cause):
        stored(write(tmp_path / "t.jsonl", records), **options)


def test_a_regression_value_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"line 3: column 'score' holds 'high' where a number belongs"):
        stored(write(tmp_path / "t.csv", [{"text": "a", "score": 1}, {"text": "b", "score": "high"}]), NUMBER)
    with pytest.raises(InputError, match=r"line 2: NaN among the values"):
        stored(write(tmp_path / "t.csv", [{"text": "a", "score": ""}]), NUMBER)


def test_the_fingerprint_follows_contents_options_and_labels_and_not_the_place(tmp_path):
    path = write(tmp_path / "t.csv", wide())
    other = write(tmp_path / "u.csv", wide([[0.5, 0.25, 3.0], *LOGITS[1:]]))
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "t.csv"
    moved.write_bytes(path.read_bytes())
    prints = [
        stored(path).fingerprint,
        stored(other).fingerprint,
        stored(path, values="logits").fingerprint,
        stored(path, partial=True).fingerprint,
        stored(path, TASK.with_(labels=TASK.labels[::-1])).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert stored(moved).fingerprint == prints[0]
    assert all(len(p) == 32 and int(p, 16) >= 0 for p in prints)


@pytest.mark.parametrize("name, folder", [("rte", "rte"), ("sst2", "sst-2")])
def test_values_beside_the_texts_of_a_real_data_set_reach_every_row(tmp_path, glue, name, folder):
    with gzip.open(glue / folder / "dev.jsonl.gz", "rt") as lines:
        records = [json.loads(line) for line in lines]
    task = GLUE[name]
    for number, record in enumerate(records):
        record |= dict(zip(task.labels[::-1], [-0.5 * number, 0.5 * number]))
    recipe = Recipe(tasks=[name], data={"folder": str(glue)})
    rows = prepare_task(task, recipe, tmp_path / "data").splits["dev"]
    for ending in ("csv", "tsv.gz", "parquet"):
        teacher = stored(write(tmp_path / f"t.{ending}", records), task)
        assert teacher.answers(rows.ids()).all() and len(rows) == len(records) > 200
        np.testing.assert_array_equal(teacher.logits(rows.examples(slice(0, 9)))[:, 1], np.arange(9) * -0.5)


@pytest.mark.parametrize("values", [LOGITS, PROBABILITIES], ids=["logits", "probabilities"])
def test_it_keeps_the_contract_of_a_teacher(tmp_path, values):
    check_teacher(stored(write(tmp_path / "t.jsonl", wide(values))), examples())


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        stored(tmp_path / "none.parquet")
