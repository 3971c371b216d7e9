"""What a recipe may ask of `objective.terms`: names, options, tasks, and what is degenerate."""

from __future__ import annotations

import pytest

from kdtoolkit.errors import InputErrors
from kdtoolkit.recipe.checks.objective import warnings
from kdtoolkit.recipe.load import load_recipe, recipe_from_dict
from kdtoolkit.recipe.signature import options_of
from kdtoolkit.recipe.terms import KNOWN_TERMS

TASKS = ["sst2", "mnli", "stsb"]


def recipe(*terms, tasks=("sst2", "mnli"), teachers=("bert-large",), **sections):
    given = {"tasks": list(tasks), "teachers": list(teachers), "objective": {"terms": list(terms)}, **sections}
    return recipe_from_dict(given)


def problems(*terms, **given):
    with pytest.raises(InputErrors) as caught:
        recipe(*terms, **given)
    return caught.value.problems


def said(*terms, **given):
    made = recipe(*terms, **given)
    return warnings(made, made.task_list())


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"name": "pdk"}, "objective.terms.0.name: no term is called 'pdk'; did you mean 'pkd'? (`kdtool explain obj"),
        (
            {"name": "pkd", "layer": 3},
            "objective.terms.0.layer: the term 'pkd' has no option 'layer'; did you mean 'lay",
        ),
        ({"name": "pkd", "wieght": 3}, "the term 'pkd' has no option 'wieght'; did you mean 'weight'?"),
        ({"name": "dkd", "target": "much"}, "objective.terms.0.target: expected a number, received 'much'"),
        ({"name": "dkd", "target": True}, "objective.terms.0.target: expected a number"),
        ({"name": "pkd", "layers": "skp"}, "objective.terms.0.layers: 'skp' is unknown; one of: skip, last"),
        ({"name": "minilmv2", "heads": 1.5}, "objective.terms.0.heads: expected a whole number, received 1.5"),
        ({"name": "minilmv2", "states": "yes"}, "objective.terms.0.states: expected true or false, received 'yes'"),
        ({"name": "pkd", "weight": -1}, "objective.terms.0.weight: -1 is negative; 0 leaves the term out"),
        (
            {"name": "pkd", "weight": {"from": 1.0, "to": -2.0}},
            "objective.terms.0.weight.to: -2 is negative; 0 leaves the term out",
        ),
        ({"name": "pkd", "tasks": []}, "objective.terms.0.tasks: is empty; leave it out for all tasks"),
        ({"name": "pkd", "tasks": ["mnlli"]}, "objective.terms.0.tasks.0: 'mnlli' is no task of this recipe; did you"),
    ],
)
def test_a_wrong_term_is_refused_with_the_way_out(term, message):
    (found,) = problems(term)
    assert message in found


def test_all_problems_of_all_terms_come_at_once_with_their_lines(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "tasks: [sst2]\nteachers: [bert-large]\nobjective:\n  terms:\n"
        "    - {name: pkd, layers: 3}\n    - {name: rkdd}\n    - name: dkd\n      targt: 1.0\n"
    )
    with pytest.raises(InputErrors) as caught:
        load_recipe(path)
    assert [line.split(": ")[:2] for line in caught.value.problems] == [
        ["line 5", "objective.terms.0.layers"],
        ["line 6", "objective.terms.1.name"],
        ["line 8", "objective.terms.2.targt"],
    ]


def test_right_terms_pass_also_from_a_file(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "tasks: [sst2, mnli]\nteachers: [bert-large]\nobjective:\n  terms:\n"
        "    - {name: pkd, layers: [3, 6], weight: {from: 1.0, to: 0.0}}\n"
        "    - {name: hidden, layers: last, project: null}\n"
        "    - {name: rkd, on: logits, angle: 1, tasks: [MNLI]}\n"
    )
    made = load_recipe(path)
    assert [term.options for term in made.objective.terms] == [
        {"layers": [3, 6]}, {"layers": "last", "project": None}, {"on": "logits", "angle": 1},
    ]  # fmt: skip
    assert made.objective.terms[2].tasks == ["mnli"]


def test_terms_need_a_teacher():
    found = problems({"name": "rkd"}, teachers=())
    assert any("objective.terms: there is no teacher to learn from" in line for line in found)
    given = {"tasks": ["sst2"], "objective": {"alpha": 1.0, "terms": [{"name": "rkd"}]}}
    with pytest.raises(
        InputErrors, match="there is no teacher to learn from; name one under teachers, or leave it out"
    ):
        recipe_from_dict(given)


def test_a_task_without_teacher_cannot_be_named():
    only_mnli = ({"name": "bert-large", "tasks": ["mnli"]},)
    (found,) = problems({"name": "rkd", "tasks": ["sst2"]}, teachers=only_mnli)
    assert "objective.terms.0.tasks.0: 'sst2' has no teacher, and a term learns from one; leave it out" in found
    recipe({"name": "rkd"}, teachers=only_mnli)


@pytest.mark.parametrize("name", [name for name, known in KNOWN_TERMS.items() if known.classes])
def test_terms_of_classes_are_refused_for_regression_with_the_tasks_that_remain(name):
    (found,) = problems({"name": name}, tasks=TASKS)
    assert f"objective.terms.0: '{name}'" in found or f"objective.terms.0.tasks: '{name}'" in found
    assert "compares probabilities of classes, not 'stsb' (regression); set tasks: [sst2, mnli]" in found
    recipe({"name": name, "tasks": ["sst2", "mnli"]}, tasks=TASKS)
    (found,) = problems({"name": name}, tasks=["stsb"])
    assert "use another term, or the soft loss alone" in found


def test_regression_without_a_teacher_does_not_stand_in_the_way():
    recipe({"name": "dkd"}, tasks=TASKS, teachers=[{"name": "bert-large", "tasks": ["mnli"]}])


def test_two_classes_are_said_to_be_degenerate():
    (text,) = said({"name": "dkd"})
    assert "objective.terms.0 (dkd): sst2 has two classes" in text and "plain distillation" in text
    (text,) = said({"name": "dist"})
    assert "sst2 has two classes: the correlation of a row is 1 or -1 and teaches nothing; the columns do" in text
    (text,) = said({"name": "dist", "columns": 0.0})
    assert "with columns: 0 it teaches nothing" in text
    assert said({"name": "dist", "rows": 0.0}) == []
    assert said({"name": "dkd", "tasks": ["mnli"]}, {"name": "dist", "tasks": ["mnli"]}) == []
    assert said({"name": "dkd"}, teachers=[{"name": "bert-large", "tasks": ["mnli"]}]) == []


def test_rows_that_have_no_gold_class_are_said_to_be_left_out():
    (text,) = said({"name": "dkd", "tasks": ["mnli"]}, data={"mnli": {"gold_rows": 100}})
    assert "mnli: it needs the gold class, so rows without a label are left out of it" in text
    (text,) = said({"name": "dkd", "tasks": ["mnli"]}, augment={"copies": 2})
    assert "needs the gold class" in text
    assert said({"name": "rkd"}, data={"mnli": {"gold_rows": 100}}) == []


def test_few_rows_of_a_task_in_a_mixed_batch_are_said():
    mixed = {"sampler": {"batch": "mixed"}, "train": {"batch_rows": 7}}
    (text,) = said({"name": "rkd"}, **mixed)
    assert "a mixed batch of 7 rows holds few of each of 2 tasks; raise train.batch_rows" in text
    assert said({"name": "rkd"}, sampler={"batch": "mixed"}, train={"batch_rows": 8}) == []
    assert said({"name": "pkd"}, **mixed) == []


def test_a_weight_of_nothing_is_said():
    (text,) = said({"name": "pkd", "weight": 0})
    assert text == "objective.terms.0 (pkd): its weight is 0 throughout, so it teaches nothing"
    assert said({"name": "pkd", "weight": {"from": 0.0, "to": 1.0}}) == []


def test_lists_in_a_signature_are_read_from_the_source():
    options = options_of("kdtoolkit.objectives.terms.pkd:PKD")
    assert options is not None and set(options) == {"layers", "project", "reduction"}
    assert options["layers"].default == "'skip'" and options["layers"].annotation.endswith("list[int]")
