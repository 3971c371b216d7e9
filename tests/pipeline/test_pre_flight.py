"""`kdtool check`: facts that help to decide, one dry step, and nothing left behind."""

from __future__ import annotations

import json
import re

import pytest

from kdtoolkit import InputError
from kdtoolkit.pipeline import check, teacher_estimate
from kdtoolkit.pipeline import pre_flight as module
from kdtoolkit.recipe.load import recipe_from_dict


def said(recipe):
    report = check(recipe_from_dict(recipe))
    return "\n".join(report.lines), "\n".join(report.warnings)


def test_the_lines_tell_data_teachers_tokens_size_and_time(recipe, run_of):
    lines, _ = said(recipe())
    for part in (
        "mood: classification, train 220, dev 60 rows (220 of train with a gold label), labels low, high",
        "likeness: regression, train 220, dev 60 rows",
        "op backend: ",
        ": ready, logits, about ",
        ": ready, values, about ",
        "tokens a row, longest",
        "28 steps of 16 rows",
        "and as many for the gold-only baseline",
        "memory of training: about",
    ):
        assert part in lines, lines
    _, run = run_of(recipe())
    parameters = json.loads((run / "results.json").read_text())["models"]["student"]["parameters"]
    assert f"student bilstm: {parameters:,} parameters" in lines
    assert json.loads((run / "run.json").read_text())["stages"]["distill"]["steps"] == 28


def test_nothing_is_left_behind_and_nothing_is_labelled(recipe, tiny, monkeypatch, tmp_path_factory):
    store = tmp_path_factory.mktemp("empty")
    monkeypatch.setenv("KDTOOLKIT_STORE", str(store))
    before = sorted(tiny.rglob("*"))
    said(recipe())
    assert [p for p in sorted(tiny.rglob("*")) if "__pycache__" not in p.parts] == before
    assert list(store.rglob("*")) == []


@pytest.mark.parametrize(
    "student", [{"name": "transformer", "width": 8, "layers": 1}, {"name": "bilstm", "pairs": "joint"}]
)
@pytest.mark.parametrize("batch", ["one_task", "mixed"])
def test_the_dry_step_is_taken_with_the_recipes_own_student_and_batches(recipe, student, batch):
    lines, _ = said(recipe(student=student, sampler={"batch": batch}, train={"accumulate": 2, "batch_rows": 4}))
    assert f"student {student['name']}: " in lines and "steps of 8 rows" in lines


def test_bf16_on_a_processor_without_it_is_warned_of(recipe, monkeypatch):
    precise = recipe(train={"precision": "bf16"})
    monkeypatch.setattr(module, "has_bf16", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "train.precision: this processor has no bf16 arithmetic" in said(precise)[1]
    monkeypatch.setattr(module, "has_bf16", lambda: True)
    assert "bf16" not in said(precise)[1]


def test_text_that_the_tokenizer_does_not_know_is_warned_of(mood, tiny):
    path = tiny / "data/mood/train.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps({**line, "text": f"{line['text']} w{n}"}) + "\n" for n, line in enumerate(lines))
    )
    _, warnings = said(mood(tokenizer={"name": "words", "vocabulary": 20}))
    assert "of the tokens are unknown to the student's tokenizer" in warnings


def test_a_teacher_to_fine_tune_a_file_of_outputs_and_an_ensemble_are_described(mood, tiny, bert):
    files = [tiny / f"data/mood/{split}.jsonl" for split in ("train", "dev")]
    texts = [json.loads(line)["text"] for file in files for line in file.read_text().splitlines()]
    (tiny / "said.jsonl").write_text(
        "".join(json.dumps({"text": t, "logits": {"low": 0.0, "high": 1.0}}) + "\n" for t in texts)
    )
    base = str(bert(head=False))
    lines, _ = said(mood(teachers=[base, str(tiny / "said.jsonl")]))
    assert f"teacher {base}: will be fine-tuned on 220 labelled rows first" in lines
    assert "said.jsonl: ready, logits" in lines


def test_the_dev_split_that_is_cut_from_train_is_said(mood, tiny):
    (tiny / "data/mood/dev.jsonl").unlink()
    assert "seeded tenth of train" in said(mood())[1]


def training_line(lines, start):
    return next(line for line in lines.splitlines() if line.startswith(start) and " steps" in line)


def test_the_time_of_fine_tuning_is_counted_for_members_and_what_is_kept(mood, bert):
    base = str(bert(head=False))
    section = {"name": base, "epochs": 2, "batch_rows": 16}
    alone = training_line(said(mood(teachers=[section]))[0], "teacher ")
    # 2 epochs of 220 rows, less the calibration rows of which there are none, in steps of 16.
    assert f"teacher {base}: 28 steps (one a task: mood), about " in alone and "its answers about " in alone
    capped = training_line(said(mood(teachers=[{**section, "max_steps": 3}]))[0], "teacher ")
    assert ": 3 steps (one a task" in capped
    several = training_line(said(mood(teachers=[{**section, "members": 3}]))[0], "teacher ")
    assert ": 28 steps for each of 3 members (one a task" in several


def test_a_teacher_of_all_tasks_is_counted_once_with_its_refinement(recipe, bert):
    section = {"name": str(bert(head=False)), "multitask": True, "batch_rows": 20, "epochs": 1}
    lines, _ = said(recipe(teachers=[section]))
    assert ": 22 steps (one model of all: mood, likeness), about " in training_line(lines, "teacher ")
    assert "and its refinement" not in lines
    lines, _ = said(recipe(teachers=[{**section, "refine": {"epochs": 2}}]))
    assert ", and its refinement " in training_line(lines, "teacher ")


def test_the_steps_of_a_refinement_are_counted_whoever_trained_the_teacher(recipe, bert, run_of, monkeypatch):
    section = {"multitask": True, "batch_rows": 20, "epochs": 1}
    first = recipe(teachers=[{**section, "name": str(bert(head=False)), "max_steps": 2}])
    _, folder = run_of({**first, "train": {"max_steps": 1}, "evaluate": {"baseline": False, "latency": False}})
    monkeypatch.setattr(teacher_estimate, "training_seconds", lambda trial, train, tokens: float(train.steps))

    def examined(**options):
        name = str(folder / "teacher" / "joint-0")
        return check(recipe_from_dict(recipe(teachers=[{**section, "name": name, **options}])))

    assert "teaching" not in examined().estimate.seconds
    report = examined(refine={"epochs": 2})
    # 2 epochs of 220 rows in steps of 20, for each of two tasks; nothing is left of the joint training.
    assert report.estimate.seconds["teaching"] == 44 and "labelling" in report.estimate.seconds
    lines = "\n".join(report.lines)
    assert ": will be refined on 220 labelled rows first" in lines and ": trained already, and its refinement " in lines
    assert examined(refine={"epochs": 2}, max_steps=4).estimate.seconds["teaching"] == 8


def test_the_memory_of_teacher_and_student_says_what_it_is_made_of(mood, bert):
    lines, _ = said(mood(teachers=[str(bert(head=False))], optimizer={"name": "sgd"}))
    told = [line for line in lines.splitlines() if "memory of" in line]
    assert len(told) == 2
    for line, optimizer in zip(told, ("adamw", "sgd 0.0 MB"), strict=True):
        assert f", {optimizer}" in line and "(in fp32), activations " in line and "on a GPU" in line
        assert re.search(r"activations (?!0\.0)[\d.]+ MB \(\d+ rows of \d+ tokens\)", line)


def test_students_of_one_task_each_their_steps_and_refinements_are_counted(recipe):
    lines, _ = said(recipe(train={"joint": False, "max_steps": 5}, refine={"epochs": 1}))
    assert "10 steps of 16 rows, about " in lines and ", for 2 students of one task each" in lines
    assert "refinement, one copy a task: about " in lines and ", and of the baseline " in lines
    assert "in all: about " in lines.splitlines()[-1]
    for part in ("labelling", "student", "baseline", "refinement"):
        assert f"{part} " in lines.splitlines()[-1]


def test_generated_rows_are_counted_in_the_steps(mood):
    plain, more = (said(mood(**changes))[0] for changes in ({}, {"augment": {"copies": 3, "mask": 0.5, "ngram": 0.0}}))

    def steps(lines):
        return int(re.search(r"(\d+) steps of 16 rows", lines)[1])

    assert steps(plain) == 14 < steps(more) <= 55


def distilled(**changes):
    return {"name": "distilled", "recipe": {"student": {"name": "bilstm", "width": 6, "embedding": 8}, **changes}}


def test_the_recipe_within_a_teacher_has_a_pre_flight_of_its_own(mood, tiny):
    score = f"python:{tiny / 'teacher_module.py'}:score"
    lines, _ = said(mood(teachers=[distilled(teachers=[score], train={"epochs": 4, "batch_rows": 10})]))
    assert "within teacher distilled: mood: teacher python:" in lines
    assert "within teacher distilled: 88 steps of 10 rows, about " in lines
    assert "14 steps of 16 rows" in lines and "(teaching " in lines.splitlines()[-1]


def test_what_is_wrong_with_the_data_of_the_recipe_within_is_said_with_its_place(mood, tiny):
    (tiny / "said.jsonl").write_text(json.dumps({"text": "good", "logits": {"low": 0.0, "high": 1.0}}) + "\n")
    inner = distilled(teachers=[str(tiny / "said.jsonl")])
    with pytest.raises(InputError, match=r"teachers\.0\.recipe: .*said\.jsonl"):
        check(recipe_from_dict(mood(teachers=[inner])))


def test_an_objective_that_teaches_nothing_is_warned_of(mood):
    _, warnings = said(mood(objective={"terms": [{"name": "dist"}]}))
    assert "mood has two classes: the correlation of a row is 1 or -1" in warnings
