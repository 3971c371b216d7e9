"""Every kind of task and of teacher, from the files to results.json."""

from __future__ import annotations

import csv
import json
import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import TEACHER, WORDS, rows

import kdtoolkit
from kdtoolkit import InputError, Task
from kdtoolkit.example import example_id
from kdtoolkit.pipeline.measure import combined
from kdtoolkit.pipeline.student_data import _scaling
from kdtoolkit.recipe.load import load_recipe, recipe_from_dict

LEARN = {"train": {"epochs": 6}, "evaluate": {"baseline": False}}
QUICK = {"evaluate": {"baseline": False}}
BAG = """
from torch import nn
from kdtoolkit import Student


class Bag(Student):
    def __init__(self, vocab_size):
        super().__init__(width=6)
        self.embed = nn.Embedding(vocab_size, 6, padding_idx=0)

    def encode(self, batch):
        return self.embed(batch.ids).sum(1) * {scale}
"""
TOPICS = {"art": {"film", "book", "song"}, "food": {"meal"}, "place": {"view", "road"}}

LABELLER = """
import numpy as np
version = "1"
TOPICS = {topics!r}

def several(texts):
    return np.array([[4.0 if set(t.split()) & words else -4.0 for words in TOPICS.values()] for t in texts])

def one(texts):
    counts = np.array([[sum(w in words for w in t.split()) for words in TOPICS.values()] for t in texts], float)
    return 4 * counts - [0.0, 0.1, 0.2]

def chances(texts):
    powers = np.exp(one(texts))
    return powers / powers.sum(1, keepdims=True)
"""


def topic_rows(count, seed, several):
    generator = random.Random(seed)
    for _ in range(count):
        words = generator.choices(WORDS, k=4)
        found = [topic for topic, known in TOPICS.items() if known & set(words)]
        counts = [sum(w in known for w in words) - 0.01 * i for i, known in enumerate(TOPICS.values())]
        yield {"text": " ".join(words), "label": found if several else list(TOPICS)[int(np.argmax(counts))]}


@pytest.fixture
def topics(tmp_path, recipe):
    """topics(several): the recipe of a task `topic` with three labels, and its labeller."""
    (tmp_path / "labeller.py").write_text(LABELLER.format(topics=TOPICS))

    def make(several, **changes):
        for split, count, seed in (("train", 320, 1), ("dev", 80, 2)):
            path = tmp_path / "topics" / f"{split}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in topic_rows(count, seed, several)))
        kind = "multilabel" if several else "classification"
        base = {
            "tasks": [{"name": "topic", "kind": kind, "text": "text", "labels": list(TOPICS)}],
            "data": {"folder": str(tmp_path / "topics")},
            "teachers": [{"name": f"python:{tmp_path / 'labeller.py'}:{'several' if several else 'one'}"}],
        }
        return recipe(**{**base, **changes})

    return make


@pytest.mark.parametrize("batch", ["one_task", "mixed"])
def test_a_multilabel_task_is_learned_and_predicted(topics, run_of, batch):
    results, run = run_of(topics(True, train={"epochs": 8}, sampler={"batch": batch}))
    entry = results["tasks"]["topic"]
    assert entry["teacher"]["value"] == 1.0 and entry["student"]["value"] > 0.85 and entry["agreement"] > 0.85
    (said,) = kdtoolkit.load(run).predict(["film meal bad"])
    assert said.label == ["art", "food"]
    assert said.probabilities["place"] < 0.5 < min(said.probabilities["art"], said.probabilities["food"])


def test_a_task_of_three_classes_is_learned_and_predicted(topics, run_of):
    results, run = run_of(topics(False, train={"epochs": 6}))
    entry = results["tasks"]["topic"]
    assert entry["teacher"]["value"] == 1.0 and entry["student"]["value"] > 0.8
    assert entry["student"]["ece"] is not None and entry["gap_closed"] is not None
    (said,) = kdtoolkit.load(run).predict(["film book film song"])
    assert said.label == "art" and list(said.probabilities) == list(TOPICS)


def test_a_regression_task_is_learned_in_its_own_unit(recipe, tiny, run_of):
    tasks = [{"name": "likeness", "kind": "regression", "text": ["one", "two"]}]
    teachers = [f"python:{tiny / 'teacher_module.py'}:distance"]
    still = {"student": {"dropout": 0.0}, "optimizer": {"learning_rate": 0.03}}  # else so few rows need luck
    results, run = run_of(recipe(tasks=tasks, teachers=teachers, train={"epochs": 20}, **still))
    entry = results["tasks"]["likeness"]
    assert entry["metric"] == "pearson" and entry["teacher"]["value"] == pytest.approx(1.0)
    assert entry["student"]["value"] > 0.3 and entry["student"]["ece"] is None
    values = [p.label for p in kdtoolkit.load(run).predict([("a film", "a film"), ("good road", "bad meal")])]
    assert all(-2 < value < 7 for value in values)


@pytest.mark.parametrize(
    "student", [{"name": "bilstm", "width": 8, "pairs": "joint"}, {"name": "transformer", "width": 8, "layers": 1}]
)
@pytest.mark.parametrize("batch", ["one_task", "mixed"])
def test_all_kinds_train_together(recipe, topics, tiny, run_of, student, batch):
    module, labeller = tiny / "teacher_module.py", tiny / "labeller.py"
    topics(True)
    shutil.move(tiny / "topics", tiny / "data/topic")
    tasks = recipe()["tasks"] + [{"name": "topic", "kind": "multilabel", "text": "text", "labels": list(TOPICS)}]
    teachers = [
        {"name": f"python:{module}:score", "tasks": ["mood"]},
        {"name": f"python:{labeller}:several", "tasks": ["topic"]},
    ]
    results, run = run_of(recipe(tasks=tasks, teachers=teachers, student=student, sampler={"batch": batch}))
    assert {name: "teacher" in entry for name, entry in results["tasks"].items()} == {
        "mood": True, "likeness": False, "topic": True,
    }  # fmt: skip
    assert all("gold_only" in entry for entry in results["tasks"].values())
    predictor = kdtoolkit.load(run)
    assert predictor.predict([("a", "b")], task="likeness") and predictor.predict(["film"], task="topic")


def test_an_own_task_needs_two_files_and_no_recipe(tmp_path, kdtool):
    for split, count, seed in (("train", 200, 1), ("dev", 50, 2)):
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(rows(count, seed, pair=False))
    options = ("--train", "train.csv", "--dev", "dev.csv", "--teacher", "python:mine:score", "--student", "bilstm")
    sets = ("tokenizer.vocabulary=64", "train.epochs=1", "student.width=8", "evaluate.latency=false")
    # The columns of the teacher are those of the labels found in the file: high, low.
    (tmp_path / "mine.py").write_text(TEACHER.replace("- 2.0", "- 2.1") + "\nscore.labels = ['low', 'high']\n")
    done = kdtool("distill", *options, *(part for s in sets for part in ("--set", s)), "--out", "run", cwd=tmp_path)
    assert "labels found in the data: high, low" in done.stdout + done.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    (entry,) = results["tasks"].values()
    assert entry["rows"] == 50 and entry["teacher"]["value"] == 1.0


def test_rows_without_label_and_rows_without_teacher_are_used_for_what_they_have(mood, tiny, run_of):
    path = tiny / "data/mood/train.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number, line in enumerate(lines):
        if number % 3 == 0:
            line["label"] = None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    dev = [json.loads(line) for line in (tiny / "data/mood/dev.jsonl").read_text().splitlines()]
    with (tiny / "some.jsonl").open("w") as file:
        for number, line in enumerate([*lines, *dev]):
            if number % 5:
                file.write(json.dumps({"text": line["text"], "probabilities": {"low": 0.25, "high": 0.75}}) + "\n")
    teacher = {"name": str(tiny / "some.jsonl"), "partial": True}
    results, run = run_of(mood(teachers=[teacher]))
    outputs = np.load(run / "data/mood/train-teacher.npy")[:, 0]
    silent = np.isnan(outputs).all(1)
    assert 0 < silent.sum() < len(outputs)
    np.testing.assert_allclose(np.exp(outputs[~silent]), [[0.25, 0.75]] * int((~silent).sum()), rtol=1e-6)
    entry = results["tasks"]["mood"]
    assert entry["teacher"]["rows"] < entry["rows"] and entry["gap_closed"] is None
    # And a file that lacks rows is refused where nothing was said of it.
    with pytest.raises(InputError, match=r"has no values for .* texts.*partial: true"):
        run_of(mood(teachers=[{"name": str(tiny / "some.jsonl")}]), "other")


def test_transfer_text_and_the_first_gold_rows(mood, run_of):
    results, run = run_of(mood(data={"mood": {"gold_rows": 60, "transfer_rows": 100}}))
    state = json.loads((run / "run.json").read_text())["stages"]
    rows = 160
    assert len(np.load(run / "data/mood/train-teacher.npy")) == rows
    assert state["distill"]["steps"] == state["baseline"]["steps"] == 10  # as many updates on 60 rows as on 160
    assert results["tasks"]["mood"]["student"]["value"] >= 0


def test_a_task_without_any_label_has_no_baseline_to_compare_with(recipe, tiny, run_of):
    path = tiny / "data/likeness/train.jsonl"
    lines = [{**json.loads(line), "label": None} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    results, _ = run_of(recipe())
    assert "gold_only" in results["tasks"]["mood"] and "gold_only" not in results["tasks"]["likeness"]
    assert results["tasks"]["likeness"]["teacher"]["value"] == pytest.approx(1.0)
    with pytest.raises(InputError, match="task 'likeness': has neither a teacher nor gold labels"):
        run_of(recipe(teachers=[recipe()["teachers"][0]]), "other")


# --- stored teachers ---------------------------------------------------------------------------------------------


def _probabilities(text):
    good = sum(word in {"good", "fine", "great"} for word in text.split())
    high = 1 / (1 + np.exp(-(4.0 * good - 4.0)))
    return [1 - high, high]


def _texts(tiny):
    paths = [tiny / f"data/mood/{split}.jsonl" for split in ("train", "dev")]
    return [json.loads(line)["text"] for path in paths for line in path.read_text().splitlines()]


def _write(path, columns):
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
        return
    records = [dict(zip(columns, values)) for values in zip(*columns.values())]
    with path.open("w", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(record) + "\n" for record in records)
        else:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(records)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("values", ["probabilities", "logits", "top"])
def test_stored_values_of_any_form_and_format_teach_alike(mood, tiny, run_of, ending, values):
    texts = _texts(tiny)
    said = np.array([_probabilities(text) for text in texts])
    logits = np.log(said) + 3.0  # any constant a row
    columns = {"text": texts}
    if values == "top":
        columns |= {"label": [["low", "high"][i] for i in said.argmax(1)], "score": said.max(1).tolist()}
    elif ending == "csv":
        prefix = {"probabilities": "prob_", "logits": "logit_"}[values]
        chosen = said if values == "probabilities" else logits
        columns |= {f"{prefix}high": chosen[:, 1].tolist(), f"{prefix}low": chosen[:, 0].tolist()}
    else:
        chosen = said if values == "probabilities" else logits
        columns |= {values: [{"high": float(b), "low": float(a)} for a, b in chosen]}
    path = tiny / f"said.{ending}"
    _write(path, columns)
    results, run = run_of(mood(teachers=[str(path)], **QUICK))
    assert results["tasks"]["mood"]["teacher"]["value"] == 1.0
    stored = np.load(run / "data/mood/train-teacher.npy")[:, 0]
    powers = np.exp(stored - stored.max(1, keepdims=True))
    lines = [json.loads(line)["text"] for line in (tiny / "data/mood/train.jsonl").read_text().splitlines()]
    expected = [_probabilities(text) for text in lines]
    np.testing.assert_allclose(powers / powers.sum(1, keepdims=True), expected, atol=1e-5)


def test_values_by_id_need_no_text(mood, tiny, run_of):
    texts = _texts(tiny)
    said = [_probabilities(text) for text in texts]
    named = [dict(zip(("low", "high"), values)) for values in said]
    _write(tiny / "ids.parquet", {"id": [example_id(text, None) for text in texts], "probabilities": named})
    assert run_of(mood(teachers=[str(tiny / "ids.parquet")], **QUICK))[0]["tasks"]["mood"]["teacher"]["value"] == 1.0


def test_averaged_probabilities_are_refused_at_another_temperature_than_1(mood, tiny, run_of):
    texts = _texts(tiny)
    _write(
        tiny / "mean.jsonl",
        {"text": texts, "probabilities": [dict(zip(("low", "high"), _probabilities(t))) for t in texts]},
    )
    teachers = [{"name": str(tiny / "mean.jsonl"), "averaged": True}]
    for objective, key in [
        ({"temperature": 2.0}, "objective.temperature"),
        ({"temperature": {"from": 1.0, "to": 2.0}}, "objective.temperature"),
        ({"temperature": 1.0, "tasks": {"mood": {"temperature": 4}}}, "objective.tasks.mood.temperature"),
    ]:
        with pytest.raises(InputError, match=f"averaged probabilities .* temperature 1 only; set {key}: 1"):
            recipe_from_dict(mood(teachers=teachers, objective=objective))
    results, _ = run_of(mood(teachers=teachers, objective={"temperature": 1.0}, **QUICK))
    assert results["tasks"]["mood"]["teacher"]["value"] == 1.0


def test_the_probabilities_of_one_model_teach_as_its_logits_do_at_any_temperature(mood, tiny, run_of):
    texts = _texts(tiny)
    said = np.array([_probabilities(text) for text in texts])
    _write(
        tiny / "p.jsonl", {"text": texts, "probabilities": [dict(zip(("low", "high"), map(float, s))) for s in said]}
    )
    _write(
        tiny / "z.jsonl",
        {"text": texts, "logits": [dict(zip(("low", "high"), map(float, s))) for s in np.log(said) - 5]},
    )
    weights = []
    for name in ("p", "z"):
        _, run = run_of(mood(teachers=[str(tiny / f"{name}.jsonl")], objective={"temperature": 4.0}, **QUICK), name)
        texts = ["good film", "bad meal great", "dull"]
        weights.append(kdtoolkit.load(run).predict_logits(texts))
    np.testing.assert_allclose(*weights, atol=2e-3)


# --- ensembles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["probabilities", "logits"])
def test_an_ensemble_is_averaged_as_the_recipe_says_with_its_weights(mood, tiny, run_of, how):
    texts = _texts(tiny)
    members = [np.array([[0.1, 0.9]] * len(texts)), np.array([[0.96, 0.04]] * len(texts))]
    for number, said in enumerate(members):
        _write(
            tiny / f"m{number}.jsonl",
            {"text": texts, "probabilities": [dict(zip(("low", "high"), map(float, s))) for s in said]},
        )
    teachers = [{"name": str(tiny / "m0.jsonl"), "weight": 2.0}, {"name": str(tiny / "m1.jsonl"), "weight": 1.0}]
    objective = {"ensemble": how, "temperature": 1.0, "alpha": 0.0}
    train = {"epochs": 12, "select": None}
    results, run = run_of(mood(teachers=teachers, objective=objective, train=train, **QUICK))
    if how == "probabilities":
        mean = (2 * members[0][0] + members[1][0]) / 3
    else:
        mean = np.exp((2 * np.log(members[0][0]) + np.log(members[1][0])) / 3)
        mean = mean / mean.sum()
    # With nothing but that to learn, the student says the average.
    probabilities = kdtoolkit.load(run).predict(["good film", "bad"])[0].probabilities
    np.testing.assert_allclose(list(probabilities.values()), mean, atol=0.02)
    assert np.load(run / "data/mood/train-teacher.npy").shape[1:] == (2, 2)
    high = np.mean(
        [json.loads(line)["label"] == "high" for line in (tiny / "data/mood/dev.jsonl").read_text().splitlines()]
    )
    assert results["tasks"]["mood"]["teacher"]["value"] == pytest.approx(high if mean[1] > 0.5 else 1 - high)


def test_members_of_different_kinds_make_one_ensemble(mood, tiny, bert, run_of):
    module = tiny / "teacher_module.py"
    tuned = {"name": str(bert(head=False)), "epochs": 1, "batch_rows": 16, "learning_rate": 1e-3}
    ready = {"name": str(bert(labels=["high", "low"])), "weight": 0.5}
    results, run = run_of(
        mood(teachers=[f"python:{module}:score", tuned, ready], evaluate={"baseline": False, "latency": False})
    )
    assert np.load(run / "data/mood/train-teacher.npy").shape[1:] == (3, 2)
    assert (run / "teacher/mood/member-1/config.json").is_file()
    assert results["tasks"]["mood"]["student"]["value"] > 0.4


def test_tasks_can_have_ensembles_of_different_sizes(recipe, tiny, run_of):
    module = tiny / "teacher_module.py"
    teachers = [
        {"name": f"python:{module}:score", "tasks": ["mood"]},
        {"name": f"python:{module}:score", "tasks": ["mood"], "weight": 3.0},
        {"name": f"python:{module}:distance", "tasks": ["likeness"]},
    ]
    results, _ = run_of(recipe(teachers=teachers, sampler={"batch": "mixed"}))
    assert results["tasks"]["likeness"]["teacher"]["value"] == pytest.approx(1.0)


# --- words and objectives ----------------------------------------------------------------------------------------


def test_word_vectors_of_a_small_glove_file_go_into_the_student(mood, tiny, run_of):
    generator = np.random.default_rng(0)
    vectors = {word: generator.normal(size=12).round(4) for word in [*WORDS[:-2], "unseen"]}
    path = tiny / "glove.6B.12d.txt"
    path.write_text("".join(f"{word} {' '.join(map(str, values))}\n" for word, values in vectors.items()))
    tokenizer = {"name": "words", "vocabulary": 64, "vectors": str(path)}
    still = {"optimizer": {"learning_rate": 1e-30}}
    results, run = run_of(mood(tokenizer=tokenizer, **still, **QUICK))
    predictor = kdtoolkit.load(run)
    path.unlink()
    table = predictor.model.student.embed.weight.detach().numpy()
    for word in ("good", "bad"):
        ((piece,),) = predictor.tokenizer.encode_batch([word])
        np.testing.assert_allclose(table[piece], vectors[word], rtol=1e-6)
    assert sorted(p.name for p in tiny.glob("*.pt")) == []
    assert results["tasks"]["mood"]["student"]["value"] >= 0


@pytest.mark.parametrize("kind", ["ce", "kl", "rkl", "jsd", "tvd", "mse", "mse_centered"])
def test_every_kind_of_soft_loss_learns(mood, run_of, kind):
    objective = {"kind": kind, "alpha": 0.0, "temperature": 2.0}
    still = {"student": {"dropout": 0.0}, "optimizer": {"learning_rate": 0.03}}  # else so few rows need luck
    results, _ = run_of(mood(objective=objective, **still, **LEARN))
    assert results["tasks"]["mood"]["agreement"] > 0.8


def test_a_task_of_weight_0_learns_nothing_and_its_own_options_count(recipe, run_of):
    own = {"tasks": {"likeness": {"weight": 0.0}, "mood": {"alpha": 1.0, "temperature": 1.0}}}
    results, _ = run_of(recipe(objective=own, **LEARN))
    other, _ = run_of(recipe(objective={"tasks": {"mood": {"weight": 0.0}}}, **LEARN), "other")
    assert results["tasks"]["mood"]["student"]["value"] > other["tasks"]["mood"]["student"]["value"]


def test_a_recipe_of_the_command_line_says_the_same_as_a_file(tmp_path):
    made = load_recipe(None, shorthands={"train": "a/train.csv", "dev": "a/dev.csv", "teacher": ["labels.jsonl"]})
    assert [t.name for t in made.teachers] == ["labels.jsonl"] and made.data.task("a").dev == "a/dev.csv"


def test_where_all_gold_values_are_equal_the_teacher_says_the_scale():
    taught = np.array([[[1.0]], [[3.0]], [[np.nan]]])
    assert _scaling(np.array([2.0, 2.0, np.nan], np.float32), taught) == (2.0, 1.0)
    assert _scaling(np.array([2.0, 2.0], np.float32), None) == (2.0, 1.0)
    assert _scaling(np.array([1.0, 5.0], np.float32), taught) == (3.0, 2.0)


@pytest.mark.parametrize("how", ["probabilities", "logits"])
def test_an_impossible_class_is_a_word_of_the_teacher_and_not_silence(how):
    task = Task("topic", text=("text",), labels=("a", "b", "c"))
    one = np.array([[[1.0, 0.0, -np.inf]], [[np.nan] * 3]], np.float32)
    said = combined(task, one, [2.0], how=how)
    assert np.isnan(said[1]).all() and not np.isnan(said[0]).any()
    assert said[0, 2] < -20 and said[0, 0] - said[0, 1] == pytest.approx(1.0)
    two = np.array([[[1.0, 0.0, -np.inf], [0.0, 0.0, 0.0]]], np.float32)
    shares = np.exp(combined(task, two, [1.0, 1.0], how="probabilities").astype(np.float64))[0]
    e = np.e / (1 + np.e)
    np.testing.assert_allclose(shares, [(e + 1 / 3) / 2, (1 - e + 1 / 3) / 2, 1 / 6], rtol=1e-5)


def test_a_joint_teacher_whose_students_code_has_changed_is_trained_anew(tiny, kdtool):
    recipe = (tiny / "tiny.yaml").read_text()
    start, end = recipe.index("teachers:"), recipe.index("student:")
    teachers = 'teachers: [{name: joint, student: "mine.py:Bag", epochs: 1}]\n'
    (tiny / "tiny.yaml").write_text(recipe[:start] + teachers + recipe[end:])
    weights = []
    for run, scale in (("one", 1.0), ("same", 1.0), ("other", 3.0)):
        (tiny / "mine.py").write_text(BAG.format(scale=scale))
        kdtool("teach", "--recipe", "tiny.yaml", "--out", run, cwd=tiny)
        weights.append((tiny / run / "teacher/joint-0/model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_the_examples_on_the_board_are_silent_where_the_teacher_is(mood, tiny, run_of, events):
    module = tiny / "at_times.py"
    module.write_text(
        "import numpy as np\nversion = 1\n"
        "def say(texts):\n    return np.array([[np.nan] * 2 if 'film' in text else [0.0, 1.0] for text in texts])\n"
    )
    _, run = run_of(mood(teachers=[{"name": f"python:{module}:say", "partial": True}], **QUICK))
    table = events(run / "tensorboard/student")[1]["predictions/mood/text_summary"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [row[2] for row in rows] == ["" if "film" in row[0] else "high" for row in rows]
    assert len({row[2] for row in rows}) == 2
