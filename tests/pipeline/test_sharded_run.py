"""A run whose student, or whose live teachers, are sharded over two processes."""

from __future__ import annotations

import json
import signal

import pytest
import yaml
from launched import launched
from safetensors.torch import load_file
from tiny_data import rows

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
STUDENTS = {
    "transformer": {"name": "transformer", "layers": 2, "width": 8, "heads": 2, "positions": 24, "dropout": 0.0},
    "hf": {"name": "hf", "config": {"model_type": "bert", **SIZES, **STILL}},
}


PARTS = {"teacher_sharding": "fsdp"}
KILL = """
import os, signal
import kdtoolkit.labels.features as features
real, calls = features.LiveFeatures.of, []
def of(*arguments):
    calls.append(1)
    if len(calls) == 7 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
features.LiveFeatures.of = of
from kdtoolkit.cli.main import main
main()
"""


def worst(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("transformer", "fsdp"),
        *(pytest.param(*some, marks=pytest.mark.slow) for some in [("transformer", "none"), ("hf", "none")]),
    ],
)
def test_a_sharded_student_learns_from_a_live_teacher_what_a_whole_one_does(mood, bert, tiny, run_of, student, teacher):
    terms = [{"name": "hidden"}, {"name": "attention"}, {"name": "minilmv2", "heads": 2}]
    values = mood(
        teachers=[{"name": str(bert(labels=["high", "low"])), "max_tokens": 16}],
        student=STUDENTS[student],
        tokenizer={"name": "teacher"},
        objective={"terms": terms, "hidden_states": "live"},
        train={"sharding": "fsdp", "teacher_sharding": teacher},
        evaluate={"baseline": False},
    )
    (tiny / "sharded.yaml").write_text(yaml.safe_dump(values))
    done = launched(2, "-m", "kdtoolkit", "distill", "--recipe", "sharded.yaml", "--out", "sharded", cwd=tiny)
    assert [each.code for each in done] == [0, 0], done
    assert "Warning" not in done[0].err + done[1].err
    _, alone = run_of(values, "alone")
    found, expected = (load_file(run / "student" / "model.safetensors") for run in (tiny / "sharded", alone))
    assert worst(found, expected) < 2e-3


@pytest.fixture
def of_two_teachers(recipe, bert, tiny):
    """Two tasks with a live teacher each, and rows enough that some are held out."""
    for task in ("mood", "likeness"):
        lines = [json.dumps(row) + "\n" for row in rows(520, 5, pair=task == "likeness")]
        (tiny / "data" / task / "train.jsonl").write_text("".join(lines))
    teachers = [
        {"name": str(bert(labels=["high", "low"])), "tasks": ["mood"], "max_tokens": 16},
        {"name": str(bert(labels=["v"], problem_type="regression", seed=2)), "tasks": ["likeness"], "max_tokens": 16},
    ]

    def make(**changes):
        base = {
            "teachers": teachers,
            "student": STUDENTS["transformer"],
            "tokenizer": {"name": "teacher"},
            "objective": {"terms": [{"name": "hidden"}, {"name": "attention"}], "hidden_states": "live"},
            "train": {**PARTS, "checkpoint_every_steps": 10},
        }
        return recipe(**{**base, **changes})

    return make


@pytest.mark.slow
def test_a_whole_run_with_sharded_teachers_gives_what_one_process_gives(of_two_teachers, tiny, run_of):
    values = of_two_teachers(
        train={**PARTS, "select": {"every_steps": 20}, "prefetch": 2},
        sampler={"batch": "mixed"},
        refine={"epochs": 1, "alpha": 0.5, "learning_rate": 1e-3},
    )
    (tiny / "parts.yaml").write_text(yaml.safe_dump(values))
    done = launched(2, "-m", "kdtoolkit", "distill", "--recipe", "parts.yaml", "--out", "parts", cwd=tiny)
    assert [each.code for each in done] == [0, 0], done
    assert "Warning" not in done[0].err + done[1].err
    _, alone = run_of(values, "alone")
    students = [*alone.glob("student/*.safetensors"), *alone.glob("gold_only/*.safetensors")]
    paths = sorted(path.relative_to(alone) for path in students)
    assert len(paths) == 6
    for path in paths:
        assert worst(load_file(tiny / "parts" / path), load_file(alone / path)) < 2e-3, path


@pytest.mark.slow
def test_when_one_of_those_that_share_a_teacher_dies_the_other_ends_and_the_run_goes_on(of_two_teachers, tiny):
    (tiny / "parts.yaml").write_text(yaml.safe_dump(of_two_teachers(evaluate={"baseline": False})))
    done = launched(2, "-c", KILL, "distill", "--recipe", "parts.yaml", "--out", "run", cwd=tiny)
    assert done[1].code == -signal.SIGKILL and done[0].code == 1, done
    assert "kdtool: another process of the run is gone" in done[0].err and "Traceback" not in done[0].err
    # One process has the whole teacher.
    assert launched(1, "-m", "kdtoolkit", "distill", "--resume", "run", cwd=tiny)[0].code == 0
    assert (tiny / "run" / "results.json").is_file()
