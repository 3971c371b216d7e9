"""`kdtool check`: facts that help to decide, one dry step, and nothing left behind."""

from __future__ import annotations

import json

import pytest

from kdtoolkit.pipeline import check
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
