"""The teacher `joint`: its options are refused as those of a recipe, before anything is trained."""

from __future__ import annotations

import pytest

from kdtoolkit import InputError, Task
from kdtoolkit_teachers.joint import JointTeacher

TASK = Task("mood", "classification", labels=("low", "high"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "train.epochs: -1 is not positive"),
        ({"max_tokens": 2}, "data.max_tokens: 2 is below 4"),
        ({"batch_rows": 0}, "train.batch_rows: 0 is below 1"),
        ({"sampler_exponent": -0.5}, "sampler.exponent: -0.5 is negative"),
        ({"student": {"name": "bilstm", "widht": 3}}, "student.widht: .*did you mean 'width'"),
        ({"student": 3}, "student: expected keys and values"),
        ({"tokenizer": "teacher"}, "tokenizer.source: is needed"),
    ],
)
def test_options_that_no_recipe_could_have_are_refused_with_the_teachers_name(options, message):
    with pytest.raises(InputError, match=f"teacher 'joint': {message}"):
        JointTeacher("joint", TASK, **options)


def test_usual_options_are_taken():
    assert not JointTeacher("joint", TASK, student={"name": "transformer", "width": 8}, epochs=0.5).ready
