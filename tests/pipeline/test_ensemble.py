"""Ensembles end to end: members trained, chosen, fitted and reported; teachers trained jointly, refined a task each."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

import kdtoolkit
from kdtoolkit.errors import InputError, InputErrors, WorkError
from kdtoolkit.evaluate import combined, scores
from kdtoolkit.pipeline import evaluate_run, resume_run, run_stages
from kdtoolkit.pipeline.ensemble import FILE, Standing, chosen, described, fitted
from kdtoolkit.pipeline.members import members
from kdtoolkit.recipe import Recipe
from kdtoolkit.recipe.load import recipe_from_dict
from kdtoolkit.recipe.schema import TeacherSection
from kdtoolkit.tasks import Task
from kdtoolkit.training.randomness import derived_seed

QUICK = {"epochs": 1, "batch_rows": 32, "max_tokens": 12, "learning_rate": 0.01, "checkpoint_every_steps": 2}
# The rows held out of train are a tenth of its gold rows, and none where that is less than 50.
MORE_ROWS = 520


@pytest.fixture
def plenty(recipe, tiny):
    """recipe(...) with enough rows of both tasks for some to be held out."""
    from tiny_data import rows

    for name, pair in (("mood", False), ("likeness", True)):
        path = tiny / "data" / name / "train.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(MORE_ROWS, 5 + pair, pair=pair)))
    return recipe


@pytest.fixture
def plenty_of_mood(plenty):
    return lambda **changes: plenty(
        **{"tasks": [{"name": "mood", "text": "text", "labels": ["low", "high"]}], **changes}
    )


def ensemble_of(run, task="mood"):
    return json.loads((run / "data" / task / FILE).read_text())["members"]


def stored(run, split, task="mood"):
    return np.load(run / "data" / task / f"{split}-teacher.npy")


# ------------------------------------------------------------------------------------------------ who the members are
def listed(**section):
    recipe = Recipe.model_validate({"tasks": ["sst2", "rte"], "teachers": [{"name": "a"}, {"name": "b", **section}]})
    return members(recipe, recipe.task_list())["rte"], recipe


def test_one_member_has_the_seed_and_the_folder_it_always_had(tmp_path):
    from kdtoolkit.pipeline.run_folder import RunFolder

    some, recipe = listed()
    run = RunFolder(tmp_path, recipe)
    assert [m.seed(7, joint=False) for m in some] == [derived_seed(7, "teacher", "rte", n) for n in (0, 1)]
    assert some[1].seed(7, joint=True) == derived_seed(7, "teacher", "joint", 1)
    assert some[1].folder(run, joint=False) == tmp_path / "teacher" / "rte" / "member-1"
    assert some[1].folder(run, joint=True) == tmp_path / "teacher" / "joint-1"
    alone = Recipe.model_validate({"tasks": ["rte"], "teachers": ["a"]})
    assert members(alone, alone.task_list())["rte"][0].folder(run, joint=False) == tmp_path / "teacher" / "rte"


def test_members_take_seeds_folders_and_options_of_their_own(tmp_path):
    from kdtoolkit.pipeline.run_folder import RunFolder

    some, recipe = listed(members=3, vary={"dropout": [0.1, 0.2], "epochs": [1, 2, 3]}, dropout=0.5, batch_rows=8)
    run = RunFolder(tmp_path, recipe)
    assert [m.options for m in some[1:]] == [
        {"dropout": rate, "batch_rows": 8, "epochs": epochs} for rate, epochs in ((0.1, 1), (0.2, 2), (0.1, 3))
    ]
    for joint in (False, True):
        assert len({m.seed(7, joint=joint) for m in some}) == len({m.folder(run, joint=joint) for m in some}) == 4
    assert [m.name for m in some] == ["a", "b#1", "b#2", "b#3"]
    assert some[1].seed(7, joint=False) == listed()[0][1].seed(7, joint=False), "the first is what it was alone"


def test_members_of_sections_of_one_name_are_numbered_through_in_log_and_report(tmp_path):
    from kdtoolkit.pipeline.ensemble import write_standings
    from kdtoolkit.pipeline.measure import _said_of
    from kdtoolkit.pipeline.run_folder import RunFolder

    sections = [{"name": "b", "members": 2, "keep": 1}, "a", {"name": "b", "tasks": ["rte"]}]
    recipe = Recipe.model_validate({"tasks": ["sst2", "rte"], "teachers": sections})
    found = members(recipe, recipe.task_list())
    assert [m.name for m in found["rte"]] == ["b#1", "b#2", "a", "b#3"]
    assert [m.name for m in found["sst2"]] == ["b#1", "b#2", "a"]
    run = RunFolder(tmp_path, recipe)
    assert [said["name"] for said in _said_of(run, "rte")] == ["b#1", "a", "b#2"], "of a run that kept no file of it"
    standings = [
        Standing(m.section.name, m.copy, 1, {}, "accuracy", None, m.number != 0, 1.0, 1.0) for m in found["rte"]
    ]
    write_standings(run, "rte", standings)
    assert [said["name"] for said in _said_of(run, "rte")] == ["b#2", "a", "b#3"], "as the log had called them"


# ----------------------------------------------------------------------------------------------------- who is kept
FIGURES = {"sst2": [0.5, 0.9, 0.7, 0.7], "rte": [0.8, 0.1, 0.6, 0.7]}


def kept(section, *, joint=False, metrics=None, tasks=("sst2", "rte")):
    recipe = Recipe.model_validate({"tasks": list(tasks), "teachers": [{"name": "a", "members": 4, **section}]})
    found = chosen(
        members(recipe, recipe.task_list()),
        metrics or dict.fromkeys(tasks, "accuracy"),
        joint=lambda member: joint,
        figure=lambda task, member: FIGURES[task][member.copy],
    )
    return {task: [n for n, yes in enumerate(which) if yes] for task, which in found.items()}


def test_each_task_keeps_its_own_best_and_equals_go_to_the_first():
    assert kept({"keep": 2}) == {"sst2": [1, 2], "rte": [0, 3]}
    assert kept({"keep": 4}) == kept({}) == {"sst2": [0, 1, 2, 3], "rte": [0, 1, 2, 3]}


def test_the_tasks_that_decide_decide_for_all():
    assert kept({"keep": 1, "keep_by": ["rte"]}) == {"sst2": [0], "rte": [0]}
    assert kept({"keep": 1, "keep_by": ["sst2", "rte"]}) == {"sst2": [3], "rte": [3]}, "0.7 is the best mean"
    assert kept({"keep": 1}, joint=True) == {"sst2": [3], "rte": [3]}


def test_a_metric_of_which_less_is_better_is_turned():
    assert kept({"keep": 1}, metrics={"sst2": "mse", "rte": "accuracy"}) == {"sst2": [0], "rte": [0]}


# ----------------------------------------------------------------------------------------------------- what is fitted
def test_numbers_are_taken_as_they_are_and_fits_come_from_the_rows():
    task = Task("mood", labels=("low", "high"))
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 400).astype(float)
    right = generator.random(400) < 0.8
    outputs = np.zeros((400, 2, 2))
    outputs[np.arange(400), 0, np.where(right, labels, 1 - labels).astype(int)] = 12.0
    outputs[:, 1] = generator.normal(size=(400, 2))
    standings = [Standing("a", n, None, {}, "accuracy", None, True) for n in range(2)]
    numbers = [TeacherSection(name="a", weight=2.0, temperature=3.0), TeacherSection(name="b")]
    found = fitted(task, numbers, standings, (outputs, labels), how="probabilities")
    assert [(s.weight, s.temperature) for s in found] == [(2.0, 3.0), (1.0, 1.0)]
    assert found[0].score == np.mean(right) and fitted(task, numbers, standings, None, how="logits")[0].score is None
    fits = [TeacherSection(name="a", weight="fit", temperature="fit"), TeacherSection(name="b", weight="fit")]
    found = fitted(task, fits, standings, (outputs, labels), how="probabilities")
    # 12 / T is the log odds of the share of right answers.
    assert found[0].temperature == pytest.approx(12 / np.log(right.mean() / (1 - right.mean())), rel=1e-3)
    assert found[1].temperature == 1.0 and found[0].weight > 0.9 and sum(s.weight for s in found) == pytest.approx(1)


def test_values_of_a_regression_are_never_divided():
    section = TeacherSection(name="a", temperature=4.0)
    standing = Standing("a", 0, None, {}, "pearson", None, True)
    found = fitted(Task("x", kind="regression"), [section], [standing], None, how="logits")
    assert found[0].temperature == 1.0


# --------------------------------------------------------------------------------------------- a run from the files
def two_callables(tiny):
    """Two teachers of mood: one that knows it, and one that is sure and often wrong."""
    (tiny / "teacher_module.py").write_text(
        (tiny / "teacher_module.py").read_text()
        + "\n\ndef rough(texts):\n"
        + "    sure = [9.0 if len(text) % 3 else -9.0 for text in texts]\n"
        + "    return score(texts) * 0.1 + np.stack([-np.array(sure), np.array(sure)], 1)\n"
    )
    module = tiny / "teacher_module.py"
    return [{"name": f"python:{module}:{name}", "weight": "fit", "temperature": "fit"} for name in ("score", "rough")]


def test_weights_and_temperatures_are_fitted_kept_and_used(plenty_of_mood, run_of, tiny):
    results, run = run_of(plenty_of_mood(teachers=two_callables(tiny)))
    entries = ensemble_of(run)
    assert [entry["member"] for entry in entries] == [0, 0] and all(entry["kept"] for entry in entries)
    assert entries[0]["weight"] > 0.9 and sum(entry["weight"] for entry in entries) == pytest.approx(1)
    assert entries[1]["temperature"] > 5 and entries[0]["score"] > entries[1]["score"]
    found = results["tasks"]["mood"]["ensemble"]
    assert found["value"] == results["tasks"]["mood"]["teacher"]["value"]
    rows = kdtoolkit.pipeline.stages.prepare(Recipe.load(run / "recipe.yaml"), run / "data")["mood"]
    outputs, labels = stored(run, "dev"), rows.splits["dev"].labels()
    weights = [entry["weight"] for entry in entries]
    together = scores(rows.task, combined(rows.task, outputs, weights, how="probabilities"), labels)
    assert found["value"] == together["accuracy"]
    assert found["disagreement"] == np.mean(outputs[:, 0].argmax(1) != outputs[:, 1].argmax(1)) > 0
    for number, (member, entry) in enumerate(zip(found["members"], entries)):
        assert member["value"] == scores(rows.task, outputs[:, number], labels)["accuracy"]
        assert (member["weight"], member["temperature"]) == (entry["weight"], entry["temperature"])
    rough = np.array([9.0 if len(e.text) % 3 else -9.0 for e in rows.splits["dev"].examples(slice(0, None))])
    score_ = np.array([2.0 * sum(w in {"good", "great", "fine"} for w in e.text.split()) - 2.0
                       for e in rows.splits["dev"].examples(slice(0, None))])  # fmt: skip
    np.testing.assert_allclose(outputs[:, 1, 1], (0.1 * score_ + rough) / entries[1]["temperature"], rtol=1e-4)
    assert "ensemble of 2:" in (run / "student" / "README.md").read_text()


def test_one_teacher_is_no_ensemble(mood, run_of):
    results, run = run_of(mood())
    assert results["tasks"]["mood"]["ensemble"] is None
    assert [entry["weight"] for entry in ensemble_of(run)] == [1.0]


def test_a_run_whose_teachers_are_chosen_anew_is_not_evaluated_before_they_are_weighed(mood, run_of, tiny, monkeypatch):
    """The outputs that lie there are those of the members before: weights of 1 would be as wrong as any other."""
    import kdtoolkit.pipeline.stages as stages

    module = tiny / "teacher_module.py"
    _, run = run_of(mood(teachers=[{"name": f"python:{module}:score", "weight": weight} for weight in (3.0, 1.0)],
                         train={"max_steps": 2}, evaluate={"baseline": False}))  # fmt: skip
    before = evaluate_run(resume_run(run))["tasks"]["mood"]
    (run / "data/mood/dev-teacher.npy").rename(run / "data/mood/saved.npy")
    (run / "results.json").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stages, "label", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        run_stages(resume_run(run))
    (run / "data/mood/saved.npy").rename(run / "data/mood/dev-teacher.npy")
    with pytest.raises(WorkError, match=r"ensemble\.json: .*no weight yet.* kdtool distill --resume .*run"):
        evaluate_run(resume_run(run))
    run_stages(resume_run(run))
    assert evaluate_run(resume_run(run))["tasks"]["mood"]["ensemble"] == before["ensemble"]


# -------------------------------------------------------------------------------------------- trained, killed, resumed
def three_members(base, **options):
    return {"name": str(base), **QUICK, "members": 3, "vary": {"dropout": [0.0, 0.3]}, "keep": 2, "weight": "fit",
            "temperature": "fit", **options}  # fmt: skip


def test_three_members_are_trained_chosen_reported_and_a_killed_run_is_the_same(
    plenty_of_mood, kdtool, bert, tmp_path, monkeypatch
):
    import kdtoolkit.pipeline.stages as stages
    from kdtoolkit.training import checkpoint

    values = plenty_of_mood(teachers=[three_members(bert(head=False), learning_rate=0.003)])
    (tmp_path / "three.yaml").write_text(yaml.safe_dump(values))
    said = kdtool("distill", "--recipe", "three.yaml", "--out", "whole", cwd=tmp_path)
    table = " ".join(said.stdout.split())
    assert "mood: ensemble of 2:" in table and "alone," in table and "they disagree on" in table
    entries = ensemble_of(tmp_path / "whole")
    assert [entry["options"]["dropout"] for entry in entries] == [0.0, 0.3, 0.0]
    assert sum(entry["kept"] for entry in entries) == 2 and len({entry["seed"] for entry in entries}) == 3
    worst = min(range(3), key=lambda n: (entries[n]["score"], -n))
    assert not entries[worst]["kept"] and entries[worst]["weight"] is None
    assert stored(tmp_path / "whole", "dev").shape == (60, 2, 2)

    # Killed while the second member is trained, then after the label stage wrote its files; the store is another.
    monkeypatch.setenv("KDTOOLKIT_STORE", str(tmp_path / "other-store"))

    def then_die(function, when=lambda *arguments: True):
        def call(*arguments, **options):
            function(*arguments, **options)
            if when(*arguments):
                raise KeyboardInterrupt

        return call

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        in_second = lambda folder, step, *rest: "member-1" in str(folder) and step > 2  # noqa: E731
        patch.setattr(checkpoint, "save", then_die(checkpoint.save, in_second))
        kdtoolkit.distill(values, tmp_path / "cut")
    assert not (tmp_path / "cut" / "teacher" / "mood" / "member-1" / "config.json").exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stages, "label", then_die(stages.label))
        kdtoolkit.distill(values, tmp_path / "cut")
    kdtoolkit.distill(values, tmp_path / "cut")
    assert ensemble_of(tmp_path / "cut") == entries
    for file in ("data/mood/train-teacher.npy", "student/model.safetensors"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_check_says_what_will_be_trained(plenty_of_mood, bert):
    teacher = three_members(bert(head=False))
    lines = "\n".join(kdtoolkit.pipeline.check(recipe_from_dict(plenty_of_mood(teachers=[teacher]))).lines)
    assert (
        f"teacher {teacher['name']}: 3 members (dropout 0.0, 0.3 in turn), each with its own seed; the best 2 on "
        in lines
    )
    assert "temperature and weight fitted on held-out rows" in lines


# ------------------------------------------------------------------------------------------- one teacher for all tasks
def test_joint_members_are_chosen_together_and_refined_apart(plenty, run_of, bert):
    teacher = {"name": str(bert(head=False)), **QUICK, "multitask": True, "members": 2, "keep": 1,
               "refine": {"epochs": 1, "learning_rate": 0.001}}  # fmt: skip
    results, run = run_of(plenty(teachers=[teacher], student={"name": "hf:teacher"}, tokenizer=None))
    assert results["tasks"].keys() == {"mood", "likeness"}
    copies = {task: [entry["kept"] for entry in ensemble_of(run, task)] for task in results["tasks"]}
    assert copies["mood"] == copies["likeness"] and sum(copies["mood"]) == 1
    assert {path.name for path in (run / "teacher").iterdir()} == {
        "joint-0-member-0", "joint-0-member-1", "mood", "likeness",
    }  # fmt: skip
    which = copies["mood"].index(True)
    for task in ("mood", "likeness"):
        record = json.loads((run / "teacher" / task / f"member-{which}" / "config.json").read_text())["kdtoolkit"]
        assert record["task"] == task and record["refined"]
        assert not (run / "teacher" / task / f"member-{1 - which}").exists(), "only what teaches is refined"
    # Each is one model of two tasks in the table, apart once it is refined.
    assert results["models"]["teacher"]["parameters"] > 0


def test_a_joint_teacher_learns_from_the_tasks_that_it_does_not_teach(plenty, tiny, bert, tmp_path):
    module = tiny / "teacher_module.py"
    teachers = [
        {"name": str(bert(head=False)), **QUICK, "multitask": True, "tasks": ["mood"], "batch": "mixed"},
        {"name": f"python:{module}:distance", "tasks": ["likeness"]},
    ]
    results = kdtoolkit.distill(plenty(teachers=teachers), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "teacher" / "joint-0" / "config.json").read_text())["kdtoolkit"]
    assert set(record["tasks"]) == {"mood", "likeness"} and results["tasks"]["mood"]["teacher"]["value"] > 0.5
    reused = {"name": str(tmp_path / "run" / "teacher" / "joint-0"), "max_tokens": 12}
    again = kdtoolkit.distill(plenty(teachers=[reused]), tmp_path / "again")
    assert again["tasks"]["mood"]["teacher"]["value"] == results["tasks"]["mood"]["teacher"]["value"]
    assert not (tmp_path / "again" / "teacher").exists(), "it is ready for both of its tasks"


@pytest.fixture
def agreement(plenty, tiny):
    """agreement(...): `plenty` with a task of pairs that have labels; the columns are found in the data."""
    (tiny / "data/agreement").mkdir()
    for split in ("train", "dev"):
        lines = (tiny / "data/likeness" / f"{split}.jsonl").read_text().splitlines()
        rows = [
            {"sentence1": row["one"], "sentence2": row["two"], "label": "yes" if row["label"] >= 2 else "no"}
            for row in map(json.loads, lines)
        ]
        path = tiny / "data/agreement" / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [{"name": "mood", "labels": ["low", "high"]}, {"name": "agreement", "labels": ["no", "yes"]}]
    return lambda **changes: plenty(**{"tasks": tasks, **changes})


def test_members_with_heads_for_pairs_are_chosen_and_refined_under_them(agreement, run_of, bert):
    heads = {"tasks": {"agreement": {"name": "san", "steps": 2}}}
    teacher = {"name": str(bert(head=False)), **QUICK, "multitask": True, "members": 2, "keep": 1, "max_steps": 6,
               "refine": {"epochs": 1, "learning_rate": 0.001}, "heads": heads, "precision": "fp32"}  # fmt: skip
    values = agreement(teachers=[teacher], train={"max_steps": 2}, evaluate={"baseline": False})
    results, run = run_of(values)
    which = [entry["kept"] for entry in ensemble_of(run, "agreement")].index(True)
    for task, head in (("mood", "auto"), ("agreement", "san")):
        folder = run / "teacher" / task / f"member-{which}"
        record = json.loads((folder / "config.json").read_text())["kdtoolkit"]
        assert record["refined"] and {name: own["name"] for name, own in record["heads"].items()} == {task: head}
        assert np.isfinite(results["tasks"][task]["teacher"]["value"])
    # Log-probabilities of all rows: what SAN answers.
    np.testing.assert_allclose(np.exp(stored(run, "dev", "agreement")).sum(-1), 1, atol=1e-5)


def test_check_refuses_heads_that_the_data_do_not_fit(agreement, bert):
    from kdtoolkit.pipeline import check

    teacher = {"name": str(bert(head=False)), **QUICK, "multitask": True, "tasks": ["agreement"]}
    values = agreement(teachers=[{**teacher, "heads": {"name": "san"}}])
    with pytest.raises(InputError, match=r"teachers\.0\.heads\.name: task 'mood': 'san' .* the task has one; set"):
        check(recipe_from_dict(values))
    fitting = {"tasks": {"agreement": {"name": "san"}}}
    report = check(recipe_from_dict(agreement(teachers=[{**teacher, "heads": fitting}])))
    assert any("(one model of all: mood, agreement)" in line for line in report.lines)


# -------------------------------------------------------------------------------------------------------- bad input
BAD = [
    ({"members": 2, "keep": 3}, "keep: 3 cannot be kept of 2"),
    ({"members": 2, "vary": {"dropout": []}}, "vary.dropout: is an empty list"),
    ({"members": 2, "vary": {"dropuot": [0.1]}}, "did you mean 'dropout'"),
    ({"members": 2, "vary": {"epochs": ["two"]}}, "vary.epochs"),
    ({"members": 2, "vary": {"multitask": [True, False]}}, "write two teachers"),
    ({"vary": {"dropout": [0.1, 0.2]}}, "nothing varies"),
    ({"members": 2, "keep_by": ["mood"]}, "says nothing without keep"),
    ({"members": 2, "keep": 1, "keep_by": ["mod"]}, "did you mean 'mood'"),
    ({"members": 2, "keep": 1, "tasks": ["mood"], "keep_by": ["likeness"]}, "no task that it teaches"),
]


@pytest.mark.parametrize(("section", "message"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_a_section_that_makes_no_sense_is_refused_before_data_are_read(recipe, section, message):
    with pytest.raises(InputErrors) as caught:
        recipe_from_dict(recipe(teachers=[{"name": "bert-base", **section}]))
    assert message in str(caught.value)


def test_weights_are_fitted_for_all_members_of_a_task_or_for_none(mood, tiny):
    teachers = two_callables(tiny)
    teachers[0]["weight"] = 2.0
    with pytest.raises(InputErrors, match=r"teachers\.0\.weight: is a number"):
        recipe_from_dict(mood(teachers=teachers))


@pytest.mark.parametrize("key", ["weight", "temperature"])
def test_fits_without_held_out_rows_are_refused_with_the_way_out(mood, tiny, tmp_path, key):
    teacher = {"name": f"python:{tiny / 'teacher_module.py'}:score", key: "fit"}
    with pytest.raises(InputErrors, match=r"set evaluate\.calibration_rows above 0"):
        recipe_from_dict(mood(teachers=[teacher], evaluate={"calibration_rows": 0}))
    with pytest.raises(InputError, match=r"no held-out rows of 'mood'.*evaluate\.calibration_rows"):
        kdtoolkit.distill(mood(teachers=[teacher]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_averaged_probabilities_have_no_temperature_to_fit(mood):
    teacher = {"name": "labels.jsonl", "averaged": True, "temperature": "fit"}
    with pytest.raises(InputErrors, match="averaged probabilities have no logits"):
        recipe_from_dict(mood(teachers=[teacher], objective={"temperature": 1.0}))


def test_members_of_a_teacher_that_is_ready_are_refused(mood, bert, tmp_path):
    teacher = {"name": str(bert(labels=["low", "high"])), "members": 2}
    with pytest.raises(InputError, match=r"its 2 members were one.*head: new"):
        kdtoolkit.distill(mood(teachers=[teacher]), tmp_path / "run")


def test_what_cannot_be_trained_is_not_told_to_take_a_new_head(mood, tiny, tmp_path):
    teacher = {"name": f"python:{tiny / 'teacher_module.py'}:score", "members": 2}
    with pytest.raises(InputError, match=r"(?m)its 2 members were one; leave members out$"):
        kdtoolkit.distill(mood(teachers=[teacher]), tmp_path / "run")


def test_values_that_no_member_takes_are_not_said_to_vary():
    section = TeacherSection.model_validate({"name": "b", "members": 2, "vary": {"dropout": [0.1, 0.2, 0.3]}})
    assert described(section) == "2 members (dropout 0.1, 0.2 in turn), each with its own seed"


def test_members_that_answer_other_labels_are_refused_by_check_with_both(mood, bert):
    values = mood(teachers=[{"name": str(bert(labels=["low", "high"]))}, {"name": str(bert(labels=["sad", "happy"]))}])
    with pytest.raises(InputErrors) as caught:
        kdtoolkit.pipeline.check(recipe_from_dict(values))
    said = str(caught.value)
    assert "its labels are sad, happy, those of 'mood' and of the ensemble's other members are low, high" in said
    assert "label_map" in said and "head: new" in said
    values["teachers"][1]["head"] = "new"
    lines = kdtoolkit.pipeline.check(recipe_from_dict(values)).lines
    assert any("fine-tuned" in line for line in lines)


def test_teachers_named_on_the_command_line_are_an_ensemble():
    from kdtoolkit.recipe.load import load_recipe

    recipe = load_recipe(None, shorthands={"teacher": ("bert-base", "roberta-base"), "tasks": "sst2"})
    assert [member.name for member in members(recipe, recipe.task_list())["sst2"]] == ["bert-base", "roberta-base"]
