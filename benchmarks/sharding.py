"""Memory of one of two processes that train a larger Transformer with AdamW, whole in each and sharded (FSDP).

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1000000 python benchmarks/sharding.py [--width 512]
    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1000000 python benchmarks/sharding.py --teacher [--width 1024]

12 layers of `width` (512), 30,000 pieces, random weights; 8 steps of 4 short texts, so that activations count for
nothing. Printed by process, in MB: what it holds before `fit`, before an optimizer step (weights, gradients, moments),
at most in the steps, and at most when a checkpoint is written at the end; and the seconds of a step.

--teacher: of one of two processes that ask a live teacher, whole in each and sharded (`train.teacher_sharding`): a
random BERT of 24 layers of `width` (1,024, which is bert-large), asked for the states of its last layer of 4 short
texts. Printed by process, in MB: what it holds before the teacher is loaded, at most while it is, between calls, and at
most in calls; and the seconds of a call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TEACHER_LAYERS, CALLS = 24, 8
LAYERS, PIECES, ROWS, TOKENS, STEPS, WARM = 12, 30_000, 4, 8, 8, 2
WORDS = ["a", "short", "text", "of", "six", "words"]


def held(field: str) -> float:
    """A line of this process's status, in MB: VmRSS is what it holds, VmHWM the most it has held."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / 1000


def train(sharding: str, width: int, folder: Path) -> None:
    """What one of the processes does; it prints what it has measured."""
    import numpy as np
    import torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from kdtoolkit import processes
    from kdtoolkit.data.batch_plan import BatchPlan
    from kdtoolkit.data.collate import Batch
    from kdtoolkit.heads import MultiTaskHeads
    from kdtoolkit.objectives import DistillationObjective
    from kdtoolkit.plugins import plugin
    from kdtoolkit.recipe.schema import Objective, Optimizer, Train
    from kdtoolkit.student import Tokens
    from kdtoolkit.tasks import Task
    from kdtoolkit.training import StudentModel, fit

    processes.start(asked=2)
    task = Task("texts", labels=("a", "b"), pair=False)
    encoder = plugin("student", "transformer")
    student = encoder(PIECES, layers=LAYERS, width=width, heads=width // 64, dropout=0.0, positions=TOKENS)
    model = StudentModel(student, MultiTaskHeads([task], width, pairs="joint", mixed=False))
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4 / 1e6
    found: dict[str, Any] = {"weights": weights, "before fit": held("VmRSS")}
    before, times = list[float](), list[float]()

    def collate(numbers: Any) -> Batch:
        ids = torch.from_numpy((np.arange(TOKENS) * 37 + np.asarray(numbers)[:, None]) % PIECES).long()
        rows, none = torch.arange(len(ids)), torch.full((len(ids),), float("nan"))
        tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids))
        return Batch(tokens, rows, None, torch.zeros_like(rows), none, None, torch.randn(1, len(ids), 2))

    def stepping(*_: Any) -> None:
        before.append(held("VmRSS"))
        times.append(time.perf_counter())
        if len(times) == WARM:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        if len(times) == STEPS:
            found["at most in steps"] = held("VmHWM")

    register_optimizer_step_pre_hook(stepping)
    lengths = np.full(ROWS * STEPS, TOKENS, np.int32)
    plan = BatchPlan([len(lengths)], [lengths], batch_rows=ROWS, accumulate=1, epochs=1.0, seed=1)
    fit(
        model, collate, plan, DistillationObjective([task], Objective(alpha=0.0), steps=plan.steps),
        optimizer=Optimizer(), train=Train(batch_rows=ROWS, epochs=1.0, sharding=sharding), seed=1, checkpoints=folder,
    )  # fmt: skip
    found["before a step"] = statistics.median(before[WARM:])
    found["with a checkpoint"] = held("VmHWM")
    found["s a step"] = statistics.median(b - a for a, b in zip(times[WARM:], times[WARM + 1 :]))
    (folder / f"rank-{processes.rank()}.json").write_text(json.dumps(found))
    processes.wait()
    processes.leave(0)


def write_teacher(folder: Path, width: int) -> None:
    """A checkpoint with random weights, and a tokenizer that knows a few words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    fast = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special))
    PreTrainedTokenizerFast(tokenizer_object=fast, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=PIECES, hidden_size=width, num_hidden_layers=TEACHER_LAYERS, num_attention_heads=width // 64,
        intermediate_size=4 * width, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)


def ask(sharding: str, width: int, folder: Path) -> None:
    """What one of the processes does; it prints what it has measured."""
    import transformers.modeling_layers  # noqa: F401  (not counted as the teacher's)

    from kdtoolkit import processes
    from kdtoolkit.example import Example
    from kdtoolkit.tasks import Task
    from kdtoolkit_teachers.hugging_face import HuggingFaceTeacher

    processes.start(asked=2)
    teacher = HuggingFaceTeacher(str(folder / "teacher"), Task("texts", labels=("a", "b"), pair=False))
    texts = [Example("texts", " ".join(WORDS[row:] + WORDS[:row])) for row in range(ROWS)]
    if sharding == "fsdp":
        teacher.shard()
    teacher.features(texts, ())
    found: dict[str, Any] = {"weights": teacher.bytes() / 1e6, "before": held("VmRSS")}  # type: ignore[operator]
    names = [f"hidden/{TEACHER_LAYERS}"]
    teacher.features(texts, names)
    found["at most while loading"] = held("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    times, between = list[float](), list[float]()
    for _ in range(CALLS):
        started = time.perf_counter()
        teacher.features(texts, names)
        times.append(time.perf_counter() - started)
        between.append(held("VmRSS"))
    found |= {"between calls": statistics.median(between), "at most in calls": held("VmHWM")}
    found["s a call"] = statistics.median(times)
    (folder / f"rank-{processes.rank()}.json").write_text(json.dumps(found))
    processes.wait()
    processes.leave(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", action="store_true", help="of a live teacher, in place of a student")
    parser.add_argument("--width", type=int, help="a multiple of 64; default: 512, of a teacher 1024")
    given = parser.parse_args()
    teacher, width = given.teacher, given.width or (1024 if given.teacher else 512)
    if width % 64:
        parser.error("--width: expected a multiple of 64, for heads of so many")
    columns: tuple[str, ...] = ("before fit", "before a step", "at most in steps", "with a checkpoint", "s a step")
    if teacher:
        columns = ("before", "at most while loading", "between calls", "at most in calls", "s a call")
    print(f"| width {width} | process | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    for sharding in ("none", "fsdp"):
        with tempfile.TemporaryDirectory() as name:
            command = [
                sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__,
                "--process", "ask" if teacher else "train", sharding, str(width), name,
            ]  # fmt: skip
            if teacher:
                write_teacher(Path(name) / "teacher", width)
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            for rank in range(2):
                found = json.loads((Path(name) / f"rank-{rank}.json").read_text())
                cells = [f"{found[column]:.1f}" if "s a" in column else f"{found[column]:,.0f}" for column in columns]
                print(
                    f"| {sharding} ({found['weights']:,.0f} MB of weights) | {rank} | {' | '.join(cells)} |", flush=True
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        {"train": train, "ask": ask}[sys.argv[2]](sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
    else:
        main()
