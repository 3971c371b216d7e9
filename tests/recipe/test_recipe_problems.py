"""Everything wrong in a recipe is reported at once, with its line or option, the cause and a way out."""

from __future__ import annotations

import pytest

from kdtoolkit.errors import InputError, InputErrors
from kdtoolkit.recipe.load import load_recipe, recipe_from_dict

GOOD = "tasks: [sst2]\nteachers: [bert-large]\n"


def problems(tmp_path, text, **changes):
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputErrors) as caught:
        load_recipe(path, **changes)
    assert caught.value.exit_code == 2
    return caught.value.problems


def test_all_problems_come_at_once_in_the_order_of_their_lines(tmp_path):
    found = problems(
        tmp_path,
        "# comment\n"
        "tasks: [sst2, mrcp]\n"
        "student:\n"
        "  name: bilsm\n"
        "optimzer: {learning_rate: 1.0e-3}\n"
        "teachers:\n"
        "  - name: bert-large\n"
        "    weight: -1\n"
        "objective:\n"
        "  temperature: 0\n"
        "  kind: cee\n"
        "train: {epochs: many, precision: fp16}\n",
    )
    assert [line.split(": ")[:2] for line in found] == [
        ["line 2", "tasks.1"],
        ["line 4", "student.name"],
        ["line 5", "optimzer"],
        ["line 8", "teachers.0.weight"],
        ["line 10", "objective.temperature"],
        ["line 11", "objective.kind"],
        ["line 12", "train.epochs"],
        ["line 12", "train.precision"],
    ]
    assert found[1] == "line 4: student.name: no student is called 'bilsm'; did you mean 'bilstm'?"
    assert found[2] == "line 5: optimzer: there is no such key; did you mean 'optimizer'?"
    assert found[4] == "line 10: objective.temperature: 0 is not positive; 1 to 8 are usual"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tasks: [sst2\nteachers: [x]\n", "line 2: no valid YAML"),
        ("tasks: [sst2]\n\tseed: 1\n", "line 2: no valid YAML"),
        ("- sst2\n", "line 1: expected keys and values"),
        ("", "the file is empty"),
        (GOOD + "seed: 1\nseed: 2\n", "line 4: seed: the key is given twice, first on line 3"),
        (GOOD + "student: !!python/object:os.system {}\n", "line 3: student: the tag !!python/object:os.system is not"),
        (GOOD + "seed: !!int many\n", "line 3: seed: 'many' is no int"),
        (GOOD + "student: !thing x\n", "line 3: student: the tag !thing is not allowed"),
        (GOOD + "data: &a {sst2: *a}\n", "line 3"),
        (GOOD + "data:\n  foldr: x\n", "line 4: data.foldr: there is no such key"),
        (GOOD + "data:\n  cola: {gold_rows: 3}\n", "line 4: data.cola: 'cola' is no task of this recipe"),
        (GOOD + "data:\n  SST-2: {}\n  sst2: {}\n", "line 5: data.sst2: is the same task as 'SST-2'"),
        (GOOD + "data:\n  SST-2:\n    gold_row: 3\n", "line 5: data.SST-2.gold_row: there is no such key"),
        (GOOD + "data: {sst2: {transfer_rows: 3}}\n", "line 3: data.sst2.transfer_rows: means nothing without"),
        (GOOD + "objective:\n  tasks:\n    mnli: {alpha: 0.5}\n", "line 5: objective.tasks.mnli: 'mnli' is no task"),
        (GOOD + "objective:\n  alpha: 2\n", "line 4: objective.alpha: 2 is not between 0"),
        (GOOD + "objective:\n  alpha: {from: 0, too: 1}\n", "did you mean 'to'?"),
        (GOOD + "objective:\n  alpha: {from: 0}\n", "line 4: objective.alpha.to: is missing"),
        (GOOD + "objective:\n  alpha: high\n", "expected a number or a schedule"),
        (GOOD + "objective:\n  temperature: {from: 4, to: 0}\n", "line 4: objective.temperature.to: 0 is not positive"),
        (GOOD + "objective:\n  alpha: {from: 0, to: 1, shape: liner}\n", "did you mean 'linear'?"),
        (GOOD + "sampler: {exponent: -1}\n", "line 3: sampler.exponent: -1 is negative"),
        (GOOD + "train: {epochs: .nan}\n", "line 3: train.epochs: nan is no finite number"),
        (GOOD + "train: [3]\n", "line 3: train: expected keys and values"),
        (GOOD + "augment: {mask: 0, replace: 0, ngram: 0}\n", "line 3: augment: mask, replace and ngram are all 0"),
        (GOOD + "augment: {mask: 2}\n", "line 3: augment.mask: 2 is"),
        (GOOD + "augment: {mask: 0.8, replace: 0.5}\n", "and mask and replace add up to 1.3; lower one of them"),
        (GOOD + "augment: {tasks: [mrcp]}\n", "line 3: augment.tasks.0: 'mrcp' is no task of this recipe"),
        (GOOD + "augment: {tasks: []}\n", "line 3: augment.tasks: is empty; leave it out"),
        (GOOD + "augment: {mask_token: the mask}\n", "augment.mask_token: 'the mask' is not one word"),
        (GOOD + "augment: {mask_token: (x)}\n", "augment.mask_token: '(x)' is not one word"),
        (GOOD + "augment: {tagger: nltk}\n", "line 3: augment.tagger: 'nltk' is unknown; 'induced', or python:"),
        (GOOD + "augment: {tagger: 'python:tags'}\n", "augment.tagger: 'python:tags' is unknown"),
        (GOOD + "augment: {replace: 0, classes: 9}\n",
         "line 3: augment.classes: is not read where augment.replace is 0; these are: copies, longest_ngram, mask,"),
        (GOOD + "augment: {replace: 0, tagger: 'python:tags:of'}\n", "augment.tagger: is not read where augment.re"),
        (GOOD + "augment: {mask: 0, mask_token: _}\n", "augment.mask_token: is not read where augment.mask is 0"),
        (GOOD + "augment: {ngram: 0, longest_ngram: 3}\n", "augment.longest_ngram: is not read where augment.ngram is"),
        (GOOD + "augment: {tagger: 'python:tags:of', classes: 9}\n",
         "augment.classes: is not read where augment.tagger is 'python:tags:of'; these are: copies, "),
        (GOOD + "augment: {both: 0.5}\n", "augment.both: is not read where no task to be augmented has pairs"),
        ("tasks: [sst2, rte]\nteachers: [bert-large]\naugment: {tasks: [sst2], both: 0.5}\n", "augment.both: is not"),
        (GOOD + "augment: {clases: 9}\n", "augment.clases: there is no such key; did you mean 'classes'"),
        ("tasks: [sst2]\nobjective: {alpha: 1}\naugment: {}\n", "line 3: augment: no task has a teacher, who alone"),
        ("tasks: [sst2, rte]\nteachers: {name: bert-large, tasks: [rte]}\naugment: {tasks: [sst2]}\n",
         "line 3: augment.tasks.0: 'sst2' has no teacher, who alone could label its new text"),
        (GOOD + "data: {sst2: {both_orders: true}}\n", "line 3: data.sst2.both_orders: the rows of 'sst2' are single"),
        (GOOD + "student:\n  name: bilstm\n  widht: 3\n", "line 5: student.widht: the student 'bilstm' has no option"),
        (GOOD + "student: {name: bilstm, width: wide}\n", "line 3: student.width: expected a whole number, received"),
        ("tasks: [sst2]\nteachers: [{name: x, multitask: true, refine: true}]\n",
         "line 2: teachers.0.refine: expected keys and values, received true"),
        (GOOD + "student: {name: hf, config: 3}\n", "line 3: student.config: expected keys and values, received 3"),
        (GOOD + "student: nowhere.py:Thing\n", "line 3: student.name: there is no file nowhere.py"),
        (GOOD + "student: 'hf:'\n", "line 3: student.name: hf: names no model"),
        (GOOD + "tokenizer: {name: sentence}\n", "line 3: tokenizer.name: 'sentence' is unknown; did you mean"),
        ("tasks: [sst2]\n", "no teacher is given"),
        ("teachers: [x]\n", "tasks: is missing"),
        ("tasks: []\nteachers: [x]\n", "line 1: tasks: is empty"),
        ("tasks: [sst2, SST-2]\nteachers: [x]\n", "line 1: tasks.1: task 'sst2' is listed twice"),
        ("tasks:\n  - sst3\nteachers: [x]\n", "line 2: tasks.0: no task is called 'sst3'; did you mean 'sst2'?"),
        ("tasks: [my mails]\nteachers: [x]\n", "a task name has letters, digits"),
        ("tasks:\n  - {name: mails, kind: regresion}\nteachers: [x]\n", "line 2: tasks.0.kind: 'regresion' is unknown"),
        ("tasks:\n  - {name: mails, metric: f2}\nteachers: [x]\n", "metric 'f2' does not fit classification"),
        ("tasks: [sst2]\nteachers:\n  - {name: x, tasks: [mrpc]}\n", "line 3: teachers.0.tasks.0: 'mrpc' is no task"),
        ("tasks: [sst2]\nteachers:\n  - {epochs: 3}\n", "line 3: teachers.0.name: is missing"),
        ("tasks: [sst2]\nteachers: {name: x, weight: 0}\n", "line 2: teachers.weight: 0 is not positive"),
        ("tasks: [sst2]\nteachers: ['python:module']\n", "is not python:module:function"),
    ],
)  # fmt: skip
def test_a_problem_has_its_line_its_cause_and_a_way_out(tmp_path, text, expected):
    found = problems(tmp_path, text)
    assert any(expected in line for line in found), found


def test_one_problem_is_reported_once(tmp_path):
    assert len(problems(tmp_path, GOOD + "objective: {alpha: x, temperature: [1]}\n")) == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("student.widht=3", "--set student.widht: the student 'bilstm' has no option 'widht'; did you mean 'width'?"),
        ("objective.temperatur=3", "--set objective.temperatur: there is no such key; did you mean 'temperature'?"),
        ("objective.temperature=0", "--set objective.temperature: 0 is not positive; 1 to 8 are usual"),
        ("teachers.3.epochs=1", "--set teachers.3.epochs: teachers has 1 item, counted from 0"),
        ("teachers.epochs=1", "--set teachers.epochs: teachers is a list; give the number of an item"),
        ("seed.x=1", "--set seed.x: seed is a single value, so it has no 'x'"),
        ("student={name: bilsm}", "--set student.name: no student is called 'bilsm'; did you mean 'bilstm'?"),
        ("train.epochs=[", "--set train.epochs: no valid YAML"),
        ("nothing", "--set nothing: expected key.path=value"),
        ("data.mrcp.gold_rows=1", "--set data.mrcp.gold_rows: 'mrcp' is no task of this recipe"),
        ("=3", "expected key.path=value"),
    ],
)
def test_a_problem_of_an_override_is_placed_at_the_option(override, expected):
    with pytest.raises(InputErrors) as caught:
        load_recipe("glue_bilstm", overrides=["train.epochs=1", "seed=3", override])
    assert len(caught.value.problems) == 1
    assert expected in caught.value.problems[0]


@pytest.mark.parametrize(
    ("shorthands", "expected"),
    [
        ({"teacher": ("x",), "tasks": "sst2", "student": "bilsm"}, "--student: no student is called 'bilsm'"),
        ({"teacher": ("x",), "tasks": "sst2,mrcp"}, "--tasks: no task is called 'mrcp'; did you mean 'mrpc'?"),
        ({"teacher": ("x",)}, "tasks: is missing; --tasks or --train"),
        ({"teacher": ("x",), "dev": "dev.csv"}, "--dev: belongs to no task; give --train or --tasks too"),
        ({"teacher": ("x",), "tasks": "sst2,rte", "train": "t.csv"}, "--train: a file of one task, but there are 2"),
        ({"tasks": "sst2"}, "no teacher is given; name one with --teacher"),
    ],
)
def test_a_problem_of_a_shorthand_is_placed_at_the_option(shorthands, expected):
    with pytest.raises(InputErrors) as caught:
        load_recipe(None, shorthands=shorthands)
    assert any(expected in line for line in caught.value.problems), caught.value.problems


def test_a_mapping_has_no_lines_and_the_same_sentences():
    with pytest.raises(InputErrors) as caught:
        recipe_from_dict({"tasks": ["sst2"], "teachers": "x", "student": "bilsm"}, source="my recipe")
    assert str(caught.value) == (
        "my recipe: 1 problem\n  student.name: no student is called 'bilsm'; did you mean 'bilstm'?"
    )


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"tasks: [\xff\xfe]\n")
    with pytest.raises(InputError, match="is not UTF-8"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(InputError, match="is a folder"):
        load_recipe(tmp_path)


def test_a_recipe_full_of_aliases_is_read_without_growing(tmp_path):
    layers = "\n".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}, *x{n - 1}]" for n in range(1, 30))
    found = problems(tmp_path, f"x0: &x0 [1]\n{layers}\n{GOOD}")
    assert len(found) == 30
