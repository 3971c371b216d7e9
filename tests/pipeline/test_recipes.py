"""Every built-in recipe runs two steps; one that is added without data to run it on fails here."""

from __future__ import annotations

import json
import random

import pytest
from checkpoints import write_checkpoint

import kdtoolkit
from kdtoolkit.pipeline import check
from kdtoolkit.recipe.load import load_recipe, recipe_names
from kdtoolkit.tasks import GLUE

TWO_STEPS = ("train.max_steps=2", "train.batch_rows=4", "evaluate.bootstrap=0", "evaluate.latency=false")
# What is smaller than in the recipe: teachers' training, and choosing among them, for which 24 rows hold none out.
SMALLER = {
    "mtdnn_kd": (
        "teachers.0.members=2",
        "teachers.0.keep=null",
        "teachers.0.keep_by=null",
        "teachers.0.refine.epochs=0.05",
    ),
    "bilstm_soft": ("augment.copies=2",),
    "mkd_transformer": ("student.width=12", "student.feedforward=16"),
}
WORDS = ["good", "great", "fine", "bad", "awful", "poor", "film", "plot"]


@pytest.fixture(scope="module")
def glue_like(tmp_path_factory):
    """Tiny files in the layout of GLUE's official TSV, and a teacher without heads."""
    folder = tmp_path_factory.mktemp("glue")
    generator = random.Random(0)
    tsv = {
        "sst2": ("SST-2", ["sentence", "label"]),
        "mrpc": ("MRPC", ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]),
        "rte": ("RTE", ["index", "sentence1", "sentence2", "label"]),
        "stsb": ("STS-B", ["index", "sentence1", "sentence2", "score"]),
        "cola": ("CoLA", None),
        "qqp": ("QQP", ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"]),
        "mnli": ("MNLI", ["sentence1", "sentence2", "gold_label"]),
        "qnli": ("QNLI", ["index", "question", "sentence", "label"]),
    }
    for task, (name, header) in tsv.items():
        (folder / name).mkdir()
        for split, count in (("train", 24), ("dev", 8)):
            lines = [] if header is None else ["\t".join(header)]
            for number in range(count):
                one, two = (" ".join(generator.choices(WORDS, k=5)) for _ in range(2))
                label = str(number % 2)
                lines.append("\t".join({
                    "sst2": [one, label],
                    "mrpc": [label, "1", "2", one, two],
                    "rte": [str(number), one, two, ("entailment", "not_entailment")[number % 2]],
                    "stsb": [str(number), one, two, str(5 * (number % 7) / 6)],
                    "cola": ["gj04", label, "", one],
                    "qqp": [str(number), "1", "2", one, two, label],
                    "mnli": [one, two, ("entailment", "neutral", "contradiction")[number % 3]],
                    "qnli": [str(number), one, two, ("entailment", "not_entailment")[number % 2]],
                }[task]))  # fmt: skip
            files = ("dev_matched", "dev_mismatched") if task == "mnli" and split == "dev" else (split,)
            for file in files:
                (folder / name / f"{file}.tsv").write_text("\n".join(lines) + "\n")
    return folder, write_checkpoint(folder / "teacher", head=False)


def test_there_are_recipes():
    assert {"demo", "glue_bilstm", "glue_transformer"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_runs_two_steps(name, glue_like, tmp_path, monkeypatch):
    sets, shorthands = list(TWO_STEPS), {}
    if name == "demo":
        # Smaller is only what does not depend on the recipe: the suite, and how long its teacher learns.
        monkeypatch.setattr("kdtoolkit.demo.suite.GOLD", 30)
        monkeypatch.setattr("kdtoolkit.demo.suite.TRANSFER", 20)
        monkeypatch.setattr("kdtoolkit.demo.suite.TEACHER", 40)
        monkeypatch.setattr("kdtoolkit.demo.suite.DEV", 20)
        sets.append("teachers.0.epochs=0.05")
    elif set(load_recipe(name).tasks) <= set(GLUE):
        folder, teacher = glue_like
        sets += ["teachers.0.epochs=0.05", "teachers.0.max_tokens=16", "data.max_tokens=16", *SMALLER.get(name, ())]
        shorthands = {"teacher": [str(teacher)], "data": str(folder)}
        if load_recipe(name).student.name.startswith("hf"):
            shorthands["student"] = f"hf:{teacher}"
        elif load_recipe(name).tokenizer.name != "teacher":
            sets.append("tokenizer.vocabulary=64")
    else:
        pytest.fail(f"nothing is known here to run '{name}' on")
    recipe = load_recipe(name, overrides=sets, shorthands=shorthands)
    results = kdtoolkit.distill(recipe, tmp_path / "run")
    assert {task.removesuffix("_mismatched") for task in results["tasks"]} == {task.name for task in recipe.task_list()}
    for task, entry in results["tasks"].items():
        taught = recipe.teachers_of(task.removesuffix("_mismatched"))
        assert all(entry[model] is not None for model in ("gold_only", "student", *(["teacher"] if taught else [])))
    stages = json.loads((tmp_path / "run/run.json").read_text())["stages"]
    trained = 1 if recipe.train.joint else len(recipe.tasks)
    assert stages["baseline"]["steps"] == stages["distill"]["steps"] == 2 * trained


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_how_it_is_run(name):
    from importlib.resources import files

    text = (files("kdtoolkit_recipes") / f"{name}.yaml").read_text()
    assert text.startswith("# kdtool distill"), "the first line of a recipe is a command that runs"
    if name != "demo":
        assert f"--recipe {name}" in text.splitlines()[0]


def test_check_of_a_recipe_says_what_will_happen(glue_like):
    folder, teacher = glue_like
    given = {"teacher": [str(teacher)], "data": str(folder)}
    recipe = load_recipe("glue_bilstm", overrides=("tokenizer.vocabulary=64",), shorthands=given)
    said = "\n".join(check(recipe).lines)
    for task in ("sst2", "mrpc", "rte", "cola", "stsb"):
        assert f"{task}: teacher {teacher}: will be fine-tuned on 24 labelled rows first" in said
    assert "stsb: regression, train 24, dev 8 rows" in said
