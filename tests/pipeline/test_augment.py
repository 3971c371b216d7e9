"""`augment:` in a whole run: what the student learns from, what others do not see, and the same bytes after a kill."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from hashlib import sha256

import numpy as np
import pytest

from kdtoolkit.data.rows import Rows
from kdtoolkit.errors import InputError
from kdtoolkit.pipeline import augmentation, check, evaluate_run, resume_run, run_stages, start_run
from kdtoolkit.recipe.load import recipe_from_dict
from kdtoolkit.tasks import Task
from kdtoolkit.tokenizers import load_tokenizer

RULES = {"copies": 3, "mask": 0.2, "replace": 0.3, "ngram": 0.3}
MOOD = Task("mood", text=("text",), labels=("low", "high"))


def augmented_rows(run):
    return Rows.open(run / "data/mood/augmented/rows.arrow", MOOD)


@pytest.fixture
def short(mood):
    return lambda **changes: mood(**{"augment": RULES, "train": {"epochs": 0.5, "batch_rows": 16}, **changes})


def test_the_student_learns_from_the_generated_rows_with_the_teachers_labels(short, run_of):
    results, run = run_of(short())
    stages = json.loads((run / "run.json").read_text())["stages"]
    rows, generated = augmented_rows(run), stages["augment"]["rows"]
    assert list(stages)[:3] == ["prepare", "augment", "teach"]
    assert len(rows) - generated == 220 and generated > 200
    assert stages["augment"]["dropped"] == 3 * 220 - generated
    assert stages["tokenize"]["rows"] == len(rows)
    steps = int(np.ceil(0.5 * np.ceil(len(rows) / 16)))
    assert stages["distill"]["steps"] == steps == stages["baseline"]["steps"]  # the baseline has as many updates
    said = np.load(run / "data/mood/augmented-teacher.npy")
    texts = rows.texts(0, len(rows))[0]
    good = [2.0 * sum(word in {"good", "fine", "great"} for word in text.split()) - 2.0 for text in texts]
    assert said[:, 0, 1] == pytest.approx(good)
    assert any(f"mood: augment: {generated:,} generated rows without labels" in note for note in results["notes"])
    assert any("generated rows" in note for note in evaluate_run(resume_run(run))["notes"])


def test_teacher_and_baseline_see_gold_rows_alone(short, run_of, bert, monkeypatch):
    from kdtoolkit_teachers.hugging_face import HuggingFaceTeacher

    seen = []
    real = HuggingFaceTeacher.fine_tune

    def fine_tune(self, rows, folder, **options):
        seen.append(rows.texts(0, len(rows))[0])
        return real(self, rows, folder, **options)

    monkeypatch.setattr(HuggingFaceTeacher, "fine_tune", fine_tune)
    teachers = [{"name": str(bert(head=False)), "epochs": 0.1}]
    _, run = run_of(short(teachers=teachers))
    _, plain = run_of(short(teachers=teachers, augment=None), "plain")
    assert len(seen) == 1  # the teacher of both runs is the same: the second found it in the store
    assert seen[0] == Rows.open(run / "data/mood/train.arrow", MOOD).texts(0, 220)[0]
    digests = [json.loads((r / "run.json").read_text())["stages"]["prepare"]["digest"] for r in (run, plain)]
    assert digests[0] == digests[1]
    gold = [json.loads((r / "run.json").read_text())["stages"]["baseline"] for r in (run, plain)]
    assert gold[0]["steps"] > gold[1]["steps"]


def test_only_the_named_tasks_are_augmented(recipe, run_of):
    rules = {**RULES, "tasks": ["likeness"], "rows": 40}
    results, run = run_of(recipe(augment=rules, train={"epochs": 0.2}, evaluate={"baseline": False}))
    assert not (run / "data/mood/augmented").exists()
    facts = json.loads((run / "data/likeness/augmented/facts.json").read_text())
    assert facts["counts"]["generated"] == 40
    assert [note.split(":")[0] for note in results["notes"] if "generated" in note] == ["likeness"]


def test_a_run_killed_while_text_is_generated_resumes_to_the_same_bytes(short, run_of, kdtool, tiny):
    recipe = short(evaluate={"baseline": False})
    (tiny / "augmented.yaml").write_text(json.dumps(recipe))
    prelude = (
        "import os, signal\nimport kdtoolkit.augment.rows as m\n"
        "m.write_json = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = kdtool("distill", "--recipe", "augmented.yaml", "--out", "killed", cwd=tiny, prelude=prelude, check=None)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tiny / "killed/data/mood/augmented").exists()
    run_stages(resume_run(tiny / "killed"))
    _, run = run_of(recipe)
    for name in ("student/model.safetensors", "data/mood/augmented/rows.arrow", "data/mood/augmented-teacher.npy"):
        one, other = (sha256((folder / name).read_bytes()).hexdigest() for folder in (run, tiny / "killed"))
        assert one == other, name


def test_a_tagger_that_is_edited_gives_new_text_until_that_is_labelled(short, tiny):
    def tagger(key):
        """Writes the tagger, as a new process would find it."""
        (tiny / "tags.py").write_text(f"def tags(words):\n    return [str({key}) for word in words]\n")
        for name in [name for name in sys.modules if name.startswith("kdtoolkit_user_tags_")]:
            del sys.modules[name]

    def texts(run):
        return augmented_rows(run).texts(0, len(augmented_rows(run)))[0]

    rules = {**RULES, "replace": 0.6, "tagger": f"python:{tiny / 'tags.py'}:tags"}
    recipe = recipe_from_dict(short(augment=rules))
    tagger("word")  # each word is the only one of its kind, so that none is replaced by another
    run_stages(start_run(recipe, tiny / "run"), until="teach")
    before = texts(tiny / "run")
    tagger("word[0]")
    run_stages(resume_run(tiny / "run"), until="label")
    run_stages(start_run(recipe, tiny / "straight"), until="label")
    assert texts(tiny / "run") == texts(tiny / "straight") != before
    stages = [json.loads((tiny / name / "run.json").read_text())["stages"] for name in ("run", "straight")]
    assert stages[0]["augment"]["notes"] == stages[1]["augment"]["notes"]
    said = [np.load(tiny / name / "data/mood/augmented-teacher.npy") for name in ("run", "straight")]
    assert np.array_equal(*said)
    tagger("len(word)")
    with pytest.raises(InputError, match=r"tagger is not the one .* put its file back as it was, or start a new run"):
        run_stages(resume_run(tiny / "run"))
    tagger("word[0]")
    run_stages(resume_run(tiny / "run"), until="label")
    assert texts(tiny / "run") == texts(tiny / "straight")


def test_a_finished_run_without_its_data_generates_them_again(short, run_of):
    _, run = run_of(short(evaluate={"baseline": False}))
    rows = (run / "data/mood/augmented/rows.arrow").read_bytes()
    weights = (run / "student/model.safetensors").read_bytes()
    shutil.rmtree(run / "data")
    (run / "student/model.safetensors").unlink()
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    (run / "results.json").unlink()
    run_stages(resume_run(run))
    assert (run / "data/mood/augmented/rows.arrow").read_bytes() == rows
    assert (run / "student/model.safetensors").read_bytes() == weights


def test_the_mask_is_that_of_the_first_hugging_face_teacher(short, bert, monkeypatch):
    monkeypatch.setattr(augmentation, "mask_of", lambda source: "<mask>")
    teachers = [str(bert(head=False))]
    assert augmentation.mask_token(recipe_from_dict(short())) == "[MASK]"  # a function has none of its own
    assert augmentation.mask_token(recipe_from_dict(short(teachers=teachers))) == "<mask>"
    asked = short(teachers=teachers, augment={**RULES, "mask_token": "_"})
    assert augmentation.mask_token(recipe_from_dict(asked)) == "_"
    assert augmentation.mask_token(recipe_from_dict(short(teachers=teachers, augment=None))) is None


@pytest.mark.parametrize("tokenizer", ["sentencepiece", "words"])
def test_the_mask_is_one_piece_to_the_student(short, run_of, tokenizer):
    _, run = run_of(short(tokenizer={"name": tokenizer, "vocabulary": 64}, evaluate={"baseline": False}))
    pieces = load_tokenizer(run / "student").encode_batch(["[MASK]", "good [MASK] film", "good film", "[MASK], good"])
    (mask,) = pieces[0]
    assert mask != load_tokenizer(run / "student").unk
    assert pieces[1].count(mask) == 1 and [p for p in pieces[1] if p != mask] == pieces[2]
    assert pieces[3][0] == mask


def test_the_estimate_of_check_counts_the_generated_rows_and_shows_some(short, run_of):
    recipe = short()
    report = "\n".join(check(recipe_from_dict(recipe)).lines)
    _, run = run_of(recipe)
    stages = json.loads((run / "run.json").read_text())["stages"]
    assert f"mood: augment: about {stages['augment']['rows']:,} generated rows, such as" in report
    assert f"{stages['distill']['steps']:,} steps of 16 rows" in report
    texts = set(augmented_rows(run).texts(0, len(augmented_rows(run)))[0])
    shown = [line.strip().split(" -> ") for line in report.splitlines() if " -> " in line]
    assert len(shown) == 3
    for before, after in shown:
        assert before in texts and after in texts and before != after
    labelled = 220 + 60 + stages["augment"]["rows"]
    assert f"for {labelled:,} texts, less what the store holds" in report


def refused(values, message, run_of):
    with pytest.raises(InputError, match=message):
        check(recipe_from_dict(values))
    with pytest.raises(InputError, match=message):
        run_of(values)


def test_what_is_no_text_is_refused_and_leaves_no_run(short, run_of, tiny):
    for split in ("train", "dev"):
        path = tiny / f"data/mood/{split}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**row, "text": f"{n} 3.5"}) + "\n" for n, row in enumerate(lines)))
    refused(short(), "'mood' is no text that words can be exchanged in: 0% of its words hold a letter", run_of)
    assert not (tiny / "run").exists()


def test_a_tagger_that_gives_another_number_of_tags_is_refused(short, run_of, tiny):
    (tiny / "tags.py").write_text("def tags(words):\n    return words[1:]\n")
    refused(
        short(augment={**RULES, "tagger": f"python:{tiny / 'tags.py'}:tags"}), "gave 3 tags for the 4 words", run_of
    )
    assert not (tiny / "run").exists()


def test_stored_values_are_refused_as_the_teacher_of_generated_text(short, run_of, tiny):
    files = [tiny / f"data/mood/{split}.jsonl" for split in ("train", "dev")]
    texts = {json.loads(line)["text"] for file in files for line in file.read_text().splitlines()}
    (tiny / "said.jsonl").write_text(
        "".join(json.dumps({"text": t, "logits": {"low": 0.0, "high": 1.0}}) + "\n" for t in sorted(texts))
    )
    refused(short(teachers=[str(tiny / "said.jsonl")]), "has stored values, and none for text", run_of)
    assert not (tiny / "run").exists()
