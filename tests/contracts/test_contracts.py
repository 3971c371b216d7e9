"""Every installed student and teacher, built in or not, keeps its contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdtoolkit import plugin
from kdtoolkit.plugins import installed, option_problems
from kdtoolkit.testing import CUES, FILLERS, EchoTeacher, check_student, check_teacher, tiny_task

STUDENTS = sorted(installed("student"))
TEACHERS = sorted(installed("teacher"))

BERT = {
    "model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 64,
}  # fmt: skip

# Beyond their defaults; what a student cannot be built without has to be here.
STUDENT_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "bilstm": [{"width": 6, "embedding": 8, "pairs": "joint"}, {"width": 6, "embedding": 8, "layers": 2}],
    "transformer": [{"width": 8, "pairs": "separate", "pooling": "mean"}],
    "hf": [{"config": BERT}, {"config": BERT, "pooling": "mean"}, {"config": BERT, "pooling": "pooler"}],
}

SHAPES = [
    {"kind": kind, "pair": pair, "classes": 3}
    for kind in ("classification", "regression", "multilabel")
    for pair in (False, True)
]


# ------------------------------------------------------------------------------------------------------------- students
def test_there_are_students_and_teachers_to_check():
    assert {"bilstm", "transformer", "hf"} <= set(STUDENTS)
    assert {"hugging_face", "stored", "python", "run", "joint", "distilled"} <= set(TEACHERS)


@pytest.mark.parametrize("name", STUDENTS)
def test_every_installed_student_keeps_the_contract(name):
    cls = plugin("student", name)
    by_default = [] if name == "hf" else [{}]  # hf is nothing without a checkpoint or a config
    cases = by_default + STUDENT_OPTIONS.get(name, [])
    for options in cases:
        assert option_problems("student", name, cls, options) == []
        check_student(cls, **options)


# ------------------------------------------------------------------------------------------------------------- teachers
def hugging_face(task, examples, folder):
    """A randomly initialised BERT with a head for the task and a vocabulary of the tiny tasks' words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    pieces = [*names.values(), *(word for words in CUES for word in words), *FILLERS]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    fast = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=64, **names).save_pretrained(folder)
    sizes = {key: value for key, value in BERT.items() if key != "model_type"}
    config = BertConfig(vocab_size=len(pieces), initializer_range=0.5, **sizes)
    config.id2label = dict(enumerate(task.labels)) or {0: "LABEL_0"}
    config.label2id = {label: number for number, label in config.id2label.items()}
    problems = {"classification": "single_label_classification", "multilabel": "multi_label_classification"}
    config.problem_type = problems.get(task.kind, "regression")
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    return plugin("teacher", "hugging_face")(str(folder), task)


def stored(task, examples, folder):
    """A JSONL file of the echo's logits, by text."""
    values = EchoTeacher("echo", task, echo="gold").logits(examples).tolist()
    with (folder / f"{task.name}.jsonl").open("w") as file:
        for example, row in zip(examples, values):
            texts = (
                {"text": example.text} if example.second is None else {"text1": example.text, "text2": example.second}
            )
            numbers = {"value": row[0]} if task.kind == "regression" else {"logits": dict(zip(task.labels, row))}
            file.write(json.dumps({**texts, **numbers}) + "\n")
    options = {"text": ["text1", "text2"] if task.pair else "text"}
    if task.kind == "regression":
        options["column"] = "value"
    return plugin("teacher", "stored")(str(folder / f"{task.name}.jsonl"), task, **options)


def python(task, examples, folder):
    """A function that counts letters."""
    (folder / "counting.py").write_text(
        "version = 1\n\n"
        "def count(texts):\n"
        f"    return [[float(str(text).count(letter)) for letter in 'aei'[:{task.outputs}]] for text in texts]\n"
    )
    return plugin("teacher", "python")(f"{folder / 'counting.py'}:count", task)


def run(task, examples, folder, name="run"):
    """The folder of an untrained student."""
    from kdtoolkit.recipe.schema import StudentSection, TokenizerSection
    from kdtoolkit.student_folder import build_model, save_student, student_config
    from kdtoolkit.tokenizers import build_tokenizer

    def texts():
        return iter([text for example in examples for text in (example.text, example.second) if text is not None])

    tokenizer = build_tokenizer(
        TokenizerSection(vocabulary=60), texts, seed=0, folder=folder / "tokenizer", teacher_source=None
    )
    config = student_config(
        StudentSection(name="bilstm", width=6, embedding=8), [task], vocab_size=len(tokenizer), max_tokens=32,
        mixed=False, scaling={task.name: (2.0, 3.0)} if task.kind == "regression" else {},
    )  # fmt: skip
    torch.manual_seed(0)
    save_student(folder / "student", build_model(config), config, tokenizer)
    return plugin("teacher", name)(str(folder / "student"), task)


def joint(task, examples, folder):
    """What the joint teacher is once the teach stage has trained it: a student folder."""
    return run(task, examples, folder, name="joint")


def distilled(task, examples, folder):
    """What a distilled teacher is once its own run has trained it: a student folder."""
    trained = run(task, examples, folder)
    return plugin("teacher", "distilled")(trained.source, task, recipe={"student": "bilstm"})


BUILDERS: dict[str, Callable[[Any, Any, Path], Any]] = {
    "hugging_face": hugging_face, "stored": stored, "python": python, "run": run, "joint": joint,
    "distilled": distilled,
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape['kind']}{'-pair' * shape['pair']}")
@pytest.mark.parametrize("name", TEACHERS)
def test_every_installed_teacher_keeps_the_contract(name, shape, tmp_path):
    assert name in BUILDERS, f"write a builder for the teacher '{name}' here"
    task, examples = tiny_task(rows=24, **shape)
    teacher = BUILDERS[name](task, examples, tmp_path)
    check_teacher(teacher, examples)
    teacher.close()
