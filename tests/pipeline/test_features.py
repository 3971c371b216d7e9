"""Hidden states of a teacher, from the recipe to the trained student."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from launched import launched
from safetensors.torch import load_file

import kdtoolkit
from kdtoolkit.cli.clean import clean
from kdtoolkit.errors import InputError, InputErrors, WorkError
from kdtoolkit.pipeline import check, resume_run, run_stages, start_run
from kdtoolkit.recipe.load import recipe_from_dict

TRANSFORMER = {"name": "transformer", "layers": 2, "width": 8, "heads": 2, "positions": 24, "dropout": 0.1}
BILSTM = {"name": "bilstm", "layers": 2, "width": 4, "embedding": 6, "pairs": "joint", "dropout": 0.0}
PKD = {"name": "pkd", "layers": [1], "weight": 0.5}
HIDDEN = {"name": "hidden", "weight": 0.5}
RKD = {"name": "rkd", "weight": 0.1}
TERMS = [PKD, HIDDEN, {"name": "minilmv2", "heads": 2}, RKD]
STATES = [PKD, HIDDEN, {"name": "minilmv2", "heads": 2, "states": True, "weight": 20.0}, RKD]


@pytest.fixture
def of_bert(mood, bert):
    """of_bert(...): a recipe with a tiny BERT that knows the labels, and terms on its hidden states."""
    teacher = bert(labels=["high", "low"])

    def make(student=TRANSFORMER, terms=TERMS, live=False, **changes):
        base = {
            "teachers": [{"name": str(teacher), "max_tokens": 16}],
            "student": student,
            "tokenizer": {"name": "teacher"},
            "objective": {"terms": terms, "hidden_states": "live" if live else "stored"},
            "evaluate": {"baseline": False},
        }
        return mood(**{**base, **changes})

    return make


def weights(run, folder="student", name="model"):
    return load_file(run / folder / f"{name}.safetensors")


@pytest.mark.parametrize(("student", "terms"), [(TRANSFORMER, TERMS), (BILSTM, STATES)], ids=["transformer", "bilstm"])
def test_every_term_is_learned_and_live_states_give_the_student_of_stored_ones(of_bert, run_of, events, student, terms):
    train = {"epochs": 2, "log_every_steps": 5}
    # AdamW makes whole steps of gradients that are nothing but float16's rounding, unless epsilon is above those.
    optimizer = {"learning_rate": 0.01, "epsilon": 1e-4}
    found = {}
    for live in (False, True):
        _, run = run_of(of_bert(student, terms, live, train=train, optimizer=optimizer), f"live-{live}")
        scalars, _ = events(run / "tensorboard/student")
        for term in terms:
            logged = scalars[f"loss_{term['name']}/mood"]
            assert logged[max(logged)] < logged[min(logged)], term
            assert scalars[f"weight/{term['name']}"][max(logged)] == pytest.approx(term.get("weight", 1.0))
        found[live] = weights(run)
        assert not any("terms" in name for name in found[live])
        kdtoolkit.load(run).predict(["good film"])
    for name, stored in found[False].items():
        torch.testing.assert_close(found[True][name], stored, rtol=0, atol=1e-3)
    _, run = run_of(of_bert(student, [], train=train, optimizer=optimizer), "without")
    assert any(not torch.allclose(tensor, found[False][name], atol=1e-2) for name, tensor in weights(run).items())


def test_killed_while_states_are_stored_and_again_in_training_it_resumes_to_the_same_bytes(
    of_bert, kdtool, tiny, run_of, monkeypatch
):
    import kdtoolkit.training.loop as loop

    train = {"epochs": 2, "checkpoint_every_steps": 5}
    values = of_bert(train=train)
    _, straight = run_of(values, "straight")
    (tiny / "terms.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    monkeypatch.setenv("KDTOOLKIT_STORE", str(tiny / "other-store"))
    kill = (
        "import os, signal\nimport kdtoolkit.labels.features as f\n"
        "f.BATCH_ROWS, f.PART_BATCHES = 16, 2\nreal, calls = f._flat, []\n"
        "def flat(*a):\n    calls.append(1)\n"
        "    return os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 40 else real(*a)\nf._flat = flat\n"
    )
    killed = kdtool("distill", "--recipe", "terms.yaml", "--out", "run", cwd=tiny, prelude=kill, check=None)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (unfinished,) = (tiny / "other-store").glob("*/mood/unfinished-*")
    assert {"done-0-32", "done-32-64"} <= {path.name for path in unfinished.glob("done-*")}
    assert not (unfinished / "done-160-192").exists()

    steps, real = [], loop.set_learning_rate

    def stop(*arguments):
        steps.append(1)
        if len(steps) == 13:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(loop, "set_learning_rate", stop)
    with pytest.raises(KeyboardInterrupt):
        run_stages(resume_run(tiny / "run"))
    saved = load_file(tiny / "run/checkpoints/step-10/model.safetensors")
    assert any(name.startswith("terms.") for name in saved)
    monkeypatch.setattr(loop, "set_learning_rate", real)
    run_stages(resume_run(tiny / "run"))
    for name in ("model.safetensors", "config.json"):
        assert (tiny / "run/student" / name).read_bytes() == (straight / "student" / name).read_bytes()


def test_two_processes_store_the_states_of_one(of_bert, tiny):
    counted = (
        "import os\nimport kdtoolkit.labels.features as f\n"
        "f.BATCH_ROWS, f.PART_BATCHES = 16, 1\nreal = f._flat\n"
        "def flat(name, shape, values, lengths):\n"
        "    with open(f'asked-{store}-' + os.environ['RANK'], 'a') as file:\n"
        "        file.write(f'{len(lengths)}\\n')\n"
        "    return real(name, shape, values, lengths)\nf._flat = flat\nfrom kdtoolkit.cli.main import main\nmain()\n"
    )
    found, asked = [], []
    for count in (1, 2):
        (tiny / "terms.yaml").write_text(yaml.safe_dump(of_bert(store=str(tiny / f"store-{count}"), terms=[PKD])))
        program = counted.replace("{store}", str(count))
        done = launched(count, "-c", program, "label", "--recipe", "terms.yaml", "--out", f"run-{count}", cwd=tiny)
        assert [each.code for each in done] == [0] * count, done
        (folder,) = (tiny / f"store-{count}").glob("*/mood/features-*")
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
        asked.append([sum(map(int, path.read_text().split())) for path in sorted(tiny.glob(f"asked-{count}-*"))])
        assert json.loads((tiny / f"run-{count}/data/mood/hidden-states.json").read_text())["folder"] == str(folder)
    assert found[0] == found[1] and not [name for name in found[1] if name.startswith("done")]
    assert sum(asked[1]) == asked[0][0] > 0  # no text twice, whoever has it


def test_check_says_what_the_stored_states_will_take(of_bert, tiny, monkeypatch):
    from kdtoolkit.pipeline import features, stages, teach

    recipe = recipe_from_dict(of_bert())
    (line,) = (line for line in check(recipe).lines if "hidden states" in line)
    run_stages(start_run(recipe, tiny / "run"), until="label")
    folder = Path(json.loads((tiny / "run/data/mood/hidden-states.json").read_text())["folder"])
    manifest = json.loads((folder / "features.json").read_text())
    count, taken = manifest["texts"], manifest["bytes"]
    assert line.startswith(f"mood: hidden states of the teacher: {taken / 1e6:.1f} MB on the disk, for {count} texts")
    assert all(name in line for name in manifest["names"])

    data = stages.prepare(recipe, tiny / "data-of-check")
    teachers, source = teach.build_teachers(recipe, data), teach.teacher_checkpoint(recipe)

    def size(generated=0, **objective):
        changed = recipe.model_copy(update={"objective": recipe.objective.model_copy(update=objective)})
        found = features.stored_sizes(changed, data, {"mood": generated}, teachers, teacher_source=source)
        return found["mood"].bytes if found else 0

    assert size() == taken and size(hidden_states="live") == size(terms=[]) == 0
    # Of more texts than are read, the others are counted like those, and so is generated text.
    monkeypatch.setattr(features, "SIZED_TEXTS", 40)
    assert size() == pytest.approx(taken, rel=0.05) and size(generated=count) == pytest.approx(2 * taken, rel=0.05)


def test_live_states_resume_to_the_same_bytes(of_bert, run_of, tiny, monkeypatch):
    import kdtoolkit.training.loop as loop

    values = of_bert(live=True, train={"epochs": 1, "checkpoint_every_steps": 5})
    _, straight = run_of(values, "straight")
    assert not list((tiny / "straight").glob("**/features.json"))
    steps, real = [], loop.set_learning_rate
    monkeypatch.setattr(loop, "set_learning_rate", lambda *a: steps.append(real(*a)) if len(steps) < 8 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_of(values)
    monkeypatch.setattr(loop, "set_learning_rate", real)
    _, run = run_of(values)
    assert (run / "student/model.safetensors").read_bytes() == (straight / "student/model.safetensors").read_bytes()


def test_a_run_whose_states_are_gone_from_the_store_makes_them_again(of_bert, tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    run = start_run(recipe_from_dict(of_bert(terms=[HIDDEN])), tiny / "run")
    run_stages(run, "label")
    (folder,) = (tiny / json.loads((tiny / "run/data/mood/hidden-states.json").read_text())["folder"]).parent.glob("f*")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    run_stages(resume_run(tiny / "run"))
    assert (folder / "features.json").is_file() and (tiny / "run/results.json").is_file()


def test_clean_counts_what_states_take(of_bert, tiny):
    run_stages(start_run(recipe_from_dict(of_bert(terms=[])), tiny / "plain"), "label")
    listed = [CliRunner().invoke(clean, ["--store"]).output]
    run_stages(start_run(recipe_from_dict(of_bert(terms=[HIDDEN])), tiny / "run"), "label")
    listed.append(CliRunner().invoke(clean, ["--store"]).output)
    folder = json.loads((tiny / "run/data/mood/hidden-states.json").read_text())["folder"]
    taken = json.loads((tiny / folder / "features.json").read_text())["bytes"]
    sizes = [float(text.split()[0]) * {"KiB": 1024, "MiB": 1 << 20}[text.split()[1]] for text in listed]
    assert taken > 50_000 and sizes[1] - sizes[0] > 0.9 * taken


def test_the_baseline_learns_without_terms(of_bert, run_of):
    found = []
    for number, terms in enumerate(([], TERMS)):
        _, run = run_of(of_bert(terms=terms, evaluate={"baseline": True}), f"run-{number}")
        found.append((run / "gold_only/model.safetensors").read_bytes())
    assert found[0] == found[1]


@pytest.fixture
def two_tasks(recipe, bert):
    """Two tasks, of single texts and of pairs, each with a teacher of its own."""

    def make(terms, **changes):
        likeness = bert(labels=["value"], problem_type="regression", seed=2)
        teachers = [
            {"name": str(bert(labels=["high", "low"])), "tasks": ["mood"], "max_tokens": 16},
            {"name": str(likeness), "tasks": ["likeness"], "max_tokens": 16},
        ]
        base = {"teachers": teachers, "student": TRANSFORMER, "tokenizer": {"name": "teacher"},
                "objective": {"terms": terms}, "evaluate": {"baseline": False}}  # fmt: skip
        return recipe(**{**base, **changes})

    return make


@pytest.mark.parametrize("batch", ["one_task", "mixed"])
def test_tasks_have_the_terms_that_are_theirs(two_tasks, run_of, events, batch):
    terms = [{**HIDDEN, "tasks": ["mood"]}, PKD]
    _, run = run_of(two_tasks(terms, sampler={"batch": batch}))
    scalars, _ = events(run / "tensorboard/student")
    assert "loss_hidden/mood" in scalars and "loss_hidden/likeness" not in scalars
    assert {"loss_pkd/mood", "loss_pkd/likeness"} <= set(scalars)
    names = {
        task: json.loads((run / f"data/{task}/hidden-states.json").read_text())["names"]
        for task in ("mood", "likeness")
    }
    assert names == {"mood": ["first/1", "hidden/1", "hidden/2"], "likeness": ["first/1"]}


def test_a_mixed_batch_may_hold_states_of_two_sizes_and_pairs_that_are_read_apart(two_tasks, bert, run_of, events):
    of_singles, of_pairs = ({"name": "rkd", "tasks": [task]} for task in ("mood", "likeness"))
    values = two_tasks([{**PKD, "tasks": ["mood"]}, of_singles, of_pairs], sampler={"batch": "mixed"})
    values["teachers"][1]["name"] = str(bert(labels=["v"], problem_type="regression", hidden_size=32))
    values["student"], values["train"]["batch_rows"] = {**BILSTM, "pairs": "separate"}, 24
    _, run = run_of(values)
    scalars, _ = events(run / "tensorboard/student")
    assert {"loss_pkd/mood", "loss_rkd_1/mood", "loss_rkd_2/likeness"} <= set(scalars)


def test_students_apart_and_refined_ones_have_terms_of_their_own(two_tasks, run_of, events):
    train, refine = {"joint": False}, {"epochs": 1, "alpha": 0.5}
    terms = [{**HIDDEN, "tasks": ["mood"]}, PKD]
    _, run = run_of(two_tasks(terms, train=train, refine=refine))
    for stage in ("student", "refine"):
        for task, expected in (("mood", {"hidden", "pkd"}), ("likeness", {"pkd"})):
            scalars, _ = events(run / f"tensorboard/{stage}_{task}")
            assert {tag.split("/")[0] for tag in scalars} & {"loss_hidden", "loss_pkd"} == {
                f"loss_{n}" for n in expected
            }
    assert not any("terms" in name for file in (run / "student").glob("*.safetensors") for name in load_file(file))
    kdtoolkit.load(run).predict(["good film"], task="mood")


def test_a_student_of_an_earlier_run_shows_its_layers(of_bert, run_of):
    _, first = run_of(of_bert(BILSTM, []), "first")
    teachers = [str(first)]
    _, run = run_of(of_bert(BILSTM, [PKD, RKD], teachers=teachers, tokenizer={"name": "words"}), "second")
    assert json.loads((run / "data/mood/hidden-states.json").read_text())["names"] == ["first/1", "first/2"]


def test_a_jointly_trained_teacher_shows_its_layers(of_bert, run_of):
    joint = {"name": "joint", "student": {"name": "bilstm", "width": 4, "layers": 2, "pairs": "joint"}, "epochs": 1}
    values = of_bert(BILSTM, [PKD], teachers=[joint], tokenizer={"name": "words"})
    check(recipe_from_dict(values))
    _, run = run_of(values)
    assert json.loads((run / "data/mood/hidden-states.json").read_text())["names"] == ["first/1"]


def test_of_an_ensemble_the_first_member_with_hidden_states_is_read_also_for_generated_text(of_bert, run_of, mood):
    values = of_bert(terms=[HIDDEN], augment={"copies": 1})
    values["teachers"] = [*mood()["teachers"], *values["teachers"]]
    results, run = run_of(values)
    note = json.loads((run / "data/mood/hidden-states.json").read_text())
    manifest = json.loads(Path(note["folder"], "features.json").read_text())
    assert note["names"] == ["hidden/1", "hidden/2"] and manifest["texts"] > 220
    assert results["tasks"]["mood"]


def test_check_counts_a_step_with_its_terms(of_bert):
    report = check(recipe_from_dict(of_bert()))
    assert any("steps of 16 rows" in line for line in report.lines)


def refused(values, words):
    with pytest.raises((InputError, InputErrors), match=words):
        check(recipe_from_dict(values))


def test_hidden_states_of_a_teacher_that_has_none_are_refused(mood, of_bert, kdtool, tiny):
    values = mood(objective={"terms": [HIDDEN]}, student=TRANSFORMER, evaluate={"baseline": False})
    (tiny / "none.yaml").write_text(yaml.safe_dump(values))
    done = kdtool("check", "none.yaml", cwd=tiny, check=2)
    said = " ".join(done.stderr.split())
    assert "objective.terms.0 (hidden): the teacher shows no layers; use a teacher that does" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"terms": [{"name": "attention"}], "student": {**TRANSFORMER, "heads": 4}},
         r"objective.terms.0 \(attention\): the student has 4 attention heads and the teacher 2.*minilmv2"),
        ({"terms": [{"name": "attention"}], "student": {**TRANSFORMER, "layers": 3}},
         r"objective.terms.0 \(attention\): layers: the student has 3 layers and the teacher 2"),
        ({"terms": [RKD, {"name": "minilm"}], "student": BILSTM}, r"terms.1 \(minilm\): the student has no attention"),
        ({"terms": [HIDDEN], "student": {**BILSTM, "pairs": "separate"}}, r"terms.0 .*set student.pairs: joint"),
        ({"terms": [HIDDEN], "tokenizer": {"name": "words"}}, "the student's tokenizer is 'words'; set `tokenizer: "),
        ({"terms": [HIDDEN], "data": {"max_tokens": 12}}, r"16 tokens for the teacher and to 12 .*max_tokens: 16"),
    ],
)  # fmt: skip
def test_what_student_and_teacher_cannot_serve_is_refused(of_bert, changes, words):
    refused(of_bert(**changes), words)


def test_a_student_without_the_parts_that_a_term_reads_is_refused(of_bert, tiny):
    (tiny / "own.py").write_text(
        "from kdtoolkit import Student\nfrom kdtoolkit.shape import Shape\nfrom torch import nn\n"
        "class Own(Student):\n    pairs = 'joint'\n    shape = Shape(2, 8, 2)\n"
        "    def __init__(self, vocab_size: int, *, width: int = 8) -> None:\n"
        "        super().__init__(width=width)\n        self.embed = nn.Embedding(vocab_size, width)\n"
        "    def encode(self, batch):\n        return self.embed(batch.ids).mean(1)\n"
    )
    words = (
        r"objective.terms.0 \(hidden\): reads the student's hidden, which it does not give; take a student that gives"
    )
    refused(of_bert({"name": f"{tiny / 'own.py'}:Own"}, [HIDDEN]), words)


def test_another_tokenizer_than_the_teachers_is_found_by_its_tokens(of_bert, bert):
    from checkpoints import write_tokenizer

    other = bert(labels=["high", "low"])
    write_tokenizer(other, "bert", ["g", "f", "##o", "##d"])
    refused(of_bert(terms=[HIDDEN], tokenizer={"name": "teacher", "source": str(other)}), "gives other tokens than the")


def test_teachers_of_different_sizes_are_refused_in_one_term(two_tasks, bert):
    values = two_tasks([PKD])
    values["teachers"][1]["name"] = str(bert(labels=["v"], problem_type="regression", hidden_size=8))
    refused(values, r"different sizes: mood \(2 layers of 16, 2 heads\), likeness \(2 layers of 8, 2 heads\); name the")
    values["objective"] = {"terms": [{**PKD, "tasks": ["mood"]}, {**PKD, "tasks": ["likeness"]}]}
    check(recipe_from_dict(values))


def test_a_row_that_the_two_read_differently_is_named_before_training(of_bert, tiny, run_of):
    file = tiny / "data/mood/train.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, json.dumps({"text": "", "label": "low"}), ""]))
    run_of(of_bert(terms=[HIDDEN]), "empty")  # it has nothing to compare, and the others are compared
    file.write_text("\n".join([*lines, json.dumps({"text": "good [SEP] film", "label": "low"}), ""]))
    with pytest.raises(WorkError, match=r"task 'mood', row \d+ of train: the teacher reads 5 tokens and the student 7"):
        run_of(of_bert(terms=[HIDDEN]), "special")
    assert not (tiny / "special/checkpoints").exists()
    run_of(of_bert(terms=[PKD]), "whole texts")


OWN_TEACHER = """
import numpy as np
from kdtoolkit import Teacher
from kdtoolkit.shape import Shape

class Own(Teacher):
    fingerprint = "5eed"
    shape = Shape(2, 8, 2)

    def logits(self, examples):
        return np.zeros((len(examples), self.task.outputs), np.float32)
"""


def test_a_teacher_that_cannot_be_sharded_is_refused_before_any_long_work(of_bert, tiny):
    (tiny / "own_teacher.py").write_text(OWN_TEACHER)
    own = [f"{tiny / 'own_teacher.py'}:Own"]
    values = of_bert(terms=[PKD], live=True, teachers=own, tokenizer={"name": "words"})
    values["train"]["teacher_sharding"] = "fsdp"
    words = r"train\.teacher_sharding: the teacher '.*' of 'mood' cannot be sharded \(Own\); leave it out"
    refused(values, words)
    with pytest.raises((InputError, InputErrors), match=words):
        run_stages(start_run(recipe_from_dict(values), tiny / "run"))
    assert not (tiny / "run").exists()
    (tiny / "own.yaml").write_text(yaml.safe_dump(values))
    done = launched(2, "-m", "kdtoolkit", "distill", "--recipe", "own.yaml", "--out", "run", cwd=tiny)
    assert [each.code for each in done] == [2, 1] and done[1].err == ""
    assert "cannot be sharded (Own); leave it out" in " ".join(done[0].err.split())
    refused(of_bert(terms=[{"name": "rkd", "on": "logits"}], live=True, train={"teacher_sharding": "fsdp"}),
            r"train\.teacher_sharding: no term reads the teachers' hidden states.*; leave it out")  # fmt: skip
