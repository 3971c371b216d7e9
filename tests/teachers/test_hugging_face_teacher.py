"""A Hugging Face checkpoint as a teacher: where it is found, when it is ready, what it answers, how it learns."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdtoolkit.errors import InputError
from kdtoolkit.example import Example
from kdtoolkit.hub import ALIASES, checkpoint_folder
from kdtoolkit.tasks import GLUE, Task
from kdtoolkit.testing import check_teacher
from kdtoolkit_teachers.hugging_face import HuggingFaceTeacher

SST2, MNLI, RTE, STSB = GLUE["sst2"], GLUE["mnli"], GLUE["rte"], GLUE["stsb"]
FAMILIES = ["bert", "roberta", "distilbert"]
TEXTS = ["the film is good", "awful", "", "very very very bad plot the the the the", "a great film it is so good"]
SINGLES = [Example("sst2", text) for text in TEXTS * 3]
PAIRS = [Example("mnli", text, second) for text in TEXTS for second in TEXTS]


# ------------------------------------------------------------------------------------------------- where it is found
def lay_out_cache(hub: Path, repo: str, files: Path, *, revision: str = "main", commit: str = "a" * 40) -> Path:
    """The Hugging Face cache as huggingface_hub writes it: blobs, snapshots that link to them, refs."""
    store = hub / f"models--{repo.replace('/', '--')}"
    snapshot, blobs = store / "snapshots" / commit, store / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir(exist_ok=True)
    for file in files.iterdir():
        blob = blobs / f"{commit[0]}-{file.name}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    reference = store / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit)
    return snapshot


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hugging Face cache, offline; the constants are read when huggingface_hub is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_every_alias_is_found_in_the_cache(hub, checkpoint):
    files = checkpoint("bert", SST2.labels)
    assert len(set(ALIASES.values())) == len(ALIASES)
    for alias, repo in ALIASES.items():
        snapshot = lay_out_cache(hub, repo, files)
        assert checkpoint_folder(alias, "teacher") == snapshot == checkpoint_folder(repo, "teacher")


def test_a_fresh_process_finds_an_alias_by_its_environment_alone(tmp_path, checkpoint):
    lay_out_cache(tmp_path / "home" / "hub", ALIASES["bert-large"], checkpoint("bert", SST2.labels))
    program = (
        "from kdtoolkit.example import Example\n"
        "from kdtoolkit.plugins import plugin\n"
        "from kdtoolkit.tasks import GLUE\n"
        "teacher = plugin('teacher', 'hugging_face')('bert-large', GLUE['sst2'])\n"
        "print(teacher.ready, teacher.logits([Example('sst2', 'good')]).shape)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_CACHE"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "True (1, 2)", result.stderr
    assert result.stderr == "", "loading a teacher is silent"


def test_a_hub_id_without_a_cache_is_refused_with_the_local_forms(hub):
    with pytest.raises(InputError) as caught:
        HuggingFaceTeacher("bert-large", SST2)
    for part in (
        "bert-large",
        ALIASES["bert-large"],
        "HF_HUB_OFFLINE",
        str(hub),
        "folder",
        ".parquet",
        "python:module",
    ):
        assert part in str(caught.value)


def test_a_mistyped_alias_is_named_with_the_nearest(hub):
    with pytest.raises(InputError, match="did you mean 'bert-large'"):
        HuggingFaceTeacher("bert-lage", SST2)


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "a b c?", "no/such/path"])
def test_a_path_that_is_not_there_is_refused(hub, source):
    with pytest.raises(InputError):
        HuggingFaceTeacher(source, SST2)


def test_a_repository_of_pickles_is_read_from_its_converted_revision(hub, checkpoint, tmp_path):
    files = checkpoint("bert", SST2.labels)
    pickles = shutil.copytree(files, tmp_path / "pickles", ignore=shutil.ignore_patterns("*.safetensors"))
    lay_out_cache(hub, "some/model", pickles)
    with pytest.raises(InputError, match="pickled weights are never loaded"):
        checkpoint_folder("some/model", "teacher")
    converted = lay_out_cache(hub, "some/model", files, revision="refs/pr/7", commit="b" * 40)
    assert checkpoint_folder("some/model", "teacher") == converted
    assert checkpoint_folder("some/model", "teacher", revision="refs/pr/7") == converted


def test_only_the_hubs_own_conversion_is_trusted(monkeypatch, checkpoint, tmp_path):
    import huggingface_hub

    from kdtoolkit import hub

    files = checkpoint("bert", SST2.labels)
    pickles = shutil.copytree(files, tmp_path / "pickles", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(hub, "_offline", lambda: False)
    monkeypatch.setattr(hub, "_snapshot", lambda repo, revision: files if revision == "refs/pr/2" else pickles)
    title = hub.CONVERSION_TITLE
    stranger = SimpleNamespace(title=title, author="x", is_pull_request=True, git_reference="refs/pr/1")
    service = SimpleNamespace(title=title, author="SFconvertbot", is_pull_request=True, git_reference="refs/pr/2")
    monkeypatch.setattr(huggingface_hub, "get_repo_discussions", lambda repo: [stranger, service])
    assert checkpoint_folder("some/model", "teacher") == files
    monkeypatch.setattr(huggingface_hub, "get_repo_discussions", lambda repo: [stranger])
    with pytest.raises(InputError, match="never loaded"):
        checkpoint_folder("some/model", "teacher")


@pytest.mark.parametrize("failure", ["LocalEntryNotFoundError", "HTTPError", "OSError"])
def test_a_broken_network_is_an_input_error_with_a_way_out(monkeypatch, failure):
    from huggingface_hub import errors

    from kdtoolkit import hub

    def fail(repo, revision):
        raise getattr(errors, failure, OSError)("no route to host")

    monkeypatch.setattr(hub, "_snapshot", fail)
    with pytest.raises(InputError, match="hf download some/model"):
        checkpoint_folder("some/model", "teacher")


def test_a_folder_without_usable_files_is_refused(tmp_path, checkpoint):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        HuggingFaceTeacher(str(tmp_path / "empty"), SST2)
    folder = checkpoint("bert", SST2.labels)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="as a pickle only"):
        HuggingFaceTeacher(str(folder), SST2)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        HuggingFaceTeacher(str(folder), SST2)
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json"):
        HuggingFaceTeacher(str(folder), SST2)


# -------------------------------------------------------------------------------------------------- when it is ready
def test_a_head_with_the_tasks_names_is_ready_in_any_order(checkpoint):
    assert HuggingFaceTeacher(str(checkpoint("bert", ["Positive", "NEGATIVE"])), SST2).ready


@pytest.mark.parametrize(
    ("task", "made"),
    [
        (SST2, {"head": False}),
        (SST2, {"labels": ["joy", "sadness"]}),
        (SST2, {"labels": ["negative", "neutral", "positive"]}),
        (SST2, {"labels": ["LABEL_0", "LABEL_1", "LABEL_2"]}),
        (SST2, {"labels": list(SST2.labels), "problem_type": "multi_label_classification"}),
        (SST2, {"labels": ["LABEL_0"]}),
        (STSB, {"labels": list(SST2.labels)}),
        (STSB, {"head": False}),
        (Task("tags", kind="multilabel", labels=("a", "b")), {"labels": ["a", "b"]}),
    ],
)
def test_a_checkpoint_without_the_tasks_head_has_to_be_fine_tuned(checkpoint, task, made):
    teacher = HuggingFaceTeacher(str(checkpoint("bert", **made)), task)
    assert not teacher.ready
    with pytest.raises(InputError, match="fine-tune"):
        teacher.logits([Example(task.name, "good")])


def test_heads_of_the_other_kinds_are_ready_too(checkpoint):
    assert HuggingFaceTeacher(str(checkpoint("bert", ["score"])), STSB).ready
    tags = Task("tags", kind="multilabel", labels=("a", "b"))
    made = checkpoint("bert", ["b", "a"], problem_type="multi_label_classification")
    assert HuggingFaceTeacher(str(made), tags).ready


def test_nameless_labels_are_never_trusted(checkpoint):
    folder = str(checkpoint("bert", ["LABEL_0", "LABEL_1"]))
    with pytest.raises(InputError, match="does not say which of negative, positive is which"):
        HuggingFaceTeacher(folder, SST2)
    assert not HuggingFaceTeacher(folder, SST2, head="new").ready
    one = HuggingFaceTeacher(folder, SST2, label_map={"LABEL_0": "negative", "LABEL_1": "positive"})
    other = HuggingFaceTeacher(folder, SST2, label_map={"LABEL_1": "negative", "LABEL_0": "positive"})
    np.testing.assert_array_equal(one.logits(SINGLES), other.logits(SINGLES)[:, ::-1])
    assert one.fingerprint != other.fingerprint


def test_a_label_map_for_a_checkpoint_without_a_head_is_refused(checkpoint):
    with pytest.raises(InputError, match="no classification head"):
        HuggingFaceTeacher(str(checkpoint("bert", head=False)), SST2, label_map={0: "negative", 1: "positive"})


def test_a_checkpoint_that_lacks_the_head_it_speaks_of_is_refused(checkpoint):
    folder = checkpoint("bert", head=False)
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": dict(enumerate(SST2.labels))}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="lack"):
        HuggingFaceTeacher(str(folder), SST2).logits(SINGLES)


def test_an_encoder_with_missing_weights_is_not_fine_tuned_as_if_it_were_whole(checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = checkpoint("bert", head=False)
    kept = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if "layer.1" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="weights lack"):
        HuggingFaceTeacher(str(folder), SST2).fine_tune(tiny_rows(tmp_path, SST2), tmp_path / "tuned", seed=0)


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"precision": "fp16"}, {"head": "old"}, {"max_tokens": 4}, {"max_tokens": 4096},
                {"dropout": 1.0}, {"batch_tokens": 0}, {"warmup_fraction": 1.0}],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(checkpoint, options):
    with pytest.raises(InputError, match=next(iter(options))):
        HuggingFaceTeacher(str(checkpoint("bert", SST2.labels)), SST2, **options)


# --------------------------------------------------------------------------------------------------- what it answers
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers_for_each_text_alone(checkpoint, family):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = checkpoint(family, ["contradiction", "entailment", "neutral"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    asked = ["input_ids", "attention_mask"] + ["token_type_ids"] * (family == "bert")
    expected = []
    for example in PAIRS:
        encoded = tokenizer([example.text], [example.second], return_tensors="pt", return_token_type_ids=True)
        with torch.no_grad():
            expected.append(model(**{name: encoded[name] for name in asked}).logits[0, [1, 2, 0]].numpy())
    teacher = HuggingFaceTeacher(str(folder), MNLI, precision="fp32")
    np.testing.assert_allclose(teacher.logits(PAIRS), np.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_do_not_depend_on_company_and_repeat_to_the_bit(checkpoint, family):
    folder = str(checkpoint(family, MNLI.labels))
    teacher = HuggingFaceTeacher(folder, MNLI, precision="fp32")
    together = teacher.logits(PAIRS)
    assert together.shape == (len(PAIRS), 3) and together.dtype == np.float32
    np.testing.assert_array_equal(together, HuggingFaceTeacher(folder, MNLI, precision="fp32").logits(PAIRS))
    small = HuggingFaceTeacher(folder, MNLI, batch_tokens=1, precision="fp32")
    np.testing.assert_allclose(together, small.logits(PAIRS), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(together[::-1], teacher.logits(PAIRS[::-1]), atol=1e-5, rtol=1e-5)
    assert teacher.logits([]).shape == (0, 3)


def test_it_keeps_the_contract_of_a_teacher(checkpoint):
    check_teacher(HuggingFaceTeacher(str(checkpoint("bert", SST2.labels)), SST2), SINGLES)


def test_long_texts_are_cut_and_counted(checkpoint):
    teacher = HuggingFaceTeacher(str(checkpoint("bert", SST2.labels)), SST2)
    assert teacher.max_tokens == 66, "no more than there are positions for"
    values = teacher.logits([Example("sst2", "good " * 20_000), Example("sst2", "good"), Example("sst2", "\ud800 a")])
    assert np.isfinite(values).all()
    assert teacher.truncated == 1


def test_bf16_is_near_and_is_another_fingerprint(checkpoint):
    folder = str(checkpoint("bert", SST2.labels))
    exact, rough = (HuggingFaceTeacher(folder, SST2, precision=precision) for precision in ("fp32", "bf16"))
    np.testing.assert_allclose(exact.logits(SINGLES), rough.logits(SINGLES), atol=0.3)
    assert exact.fingerprint != rough.fingerprint


@pytest.mark.parametrize("multiplies", [False, True])
def test_auto_answers_in_bf16_where_the_processor_multiplies_it(checkpoint, monkeypatch, multiplies):
    monkeypatch.setattr("kdtoolkit_teachers.precision.multiplies_bf16", lambda: multiplies)
    folder = str(checkpoint("bert", SST2.labels))
    chosen = HuggingFaceTeacher(folder, SST2)
    same = HuggingFaceTeacher(folder, SST2, precision="bf16" if multiplies else "fp32")
    assert chosen.fingerprint == same.fingerprint
    np.testing.assert_array_equal(chosen.logits(SINGLES), same.logits(SINGLES))
    assert chosen._settings({}).precision == "fp32", "fine-tuning is not labelling"


def test_the_fingerprint_knows_the_content_and_not_the_place(checkpoint, tmp_path):
    folder = checkpoint("bert", SST2.labels)
    first = HuggingFaceTeacher(str(folder), SST2).fingerprint
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert HuggingFaceTeacher(str(copy), SST2).fingerprint == first
    assert HuggingFaceTeacher(str(checkpoint("bert", SST2.labels, seed=1)), SST2).fingerprint != first
    assert HuggingFaceTeacher(str(checkpoint("bert", SST2.labels[::-1])), SST2).fingerprint != first
    assert HuggingFaceTeacher(str(folder), SST2, max_tokens=32).fingerprint != first
    assert HuggingFaceTeacher(str(folder), SST2, batch_tokens=64).fingerprint == first, "it changes no answer"
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert HuggingFaceTeacher(str(copy), SST2).fingerprint != first


def test_size_is_that_of_the_weights(checkpoint):
    folder = checkpoint("bert", SST2.labels)
    teacher = HuggingFaceTeacher(str(folder), SST2)
    assert teacher.bytes() == (folder / "model.safetensors").stat().st_size
    assert teacher.parameters() == sum(p.numel() for p in teacher.checkpoint.load().parameters())


# ---------------------------------------------------------------------------------------------- how it is fine-tuned
def opinion(number: int) -> tuple[str, bool]:
    positive = number % 2 == 0
    word = (["good", "great", "fine"] if positive else ["bad", "awful", "poor"])[number % 3]
    return f"the {['film', 'plot'][number % 5 % 2]} is {'very ' * (number % 4)}{word}", positive


def tiny_rows(folder: Path, task: Task, count: int = 64):
    from kdtoolkit.data.rows import write_rows

    examples = []
    for number in range(count):
        text, positive = opinion(number)
        label = {"classification": int(positive), "regression": 100.0 + 10 * positive, "multilabel": (int(positive), 1)}
        gold = None if number % 16 == 15 else label[task.kind]  # text without a gold label is passed over
        examples.append(Example(task.name, text, "it is so" if task.pair else None, gold))
    return write_rows(folder / f"{task.name}.arrow", task, [examples])


LEARN = {"epochs": 30, "learning_rate": 1e-2, "batch_rows": 16, "max_tokens": 24, "dropout": 0.0}
TAGS = Task("tags", kind="multilabel", labels=("nice", "any"), text=("text",))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", [SST2, STSB, TAGS], ids=lambda task: task.kind)
def test_fine_tuning_learns_the_task_and_its_unit(checkpoint, tmp_path, task, family):
    base = checkpoint(family, head=False, initializer_range=0.1)
    teacher = HuggingFaceTeacher(str(base), task, **LEARN)
    before = teacher.fingerprint
    teacher.fine_tune(tiny_rows(tmp_path, task), tmp_path / "tuned", seed=0)
    assert teacher.ready and teacher.fingerprint != before
    asked = [Example(task.name, opinion(n)[0], "it is so" if task.pair else None) for n in range(40)]
    truth = np.array([opinion(n)[1] for n in range(40)])
    values = teacher.logits(asked)
    assert values.shape == (40, task.outputs)
    if task.kind == "classification":
        assert ((values[:, 1] > values[:, 0]) == truth).mean() > 0.95
    elif task.kind == "regression":
        np.testing.assert_allclose(values[:, 0], 100.0 + 10 * truth, atol=3)
    else:
        assert ((values[:, 0] > 0) == truth).mean() > 0.95 and (values[:, 1] > 0).all()
    again = HuggingFaceTeacher(str(tmp_path / "tuned"), task, **LEARN)
    assert again.ready and again.fingerprint == teacher.fingerprint
    np.testing.assert_array_equal(again.logits(asked), values)


def test_a_multilabel_task_of_one_label_is_learned_too(checkpoint, tmp_path):
    task = Task("tags", kind="multilabel", labels=("nice",), text=("text",))
    examples = [Example("tags", opinion(n)[0], None, (int(opinion(n)[1]),)) for n in range(32)]
    from kdtoolkit.data.rows import write_rows

    rows = write_rows(tmp_path / "tags.arrow", task, [examples])
    teacher = HuggingFaceTeacher(str(checkpoint("bert", head=False)), task, **{**LEARN, "epochs": 1})
    teacher.fine_tune(rows, tmp_path / "tuned", seed=0)
    assert teacher.ready and HuggingFaceTeacher(str(tmp_path / "tuned"), task, **LEARN).ready
    assert teacher.logits([Example("tags", "the film is good")]).shape == (1, 1)


def test_the_tuned_folder_is_plain_hugging_face(checkpoint, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = str(checkpoint("bert", head=False))
    teacher = HuggingFaceTeacher(base, SST2, precision="fp32", **{**LEARN, "epochs": 1})
    folder = tmp_path / "tuned"
    teacher.fine_tune(tiny_rows(tmp_path, SST2), folder, seed=0)
    assert {p.name for p in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not [p for p in folder.rglob("*") if p.is_dir() or p.suffix in (".bin", ".pt", ".pkl")]
    assert str(tmp_path) not in "".join(p.read_text() for p in folder.glob("*.json"))
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(SST2.labels))
    with torch.no_grad():
        expected = model(**tokenizer("the film is good", return_tensors="pt", return_token_type_ids=True)).logits
    given = teacher.logits([Example("sst2", "the film is good")])
    np.testing.assert_allclose(given, expected.numpy(), atol=1e-5)


def test_the_seed_decides_the_weights_and_a_finished_folder_is_left_alone(checkpoint, tmp_path):
    base = str(checkpoint("bert", ["joy", "sadness"]))  # its head has the right shape and the wrong meaning
    rows, weights = tiny_rows(tmp_path, SST2), {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(ord(name))
        HuggingFaceTeacher(base, SST2, **{**LEARN, "epochs": 1}).fine_tune(rows, tmp_path / name, seed=seed)
        weights[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert weights["a"] == weights["b"] != weights["c"]
    written = (tmp_path / "a" / "model.safetensors").stat().st_mtime_ns
    HuggingFaceTeacher(base, SST2, **{**LEARN, "epochs": 1}).fine_tune(rows, tmp_path / "a", seed=0)
    assert (tmp_path / "a" / "model.safetensors").stat().st_mtime_ns == written
    HuggingFaceTeacher(base, SST2, **{**LEARN, "epochs": 1}).fine_tune(rows, tmp_path / "a", seed=1)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == weights["c"], "another seed is another training"


def test_a_new_head_on_request_is_made_once(checkpoint, tmp_path):
    base = str(checkpoint("bert", SST2.labels))
    options = {**LEARN, "epochs": 1, "head": "new"}
    teacher = HuggingFaceTeacher(base, SST2, **options)
    assert not teacher.ready
    teacher.fine_tune(tiny_rows(tmp_path, SST2), tmp_path / "tuned", seed=0)
    assert HuggingFaceTeacher(str(tmp_path / "tuned"), SST2, **options).ready


def test_rows_without_any_label_are_refused(checkpoint, tmp_path):
    from kdtoolkit.data.rows import write_rows

    rows = write_rows(tmp_path / "rows.arrow", SST2, [[Example("sst2", "good")]])
    with pytest.raises(InputError, match="no labelled rows"):
        HuggingFaceTeacher(str(checkpoint("bert", head=False)), SST2).fine_tune(rows, tmp_path / "tuned", seed=0)


def test_a_killed_fine_tuning_resumes_to_the_same_bits(checkpoint, tmp_path, monkeypatch):
    from kdtoolkit.training import checkpoint as checkpoints

    base, rows = str(checkpoint("bert", head=False)), tiny_rows(tmp_path, SST2)
    options = {**LEARN, "epochs": 4, "dropout": 0.1, "checkpoint_every_steps": 3}
    HuggingFaceTeacher(base, SST2, **options).fine_tune(rows, tmp_path / "whole", seed=0)
    save, saved = checkpoints.save, []

    def save_and_die(*arguments, **keywords):
        save(*arguments, **keywords)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        HuggingFaceTeacher(base, SST2, **options).fine_tune(rows, tmp_path / "cut", seed=0)
    assert not (tmp_path / "cut" / "config.json").exists(), "not finished, and so it says"
    monkeypatch.setattr(checkpoints, "save", save)
    torch.manual_seed(123)
    HuggingFaceTeacher(base, SST2, **options).fine_tune(rows, tmp_path / "cut", seed=0)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "cut").iterdir())
    for name in files:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


# ------------------------------------------------------------------------------------------------------ a real one
@pytest.mark.teacher
def test_a_real_checkpoint_is_read_in_full_and_has_no_head(minilm):
    teacher = HuggingFaceTeacher(str(minilm), SST2)
    assert not teacher.ready
    assert teacher.bytes() == 90_868_376
    assert teacher.max_tokens == 128


@pytest.mark.teacher
def test_a_real_checkpoint_learns_from_few_real_rows(minilm, glue, tmp_path):
    from kdtoolkit.data.rows import write_rows

    with gzip.open(glue / "sst-2" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        found = [json.loads(line) for line in itertools.islice(file, 400)]
    examples = [Example("sst2", row["sentence1"], None, row["label"]) for row in found]
    rows = write_rows(tmp_path / "rows.arrow", SST2, [examples[:256]])
    teacher = HuggingFaceTeacher(str(minilm), SST2, epochs=2, learning_rate=1e-4, max_tokens=48)
    teacher.fine_tune(rows, tmp_path / "tuned", seed=0)
    held_out = examples[256:]
    right = teacher.logits(held_out).argmax(1) == np.array([example.label for example in held_out])
    assert right.mean() > 0.65
