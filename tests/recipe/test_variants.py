"""Variants: changes that come with a recipe."""

from __future__ import annotations

import pytest

from kdtoolkit.errors import InputError
from kdtoolkit.recipe.document import read_yaml
from kdtoolkit.recipe.load import load_recipe, recipe_from_dict, recipe_names, recipe_text, resolved_yaml

TEXT = """
tasks: [sst2, mrpc]
teachers: [{name: path/to/model, epochs: 2}]
train: {epochs: 5}
variants:
  short: {train.epochs: 1, teachers.0.epochs: 1}
  apart: {train.joint: false}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_without_a_name_nothing_is_changed(recipe):
    loaded = load_recipe(recipe)
    assert (loaded.variant, loaded.variants, loaded.train.epochs, loaded.train.joint) == (None, {}, 5, True)


def test_the_named_one_is_applied_before_other_options(recipe):
    short = load_recipe(recipe, overrides=["variant=short"])
    assert (short.variant, short.train.epochs, short.teachers[0].options["epochs"]) == ("short", 1, 1)
    assert load_recipe(recipe, overrides=["train.epochs=3", "variant=short"]).train.epochs == 3
    assert load_recipe(recipe, overrides=["variant=short"], shorthands={"teacher": ["x"]}).teachers[0].name == "x"


def test_the_recipe_itself_may_name_one(recipe):
    recipe.write_text(TEXT + "variant: apart\n", encoding="utf-8")
    assert load_recipe(recipe).train.joint is False
    assert load_recipe(recipe, overrides=["variant=short"]).train.joint is True


def test_the_one_that_the_recipe_names_can_be_taken_back(recipe):
    recipe.write_text(TEXT + "variant: apart\n", encoding="utf-8")
    loaded = load_recipe(recipe, overrides=["variant=null"])
    assert (loaded.variant, loaded.train.joint) == (None, True)


@pytest.mark.parametrize("value", ["[apart, short]", "{short: 1}", "3"])
def test_what_is_no_name_is_refused(recipe, value):
    with pytest.raises(InputError, match="--set variant: expected text, received "):
        load_recipe(recipe, overrides=[f"variant={value}"])


def test_a_resolved_recipe_keeps_what_was_changed_after_it(recipe):
    first = load_recipe(recipe, overrides=["variant=short", "train.epochs=7"])
    again = recipe_from_dict(read_yaml(resolved_yaml(first)).value)
    assert again == first and again.train.epochs == 7 and again.variant == "short"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["variant=shrot"], "--set variant: there is no variant 'shrot'; did you mean 'short'?"),
        (["variant=long"], "known: apart, short"),
    ],
)
def test_an_unknown_one_is_refused(recipe, overrides, words):
    with pytest.raises(InputError, match=".*".join(words.split("?")[0].split("(")[0:1])):
        load_recipe(recipe, overrides=overrides)


def test_a_recipe_that_has_none_is_told_so(tmp_path):
    path = tmp_path / "plain.yaml"
    path.write_text("tasks: [sst2]\nteachers: x\n", encoding="utf-8")
    with pytest.raises(InputError, match="the recipe has none"):
        load_recipe(path, overrides=["variant=short"])


def test_a_key_of_a_variant_that_is_no_key_is_named(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("tasks: [sst2]\nteachers: x\nvariants: {a: {train.epoch: 1}}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"variants\.a\.train\.epoch"):
        load_recipe(path, overrides=["variant=a"])


@pytest.mark.parametrize("name", recipe_names())
def test_every_variant_of_a_built_in_recipe_loads(name):
    for variant in read_yaml(recipe_text(name)[1]).value.get("variants") or {}:
        assert load_recipe(name, overrides=[f"variant={variant}"]).variant == variant


def test_linear_heads_are_the_teachers_as_well():
    assert load_recipe("mtdnn_kd").teachers[0].options["heads"]["tasks"]["mnli"]["name"] == "san"
    recipe = load_recipe("mtdnn_kd", overrides=["variant=linear_heads"])
    assert recipe.teachers[0].options["heads"] is None and recipe.heads.of("mnli").name == "linear"


def test_tasks_on_the_command_line_take_what_speaks_of_other_tasks_along():
    recipe = load_recipe("mtdnn_kd", shorthands={"tasks": "rte,stsb"})
    assert set(recipe.heads.tasks) == set(recipe.teachers[0].options["heads"]["tasks"]) == {"rte"}
    assert (recipe.teachers[0].tasks, recipe.teachers[0].keep_by) == (["rte"], ["rte"])
    recipe = load_recipe("mtdnn_kd", shorthands={"tasks": "qqp,stsb"})
    assert (recipe.teachers[0].tasks, recipe.teachers[0].keep_by) == (["qqp"], None)
    recipe = load_recipe("bilstm_soft", shorthands={"tasks": "sst2"})
    assert recipe.augment is not None and recipe.augment.copies == 20


def test_terms_and_augmentation_of_other_tasks_go_too(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "tasks: [sst2, mrpc]\nteachers: x\naugment: {tasks: [sst2, mrpc]}\n"
        "objective: {terms: [{name: rkd, tasks: [sst2]}, {name: rkd, tasks: [mrpc, sst2]}]}\n",
        encoding="utf-8",
    )
    recipe = load_recipe(path, shorthands={"tasks": "mrpc"})
    assert [term.tasks for term in recipe.objective.terms] == [["mrpc"]]
    assert recipe.augment.tasks == ["mrpc"]
