"""Wrong input: exit code 2, with place, cause and way out, before long work, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_run import RECIPE, moods, write_rows

DISTILL = ("distill", "--recipe", "small.yaml", "--out", "out")
OWN = ("distill", "--teacher", "python:teacher.py:score", "--data", "data", "--out", "out", "--tasks")
LOCAL_TEACHERS = ("give a folder with config.json and model.safetensors", "labels file", "python:module:function")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--student", "bilsm"], "--student: no student is called 'bilsm'; did you mean 'bilstm'?"),
        (["--set", "student.widht=3"], "--set student.widht: the student 'bilstm' has no option 'widht'; did you mean"),
        (["--set", "trian.epochs=2"], "--set trian.epochs: there is no such key; did you mean 'train'?"),
        (["--set", "train.epoch=2"], "did you mean 'epochs'?"),
        (["--set", "teachers.0.versoin=1"], "has no option 'versoin'; did you mean 'version'?"),
        (["--set", "objective.temperature=0"], "0 is not positive; 1 to 8 are usual"),
        (["--set", "tasks.0.name=moood", "--set", "tasks.0.kind=clasification"], "did you mean 'classification'?"),
        (["--tasks", "mood,sst2,mrcp"], "has no folder for task 'mrcp'"),
        (["--teacher", "bert-lrge"], ["did you mean 'bert-large'?", *LOCAL_TEACHERS]),
        (
            ["--teacher", "some/hub-id"],
            ["HF_HUB_OFFLINE forbids a download", *LOCAL_TEACHERS, "hf download some/hub-id"],
        ),
        (["--teacher", "./nowhere"], ["nowhere is not there", "give a folder with config.json"]),
        (["--teacher", "python:teacher.py:scor"], "has no 'scor'; did you mean 'score'?"),
        (["--teacher", "absent.parquet"], ["absent.parquet does not exist", "give a file"]),
        (
            ["--student", "hf:some/hub-id"],
            ["student.model: 'some/hub-id' is no folder here", "hf download some/hub-id"],
        ),
        (["--student", "hf:distilbrt"], "did you mean 'distilbert'?"),
        (
            ["--set", "tokenizer={name: teacher, source: some/hub-id}"],
            "tokenizer.source: 'some/hub-id' is no folder here",
        ),
        (["--set", "tokenizer={name: words, vectors: glove.txt}"], "tokenizer.vectors: 'glove.txt' is not a file"),
        (["--set", "tokenizer.lowercas=true"], "did you mean 'lowercase'?"),
        (["--set", "student.layers=0"], "layers"),
        (["--data", "dta"], "did you mean 'data'?"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest_one_or_the_forms_that_work(refused, options, says):
    refused(*DISTILL, *options, says=says)


def test_all_problems_of_a_recipe_come_at_once_with_their_lines(refused, small):
    wrong = RECIPE.replace("bilstm", "bilsm").replace("epochs: 1", "epoch: 1").replace("seed: 3", "sed: 3")
    (small / "small.yaml").write_text(wrong)
    done = refused(*DISTILL, says=["3 problems", "did you mean 'bilstm'?", "did you mean 'epochs'?", "'seed'?"])
    lines = [int(line.split()[1].rstrip(":")) for line in done.output.splitlines() if line.startswith("  line")]
    assert lines == [2, 6, 8]


def test_problems_of_data_of_several_tasks_come_at_once(refused, small):
    write_rows(small / "data/one/train.jsonl", "")
    refused(*OWN, "one,moood", says=["data: 2 problems", "one/train.jsonl: is empty", "did you mean 'mood'?"])
    write_rows(small / "data/one/train.jsonl", [{"text": "x", "label": "a"}] * 20)
    write_rows(small / "data/two/train.jsonl", [{"text": "x", "label": ""}] * 20)
    refused(*OWN, "one,two", says=["data: 2 problems", "one class only", "has no gold label"])


def test_problems_of_all_teachers_come_at_once_before_one_of_them_works(refused, small):
    (small / "teacher.py").write_text("raise_if_called = 1\ndef score(texts): raise SystemExit('it was called')\n")
    says = ["teachers: 2 problems", "absent.csv does not exist", "'a/b' is no folder here"]
    refused(*DISTILL, "--set", "teachers=['python:teacher.py:score', absent.csv, a/b]", says=says)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("train.jsonl", "", "data/own/train.jsonl: is empty"),
        ("train.jsonl", [{"txet": "a b", "labl": "x"}] * 20, ["no column 'text'", "'txet', 'labl'", "did you mean"]),
        ("train.csv", "text,label\na,x\nb,y,z\n", ["train.csv line 3: has 3 fields", "2 columns", "in quotes"]),
        ("train.csv", b"text,label\na,x\n\xff\xfe,y\n", ["train.csv line 3: is no UTF-8", "save the file as UTF-8"]),
        ("train.jsonl", '{"text": "a", "label": "x"}\n{"text": \n', "train.jsonl line 2: is no JSON"),
        ("train.jsonl.gz", b"\x1f\x8b\x08\x00damaged", "is a damaged gzip file"),
        ("train.parquet", b"PAR1 and then nothing", "is no Parquet file, or a damaged one"),
        ("train.jsonl", [{"text": f"t{n}", "label": "x"} for n in range(30)], "one class only: every label is 'x'"),
        ("train.jsonl", [{"text": f"t{n}"} for n in range(30)], ["has no gold label", "data.own.label"]),
        ("train.csv", "text,label\n" + ",x\n,y\n" * 9, ["the text of every row is empty", "data.own.text"]),
        ("train.jsonl", [{"text": 7, "label": "x"}, {"text": 8, "label": "y"}], "line 1: its text is 7, not a string"),
        ("train.jsonl", moods(5, 1), ["too few to hold a dev split out of it", "data.own.dev"]),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_file_and_line(refused, small, file, content, says):
    write_rows(small / "data/own" / file, content)
    refused(*OWN, "own", *(["--set", "data.own.text=[text]"] if "no column 'text'" in says else []), says=says)


def test_a_file_that_is_not_there_is_named_with_the_nearest(refused, small):
    files = ("--train", "data/mood/tran.jsonl", "--dev", "data/mood/dev.jsonl", "--out", "out")
    refused(
        "distill", "--teacher", "python:teacher.py:score", *files, says="does not exist; did you mean 'train.jsonl'?"
    )


def test_a_dev_label_that_train_does_not_have_is_named_with_its_line(refused, small):
    write_rows(small / "data/own/train.jsonl", moods(30, 1))
    write_rows(small / "data/own/dev.jsonl", [*moods(3, 2), {"text": "a", "label": "middle"}])
    refused(*OWN, "own", says=["dev.jsonl line 4: label 'middle' does not occur in train", "known: high, low"])


def test_a_regression_label_that_is_no_number_is_named_with_its_line(refused, small):
    write_rows(small / "data/own/train.jsonl", [{"text": "a", "label": 1.5}, {"text": "b", "label": "high"}])
    (small / "small.yaml").write_text(
        RECIPE.replace("{name: mood, text: text, labels: [low, high]}", "{name: own, kind: regression}")
    )
    refused(*DISTILL, says="train.jsonl line 2: label 'high' is not a number")


def texts_of(folder):
    files = [folder / "data/mood" / name for name in ("train.jsonl", "dev.jsonl")]
    return list(dict.fromkeys(json.loads(line)["text"] for file in files for line in file.read_text().splitlines()))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"probabilities": {"low": 0.2, "high": 0.3, "middle": 0.5}}, ["['low', 'high', 'middle'] (3)", "(2)"]),
        ({"probabilities": {"low": 0.2, "hgh": 0.8}}, ["['low', 'hgh']", "['low', 'high']", "name the labels alike"]),
        ({"label": "hgh", "score": 0.8}, ["line 1: label 'hgh' is none of ['low', 'high']", "name the labels alike"]),
        ({"probabilities": [0.2, 0.8]}, ["nothing says which label each one is for", "`labels: [...]`"]),
        ({"probabilities": {"low": 0.2, "high": 0.9}}, ["line 1: probabilities", "(they sum to 1.1)", "more"]),
        ({"probabilities": {"low": -0.2, "high": 1.2}}, ["line 1: a negative probability", "`values: logits`"]),
        ({"logits": {"low": float("nan"), "high": 1}}, ["line 1: NaN among the logits", "`partial: true`"]),
        ({"logits": {"low": float("inf"), "high": 1}}, ["line 1: +inf among the logits", "-inf is allowed"]),
    ],
)  # fmt: skip
def test_stored_values_that_cannot_be_right_are_named_with_their_line(refused, small, values, says):
    write_rows(small / "stored.jsonl", [{"text": text, **values} for text in texts_of(small)])
    refused(*DISTILL, "--teacher", "stored.jsonl", says=says)


def test_texts_that_a_stored_teacher_lacks_are_counted_with_an_example(refused, small):
    texts = texts_of(small)
    write_rows(small / "stored.jsonl", [{"text": text, "logits": {"low": 0, "high": 1}} for text in texts[3:]])
    says = [f"has no values for 3 of {len(texts)} texts, such as", "(id ", "`partial: true`"]
    refused(*DISTILL, "--teacher", "stored.jsonl", says=says)


@pytest.mark.parametrize(
    ("function", "code", "says"),
    [
        ("nan", 2, "NaN among the logits in"),
        ("infinite", 2, "+inf among the logits (-inf is allowed) in"),
        ("three", 2, "its result has shape"),
        ("broken", 1, "the service is down"),
    ],
)
def test_a_teacher_that_answers_wrongly_is_named_and_the_run_waits_for_its_repair(run, small, function, code, says):
    done = run(*DISTILL, "--teacher", f"python:teacher.py:{function}")
    assert done.exit_code == code and says in done.output
    assert "teacher python:teacher.py:" in done.output and "kdtool distill --resume out" in done.output
    checked = run("check", "--recipe", "small.yaml", "--teacher", f"python:teacher.py:{function}")
    assert checked.exit_code == code and says.removesuffix(" in") in checked.output


def test_long_and_empty_texts_are_cut_counted_and_reported(run, small):
    long = [{"text": "good " * 25_000, "label": "high"}, {"text": "", "label": "low"}]
    write_rows(small / "data/mood/train.jsonl", [*moods(60, 1), *long])
    done = run(*DISTILL)
    assert done.exit_code == 0, done.output
    assert "texts of train were cut to 100,000 characters" in done.output
    assert "rows of train have an empty text" in done.output


@pytest.mark.parametrize("out", ["small.yaml/run", "/proc/run", "x" * 300, "small.yaml", "data"])
def test_an_output_folder_that_cannot_be_one_is_refused_with_the_way_out(refused, out):
    refused("distill", "--recipe", "small.yaml", "--out", out, says=[f"kdtool: {out}: ", "--out"])


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_read_only_folder_is_an_input_error(refused, monkeypatch, error):
    real = Path.mkdir

    def mkdir(self, *arguments, **options):
        if "out" in self.name:
            raise error
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    refused(*DISTILL, says=[f"out: cannot be written ({error.strerror})", "choose a folder that can be: --out"])


def test_a_store_that_cannot_be_written_is_an_input_error(run, small, monkeypatch):
    monkeypatch.setenv("KDTOOLKIT_STORE", "/proc/store")
    done = run(*DISTILL)
    assert done.exit_code == 2 and "/proc/store" in done.output and "$KDTOOLKIT_STORE" in done.output


def test_an_op_backend_that_is_not_there_is_refused_before_any_work(refused, monkeypatch):
    monkeypatch.setenv("KDTOOLKIT_OP_BACKEND", "no_such")
    says = ["KDTOOLKIT_OP_BACKEND: the op backend 'no_such' is not available here; available: auto, reference"]
    refused(*DISTILL, says=says)
    refused("check", "--recipe", "small.yaml", says=says)


@pytest.mark.parametrize("name", ["tokenizer", "suite", "tokens-a", "folder", "a/b"])
def test_a_task_name_that_cannot_be_a_folder_of_its_own_is_refused(refused, name):
    says = "letters, digits" if "/" in name else "use this name themselves; choose another"
    refused("check", "--set", f"tasks=[{{name: {name}, text: text}}]", "--data", "data", says=["tasks.0", says])


def test_word_vectors_that_do_not_fit_the_student_are_refused_before_any_work(refused, small):
    (small / "glove.txt").write_text("good 1 2 3\nfine 4 5 6\n")
    words = ("--set", "tokenizer={name: words, vectors: glove.txt}", "--set", "student.embedding=5", "--out", "run")
    says = ["tokenizer.vectors", "width 3", "set the student's embedding width to 3"]
    refused("distill", "--recipe", "small.yaml", *words, says=says)


def test_a_run_is_not_resumed_or_continued_with_another_recipe(run, refused, small):
    assert run("label", "--recipe", "small.yaml", "--out", "out").exit_code == 0
    refused("distill", "--resume", "data", says=["data: is no run of kdtoolkit", "give the folder of a run"])
    refused("distill", "--resume", "nowhere", says=["nowhere: does not exist", "give the folder of a run"])
    refused("distill", "--resume", "out", "--seed", "9", says=["another recipe (seed is 3 there, 9 here)", "--out"])
    refused(*DISTILL, "--seed", "9", says=["out: holds another run (seed is 3 there, 9 here)", "--out"])


def test_check_collects_the_problems_of_data_options_and_teachers(refused, small):
    write_rows(small / "data/mood/dev.jsonl", [{"text": "a", "label": "middle"}])
    says = ["2 problems", "dev.jsonl line 1", "student.model: 'a/b' is no folder here"]
    refused("check", "--recipe", "small.yaml", "--student", "hf:a/b", "--set", "tokenizer.name=sentencepiece",
            "--set", "student.pretrained=false", says=says)  # fmt: skip


def test_checking_twice_in_one_process_is_checking_twice(run, small):
    for _ in range(2):
        assert run("check", "--recipe", "small.yaml").exit_code == 0
