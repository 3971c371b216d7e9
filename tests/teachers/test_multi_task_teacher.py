"""One encoder fine-tuned on several tasks together: what it learns, what its folder is, and what comes of it."""

from __future__ import annotations

import gc
import json
import shutil
import weakref

import numpy as np
import pytest
import torch

from kdtoolkit.data.rows import write_rows
from kdtoolkit.errors import InputError
from kdtoolkit.example import Example
from kdtoolkit.tasks import GLUE, Task
from kdtoolkit.testing import check_teacher
from kdtoolkit_teachers.checkpoint import Checkpoint
from kdtoolkit_teachers.classifier import Classifier, SharedEncoder
from kdtoolkit_teachers.gold_batches import GoldBatches, GoldRows
from kdtoolkit_teachers.hugging_face import HuggingFaceTeacher
from kdtoolkit_teachers.settings import Settings

SST2, STSB = GLUE["sst2"], GLUE["stsb"]
TAGS = Task("tags", kind="multilabel", labels=("nice", "any"), text=("text",))
TASKS = {task.name: task for task in (SST2, STSB, TAGS)}
JOINT = {"multitask": True, "epochs": 20, "learning_rate": 1e-2, "batch_rows": 16, "max_tokens": 24, "dropout": 0.0}
QUICK = {**JOINT, "epochs": 1}


def opinion(number: int) -> tuple[str, bool]:
    good = number % 2 == 0
    word = (["good", "great", "fine"] if good else ["bad", "awful", "poor"])[number % 3]
    return f"the {['film', 'plot'][number % 5 % 2]} is {'very ' * (number % 4)}{word}", good


def examples(task: Task, count: int, *, labelled: bool = True) -> list[Example]:
    found = []
    for number in range(count):
        text, good = opinion(number)
        label = {"classification": int(good), "regression": 100.0 + 10 * good, "multilabel": (int(good), 1)}[task.kind]
        gold = label if labelled and number % 16 != 15 else None
        found.append(Example(task.name, text, "it is so" if task.pair else None, gold))
    return found


@pytest.fixture
def rows(tmp_path):
    return {
        name: write_rows(tmp_path / f"{name}.arrow", task, [examples(task, count)])
        for (name, task), count in zip(TASKS.items(), (64, 48, 32))
    }


@pytest.fixture
def base(checkpoint):
    return str(checkpoint("bert", head=False, initializer_range=0.1))


def trained(base, rows, folder, *, seed=0, **options):
    teacher = HuggingFaceTeacher(base, SST2, **{**QUICK, **options})
    teacher.fine_tune_jointly({name: TASKS[name] for name in rows}, rows, folder, seed=seed)
    return teacher


def truth(count: int) -> np.ndarray:
    return np.array([opinion(number)[1] for number in range(count)])


@pytest.mark.parametrize(("family", "batch"), [("bert", "one_task"), ("bert", "mixed"), ("distilbert", "mixed")])
def test_one_encoder_learns_all_kinds_of_tasks_in_their_units(checkpoint, rows, tmp_path, family, batch):
    base = str(checkpoint(family, head=False, initializer_range=0.1))
    assert HuggingFaceTeacher(base, SST2, **JOINT).joint and not HuggingFaceTeacher(base, SST2).joint
    assert not HuggingFaceTeacher(base, SST2, **JOINT).ready
    trained(base, rows, tmp_path / "joint", **{**JOINT, "batch": batch})
    values = {}
    for name, task in TASKS.items():
        teacher = HuggingFaceTeacher(str(tmp_path / "joint"), task, **JOINT)
        assert teacher.ready and teacher.max_tokens == 24
        values[name] = teacher.logits(examples(task, 40, labelled=False))
    assert ((values["sst2"][:, 1] > values["sst2"][:, 0]) == truth(40)).mean() > 0.95
    np.testing.assert_allclose(values["stsb"][:, 0], 100.0 + 10 * truth(40), atol=3)
    assert ((values["tags"][:, 0] > 0) == truth(40)).mean() > 0.95 and (values["tags"][:, 1] > 0).all()


@pytest.mark.parametrize("heads", [None, {"name": "linear", "hidden": 8}])
def test_the_teachers_of_its_tasks_have_one_encoder_in_memory(base, rows, tmp_path, monkeypatch, heads):
    trained(base, rows, tmp_path / "joint", heads=heads)
    loaded = []
    load = Checkpoint.load_encoder
    monkeypatch.setattr(Checkpoint, "load_encoder", lambda self: loaded.append(weakref.ref(m := load(self))) or m)

    def teacher_of(name):
        return HuggingFaceTeacher(str(tmp_path / "joint"), TASKS[name], precision="fp32")

    def said(teacher):
        texts = examples(teacher.task, 8, labelled=False)
        return teacher.logits(texts), teacher.features(texts, ["hidden/1"]).values["hidden/1"]

    alone = {}
    for name in TASKS:  # one after the other, as they label
        teacher = teacher_of(name)
        alone[name] = said(teacher)
        teacher.close()
        gc.collect()
        assert loaded.pop()() is None and not loaded
    together = {name: teacher_of(name) for name in TASKS}
    for _ in range(2):
        for name, teacher in together.items():
            for one, other in zip(said(teacher), alone[name], strict=True):
                np.testing.assert_array_equal(one, other)
    (encoder,) = loaded
    *closed, last = together.values()
    for teacher in closed:
        teacher.close()
    assert encoder() is not None
    last.close()
    gc.collect()
    assert encoder() is None


def test_it_keeps_the_contract_of_a_teacher_in_any_order_of_labels(base, rows, tmp_path):
    trained(base, rows, tmp_path / "joint")
    texts = examples(SST2, 8, labelled=False)
    teacher = HuggingFaceTeacher(str(tmp_path / "joint"), SST2, precision="fp32")
    check_teacher(teacher, texts)
    other = HuggingFaceTeacher(str(tmp_path / "joint"), SST2.with_(labels=SST2.labels[::-1]), precision="fp32")
    np.testing.assert_array_equal(teacher.logits(texts)[:, ::-1], other.logits(texts))
    assert teacher.fingerprint != other.fingerprint
    small = HuggingFaceTeacher(str(tmp_path / "joint"), SST2, batch_tokens=1, precision="fp32")
    np.testing.assert_allclose(teacher.logits(texts), small.logits(texts), atol=1e-5, rtol=1e-5)


def test_the_heads_are_part_of_the_fingerprint_and_of_the_size(base, rows, tmp_path):
    trained(base, rows, tmp_path / "joint")
    teacher = HuggingFaceTeacher(str(tmp_path / "joint"), SST2)
    heads = (2 + 1 + 2) * (16 + 1)
    assert teacher.parameters() == HuggingFaceTeacher(base, SST2).parameters() + heads
    trained(base, rows, tmp_path / "other", seed=1)
    copy = shutil.copytree(tmp_path / "joint", tmp_path / "copy")
    assert HuggingFaceTeacher(str(copy), SST2).fingerprint == teacher.fingerprint
    shutil.copy(tmp_path / "other" / "heads.safetensors", copy)
    assert HuggingFaceTeacher(str(copy), SST2).fingerprint != teacher.fingerprint
    (copy / "heads.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks heads\.safetensors"):
        HuggingFaceTeacher(str(copy), SST2).fingerprint  # noqa: B018


def test_the_folder_is_a_plain_encoder_that_others_read(base, rows, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    from kdtoolkit.plugins import plugin
    from kdtoolkit.recipe.schema import TokenizerSection
    from kdtoolkit.tokenizers import build_tokenizer

    folder = tmp_path / "joint"
    trained(base, rows, folder)
    assert {p.name for p in folder.iterdir()} >= {"config.json", "model.safetensors", "heads.safetensors"}
    assert not [p for p in folder.rglob("*") if p.is_dir() or p.suffix in (".bin", ".pt", ".pkl")]
    assert str(tmp_path) not in "".join(p.read_text() for p in folder.glob("*.json"))
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        pooled = model(**tokenizer("the film is good", return_tensors="pt", return_token_type_ids=True)).pooler_output
    weight, bias = Checkpoint(folder, "teacher").head("sst2")
    given = HuggingFaceTeacher(str(folder), SST2, precision="fp32").logits([Example("sst2", "the film is good")])
    np.testing.assert_allclose(given, (pooled @ weight.T + bias).numpy(), atol=1e-5)
    section = TokenizerSection(name="teacher", vectors="copy")
    built = build_tokenizer(section, lambda: iter(["a"]), seed=0, folder=tmp_path / "t", teacher_source=str(folder))
    assert built.vectors().shape[1] == 16
    student = plugin("student", "hf")(len(built), model=str(folder))
    student.initialise()
    name = "encoder.layer.1.output.dense.weight"
    assert torch.equal(student.encoder.state_dict()[name], model.state_dict()[name])


def test_the_seed_decides_and_a_finished_folder_is_left_alone(base, rows, tmp_path):
    files = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(ord(name))
        trained(base, rows, tmp_path / name, seed=seed)
        files[name] = [(tmp_path / name / f).read_bytes() for f in ("model.safetensors", "heads.safetensors")]
    assert files["a"] == files["b"] and files["a"][0] != files["c"][0] and files["a"][1] != files["c"][1]
    written = (tmp_path / "a" / "model.safetensors").stat().st_mtime_ns
    trained(base, rows, tmp_path / "a")
    assert (tmp_path / "a" / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("optimizer", ["adamw", "adamax"])
def test_a_killed_joint_training_resumes_to_the_same_bits(base, rows, tmp_path, monkeypatch, optimizer):
    from kdtoolkit.training import checkpoint as checkpoints

    options = {"epochs": 2, "dropout": 0.1, "checkpoint_every_steps": 3, "optimizer": optimizer, "batch": "mixed"}
    options |= {"layer_decay": 0.9, "sampler_exponent": 0.75}
    trained(base, rows, tmp_path / "whole", **options)
    save, saved = checkpoints.save, []

    def save_and_die(*arguments, **keywords):
        save(*arguments, **keywords)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        trained(base, rows, tmp_path / "cut", **options)
    assert not (tmp_path / "cut" / "config.json").exists(), "not finished, and so it says"
    monkeypatch.setattr(checkpoints, "save", save)
    torch.manual_seed(123)
    trained(base, rows, tmp_path / "cut", **options)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "cut").iterdir())
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_each_task_gets_a_copy_of_its_own(base, rows, tmp_path):
    options = {**QUICK, "refine": {"epochs": 20, "learning_rate": 1e-2}}
    joint = trained(base, rows, tmp_path / "joint", **options)
    assert joint.ready and joint.refines
    joint.fine_tune(rows["sst2"], tmp_path / "alone", seed=0)
    alone = HuggingFaceTeacher(str(tmp_path / "alone"), SST2, **options)
    assert alone.ready and alone.joint and not alone.refines
    values = alone.logits(examples(SST2, 40, labelled=False))
    assert ((values[:, 1] > values[:, 0]) == truth(40)).mean() > 0.95
    plain = HuggingFaceTeacher(str(tmp_path / "joint"), SST2, head="new", epochs=20, **{
        k: v for k, v in JOINT.items() if k not in ("multitask", "epochs")})  # fmt: skip
    plain.fine_tune(rows["sst2"], tmp_path / "plain", seed=0)
    np.testing.assert_array_equal(plain.logits(examples(SST2, 40, labelled=False)), values)


def test_a_task_that_the_encoder_was_not_trained_on_has_to_be_learned(base, rows, tmp_path):
    trained(base, {"stsb": rows["stsb"]}, tmp_path / "joint")
    assert not HuggingFaceTeacher(str(tmp_path / "joint"), SST2).ready
    assert not HuggingFaceTeacher(str(tmp_path / "joint"), STSB, head="new").ready


def test_labels_that_clash_are_refused_with_both(base, rows, tmp_path):
    trained(base, rows, tmp_path / "joint")
    with pytest.raises(InputError, match=r"answers negative, positive .* is joy, grief"):
        HuggingFaceTeacher(str(tmp_path / "joint"), SST2.with_(labels=("joy", "grief")))
    with pytest.raises(InputError, match=r"answers a number \(regression\)"):
        HuggingFaceTeacher(str(tmp_path / "joint"), Task("stsb", labels=("a", "b")))


def test_a_task_without_gold_rows_is_refused(base, rows, tmp_path):
    empty = write_rows(tmp_path / "none.arrow", SST2, [examples(SST2, 4, labelled=False)])
    with pytest.raises(InputError, match="no labelled rows of 'sst2'"):
        trained(base, {"sst2": empty, "stsb": rows["stsb"]}, tmp_path / "joint")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"multitask": False, "batch": "mixed"}, "batch"),
        ({"multitask": False, "sampler_exponent": 0.75}, "sampler_exponent"),
        ({"multitask": False, "refine": {}}, "refine"),
        ({"label_map": {"LABEL_0": "negative"}}, "label_map"),
        ({"refine": {"epoch": 2}}, "refine: there is no 'epoch'"),
        ({"refine": {"epochs": 0}}, "refine.epochs"),
        ({"max_steps": 0}, "max_steps"),
        ({"layer_decay": 1.5}, "layer_decay"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"epsilon": 0}, "epsilon"),
        ({"sampler_exponent": -1}, "sampler_exponent"),
        ({"batch": "both"}, "batch"),
    ],
)
def test_an_option_that_means_nothing_is_refused_by_name(base, options, named):
    with pytest.raises(InputError, match=named):
        HuggingFaceTeacher(base, SST2, **{**QUICK, **options})


def test_layers_that_share_their_weights_have_no_rates_of_their_own(checkpoint, rows, tmp_path):
    base = str(checkpoint("albert", head=False, embedding_size=8))
    with pytest.raises(InputError, match="albert model cannot be told apart"):
        trained(base, rows, tmp_path / "joint", layer_decay=0.9)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_depths_rise_from_the_embeddings_to_the_heads(checkpoint, family):
    found = Checkpoint(checkpoint(family, head=False), "teacher")
    for model in (
        SharedEncoder(found.load_encoder(), [SST2], dropout=0.0, mixed=False),
        Classifier(found.load(fresh_head=True)),
    ):
        depths = model.depths()
        assert depths.keys() == {name for name, _ in model.named_parameters()}
        assert {depths[name] for name in depths if "embeddings" in name} == {0}
        assert {depths[name] for name in depths if ".layer.0." in name} == {1}
        assert {depths[name] for name in depths if ".layer.1." in name} == {2}
        assert {depths[name] for name in depths if ".pooler." in name} <= {3}
        assert {depths[n] for n in depths if n.startswith(("heads", "model.classifier", "model.pre_cl"))} == {4}


def test_max_steps_is_a_limit_and_no_command():
    lengths = [np.full(100, 5, np.int32), np.full(50, 7, np.int32)]
    assert Settings(batch_rows=10, epochs=2).plan(lengths, seed=0).steps == 30
    assert Settings(batch_rows=10, epochs=2, max_steps=7).plan(lengths, seed=0).steps == 7
    assert Settings(batch_rows=10, epochs=2, max_steps=31).plan(lengths, seed=0).steps == 30


def test_a_setting_at_its_default_changes_no_training():
    assert Settings().facts() == {
        "epochs": 3.0, "learning_rate": 5e-5, "batch_rows": 32, "accumulate": 1, "warmup_fraction": 0.1,
        "weight_decay": 0.01, "dropout": None, "precision": "fp32",
    }  # fmt: skip
    assert Settings(max_steps=4).facts() == {**Settings().facts(), "max_steps": 4}
    assert Settings(bias_correction=False).facts() == {**Settings().facts(), "bias_correction": False}


def test_the_optimizer_is_the_one_that_the_settings_ask_for():
    section = Settings(epsilon=1e-6, bias_correction=False, weight_decay=0.02, layer_decay=0.9).optimizer_section()
    assert (section.name, section.epsilon, section.bias_correction) == ("adamw", 1e-6, False)
    assert (section.weight_decay, section.layer_decay) == (0.02, 0.9)


def test_moments_that_are_not_corrected_make_another_teacher(base, rows, tmp_path):
    asked = [Example("sst2", "what a good film", None)]
    answers = [
        trained(base, rows, tmp_path / str(corrected), max_steps=2, bias_correction=corrected).logits(asked)
        for corrected in (True, False)
    ]
    assert np.abs(answers[0] - answers[1]).max() > 1e-6


class Sequences:
    """Sequences of one token each, the number of the row."""

    def __init__(self, rows: int) -> None:
        self.lengths = np.ones(rows, np.int32)

    def __getitem__(self, row: int):
        from kdtoolkit_teachers.sequences import TokenSequence

        return TokenSequence(np.array([row], np.int32), 1)


def test_a_batch_of_several_tasks_has_each_rows_own_label():
    nan = float("nan")
    one = GoldRows(Sequences(4), np.array([nan, 1.0, nan, 0.0], np.float32))
    two = GoldRows(Sequences(3), np.array([[nan, nan], [1, 0], [0, 1]], np.float32))
    batches = GoldBatches([one, two], pad_id=0)
    assert [len(lengths) for lengths in batches.lengths] == [2, 2]
    batch = batches(np.array([3, 0, 1, 2]))
    assert batch.tokens.ids[:, 0].tolist() == [2, 1, 3, 1] and batch.tasks.tolist() == [1, 0, 0, 1]
    np.testing.assert_array_equal(batch.labels.numpy(), [nan, 1, 0, nan])
    np.testing.assert_array_equal(batch.targets.numpy(), [[0, 1], [nan, nan], [nan, nan], [1, 0]])


def test_a_run_config_names_the_tasks(base, rows, tmp_path):
    trained(base, rows, tmp_path / "joint")
    record = json.loads((tmp_path / "joint" / "config.json").read_text())["kdtoolkit"]
    assert record["tasks"] == {
        "sst2": {"kind": "classification", "labels": list(SST2.labels)},
        "stsb": {"kind": "regression", "labels": []},
        "tags": {"kind": "multilabel", "labels": ["nice", "any"]},
    }
