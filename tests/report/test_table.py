import copy

import pytest

from kdtoolkit.report import render_table
from kdtoolkit.report.table import verdict


def measured(value, spread=0.02, ece=0.05):
    bounds = [value - spread, value + spread]
    return {"value": value, "ci95": bounds, "all": {"accuracy": value}, "ece": ece}


def task(teacher=0.9, gold_only=0.6, student=0.8, metric="accuracy", **changes):
    values = {"teacher": teacher, "gold_only": gold_only, "student": student}
    closed = None
    if None not in values.values() and teacher > gold_only:
        closed = (student - gold_only) / (teacher - gold_only)
    return {
        "metric": metric, "split": "dev", "selected_on": None, "rows": 1234, "agreement": 0.87, "gap_closed": closed,
        **{name: measured(value) for name, value in values.items() if value is not None}, **changes,
    }  # fmt: skip


def results(**tasks):
    return {
        "schema": 1,
        "tasks": tasks,
        "models": {
            "teacher": {
                "parameters": 110_000_000, "bytes": 440_000_000, "latency_ms": {"p50": 60.0, "p95": 75.5},
                "rows_per_s": 50.0,
            },
            "student": {
                "parameters": 2_500_000, "bytes": 10_000_000, "latency_ms": {"p50": 0.5, "p95": 0.75},
                "rows_per_s": 5000.0,
            },
        },
        "stages": {}, "versions": {}, "seed": 0,
    }  # fmt: skip


def test_the_table_has_every_figure():
    text = " ".join(render_table(results(sst2=task(), rte=task(0.7, 0.5, 0.6)), width=90).split())
    for figure in (
        "sst2: accuracy on 1,234 dev rows", "0.900", "0.880 to 0.920", "0.780 to 0.820", "87%", "0.050", "67%",
        "average of 2 tasks", "0.700", "110,000,000", "440.0 MB", "10.0 MB", "60.00", "75.50", "0.75", "5,000",
        "44.0 times smaller", "120.0 times faster on one row", "100.0 times faster in batches",
    ):  # fmt: skip
        assert figure in text, figure


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_wider_than_asked_and_none_has_control_characters(width):
    found = results(**{f"task_{i}": task(0.9, 0.6, 0.6 + i / 50) for i in range(9)})
    found["notes"] = ["A very long note " * 20]
    lines = render_table(found, width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line.isprintable() and line == line.rstrip() for line in lines)


def test_worth_it_is_said_only_where_the_intervals_are_apart():
    clear, close, lost = task(), task(0.9, 0.79, 0.8), task(0.9, 0.8, 0.6)
    assert "was worth it" in verdict({"a": clear}) and "+0.200" in verdict({"a": clear})
    text = verdict({"a": clear, "b": close})
    assert "was worth it on a: the student" in text and "overlap on b" in text
    assert "Not certain" in verdict({"b": close}) and "overlap" in verdict({"b": close})
    assert "was not worth it" in verdict({"c": lost})
    assert "both ways" in verdict({"a": clear, "c": lost})
    assert "did not help" in verdict({"d": task(0.9, 0.80, 0.79)})
    assert "cannot say" in verdict({"e": task(gold_only=None)})


def test_where_less_is_better_a_smaller_error_is_a_gain():
    assert "was worth it" in verdict({"a": task(0.1, 0.9, 0.3, metric="mse")})
    assert "was not worth it" in verdict({"a": task(0.1, 0.3, 0.9, metric="mse")})


def test_missing_models_figures_and_intervals_are_dashes():
    found = results(a=task(teacher=None, agreement=None), b=task(gold_only=None))
    found["models"]["teacher"].update(parameters=None, bytes=None, latency_ms=None, rows_per_s=None)
    found["tasks"]["a"]["student"].update(ci95=None, ece=None)
    text = render_table(found, width=80)
    assert "a: there was no teacher to compare with." in text
    assert "the student is" not in text.replace("the student is ahead", "")
    row = next(line for line in text.splitlines() if line.startswith("  student"))
    assert row.split()[1:] == ["0.800", "-", "-", "-", "-"]


def test_a_student_alone_is_a_table_too():
    found = results(a=task(teacher=None, gold_only=None))
    found["models"] = {}
    assert "0.800" in render_table(found)


def test_a_teacher_that_does_not_beat_gold_only_is_noted():
    text = " ".join(render_table(results(a=task(0.6, 0.7, 0.65))).split())
    assert "a: the teacher does not beat the student trained on gold labels alone" in text
    assert "a: the student is ahead of its teacher" in text


def test_the_runs_own_notes_and_a_selection_on_the_reported_split_are_said():
    found = results(a=task(selected_on="dev"))
    found["notes"] = ["a: dev was cut from train."]
    text = render_table(found)
    assert "* a: dev was cut from train." in text and "optimistic" in text


def test_a_student_that_is_larger_or_slower_is_called_so():
    found = results(a=task())
    found["models"]["teacher"], found["models"]["student"] = found["models"]["student"], found["models"]["teacher"]
    text = render_table(found)
    text = " ".join(text.split())
    assert "44.0 times larger" in text and "120.0 times slower on one row" in text


def test_rendering_changes_nothing():
    found = results(a=task())
    before = copy.deepcopy(found)
    render_table(found)
    assert found == before
