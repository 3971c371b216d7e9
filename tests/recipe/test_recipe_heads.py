"""What is wrong with `heads:` is said with its line and a way out."""

from __future__ import annotations

import pytest

from kdtoolkit.errors import InputErrors
from kdtoolkit.recipe.load import load_recipe
from kdtoolkit.recipe.schema import Heads

GOOD = "tasks: [sst2, mnli, qnli, stsb]\nteachers: [bert-large]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("heads: {tasks: {qqp: {name: san}}}", "line 3: heads.tasks.qqp: 'qqp' is no task of this recipe"),
        ("heads: {name: sann}", "line 3: heads.name: 'sann' is unknown; did you mean 'san'?"),
        ("heads: {name: san}", "line 3: heads.name: task 'sst2': 'san' reasons from one text to another"),
        ("heads: {name: san}", "classes, and the task is regression; set heads.tasks.stsb.name: auto"),
        ("heads:\n  tasks:\n    stsb: {name: ranking}", "line 5: heads.tasks.stsb.name: task 'stsb': 'ranking'"),
        ("heads: {tasks: {mnli: {name: ranking}}}", "and the task has 3; set heads.tasks.mnli.name: auto"),
        ("heads: {tasks: {sst2: {name: ranking}}}", "line 3: heads.tasks.sst2.name: task 'sst2': 'ranking'"),
        ("heads: {tasks: {sst2: {name: pair}}}", "compares two texts, and the task has one; use 'auto' or 'linear'"),
        ("heads: {tasks: {qnli: {name: ranking, positive: yes}}}", "has no positive label"),
        ("heads: {tasks: {qnli: {name: ranking}}}\nobjective: {kind: mse}",
         "line 4: objective.kind: 'mse' is not defined over the candidates of a query, which the head of 'qnli' ranks"),
        ("heads: {tasks: {qnli: {name: ranking}}}\nobjective: {tasks: {qnli: {kind: jsd}}}",
         "line 4: objective.tasks.qnli.kind: 'jsd' is not"),
        ("heads: {steps: 3}", "line 3: heads.steps: no task has a head that reads it; leave it out, or use san"),
        ("heads: {gamma: 2}", "line 3: heads.gamma: no task has a head that reads it; leave it out, or use ranking"),
        ("heads: {tasks: {mnli: {name: san}, qnli: {steps: 3}}}", "tasks.qnli.steps: the head 'auto' does not read"),
        ("heads: {tasks: {mnli: {name: san, hidden: 8}}}", "heads.tasks.mnli.hidden: the head 'san' does not read it"),
        ("heads: {name: biattention, tasks: {mnli: {width: 8}}}",
         "heads.tasks.mnli.width: differs from that of 'sst2', which shares the bi-attention; set shared: false"),
        ("heads: {dropout: 1}", "line 3: heads.dropout"),
        ("heads: {steps: 0}", "line 3: heads.steps"),
    ],
)  # fmt: skip
def test_a_problem_of_the_heads_has_its_line_and_a_way_out(tmp_path, text, expected):
    path = tmp_path / "r.yaml"
    path.write_text(GOOD + text, encoding="utf-8")
    with pytest.raises(InputErrors) as caught:
        load_recipe(path)
    assert any(expected in line for line in caught.value.problems), caught.value.problems


TEACHER = "tasks: [sst2, mnli, stsb]\nteachers:\n  - name: bert-large\n    multitask: true\n    tasks: [mnli]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{tasks: {qqp: {name: san}}}", "line 6: teachers.0.heads.tasks.qqp: 'qqp' is no task of this recipe"),
        ("{tasks: {mnli: {name: sann}}}", "teachers.0.heads.tasks.mnli.name: 'sann' is unknown; did you mean 'san'?"),
        ("{name: san}", "line 6: teachers.0.heads.name: task 'sst2': 'san' reasons from one text to another"),
        ("{tasks: {stsb: {name: san}}}", "classes, and the task is regression; set heads.tasks.stsb.name: auto"),
        ("{tasks: {mnli: {name: biattention}}}", "one sequence; use 'auto' or 'san'"),
        ("{tasks: {mnli: {name: ranking}}}", "on rows one by one; use 'auto' or 'san'"),
        ("{steps: 3}", "teachers.0.heads.steps: no task has a head that reads it; leave it out, or use san"),
        ("{tasks: {mnli: {name: san, hidden: 8}}}", "tasks.mnli.hidden: the head 'san' does not read it"),
        ("{stesp: 3}", "teachers.0.heads.stesp: there is no such key; did you mean 'steps'?"),
        ("{dropout: 1}", "teachers.0.heads.dropout: 1 is not below 1"),
        ("[san]", "teachers.0.heads: expected keys and values"),
    ],
)
def test_so_has_a_problem_of_a_teachers_heads(tmp_path, text, expected):
    path = tmp_path / "r.yaml"
    path.write_text(f"{TEACHER}    heads: {text}\n", encoding="utf-8")
    with pytest.raises(InputErrors) as caught:
        load_recipe(path)
    assert any(expected in line for line in caught.value.problems), caught.value.problems


def test_so_has_one_of_the_heads_of_a_single_member(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(f"{TEACHER}    members: 2\n    vary: {{heads: [{{}}, {{tasks: {{mnli: {{name: ranking}}}}}}]}}\n")
    with pytest.raises(InputErrors, match=r"line 7: teachers\.0\.vary\.heads\.1\.tasks\.mnli\.name: "):
        load_recipe(path)


@pytest.mark.parametrize("text", ["{}", "null", "{dropout: 0.1, tasks: {MNLI: {name: san}, stsb: {hidden: 8}}}"])
def test_a_teachers_heads_that_fit_are_no_problem(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(f"{TEACHER}    heads: {text}\n", encoding="utf-8")
    assert load_recipe(path).teachers[0].options["multitask"] is True


@pytest.mark.parametrize(
    "text",
    [
        "heads: {tasks: {mnli: {name: san, steps: 3, width: 8}, qnli: {name: ranking, positive: entailment}}}",
        "heads: {name: biattention, hidden: 20, tasks: {mnli: {width: 8, shared: false}}}",
        "heads: {dropout: 0.1, hidden: 200, tasks: {mnli: {name: san}, stsb: {dropout: 0.3}}}",
        "heads: {tasks: {mnli: {name: linear, steps: 5, step_dropout: 0.1}}}\nstudent: {name: bilstm, pairs: joint}",
    ],
)
def test_heads_that_fit_are_read_and_written_out_whole(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(GOOD + text, encoding="utf-8")
    recipe = load_recipe(path)
    again = Heads(**recipe.heads.model_dump())
    assert all(again.of(task) == recipe.heads.of(task) for task in ("sst2", "mnli", "qnli", "stsb"))
