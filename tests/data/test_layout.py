"""Files and columns are found under the names that people use, and never by luck."""

import gzip

import pytest

from kdtoolkit.data.layout import HEADLESS, OFFICIAL, find_columns, local_splits, open_files
from kdtoolkit.data.readers import open_source
from kdtoolkit.errors import InputError
from kdtoolkit.recipe.schema import TaskData
from kdtoolkit.tasks import GLUE, Task

OWN = Task("own")

# First lines of the official GLUE training files, and the hub's columns, as their readers know them.
OFFICIAL_HEADERS = {
    "sst2": "sentence\tlabel",
    "mrpc": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "mnli": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
    "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
    "qnli": "index\tquestion\tsentence\tlabel",
    "rte": "index\tsentence1\tsentence2\tlabel",
    "wnli": "index\tsentence1\tsentence2\tlabel",
}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def columns_of(path, header, task=OWN, section=None, pair=None):
    write(path, header + "\n" + "\t".join("x" * len(header.split("\t"))) + "\n")
    return find_columns(task, section or TaskData(), open_source(path), pair=task.pair if pair is None else pair)


@pytest.mark.parametrize("name", OFFICIAL_HEADERS)
def test_the_columns_of_official_glue_files_are_known(tmp_path, name):
    task = GLUE[name]
    text, label = OFFICIAL.get(name, (task.text, task.label))
    for header in (OFFICIAL_HEADERS[name], "\t".join((*task.text, "label", "idx"))):
        columns = columns_of(tmp_path / "train.tsv", header, task)
        expected = (text, label) if header == OFFICIAL_HEADERS[name] else (task.text, "label")
        assert (columns.text, columns.label, columns.guessed) == (*expected, False)


@pytest.mark.parametrize("name", GLUE)
def test_the_project_s_own_json_lines_serve_every_glue_task(tmp_path, name):
    pair = GLUE[name].pair
    path = write(tmp_path / "a.jsonl", '{"idx": 0, "sentence1": "a", %s"label": 1}' % ('"sentence2": "b", ' * pair))
    columns = find_columns(GLUE[name], TaskData(), open_source(path), pair=pair)
    assert (columns.text, columns.label) == (("sentence1", "sentence2")[: 1 + pair], "label")


def test_official_cola_has_no_header(tmp_path):
    path = write(tmp_path / "train.tsv", "gj04\t1\t\tIt's \"fine\".\ngj04\t0\t*\tFine it's.\n")
    (source,) = open_files(GLUE["cola"], TaskData(), [path])
    assert source.columns == HEADLESS["cola"][0]
    assert [tuple(row) for _, row in source.records(["sentence", "label"])] == [
        ('It\'s "fine".', "1"),
        ("Fine it's.", "0"),
    ]
    with_header = write(tmp_path / "test.tsv", "index\tsentence\n0\tFine.\n")
    assert open_files(GLUE["cola"], TaskData(), [with_header])[0].columns == ("index", "sentence")


def test_torn_rows_of_official_qqp_are_skipped_and_those_of_others_are_not(tmp_path):
    path = write(tmp_path / "train.tsv", OFFICIAL_HEADERS["qqp"] + "\n1\t2\t3\ta\tb\t0\n4\t5\t6\ttorn\n here\t1\n")
    (source,) = open_files(GLUE["qqp"], TaskData(), [path])
    assert len(list(source.records(["question1"]))) == 1 and source.skipped == 2
    (source,) = open_files(OWN, TaskData(), [path])
    with pytest.raises(InputError, match="line 3: has 4 fields"):
        list(source.records(["question1"]))


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        ("text\tlabel", ("text",), "label"),
        ("Text\tLabel", ("Text",), "Label"),
        ("id\tpremise\thypothesis\tgold_label", ("premise", "hypothesis"), "gold_label"),
        ("question1\tquestion2\tis_duplicate", ("question1", "question2"), "is_duplicate"),
        ("review\tsentiment", ("review",), "sentiment"),
        ("utterance\tintent", ("utterance",), "intent"),
        ("id\tremark\ttarget", ("remark",), "target"),
        ("sentence", ("sentence",), None),
    ],
)
def test_sensible_names_are_found_and_marked_as_guessed(tmp_path, header, text, label):
    columns = columns_of(tmp_path / "a.tsv", header)
    assert (columns.text, columns.label, columns.guessed) == (text, label, True)


def test_a_recipe_s_names_win_and_must_be_there(tmp_path):
    header = "text\tlabel\tbody\ttopic"
    columns = columns_of(tmp_path / "a.tsv", header, section=TaskData(text="body", label="topic"))
    assert (columns.text, columns.label, columns.guessed) == (("body",), "topic", False)
    own = Task("own", text=("body", "text"), label="topic")
    assert columns_of(tmp_path / "a.tsv", header, own).text == ("body", "text")
    for wrong in (TaskData(text="bodi"), TaskData(text=["text", "bodi"]), Task("own", text=("bodi",))):
        task, section = (wrong, TaskData()) if isinstance(wrong, Task) else (OWN, wrong)
        with pytest.raises(InputError, match=r"has no column 'bodi'; its columns are 'text'.*did you mean 'body'"):
            columns_of(tmp_path / "a.tsv", header, task, section)
    with pytest.raises(InputError, match="has no column 'tpic'"):
        columns_of(tmp_path / "a.tsv", header, section=TaskData(label="tpic"))


def test_a_file_without_a_text_column_lists_what_it_has(tmp_path):
    with pytest.raises(InputError, match=r"no text column was found among its columns: 'a', 'b'; name the column with"):
        columns_of(tmp_path / "a.tsv", "a\tb")
    with pytest.raises(InputError, match="no two text columns"):
        columns_of(tmp_path / "a.tsv", "sentence\tlabel", GLUE["rte"])


@pytest.mark.parametrize("folder", ["SST-2", "sst-2", "sst2", "SST_2"])
def test_every_spelling_of_a_task_s_folder_is_its_folder(tmp_path, folder):
    path = write(tmp_path / folder / "train.tsv", "sentence\tlabel\n")
    assert local_splits(GLUE["sst2"], TaskData(), tmp_path, only_task=False) == {"train": [path]}


def test_split_names_and_endings_that_people_use_are_found(tmp_path):
    for name in ("train.jsonl.gz", "validation.parquet", "test_matched.tsv", "dev_mismatched.csv", "transfer.txt",
                 "teacher.csv", "notes.md", "train.log"):  # fmt: skip
        write(tmp_path / "MNLI" / name, "x")
    found = local_splits(GLUE["mnli"], TaskData(), tmp_path, only_task=False)
    assert {split: [path.name for path in paths] for split, paths in found.items()} == {
        "train": ["train.jsonl.gz"], "dev": ["validation.parquet"], "test": ["test_matched.tsv"],
        "dev_mismatched": ["dev_mismatched.csv"], "transfer": ["transfer.txt"], "teacher": ["teacher.csv"],
    }  # fmt: skip


def test_shards_of_a_hub_repository_are_one_split(tmp_path):
    names = [f"train-0000{n}-of-00002.parquet" for n in (0, 1)]
    for name in [*names, "validation-00000-of-00001.parquet"]:
        write(tmp_path / "rte" / name, "x")
    found = local_splits(GLUE["rte"], TaskData(), tmp_path, only_task=False)
    assert [path.name for path in found["train"]] == names and len(found["dev"]) == 1


def test_a_flat_folder_serves_one_task_only(tmp_path):
    path = write(tmp_path / "train.csv", "text,label\n")
    assert local_splits(OWN, TaskData(), tmp_path, only_task=True) == {"train": [path]}
    with pytest.raises(InputError, match="has no folder for task 'own'"):
        local_splits(OWN, TaskData(), tmp_path, only_task=False)


def test_a_file_that_the_recipe_names_wins_over_the_folder(tmp_path):
    write(tmp_path / "own" / "train.csv", "x")
    dev = write(tmp_path / "own" / "dev.csv", "x")
    found = local_splits(OWN, TaskData(train="elsewhere.csv"), tmp_path, only_task=True)
    assert [str(found["train"][0]), found["dev"]] == ["elsewhere.csv", [dev]]


def test_what_could_be_two_things_is_refused(tmp_path):
    write(tmp_path / "rte" / "train.csv", "x")
    write(tmp_path / "rte" / "train.tsv", "x")
    with pytest.raises(InputError, match=r"several files could be the train split: train.csv, train.tsv"):
        local_splits(GLUE["rte"], TaskData(), tmp_path, only_task=False)
    write(tmp_path / "SST-2" / "train.csv", "x")
    write(tmp_path / "sst_2" / "train.csv", "x")
    with pytest.raises(InputError, match="several folders for task 'sst2'"):
        local_splits(GLUE["sst2"], TaskData(), tmp_path, only_task=False)


def test_a_missing_folder_names_what_is_near(tmp_path):
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    with pytest.raises(InputError, match=r"is no folder; did you mean 'glue'\?"):
        local_splits(GLUE["rte"], TaskData(), tmp_path / "gleu", only_task=False)
    with pytest.raises(InputError, match=r"no folder for task 'wnli'; known: RTE"):
        local_splits(GLUE["wnli"], TaskData(), tmp_path / "glue", only_task=False)


def test_a_gzipped_official_file_is_like_the_file(tmp_path):
    path = tmp_path / "CoLA" / "train.tsv.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(b"gj04\t1\t\tFine.\n"))
    (source,) = open_files(GLUE["cola"], TaskData(), [path])
    assert source.columns == HEADLESS["cola"][0]
