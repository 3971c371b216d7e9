"""A teacher of several tasks whose heads are not all linear: SAN for pairs, a hidden layer, a rate for each task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kdtoolkit.data.rows import write_rows
from kdtoolkit.errors import InputError, WorkError
from kdtoolkit.example import Example
from kdtoolkit.tasks import GLUE, Task
from kdtoolkit.testing import check_teacher
from kdtoolkit_teachers.checkpoint import HEADS, Checkpoint
from kdtoolkit_teachers.classifier import SharedEncoder
from kdtoolkit_teachers.hugging_face import HuggingFaceTeacher
from kdtoolkit_teachers.sequences import Reader
from kdtoolkit_teachers.task_heads import section_of

SST2, STSB, MRPC = GLUE["sst2"], GLUE["stsb"], GLUE["mrpc"]
TASKS = {task.name: task for task in (SST2, STSB, MRPC)}
SAN = {"tasks": {"mrpc": {"name": "san", "steps": 3, "dropout": 0.3}, "stsb": {"hidden": 8}}}
QUICK = {"multitask": True, "epochs": 1, "learning_rate": 1e-2, "batch_rows": 16, "max_tokens": 24, "heads": SAN}
STILL = {"epochs": 0.01, "learning_rate": 1e-12}
"""A refinement of one step that moves nothing."""


def examples(task: Task, count: int, *, labelled: bool = True) -> list[Example]:
    found = []
    for number in range(count):
        good = number % 2 == 0
        word = (["good", "great", "fine"] if good else ["bad", "awful", "poor"])[number % 3]
        label = 100.0 + 10 * good if task.kind == "regression" else int(good)
        text, second = f"the film is {'very ' * (number % 4)}{word}", "it is so" if task.pair else None
        found.append(Example(task.name, text, second, label if labelled else None))
    return found


def good(count: int) -> np.ndarray:
    return np.arange(count) % 2 == 0


@pytest.fixture
def rows(tmp_path):
    return {
        name: write_rows(tmp_path / f"{name}.arrow", task, [examples(task, count)])
        for (name, task), count in zip(TASKS.items(), (32, 32, 48))
    }


@pytest.fixture
def base(checkpoint):
    return str(checkpoint("bert", head=False, initializer_range=0.1))


def trained(base, rows, folder, *, seed=0, **options):
    teacher = HuggingFaceTeacher(base, MRPC, **{**QUICK, **options})
    teacher.fine_tune_jointly({name: TASKS[name] for name in rows}, rows, folder, seed=seed)
    return teacher


def answers(folder, task, count=8, **options):
    teacher = HuggingFaceTeacher(str(folder), task, max_tokens=24, **{"precision": "fp32", **options})
    return teacher.logits(examples(task, count, labelled=False))


@pytest.mark.parametrize(("family", "batch"), [("bert", "one_task"), ("roberta", "mixed")])
def test_it_learns_under_heads_of_all_kinds(checkpoint, rows, tmp_path, family, batch):
    base = str(checkpoint(family, head=False, initializer_range=0.1))
    trained(base, rows, tmp_path / "joint", epochs=12, dropout=0.0, batch=batch)
    found = {name: answers(tmp_path / "joint", task, 24) for name, task in TASKS.items()}
    assert (found["mrpc"].argmax(1) == good(24)).mean() > 0.9
    np.testing.assert_allclose(np.exp(found["mrpc"]).sum(1), 1, atol=1e-5)  # SAN gives log-probabilities
    assert (found["sst2"].argmax(1) == good(24)).mean() > 0.9
    np.testing.assert_allclose(found["stsb"][:, 0], 100 + 10 * good(24), atol=4)


def test_the_folder_is_a_plain_encoder_with_what_rebuilds_its_heads(base, rows, tmp_path):
    from transformers import AutoModel

    folder = tmp_path / "joint"
    teacher = trained(base, rows, folder, dropout=0.2)
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", HEADS, "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    AutoModel.from_pretrained(folder)
    record = json.loads((folder / "config.json").read_text())["kdtoolkit"]
    assert record["tasks"].keys() == TASKS.keys() and "refined" not in record
    assert record["heads"] == {
        "sst2": {"name": "auto", "dropout": 0.2},
        "stsb": {"name": "auto", "dropout": 0.2, "hidden": 8},
        "mrpc": {"name": "san", "steps": 3, "step_dropout": 0.1, "dropout": 0.3},
    }
    tensors = Checkpoint(folder, "teacher").head_tensors("mrpc")
    assert tensors["weight.mrpc"].shape == (2, 64) and "san.mrpc.cell.weight_ih" in tensors
    before = HuggingFaceTeacher(base, SST2)
    heads = sum(tensor.numel() for name in TASKS for tensor in Checkpoint(folder, "t").head_tensors(name).values())
    assert teacher.parameters() == before.parameters() + heads and teacher.bytes() > before.bytes()


def test_it_keeps_the_contract_of_a_teacher_in_any_order_of_labels_and_texts(base, rows, tmp_path):
    trained(base, rows, tmp_path / "joint")
    texts = examples(MRPC, 8, labelled=False)
    teacher = HuggingFaceTeacher(str(tmp_path / "joint"), MRPC)
    check_teacher(teacher, texts)
    other = HuggingFaceTeacher(str(tmp_path / "joint"), MRPC.with_(labels=MRPC.labels[::-1]))
    np.testing.assert_array_equal(teacher.logits(texts)[:, ::-1], other.logits(texts))
    small = HuggingFaceTeacher(str(tmp_path / "joint"), MRPC, batch_tokens=1)
    np.testing.assert_allclose(teacher.logits(texts), small.logits(texts), atol=1e-5)
    swapped = [Example(e.task, e.second, e.text) for e in texts]
    assert np.abs(teacher.logits(texts) - teacher.logits(swapped)).max() > 1e-4


def test_a_pair_of_which_one_text_was_given_has_an_empty_second_one(base, rows, tmp_path):
    trained(base, rows, tmp_path / "joint")
    teacher = HuggingFaceTeacher(str(tmp_path / "joint"), MRPC)
    one, empty = [Example("mrpc", "a good film")], [Example("mrpc", "a good film", "")]
    assert np.isfinite(teacher.logits(one)).all()
    np.testing.assert_array_equal(teacher.logits(one), teacher.logits(empty))
    np.testing.assert_array_equal(teacher.features(one, []).ids, teacher.features(empty, []).ids)


def test_its_hidden_states_are_those_of_its_encoder(base, rows, tmp_path):
    from transformers import AutoModel

    trained(base, rows, tmp_path / "joint")
    teacher = HuggingFaceTeacher(str(tmp_path / "joint"), MRPC)
    found = teacher.features(examples(MRPC, 1, labelled=False), ["hidden/2"])
    ids, mask = torch.from_numpy(found.ids), torch.from_numpy(found.mask)
    segments = torch.zeros_like(ids)
    segments[:, -4:] = 1  # it is so [SEP]
    with torch.no_grad():
        encoder = AutoModel.from_pretrained(tmp_path / "joint").eval()
        expected = encoder(input_ids=ids, attention_mask=mask.long(), token_type_ids=segments).last_hidden_state
    np.testing.assert_allclose(found.values["hidden/2"], expected.numpy(), atol=1e-5)


def test_a_killed_training_resumes_to_the_same_bits(base, rows, tmp_path, monkeypatch):
    from kdtoolkit.training import checkpoint as checkpoints

    options = {"checkpoint_every_steps": 2, "optimizer": "adamax", "batch": "mixed", "layer_decay": 0.9}
    trained(base, rows, tmp_path / "whole", **options)
    save = checkpoints.save

    def save_and_die(*arguments, **keywords):
        save(*arguments, **keywords)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        trained(base, rows, tmp_path / "cut", **options)
    monkeypatch.setattr(checkpoints, "save", save)
    torch.manual_seed(123)
    trained(base, rows, tmp_path / "cut", **options)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_heads_are_part_of_what_makes_a_training_another(base, rows, tmp_path):
    few = {"mrpc": rows["mrpc"]}
    keys = set()
    for number, heads in enumerate((None, {}, SAN, {**SAN, "steps": 2}, {"tasks": {"mrpc": {"name": "san"}}})):
        folder = tmp_path / str(number)
        trained(base, few, folder, heads=heads, max_steps=1)
        keys.add(Checkpoint(folder, "t").record["key"])
    assert len(keys) == 4  # the steps of all are overruled by those of the task
    written = (tmp_path / "2" / HEADS).stat().st_mtime_ns
    trained(base, few, tmp_path / "2", max_steps=1)
    assert (tmp_path / "2" / HEADS).stat().st_mtime_ns == written
    trained(base, few, tmp_path / "2", max_steps=1, heads={"tasks": {"qqp": {"name": "san"}, **SAN["tasks"]}})
    assert (tmp_path / "2" / HEADS).stat().st_mtime_ns == written, "a task that it does not learn changes nothing"


def refined(folder, task, rows, into, **options):
    teacher = HuggingFaceTeacher(str(folder), task, **{**QUICK, "refine": STILL, **options})
    assert teacher.ready and teacher.refines
    teacher.fine_tune(rows[task.name], into, seed=1)
    return teacher


@pytest.mark.parametrize("task", [MRPC, STSB, MRPC.with_(labels=MRPC.labels[::-1])], ids=["san", "number", "reversed"])
def test_a_refinement_goes_on_with_the_trained_head(base, rows, tmp_path, task):
    trained(base, rows, tmp_path / "joint")
    teacher = refined(tmp_path / "joint", task, rows, tmp_path / "alone")
    assert teacher.ready and not teacher.refines
    expected = answers(tmp_path / "joint", task)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(answers(tmp_path / "alone", task), expected, rtol=1e-4, atol=1e-4)
    record = Checkpoint(tmp_path / "alone", "t").record
    assert record["refined"] and set(record["tasks"]) == set(record["heads"]) == {task.name}
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {p.name for p in (tmp_path / "joint").iterdir()}
    again = HuggingFaceTeacher(str(tmp_path / "alone"), task, **{**QUICK, "refine": STILL})
    assert again.ready and again.joint and not again.refines


def test_a_refinement_with_a_new_head_begins_with_a_fresh_one_of_the_same_form(base, rows, tmp_path):
    trained(base, rows, tmp_path / "joint", head="new")
    refined(tmp_path / "joint", MRPC, rows, tmp_path / "alone", head="new")
    before, after = (Checkpoint(tmp_path / name, "t") for name in ("joint", "alone"))
    assert before.heads["mrpc"] == after.heads["mrpc"]
    old, new = before.head_tensors("mrpc"), after.head_tensors("mrpc")
    assert old.keys() == new.keys() and not torch.allclose(old["weight.mrpc"], new["weight.mrpc"], atol=1e-3)
    encoders = [found.load_encoder().state_dict() for found in (before, after)]
    torch.testing.assert_close(*encoders)
    assert HuggingFaceTeacher(str(tmp_path / "alone"), MRPC, **{**QUICK, "head": "new"}).ready


def test_bf16_trains_and_answers(base, rows, tmp_path):
    trained(base, rows, tmp_path / "joint", precision="bf16", batch="mixed")
    exact, near = answers(tmp_path / "joint", MRPC), answers(tmp_path / "joint", MRPC, precision="bf16")
    assert np.isfinite(exact).all() and np.abs(exact - near).max() < 0.1


def test_heads_lie_above_all_layers_of_the_encoder(base):
    model = SharedEncoder(
        Checkpoint(Path(base), "t").load_encoder(), [MRPC, STSB], dropout=0.0, mixed=False,
        heads=section_of({"mrpc": {"name": "san"}, "stsb": {"name": "auto", "hidden": 8}}),
    )  # fmt: skip
    depths = model.depths()
    assert depths.keys() == {name for name, _ in model.named_parameters()}
    heads = {name: depth for name, depth in depths.items() if name.startswith("heads.")}
    assert len(heads) > 10 and set(heads.values()) == {4} and max(depths.values()) == 4


@pytest.mark.parametrize(
    ("pair", "first"),
    [(("good film", "bad"), 5), (("", "bad"), 3), (("good", ""), 4), (("", ""), 3), (("very " * 40, "bad plot"), None)],
)
def test_the_texts_of_a_pair_are_told_apart_where_the_tokenizer_gives_them_one_type(checkpoint, pair, first):
    folder = checkpoint("roberta", head=False)
    readers = [Reader(folder, "t", max_tokens=16, trust_remote_code=False, apart=apart) for apart in (False, True)]
    (plain,), (apart,) = (reader.encode([pair]) for reader in readers)
    assert plain.ids.tolist() == apart.ids.tolist() and plain.first == len(plain.ids)
    assert apart.first == (first or len(apart.ids) - 3) and readers[0].marks == 4
    single = readers[1].encode(["good film"])[0]
    assert single.first == len(single.ids)


def test_an_empty_text_of_a_pair_is_answered(checkpoint, rows, tmp_path):
    for family in ("bert", "roberta"):
        trained(str(checkpoint(family, head=False)), {"mrpc": rows["mrpc"]}, tmp_path / family, max_steps=1)
        teacher = HuggingFaceTeacher(str(tmp_path / family), MRPC)
        assert np.isfinite(teacher.logits([Example("mrpc", a, b) for a in ("", "good") for b in ("", "bad")])).all()


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"name": "biattention"}, r"heads\.name: task 'mrpc': 'biattention' attends .* use 'auto' or 'san'"),
        ({"tasks": {"mrpc": {"name": "ranking"}}}, r"heads\.tasks\.mrpc\.name: .* one by one; use 'auto' or 'san'"),
        ({"tasks": {"mrpc": {"name": "pair"}}}, "one sequence; use 'auto'"),
        ({"tasks": {"mrpc": {"name": "sann"}}}, r"heads\.tasks\.mrpc\.name: 'sann' is unknown; did you mean 'san'"),
        ({"step": 3}, r"heads\.step: there is no such key; did you mean 'steps'"),
        ({"steps": 0}, r"heads\.steps: 0 is"),
    ],
)
def test_heads_that_a_teacher_cannot_have_are_refused_with_the_way_out(base, heads, message):
    with pytest.raises(InputError, match=message):
        HuggingFaceTeacher(base, MRPC, **{**QUICK, "heads": heads})


def test_heads_mean_nothing_without_a_training_on_several_tasks(base):
    with pytest.raises(InputError, match="heads: says something about a training on several tasks"):
        HuggingFaceTeacher(base, MRPC, heads=SAN)


def test_the_heads_of_tasks_that_it_does_not_teach_are_looked_at_too(base, rows, tmp_path):
    for name, cause in (("sst2", "the task has one"), ("stsb", "the task is regression")):
        with pytest.raises(InputError, match=rf"heads\.tasks\.{name}\.name: task '{name}': 'san' .*{cause}"):
            trained(base, rows, tmp_path / "joint", heads={"tasks": {name: {"name": "san"}}})
    own = {"own": Task("own", labels=("a", "b")), "mrpc": MRPC}
    given = {"own": rows["sst2"], "mrpc": rows["mrpc"]}
    teacher = HuggingFaceTeacher(base, MRPC, **{**QUICK, "heads": {"name": "san"}})
    with pytest.raises(InputError, match="'own': 'san' reasons from one text to another"):
        teacher.fine_tune_jointly(own, given, tmp_path / "joint", seed=0)


def test_other_heads_than_those_of_the_folder_are_refused(base, rows, tmp_path):
    trained(base, rows, tmp_path / "san", max_steps=1)
    trained(base, rows, tmp_path / "linear", max_steps=1, heads=None)
    for folder, heads in (("san", {}), ("linear", SAN)):
        with pytest.raises(InputError, match=r"heads: \{name: .*; leave it out, or set `head: new`"):
            HuggingFaceTeacher(str(tmp_path / folder), MRPC, **{**QUICK, "heads": heads})
        assert HuggingFaceTeacher(str(tmp_path / folder), MRPC, **{**QUICK, "heads": None}).ready
        assert not HuggingFaceTeacher(str(tmp_path / folder), MRPC, **{**QUICK, "heads": heads, "head": "new"}).ready


def test_a_damaged_file_of_heads_is_named(base, rows, tmp_path):
    trained(base, rows, tmp_path / "san", max_steps=1)
    trained(base, rows, tmp_path / "linear", max_steps=1, heads=None)
    shutil.copy(tmp_path / "linear" / HEADS, tmp_path / "san" / HEADS)
    with pytest.raises(WorkError, match="its heads are not those of its config"):
        answers(tmp_path / "san", MRPC)


def test_a_tokenizer_without_marks_is_refused(checkpoint, rows, tmp_path):
    folder = checkpoint("bert", head=False)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    with pytest.raises(InputError, match="heads: 'san' reads each text of a pair with a mark beside it"):
        trained(str(folder), rows, tmp_path / "joint")
