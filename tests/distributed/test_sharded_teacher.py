"""Two processes that each keep a part of a live teacher see what a whole one shows, and train the same students."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import teacher_cases
import torch
from checkpoints import write_checkpoint
from launched import launched
from safetensors.torch import load_file
from tiny_data import WORDS, rows

from kdtoolkit.errors import InputError
from kdtoolkit.parts import InParts
from kdtoolkit.recipe.schema import StudentSection, TokenizerSection
from kdtoolkit.student_folder import build_model, save_student, student_config
from kdtoolkit.testing import EchoTeacher, tiny_task
from kdtoolkit.tokenizers import build_tokenizer

WORKER = Path(teacher_cases.__file__)
ROWS = {"mood": 24, "likeness": 60}


def write_student(folder):
    """The folder of an untrained student with layers, whose sizes two processes do not divide."""
    texts = functools.partial(iter, teacher_cases.WORDS)
    tokenizer = build_tokenizer(
        TokenizerSection(name="words"), texts, seed=0, folder=folder / "words", teacher_source=None
    )
    section = StudentSection(name="transformer", layers=3, width=6, heads=2, positions=19, dropout=0.0)
    config = student_config(
        section, [teacher_cases.MOOD], vocab_size=len(tokenizer), max_tokens=16, mixed=False, scaling={}
    )
    torch.manual_seed(0)
    save_student(folder / "student", build_model(config), config, tokenizer)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Where two processes have left what they saw and trained."""
    folder = tmp_path_factory.mktemp("teachers")
    for family, labels in (("bert", ["high", "low"]), ("roberta", None), ("albert", ["high", "low"])):
        write_checkpoint(folder / family, family, labels, words=WORDS, initializer_range=0.1, embedding_size=16)
    write_student(folder)
    for task, count in ROWS.items():
        for split, some in (("train", count), ("dev", 8)):
            path = folder / "data" / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(row) for row in rows(some, 1 + len(split), pair=task == "likeness")]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for done in launched(2, "-W", "error", str(WORKER), str(folder), cwd=folder):
        assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def facts(of_two):
    """What each process has noted."""
    return [json.loads((of_two / f"facts-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", teacher_cases.TEACHERS)
def test_a_sharded_teacher_shows_what_a_whole_one_does_for_any_number_of_texts(facts, name):
    for seen in facts:
        assert len(teacher_cases.COUNTS) == 6
        assert [seen[name][str(counts)] for counts in teacher_cases.COUNTS] == [0.0] * 6


@pytest.mark.parametrize("name", teacher_cases.TEACHERS)
def test_between_calls_each_process_keeps_half_of_a_teacher(facts, name):
    # Parts are whole rows of a tensor, and the first process has the larger half.
    kept = [[seen[name][end] for end in ("least", "most")] for seen in facts]
    assert all(least == most for least, most in kept)
    assert sum(least for least, _ in kept) == pytest.approx(1.0)
    assert all(0.4 < least < 0.6 for least, _ in kept)


def test_scalars_and_tensors_of_fewer_rows_than_processes_have_their_place(facts):
    assert [seen["small"] for seen in facts] == [0.0, 0.0]


@functools.cache
def alone(folder, name):
    """The weights of a case that one process has trained."""
    return teacher_cases.trained(name, folder, folder / f"alone, {name}")[0]


def worst(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("name", teacher_cases.CASES)
def test_students_of_sharded_teachers_are_those_of_one_process(of_two, name):
    found = load_file(of_two / f"{name}.safetensors")
    kind = name.split(",")[0]
    if f"{kind}, whole" in teacher_cases.CASES and name != "mixed, both":  # whose student is summed in another order
        assert worst(found, load_file(of_two / f"{kind}, whole.safetensors")) == 0.0
    assert worst(found, alone(of_two, name)) < 1e-5


def test_the_teacher_has_taught(of_two):
    """The weights that are compared would be others without its hidden states."""
    mixed, apart = (alone(of_two, name) for name in ("mixed, sharded", "one task, sharded"))
    assert worst(mixed, apart) > 1e-3


def test_processes_ask_equally_often_also_for_no_rows(facts):
    for name in teacher_cases.CASES:
        asked = [seen[f"asked, {name}"] for seen in facts]
        for task in ROWS:
            mine, theirs = (each[task] for each in asked)
            together = name.endswith("whole") or len(mine) == len(theirs)
            assert together and max(mine) > 0, (name, task)
    first, second = (seen["asked, mixed, sharded"]["mood"] for seen in facts)
    assert any((a == 0) != (b == 0) for a, b in zip(first, second, strict=True))
    # A student of one task alone does not ask the teachers of others.
    assert 0 not in facts[0]["asked, apart, sharded"]["mood"] + facts[0]["asked, refined, sharded"]["mood"][-3:]


def test_out_of_memory_ends_the_process_and_the_others_hear_of_it(of_two):
    first, second = (json.loads((of_two / f"memory-{rank}.json").read_text()) for rank in (0, 1))
    assert first == {"lost": True}
    assert "out of memory at step 3" in second["said"] and "divide train.batch_rows" in second["said"]


def test_a_teacher_that_says_nothing_of_parts_is_not_shardable():
    teacher = EchoTeacher("echo", tiny_task()[0])
    assert not teacher.shardable
    with pytest.raises(InputError, match=r"train\.teacher_sharding: .*EchoTeacher.*; leave it out, or take a Hugging"):
        teacher.shard()


def test_a_torch_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", lambda module, *, mesh=None: module)
    with pytest.raises(InputError, match=r"train\.teacher_sharding: fsdp needs torch 2\.7, and this is"):
        InParts(torch.nn.Linear(2, 2), torch.device("cpu"))
