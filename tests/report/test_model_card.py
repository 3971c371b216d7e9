import io

from ruamel.yaml import YAML

from kdtoolkit.report import model_card
from kdtoolkit.tasks import GLUE, Task

RECIPE = {
    "student": {"name": "bilstm", "width": 150, "pooling": "max"},
    "tokenizer": {"name": "sentencepiece", "vocabulary": 8000, "vectors": None},
    "objective": {"kind": "ce", "temperature": 2.0, "alpha": 0.5, "tasks": {}},
    "teachers": [{"name": "/somewhere/private/big-teacher"}, {"name": "google/bert"}],
}
TASKS = [GLUE["sst2"], GLUE["stsb"], Task("own", labels=("a|b", "c"), pair=True)]


def entry(metric, value):
    measured = {
        "value": value,
        "ci95": [value - 0.01, value + 0.01],
        "all": {metric: value, "other": 0.777},
        "ece": 0.04,
    }
    return {
        "metric": metric, "split": "dev", "selected_on": None, "rows": 872, "agreement": 0.91, "gap_closed": 0.5,
        "teacher": measured, "student": measured,
    }  # fmt: skip


RESULTS = {
    "schema": 1,
    "tasks": {"sst2": entry("accuracy", 0.853), "stsb": entry("pearson", 0.71), "own": entry("accuracy", 0.6)},
    "models": {"student": {"parameters": 1_234_567, "bytes": 5_000_000, "latency_ms": None, "rows_per_s": None}},
    "stages": {"distill": {"seconds": 61.2, "cpu_seconds": 60.0, "rows": 40_000, "rows_per_s": 650.0}},
    "versions": {"kdtoolkit": "0.1.0", "torch": "2.13.0"},
    "seed": 3,
}


def test_the_card_says_what_the_student_is_and_how_it_was_made():
    card = model_card(RESULTS, RECIPE, TASKS)
    for text in (
        "`bilstm`", "width: 150", "`negative`, `positive`", "a number", "two texts", "one text", "accuracy 0.853",
        "0.843 to 0.863", "other 0.777", "dev, 872 rows", "1,234,567", "40,000 rows, 61 s", "torch 2.13.0",
        'student.predict(["a text to judge"], task="sst2")',
        'student.predict([("the first text", "the second text")], task="stsb")',
    ):  # fmt: skip
        assert text in card, text


def test_the_front_matter_is_yaml_without_a_licence():
    card = model_card(RESULTS, RECIPE, TASKS)
    _, front, _ = card.split("---\n", 2)
    fields = YAML(typ="safe").load(io.StringIO(front))
    assert fields["library_name"] == "kdtoolkit" and fields["metrics"] == ["accuracy", "pearson"]
    assert "license" not in fields and "## Licence" in card


def test_no_path_of_the_machine_is_published():
    card = model_card(RESULTS, RECIPE, TASKS)
    assert "/somewhere" not in card and "`big-teacher`" in card and "`google/bert`" in card


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    tables, block = [], []
    for line in [*model_card(RESULTS, RECIPE, TASKS).splitlines(), ""]:
        if line.startswith("|"):
            block.append(line.replace("\\|", "").count("|"))
        elif block:
            tables.append(block)
            block = []
    assert len(tables) == 3
    assert all(len(set(counts)) == 1 for counts in tables)


def test_the_usage_is_python_and_a_single_task_needs_no_name():
    one = {**RESULTS, "tasks": {"sst2": RESULTS["tasks"]["sst2"]}}
    card = model_card(one, RECIPE, TASKS[:1])
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert 'student.predict(["a text to judge"])' in code
