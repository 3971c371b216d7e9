"""Recipes load from names, files, mappings and options, and say the same when they are written out."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit.errors import InputError
from kdtoolkit.recipe import Recipe
from kdtoolkit.recipe.document import read_yaml
from kdtoolkit.recipe.load import load_recipe, recipe_from_dict, recipe_names, resolved_yaml
from kdtoolkit.recipe.shorthands import apply


def again(recipe: Recipe) -> Recipe:
    return recipe_from_dict(read_yaml(resolved_yaml(recipe)).value)


def test_there_are_built_in_recipes():
    assert {"demo", "glue_bilstm", "glue_transformer"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_built_in_recipe_loads_and_its_resolved_form_is_equal(name):
    recipe = load_recipe(name)
    assert again(recipe) == recipe
    assert resolved_yaml(again(recipe)) == resolved_yaml(recipe)


def test_a_resolved_recipe_in_a_file_loads_equal(tmp_path):
    recipe = load_recipe("glue_bilstm", overrides=["data.SST-2.gold_rows=10", "refine.epochs=1"])
    (tmp_path / "recipe.yaml").write_text("# versions\n" + resolved_yaml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_a_resolved_recipe_names_every_default():
    text = resolved_yaml(recipe_from_dict({"tasks": ["sst2"], "teachers": "bert-large"}))
    for key in ("seed: 0", "max_tokens: 64", "temperature: 2.0", "warmup_fraction: 0.1", "bootstrap: 1000"):
        assert key in text


def test_every_spelling_of_a_task_is_one_recipe():
    def recipe(name):
        return recipe_from_dict({"tasks": [name], "teachers": "x", "data": {name: {"gold_rows": 3}},
                                 "objective": {"tasks": {name: {"alpha": 0.1}}}})  # fmt: skip

    assert recipe("SST-2") == recipe("sst2") == recipe("sst-2")
    assert recipe("SST-2").data.task("sst2").gold_rows == 3


def test_a_section_that_names_a_glue_task_keeps_what_glue_says():
    recipe = recipe_from_dict({"tasks": [{"name": "STS-B"}, {"name": "cola"}], "teachers": "x"})
    assert [task.kind for task in recipe.task_list()] == ["regression", "classification"]
    assert [task.metric for task in again(recipe).task_list()] == ["pearson", "mcc"]
    assert again(recipe).task_list() == recipe.task_list()


numbers = st.floats(0.01, 8, allow_nan=False)
schedules = st.fixed_dictionaries(
    {"from": numbers, "to": numbers}, optional={"shape": st.sampled_from(["linear", "cosine", "step", "exponential"])}
)
fractions = st.floats(0, 1, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    tasks=st.lists(st.sampled_from(["sst2", "MRPC", "sts-b", "cola"]), min_size=1, unique=True),
    names=st.lists(st.text("ab c:#'\"-é0", min_size=1, max_size=8).filter(str.strip), min_size=1, max_size=3),
    temperature=numbers | schedules,
    alpha=fractions,
    rate=st.floats(1e-9, 1),
    folder=st.none() | st.sampled_from(["yes", "1e5", "null", "~", "a: b", " x", "2020-01-01", "0x10", "", "no #"]),
    exponent=numbers | schedules,
    epochs=st.floats(0.1, 100),
)
def test_what_is_written_out_loads_equal(seed, tasks, names, temperature, alpha, rate, folder, exponent, epochs):
    recipe = Recipe.model_validate(
        {
            "seed": seed,
            "tasks": tasks,
            "data": {"folder": folder, tasks[0]: {"gold_rows": seed % 7}},
            "teachers": [{"name": name, "note": name} for name in names],
            "objective": {"temperature": temperature, "tasks": {tasks[-1]: {"alpha": alpha}}},
            "optimizer": {"learning_rate": rate},
            "sampler": {"exponent": exponent},
            "train": {"epochs": epochs},
        }
    )
    assert Recipe.model_validate(read_yaml(resolved_yaml(recipe)).value) == recipe


def test_overrides_reach_lists_short_forms_and_sections_that_are_null():
    recipe = load_recipe(
        "glue_bilstm",
        overrides=["teachers.0.epochs=1", "refine.epochs=4", "objective.alpha={from: 0, to: 1}", "train.select=null",
                   "data.SST-2.gold_rows=5", "data.sst2.transfer_rows=6", "student.width=7", "tasks.1=qnli"],
    )  # fmt: skip
    assert recipe.teachers[0].options["epochs"] == 1
    assert recipe.refine is not None and recipe.refine.epochs == 4
    assert recipe.objective.alpha.to == 1
    assert (recipe.data.task("sst2").gold_rows, recipe.data.task("sst2").transfer_rows) == (5, 6)
    assert recipe.student.options["width"] == 7
    assert recipe.tasks[1] == "qnli"


def test_an_override_does_not_change_the_mapping_it_came_from(tmp_path):
    values = {"tasks": ["sst2"], "teachers": ["a"], "student": "bilstm"}
    recipe_from_dict(values)
    assert values == {"tasks": ["sst2"], "teachers": ["a"], "student": "bilstm"}


def test_one_teacher_replaces_the_model_of_every_member(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "tasks: [sst2]\nteachers: [{name: bert-base, epochs: 2, weight: 3.0}, {name: roberta-large, epochs: 4}]\n"
    )
    recipe = load_recipe(tmp_path / "r.yaml", shorthands={"teacher": ("my/model",)})
    assert [(t.name, t.weight, t.options["epochs"]) for t in recipe.teachers] == [
        ("my/model", 3, 2),
        ("my/model", 1, 4),
    ]


def test_several_teachers_are_an_ensemble():
    recipe = load_recipe("glue_bilstm", shorthands={"teacher": ("a/b", "labels.parquet")})
    assert [t.name for t in recipe.teachers] == ["a/b", "labels.parquet"]
    # Options for fine-tuning a model mean nothing to a file.
    assert recipe.teachers[0].options and not recipe.teachers[1].options


def test_another_encoder_of_the_same_student_takes_the_place_of_the_first():
    recipe = load_recipe("bam", shorthands={"student": "hf:roberta"}, overrides=["student.pretrained=false"])
    assert (recipe.student.name, recipe.student.options) == ("hf:roberta", {"pooling": "pooler", "pretrained": False})
    spelled = {"student": {"name": "hf", "model": "bert", "pooling": "mean"}}
    changed, _ = apply(spelled, {"student": "hf:roberta"}, {})
    assert changed["student"] == {"name": "hf:roberta", "pooling": "mean"}


def test_another_student_does_not_inherit_options():
    recipe = load_recipe("glue_bilstm", shorthands={"student": "transformer"})
    assert recipe.student.name == "transformer" and "pooling" not in recipe.student.options
    assert load_recipe("glue_bilstm", shorthands={"student": "bilstm"}).student.options["pooling"] == "max"


def test_choosing_tasks_drops_what_belongs_to_the_others(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "tasks: [sst2, mrpc]\ndata: {sst2: {gold_rows: 5}, mrpc: {gold_rows: 6}}\n"
        "teachers: [{name: a, tasks: [sst2]}, {name: b, tasks: [sst2, mrpc]}]\n"
        "objective: {tasks: {sst2: {alpha: 0.1}}}\n"
    )
    recipe = load_recipe(tmp_path / "r.yaml", shorthands={"tasks": "MRPC"})
    assert recipe.tasks == ["mrpc"] and list(recipe.data.tasks) == ["mrpc"] and not recipe.objective.tasks
    assert [(t.name, t.tasks) for t in recipe.teachers] == [("b", ["mrpc"])]


@pytest.mark.parametrize(
    ("file", "task"),
    [("reviews.csv", "reviews"), ("a/film reviews/train.jsonl.gz", "film_reviews"), ("x/SST-2/train.tsv", "sst2"),
     ("mails_train.parquet", "mails")],
)  # fmt: skip
def test_a_training_file_makes_a_task_of_its_name(file, task):
    recipe = load_recipe(None, shorthands={"teacher": ("t",), "train": file, "dev": "dev.csv"})
    assert recipe.tasks == [task]
    assert (recipe.data.task(task).train, recipe.data.task(task).dev) == (file, "dev.csv")


def test_nothing_at_all_is_the_demo():
    assert load_recipe(None) == load_recipe("demo")
    assert load_recipe(None, shorthands={"student": "transformer"}).tasks == load_recipe("demo").tasks
    one = load_recipe(None, shorthands={"tasks": "demo_sentiment"})
    assert [task.name for task in one.task_list()] == ["demo_sentiment"]


def test_tasks_and_a_teacher_are_the_defaults_of_the_schema():
    recipe = load_recipe(None, shorthands={"teacher": ("bert-large",), "tasks": "sst2,rte", "seed": 3})
    assert recipe == Recipe(seed=3, tasks=["sst2", "rte"], teachers=[{"name": "bert-large"}])


def test_an_unknown_recipe_is_named_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'glue_bilstm'"):
        load_recipe("glue_bilstn")
    with pytest.raises(InputError, match="no such file"):
        load_recipe("folder/glue.yaml")


def test_loading_a_recipe_imports_neither_torch_nor_numpy():
    code = (
        "import sys; from kdtoolkit.recipe.load import load_recipe, resolved_yaml; "
        "[resolved_yaml(load_recipe(n)) for n in ('demo', 'glue_bilstm', 'glue_transformer')]; "
        "assert not {'torch', 'numpy', 'transformers', 'pyarrow'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
