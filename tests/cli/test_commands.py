"""Commands, their exit codes, and what they do not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

import kdtoolkit
from kdtoolkit.cli.main import COMMANDS
from kdtoolkit.errors import WorkError
from kdtoolkit.tasks import Task


def shell(*arguments, **extra):
    code = "from kdtoolkit.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, **extra
    )  # fmt: skip


def test_help_lists_every_command_and_each_explains_itself_with_an_example(run):
    listed = run("--help")
    assert listed.exit_code == 0
    for name, short in COMMANDS.items():
        assert f"{name} " in listed.output and short.split(",")[0] in listed.output
        explained = run(name, "--help")
        assert explained.exit_code == 0 and f"kdtool {name}" in explained.output.split("Options:")[0].split("\n", 1)[1]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plugins"], ["recipes"], ["distill", "--help"]])
def test_what_only_lists_imports_nothing_heavy(arguments):
    code = (
        "import sys, atexit\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pyarrow'}\n"
        f"heavy |= {{'pydantic', 'rich'}} if {arguments!r} == ['--help'] else set()\n"
        "def look():\n"
        "    found = heavy & set(sys.modules)\n"
        "    print('HEAVY', sorted(found))\n"
        "atexit.register(look)\n"
        "from kdtoolkit.cli.main import kdtool\n"
        f"kdtool.main({arguments!r}, prog_name='kdtool')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout


def test_wrong_input_is_exit_code_2_and_says_why_without_a_traceback():
    done = shell("distill", "--student", "bilsm")
    assert done.returncode == 2
    assert "did you mean 'bilstm'?" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["distil"], "did you mean 'distill'?"),
        (["distill", "--studnet", "x"], "--student"),
        (["distill", "--seed", "-1"], "--seed"),
        (["distill", "--recipe", "glue_bilstn"], "did you mean 'glue_bilstm'?"),
        (["distill", "--set", "train.epoch=1"], "--set train.epoch: there is no such key; did you mean 'epochs'?"),
        (["distill", "--tasks", "sst2,mrcp", "--teacher", "x"], "did you mean 'mrpc'?"),
        (["distill", "--resume", "nowhere"], "nowhere: does not exist"),
        (["distill", "--resume", "."], "is no run of kdtoolkit"),
        (["distill", "--resume", "a", "--out", "b"], "leave one of them out"),
        (["check", "demo", "--recipe", "demo"], "leave one of them out"),
        (["evaluate", "nowhere"], "nowhere: does not exist"),
        (["predict", "nowhere"], "nowhere: does not exist"),
        (["recipes", "show", "dem"], "did you mean 'demo'?"),
        (["plugins", "explain", "bilsm"], "did you mean 'bilstm'?"),
        (["clean", "--delete"], "--delete needs --store or --runs"),
    ],
)
def test_every_wrong_input_is_exit_code_2(run, arguments, said):
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert said in done.output


def test_failed_work_is_exit_code_1_and_an_unexpected_error_points_to_debug(run, monkeypatch):
    import kdtoolkit.pipeline as pipeline

    def fails(error):
        def fail(*_, **__):
            raise error

        return fail

    monkeypatch.setattr(pipeline, "run_stages", fails(WorkError("the disk is full")))
    done = run("distill", "--out", "one")
    assert (done.exit_code, "kdtool: the disk is full" in done.output) == (1, True)
    monkeypatch.setattr(pipeline, "run_stages", fails(ZeroDivisionError("division")))
    done = run("distill", "--out", "two")
    assert done.exit_code == 1 and "--debug" in done.output and "kdtool distill --resume two" in done.output
    assert isinstance(run("--debug", "distill", "--out", "three").exception, ZeroDivisionError)


def test_an_unexpected_end_of_a_file_is_no_interrupt(run, monkeypatch):
    import kdtoolkit.pipeline as pipeline

    def ends(*_, **__):
        raise EOFError("no data left")

    monkeypatch.setattr(pipeline, "run_stages", ends)
    done = run("distill", "--out", "one")
    assert done.exit_code == 1 and "EOFError: no data left" in done.output and "Stopped" not in done.output


def test_an_interrupt_says_how_to_resume(run, monkeypatch, tmp_path):
    import kdtoolkit.pipeline as pipeline

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_stages", interrupted)
    done = run("distill", "--out", "my run")
    assert done.exit_code == 1
    assert "kdtool distill --resume 'my run'" in done.output
    assert (tmp_path / "my run" / "recipe.yaml").is_file()


def test_the_run_folder_exists_before_torch_is_imported(tmp_path):
    code = (
        "import sys\n"
        "import kdtoolkit.pipeline as pipeline\n"
        "def look(run, until, engine):\n"
        "    print(run.path.name, (run.path / 'recipe.yaml').is_file(), 'torch' in sys.modules)\n"
        "    sys.exit(0)\n"
        "pipeline.run_stages = look\n"
        "from kdtoolkit.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "distill"], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.stdout.strip() == "demo True False", done.stderr


@pytest.mark.parametrize("command", ["teach", "label", "distill"])
def test_a_command_works_up_to_its_stage_and_resumes_with_the_same_recipe_only(run, monkeypatch, command):
    import kdtoolkit.pipeline as pipeline

    reached = []
    monkeypatch.setattr(pipeline, "run_stages", lambda run, until, engine: reached.append((run.path.name, until)) or {})
    until = "report" if command == "distill" else command
    extra = ["--teacher", "a/b", "--tasks", "sst2"]
    assert run(command, *extra, "--json", "--out", "runs/x").output == "{}\n"
    assert run(command, "--json", "--resume", "runs/x").exit_code == 0
    assert run(command, "--json", "--resume", "runs/x", "--set", "seed=0").exit_code == 0
    assert reached == [("x", until)] * 3
    other = run(command, "--json", "--resume", "runs/x", "--seed", "7")
    assert other.exit_code == 2 and "another recipe" in other.output


def test_recipes_are_listed_shown_and_copied(run, tmp_path):
    assert "kdtool distill --recipe glue_bilstm" in run("recipes").output
    assert run("recipes", "list").output == run("recipes").output
    shown = run("recipes", "show", "demo").output
    assert shown.startswith("# kdtool distill")
    assert run("recipes", "copy", "demo", "mine.yaml").exit_code == 0
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == shown
    again = run("recipes", "copy", "demo", "mine.yaml")
    assert again.exit_code == 2 and "exists" in again.output


def test_plugins_are_listed_from_metadata_and_explained(run):
    listed = run("plugins").output
    assert "kdtoolkit_students.bilstm:BiLSTM" in listed and "hugging_face" in listed
    rows = json.loads(run("plugins", "--json").output)
    assert {"kind", "name", "target", "distribution", "version"} == set(rows[0])
    explained = run("plugins", "explain", "bilstm").output
    assert "pooling" in explained and "= 150" in explained and "LSTM" in explained


def test_doctor_names_versions_devices_op_and_store(run):
    found = json.loads(run("doctor", "--json").output)
    assert found["versions"]["kdtoolkit"] == kdtoolkit.__version__
    assert found["op"]["reason"] and found["op"]["files"] and found["devices"][0].startswith("cpu")
    assert found["store"]["folder"] == os.environ["KDTOOLKIT_STORE"]
    assert "op:" in run("doctor").output


def test_doctor_says_which_op_is_in_use_and_why_not_another(run, monkeypatch, tmp_path):
    from kdtoolkit.ops import native

    def op():
        native.library.cache_clear()
        return json.loads(run("doctor", "--json").output)["op"]

    with monkeypatch.context() as patch:
        patch.setattr(native, "found_file", lambda: None)
        found = op()
        assert found["backend"] == "reference" and "pure-Python install" in found["reason"]
        broken = tmp_path / "libkdtoolkit_ops.so"
        broken.write_text("no library")
        patch.setattr(native, "found_file", lambda: broken)
        found = op()
        assert found["backend"] == "none" and str(broken) in found["reason"] and "install" in found["reason"]
        assert found["files"][0] == str(broken)
    native.library.cache_clear()
    monkeypatch.setenv("KDTOOLKIT_OP_BACKEND", "reference")
    assert "KDTOOLKIT_OP_BACKEND=reference" in op()["reason"]


def test_clean_deletes_only_what_it_lists_and_only_when_told(run, tmp_path, monkeypatch):
    store = tmp_path / "store"
    monkeypatch.setenv("KDTOOLKIT_STORE", str(store))
    (store / "abc" / "sst2").mkdir(parents=True)
    (store / "abc" / "sst2" / "manifest.json").write_text('{"description": "bert-large"}')
    (store / "teachers" / "key").mkdir(parents=True)
    (store / "teachers" / "key" / "config.json").write_text("{}" * 1024)
    (store / "precious").mkdir()
    for name in ("old", "new"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        for file in ("run.json", "recipe.yaml"):
            (tmp_path / "runs" / name / file).write_text("{}")
            if name == "old":
                os.utime(tmp_path / "runs" / name / file, (0, 0))
    os.utime(tmp_path / "runs" / "old", (0, 0))
    (tmp_path / "runs" / "notes").mkdir()

    listed = run("clean").output
    assert all(name in listed for name in ("bert-large: sst2", "teachers/key", "runs/old", "runs/new", "2 KiB"))
    assert "precious" not in listed and "notes" not in listed
    assert run("clean", "--runs", "runs", "--delete", input="n\n").exit_code == 1
    assert (tmp_path / "runs" / "old").exists()
    assert run("clean", "--runs", "runs", "--older-than", "7", "--delete", "--yes").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["new", "notes"]
    assert run("clean", "--store", "--delete", "--yes").exit_code == 0
    assert [path.name for path in store.iterdir() if any(path.iterdir()) or path.name == "precious"] == ["precious"]


@dataclass
class Answer:
    label: object
    probabilities: dict[str, float] | None


class EchoStudent:
    """Answers with the length of the text, and remembers how many texts it saw at a time."""

    tasks = (Task("one", labels=("a", "b"), text=("review",)), Task("two", kind="regression", text=("q", "p")))
    sizes: list[int] = []  # noqa: RUF012

    def task(self, name):
        return {task.name: task for task in self.tasks}[name]

    def predict(self, texts, task):
        EchoStudent.sizes.append(len(texts))
        if task == "one":
            return [Answer(text, {"a": 0.25, "b": 0.75}) for text in texts]
        return [Answer(float(len(first) - len(second)), None) for first, second in texts]


@pytest.fixture
def student(monkeypatch):
    EchoStudent.sizes.clear()
    monkeypatch.setattr(kdtoolkit, "load", lambda _: EchoStudent(), raising=False)


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def test_predict_answers_each_line_in_order_in_batches(run, student):
    texts = [f"text {n}" for n in range(600)]
    done = run("predict", "r", "--task", "one", input="\n".join(texts) + "\n")
    answers = objects(done.output)
    assert [answer["label"] for answer in answers] == texts
    assert answers[0] == {"text": "text 0", "label": "text 0", "probabilities": {"a": 0.25, "b": 0.75}}
    assert EchoStudent.sizes == [256, 256, 88]


def test_predict_keeps_empty_lines_and_needs_a_tab_between_two_texts(run, student):
    assert [a["text"] for a in objects(run("predict", "r", "--task", "one", input="a\n\nb").output)] == ["a", "", "b"]
    assert objects(run("predict", "r", "--task", "two", input="long\tx\r\n").output) == [
        {"text": "long", "second": "x", "label": 3.0}
    ]
    wrong = run("predict", "r", "--task", "two", input="a\tb\nonly one\n")
    assert wrong.exit_code == 2 and "standard input line 2: has one text" in wrong.output


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", '{"review": "good, \\u00e9"}\n{"review": "bad", "other": 1}\n'),
        ("x.csv", 'id,review\n1,"good, é"\n2,bad\n'),
        ("x.tsv", "review\tid\ngood, é\t1\nbad\t2\n"),
        ("x.txt", "good, é\nbad\n"),
        ("usual.csv", 'text\n"good, é"\nbad\n'),
    ],
)
def test_predict_reads_the_tasks_columns_of_a_file(run, student, tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    done = run("predict", "r", name, "--task", "one")
    assert [answer["text"] for answer in objects(done.output)] == ["good, é", "bad"], done.output


def test_predict_names_a_column_or_a_value_that_is_missing(run, student, tmp_path):
    (tmp_path / "x.csv").write_text("id,reviw\n1,good\n")
    done = run("predict", "r", "x.csv", "--task", "one")
    assert done.exit_code == 2 and "did you mean 'reviw'?" in done.output
    (tmp_path / "y.jsonl").write_text('{"review": "x"}\n{"other": 3}\n')
    done = run("predict", "r", "y.jsonl", "--task", "one")
    assert done.exit_code == 2 and "y.jsonl line 2: has no 'review'" in done.output
    assert run("predict", "r", "absent.csv", "--task", "one").exit_code == 2


def test_predict_can_be_cut_off_by_who_reads_it(tmp_path):
    code = (
        "import sys, kdtoolkit\n"
        "class Student:\n"
        "    def task(self, name): return kdtoolkit.Task('one', labels=('a', 'b'), pair=False)\n"
        "    def predict(self, texts, task):\n"
        "        from types import SimpleNamespace as A\n"
        "        return [A(label=t, probabilities=None) for t in texts]\n"
        "kdtoolkit.load = lambda _: Student()\n"
        "from kdtoolkit.cli.main import main\n"
        "main()\n"
    )
    (tmp_path / "x.txt").write_text("some text that is long enough\n" * 20000)
    with subprocess.Popen(
        [sys.executable, "-c", code, "predict", "r", "x.txt"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        assert process.stdout and process.stderr
        assert json.loads(process.stdout.readline())["label"].startswith("some")
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == b""


def test_check_prints_facts_and_warnings(run, monkeypatch):
    import kdtoolkit.pipeline as pipeline

    @dataclass
    class Report:
        lines: tuple[str, ...] = ("12 rows",)
        warnings: tuple[str, ...] = ("slow",)

    monkeypatch.setattr(pipeline, "check", lambda recipe: Report())
    done = run("check", "glue_bilstm", "--teacher", "x")
    assert done.output == "12 rows\nwarning: slow\nno problem found, 1 warning\n"
    assert json.loads(run("check", "demo", "--json").output) == {"lines": ["12 rows"], "warnings": ["slow"]}


def test_an_answer_is_written_as_json_writes_it():
    from kdtoolkit.cli.predict import _line
    from kdtoolkit.predictor import Prediction
    from kdtoolkit.tasks import Task

    for pair, labels, shares in [(False, "a", [0.12345678, 1e-9]), (True, ["a"], [float("nan"), float("inf")])]:
        task = Task("t", kind="classification", labels=("a", 'b"é'), pair=pair)
        answer = Prediction(labels, dict(zip(task.labels, shares)))
        whole = {"text": 'one "é\u2028', **({"second": "two"} if pair else {}), "label": labels}
        whole["probabilities"] = {name: round(share, 6) for name, share in answer.probabilities.items()}
        expected = json.dumps(whole, ensure_ascii=False) + "\n"
        assert _line(('one "é\u2028', "two"), answer, task) == expected


def test_a_command_ends_without_looking_for_cycles_in_all_that_it_imported():
    code = (
        "import atexit, gc\natexit.register(lambda: print('frozen' if gc.get_freeze_count() else 'not frozen'))\n"
        "from kdtoolkit.cli.main import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code, "recipes", "list"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("\nfrozen\n")
