"""A teacher that is the student of other teachers: made by a run of its own, on the rows that any teacher gets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_data import TEACHER, rows

import kdtoolkit
from kdtoolkit import Example, InputError, Task, plugin
from kdtoolkit.data.rows import Rows, write_rows
from kdtoolkit.predictor import Predictor
from kdtoolkit.recipe.load import recipe_from_dict

MOOD = Task("mood", text=("text",), labels=("low", "high"))
LIKENESS = Task("likeness", kind="regression", text=("one", "two"))
TAGS = Task("tags", kind="multilabel", text=("text",), labels=("0", "1", "other"))


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "teacher_module.py"
    path.write_text(TEACHER, encoding="utf-8")
    return path


@pytest.fixture
def nested(module):
    """nested(section={...}): a recipe within a teacher, two steps long."""
    base = {
        "teachers": [
            {"name": f"python:{module}:score", "tasks": ["mood"]},
            {"name": f"python:{module}:distance", "tasks": ["likeness"]},
        ],
        "student": {"name": "bilstm", "width": 6, "embedding": 8, "dropout": 0.2},
        "tokenizer": {"name": "words"},
        "optimizer": {"learning_rate": 0.02},
        "train": {"epochs": 1, "batch_rows": 16, "checkpoint_every_steps": 2},
    }
    return lambda **changes: {**base, **changes}


@pytest.fixture
def gold(tmp_path):
    """Rows of the two tasks; every third has no label."""
    made = {}
    for task in (MOOD, LIKENESS):
        found = []
        for number, row in enumerate(rows(90, 5, pair=bool(task.pair))):
            label = row["label"] if task.kind == "regression" else task.labels.index(row["label"])
            text, second = (row["one"], row["two"]) if task.pair else (row["text"], None)
            found.append(Example(task.name, text, second, label if number % 3 else None))
        made[task.name] = write_rows(tmp_path / f"{task.name}.arrow", task, [found])
    return made


def distilled(recipe, task=MOOD, source="distilled"):
    return plugin("teacher", "distilled")(str(source), task, recipe=recipe)


def trained(recipe, gold, folder, seed=1):
    tasks = {"mood": MOOD, "likeness": LIKENESS}
    distilled(recipe).fine_tune_jointly(tasks, gold, folder, seed=seed)
    return {name: distilled(recipe, task, folder) for name, task in tasks.items()}


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_it_becomes_the_folder_of_a_student_and_leaves_nothing_else(nested, gold, tmp_path):
    teacher = distilled(nested())
    assert teacher.joint and not teacher.ready and teacher.shape is None and teacher.parameters() is None
    found = trained(nested(), gold, tmp_path / "out" / "joint-0")
    assert all(teacher.ready for teacher in found.values())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["joint-0"]
    student = Predictor(tmp_path / "out" / "joint-0")
    texts = ["good fine film", "bad dull book"]
    values = found["mood"].logits([Example("mood", text) for text in texts])
    np.testing.assert_array_equal(values, student.predict_logits(texts, task="mood"))
    assert found["mood"].parameters() == student.parameters


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(nested, gold, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        trained(nested(), gold, tmp_path / name, seed=seed)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits_also_in_another_place(
    nested, gold, tmp_path, monkeypatch, moved
):
    trained(nested(), gold, tmp_path / "whole" / "joint-0")
    from kdtoolkit.pipeline import student
    from kdtoolkit.training import checkpoint, fit

    saved = []
    save = checkpoint.save

    def save_and_stop(*arguments):
        save(*arguments)
        saved.append(arguments[1])
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        trained(nested(), gold, tmp_path / "first" / "joint-0")
    assert saved == [2]
    monkeypatch.undo()
    folder = tmp_path / "first"
    if moved:
        folder = folder.rename(tmp_path / "second")
    begun = []
    monkeypatch.setattr(student, "fit", lambda *a, **k: begun.append(fit(*a, **k)) or begun[-1])
    trained(nested(), gold, folder / "joint-0")
    assert [report.first_step for report in begun] == [2]
    assert weights(folder / "joint-0") == weights(tmp_path / "whole" / "joint-0")


def test_all_rows_reach_the_run_within_with_their_labels(nested, gold, tmp_path, monkeypatch):
    """Labels of every kind survive being written out and read; rows without one are transfer text."""
    from kdtoolkit.pipeline import stages

    tags = [(1, 0, 1), (0, 1, 0), (0, 0, 0), None]
    made = [Example("tags", f"good film {n}", None, tags[n % 4]) for n in range(60)]
    given = {**gold, "tags": write_rows(tmp_path / "tags.arrow", TAGS, [made])}
    seen = {}
    prepare = stages.prepare

    def noticed(*arguments):
        seen.update(prepare(*arguments))
        for name, prepared in seen.items():
            seen[name] = {split: (r.ids().copy(), r.labels().copy(), r.task) for split, r in prepared.splits.items()}
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "prepare", noticed)
    recipe = nested(evaluate={"calibration_rows": 0}, objective={"alpha": 1.0}, teachers=[])
    tasks = {"mood": MOOD, "likeness": LIKENESS, "tags": TAGS}
    with pytest.raises(KeyboardInterrupt):
        distilled(recipe).fine_tune_jointly(tasks, given, tmp_path / "joint-0", seed=1)
    for name, some in given.items():
        ids, labels, task = seen[name]["train"]
        assert (ids == some.ids()).all() and (task.labels, task.kind) == (tasks[name].labels, tasks[name].kind)
        np.testing.assert_array_equal(labels, some.labels())
        assert set(seen[name]) == {"train", "dev"}


def test_rows_that_the_outer_run_holds_out_never_reach_the_inner_one(nested, tmp_path, module):
    """A whole run with two stories: a student of a student of a student, as Single -> Multi -> Single -> Multi."""
    for name, pair in (("mood", False), ("likeness", True)):
        for split, count, seed in (("train", 700, 1), ("dev", 40, 2)):
            path = tmp_path / "data" / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows(count, seed + pair, pair=pair)))
    inner = nested(teachers=[{"name": "distilled", "recipe": nested(train={"max_steps": 3})}], train={"max_steps": 3})
    recipe = nested(
        tasks=[
            {"name": "mood", "text": "text", "labels": ["low", "high"]},
            {"name": "likeness", "kind": "regression", "text": ["one", "two"]},
        ],
        data={"folder": str(tmp_path / "data")},
        teachers=[{"name": "distilled", "recipe": inner}],
        train={"max_steps": 3},
        evaluate={"bootstrap": 0, "latency": False, "baseline": False},
    )
    cls = plugin("teacher", "distilled")
    given = []
    train = cls.fine_tune_jointly

    def noticed(self, tasks, rows, folder, *, seed):
        given.append({name: some.ids().copy() for name, some in rows.items()})
        train(self, tasks, rows, folder, seed=seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "fine_tune_jointly", noticed)
        results = kdtoolkit.distill(recipe, tmp_path / "run")
    assert results["tasks"]["mood"]["teacher"] is not None
    assert len(given) == 2
    for task in (MOOD, LIKENESS):
        kept = [Rows.open(tmp_path / f"run/data/{task.name}/{split}.arrow", task).ids() for split in
                ("train", "calibration", "dev")]  # fmt: skip
        outer, inner_rows = given
        assert (outer[task.name] == kept[0]).all() and len(kept[1]) >= 50
        # The inner run holds out rows of its own, which its own teacher does not get.
        assert set(inner_rows[task.name]) < set(outer[task.name])
        assert not set(outer[task.name]) & set(kept[1])
    assert not list((tmp_path / "run/teacher").glob(".*"))


def test_the_fingerprint_follows_the_recipe_and_the_teachers_within(nested, module):
    def fingerprint(recipe):
        return distilled(recipe).fingerprint

    first = fingerprint(nested())
    assert fingerprint(nested()) == first
    found = [
        fingerprint(nested(train={"epochs": 2})),
        fingerprint(nested(student={"name": "bilstm", "width": 7})),
        fingerprint(nested(teachers=[{"name": "distilled", "recipe": nested()}])),
        fingerprint(nested(teachers=[{"name": "distilled", "recipe": nested(train={"epochs": 2})}])),
    ]
    module.write_text(module.read_text() + "\n# another teacher\n")
    found.append(fingerprint(nested()))
    likeness = [{"name": f"python:{module}:distance", "tasks": ["likeness"]}]
    found.append(fingerprint(nested(teachers=likeness)))
    module.write_text(module.read_text() + "\n# and another one\n")
    found.append(fingerprint(nested(teachers=likeness)))  # which teaches a task that is not this one's
    assert len({first, *found}) == 8


def test_the_fingerprint_follows_teachers_of_other_tasks_that_are_made_from_a_recipe_or_from_nothing(nested, module):
    score = {"name": f"python:{module}:score", "tasks": ["mood"]}
    distance = {"name": f"python:{module}:distance"}
    joint = {"name": "joint", "tasks": ["likeness"]}

    def fingerprint(other):
        return distilled(nested(teachers=[score, other])).fingerprint

    def inner(**changes):
        return {"name": "distilled", "tasks": ["likeness"], "recipe": nested(teachers=[distance], **changes)}

    found = [fingerprint(joint), fingerprint({**joint, "epochs": 1}), fingerprint(inner()),
             fingerprint(inner(train={"epochs": 2}))]  # fmt: skip
    assert len(set(found)) == 4 and fingerprint(inner()) == found[2]
    module.write_text(module.read_text() + "\n# another teacher\n")
    assert fingerprint(inner()) not in found


def test_the_fingerprint_follows_the_code_of_a_student_of_the_users_own(nested, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from kdtoolkit import Student\nfrom torch import nn\n"
        "class Own(Student):\n"
        "    def __init__(self, vocab_size: int, *, width: int = 4) -> None:\n"
        "        super().__init__(width=width)\n        self.embed = nn.Embedding(vocab_size, width)\n"
        "    def encode(self, batch):\n        return self.embed(batch.ids).mean(1)\n"
    )
    recipe = nested(student={"name": f"{file}:Own"})
    first = distilled(recipe).fingerprint
    assert distilled(recipe).fingerprint == first
    file.write_text(file.read_text() + "\n# another student\n")
    assert distilled(recipe).fingerprint != first


OUTER = {"tasks": ["sst2", "mrpc"], "data": {"folder": "x"}}


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"objective": {"alpha": 3}}, r"teachers\.0\.recipe\.objective\.alpha: 3 is not between 0"),
        ({"student": {"name": "bilsm"}}, r"teachers\.0\.recipe\.student\.name: no student.*did you mean 'bilstm'"),
        ({"tain": {}}, r"teachers\.0\.recipe\.tain: there is no such key; did you mean 'train'"),
        ({"teachers": []}, r"teachers\.0\.recipe\.teachers: no teacher is given"),
        ({"tasks": ["sst2"]}, r"teachers\.0\.recipe\.tasks: is what the recipe around this one says; leave it out"),
        ({"store": "y"}, r"teachers\.0\.recipe\.store: is what the recipe around this one says; leave it out"),
        ({"data": {"folder": "y"}}, r"teachers\.0\.recipe\.data\.folder: means nothing within a teacher.*max_tokens"),
        (
            {"teachers": [{"name": "distilled", "recipe": {"train": {"epochs": -1}, "teachers": ["a/b"]}}]},
            r"teachers\.0\.recipe\.teachers\.0\.recipe\.train\.epochs: -1 is not positive",
        ),
        ("bma", r"teachers\.0\.recipe: recipe 'bma'.*did you mean 'bam'"),
        (3, r"teachers\.0\.recipe: expected the keys of a recipe, or a recipe's name, received 3"),
    ],
)
def test_what_is_wrong_within_is_said_with_its_place_before_any_work(recipe, said):
    whole = {"teachers": ["a/b"], **recipe} if isinstance(recipe, dict) else recipe
    with pytest.raises(InputError, match=said):
        recipe_from_dict({**OUTER, "teachers": [{"name": "distilled", "recipe": whole}]})


def test_a_recipe_that_names_itself_is_refused(tmp_path):
    path = tmp_path / "endless.yaml"
    path.write_text(f"tasks: [sst2]\ndata: {{folder: x}}\nteachers: [{{name: distilled, recipe: {path}}}]\n")
    with pytest.raises(InputError, match=r"made by .* itself, which never ends"):
        kdtoolkit.Recipe.load(path)


def test_a_recipe_is_needed():
    with pytest.raises(InputError, match="needs a value for 'recipe'"):
        recipe_from_dict({**OUTER, "teachers": ["distilled"]})


def test_a_recipe_of_its_own_can_be_named_and_is_taken_for_these_tasks():
    from kdtoolkit.recipe.nested import nested_recipe

    recipe_from_dict({**OUTER, "teachers": [{"name": "distilled", "recipe": "bam"}]})
    found = nested_recipe("bam", [{"name": "sst2"}], seed=5)
    assert (found.seed, found.data.max_tokens, found.data.folder, found.train.accumulate) == (5, 128, ".", 4)
    assert [task.name for task in found.task_list()] == ["sst2"]
    assert not found.evaluate.baseline and found.variants == {}


def test_a_teacher_within_that_is_not_there_is_said_when_it_is_built(nested):
    with pytest.raises(InputError, match=r"teacher 'distilled': recipe\.teachers: .*not there"):
        distilled(nested(teachers=["./no/such/folder"]))


def test_a_student_within_that_cannot_be_built_is_said_when_the_teacher_is(nested):
    student = {"name": "transformer", "width": 10, "heads": 3}
    with pytest.raises(InputError, match=r"teacher 'distilled': recipe: .*heads"):
        distilled(nested(student=student))
