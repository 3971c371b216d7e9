"""What must not change the outcome of a run: the order of rows, of labels, of tasks' outputs in a batch."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

import kdtoolkit
from kdtoolkit.errors import InputError
from kdtoolkit.example import example_id
from kdtoolkit.pipeline import resume_run, run_stages, start_run
from kdtoolkit.pipeline.stages import prepare
from kdtoolkit.recipe.load import load_recipe, recipe_from_dict

QUICK = {"evaluate": {"baseline": False}}


def test_shuffled_training_rows_keep_their_teacher_and_their_role(mood, tiny, run_of):
    path = tiny / "data/mood/train.jsonl"
    lines = path.read_text().splitlines()

    def values(run):
        from kdtoolkit.data.rows import Rows
        from kdtoolkit.tasks import Task

        rows = Rows.open(run / "data/mood/train.arrow", Task("mood", text=("text",), labels=("low", "high")))
        teacher = np.load(run / "data/mood/train-teacher.npy")
        return rows.ids(), {id: (label, value.tolist()) for id, label, value in zip(rows.ids(), rows.labels(), teacher)}

    _, run = run_of(mood(**QUICK))
    random.Random(0).shuffle(lines)
    path.write_text("\n".join(lines) + "\n")
    _, shuffled = run_of(mood(**QUICK), "shuffled")
    (ids, one), (others, other) = values(run), values(shuffled)
    assert one == other
    assert sorted(ids) == sorted(others) and ids.tolist() != others.tolist()
    assert [example_id(json.loads(line)["text"], None) for line in lines] == [
        bytes(id).ljust(16, b"\0") for id in others
    ]


@pytest.mark.parametrize("objective", [{"alpha": 1.0}, {"alpha": 0.0}])
def test_labels_in_another_order_permute_classes_and_change_no_accuracy(mood, tiny, run_of, objective):
    module = tiny / "named.py"
    module.write_text(
        (tiny / "teacher_module.py").read_text().replace("- 2.0", "- 3.0") + "\nscore.labels = ['low', 'high']\n"
    )
    found = {}
    for name, labels in (("straight", ["low", "high"]), ("turned", ["high", "low"])):
        tasks = [{"name": "mood", "text": "text", "labels": labels}]
        changes = {"teachers": [f"python:{module}:score"], "objective": objective, "train": {"epochs": 12}}
        results, run = run_of(mood(tasks=tasks, **changes, **QUICK), name)
        predictor = kdtoolkit.load(run)
        lines = [json.loads(line)["text"] for line in (tiny / "data/mood/dev.jsonl").read_text().splitlines()]
        teacher = np.load(run / "data/mood/train-teacher.npy")[:, 0]
        found[name] = (results["tasks"]["mood"]["student"]["value"], predictor.predict(lines), teacher)
    np.testing.assert_array_equal(found["straight"][2], found["turned"][2][:, ::-1])
    # The heads begin at random, so two runs agree where the task is learned, not bit for bit.
    assert found["straight"][0] > 0.9 and found["turned"][0] > 0.9
    same = np.mean([a.label == b.label for a, b in zip(found["straight"][1], found["turned"][1])])
    assert same > 0.9


def test_the_number_of_torch_threads_at_the_start_changes_nothing(mood, run_of):
    import torch

    runs = []
    for name, threads in (("one", 1), ("two", 2)):
        torch.set_num_threads(threads)
        runs.append((run_of(mood(**QUICK), name)[1] / "student/model.safetensors").read_bytes())
    torch.set_num_threads(1)
    assert runs[0] == runs[1]


def test_accumulated_batches_are_one_batch(mood, run_of):
    """At dropout 0 and up to rounding: two micro-batches of 8 rows are one of 16."""
    student = {"name": "bilstm", "width": 8, "embedding": 12, "dropout": 0.0}
    texts, logits = ["good film", "bad meal great", "dull"], []
    for name, train in (("whole", {"batch_rows": 16}), ("parts", {"batch_rows": 8, "accumulate": 2})):
        _, run = run_of(mood(student=student, train=train, sampler={"batch": "mixed"}, **QUICK), name)
        logits.append(kdtoolkit.load(run).predict_logits(texts))
    np.testing.assert_allclose(*logits, atol=1e-4)


def test_a_run_does_not_go_on_with_other_data(mood, tiny, tmp_path):
    recipe = recipe_from_dict(mood())
    run_stages(start_run(recipe, tmp_path / "run"), "label")
    train = tiny / "data/mood/train.jsonl"
    before = train.read_text()
    train.write_text(before + before.splitlines()[0] + "\n")
    with pytest.raises(InputError, match="its data are not those that it began with"):
        run_stages(resume_run(tmp_path / "run"))
    train.write_text(before)
    assert run_stages(resume_run(tmp_path / "run"))["tasks"]["mood"]["rows"] == 60


def test_the_bundled_data_are_prepared_once_wherever_the_run_is_opened_from(tmp_path, monkeypatch):
    recipe = load_recipe("demo")
    monkeypatch.chdir(tmp_path)
    prepare(recipe, Path("run/data"))
    kept = tmp_path / "run/data" / recipe.task_list()[0].name / "train-teacher.npy"
    kept.write_bytes(b"")
    prepare(recipe, tmp_path / "run/data")
    assert kept.is_file()


def test_a_run_goes_on_however_its_model_is_shared_and_with_nothing_else_changed(mood, tmp_path):
    start_run(recipe_from_dict(mood()), tmp_path / "run")
    for sharding in ("fsdp", "none"):
        changed = recipe_from_dict(mood(train={"sharding": sharding}))
        assert resume_run(tmp_path / "run", changed).recipe.train.sharding == sharding
    with pytest.raises(InputError, match=r"is a run of another recipe \(train.batch_rows is 16 there, 8 here\)"):
        resume_run(tmp_path / "run", recipe_from_dict(mood(train={"sharding": "fsdp", "batch_rows": 8})))


def test_a_run_goes_on_however_its_live_teachers_are_shared(mood, tmp_path):
    def values(sharding):
        objective = {"terms": [{"name": "hidden"}], "hidden_states": "live"}
        return recipe_from_dict(mood(objective=objective, train={"teacher_sharding": sharding}))

    start_run(values("none"), tmp_path / "run")
    assert resume_run(tmp_path / "run", values("fsdp")).recipe.train.teacher_sharding == "fsdp"
