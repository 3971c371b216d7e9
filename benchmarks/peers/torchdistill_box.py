"""torchdistill's DistillationBox with a live teacher, padded batch by batch; its config is like its GLUE examples'.

Unlike the example program this one passes the labels: without them KDLoss is its soft part alone, whatever alpha says.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import torch
from job import (
    BATCH,
    MAX_TOKENS,
    RATE,
    TEMPERATURE,
    accuracy,
    arguments,
    clocked,
    factor,
    load_teacher,
    new_student,
    rows,
    tell,
)  # fmt: skip
from transformers import DataCollatorWithPadding


def stand_in_for_torchvision() -> None:
    """Empty modules and the names that torchdistill imports from torchvision, of which a text needs none.

    A torchvision built for CUDA beside a torch for CPUs keeps transformers from being imported as well, so
    requirements.txt does not ask for one.
    """
    wanted: dict[str, tuple[str, ...]] = {
        "torchvision": (), "torchvision.datasets": (), "torchvision.models": (),
        "torchvision.models.densenet": ("_DenseBlock", "_Transition"),
        "torchvision.models.resnet": ("BasicBlock", "conv1x1"),
    }  # fmt: skip
    for name, members in wanted.items():
        module = ModuleType(name)
        for member in members:
            setattr(module, member, type(member, (torch.nn.Module,), {}))
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def config(student: str, epochs: int, steps: int) -> dict[str, Any]:
    """The section "train"."""
    logits = {"student_module_path": ".", "student_module_io": "output",
              "teacher_module_path": "classifier", "teacher_module_io": "output"}  # fmt: skip
    loss = {**logits, "temperature": TEMPERATURE, "alpha": 0.5, "reduction": "batchmean"}
    return {
        "num_epochs": epochs,
        "train_data_loader": {
            "dataset_id": "sst2/train", "collate_fn": "DataCollatorWithPadding", "requires_supp": False,
            "sampler": {"class_or_func": torch.utils.data.RandomSampler}, "kwargs": {"batch_size": BATCH},
        },
        "teacher": {
            "forward_proc": "forward_batch_only_as_kwargs", "requires_grad": False,
            "forward_hook": {"output": ["classifier"]},
        },
        "student": {"forward_proc": "forward_batch_only_as_kwargs", "requires_grad": True},
        "optimizer": {
            "key": "AdamW", "kwargs": {"lr": RATE[student], "weight_decay": 0.0}, "max_grad_norm": 1.0,
            "grad_accum_step": 1,
        },
        "scheduler": {
            "key": "LambdaLR", "kwargs": {"lr_lambda": lambda step: factor(step, steps)}, "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
        },
    }  # fmt: skip


def main() -> None:
    given = arguments(__doc__)
    torch.set_num_threads(1)
    if importlib.util.find_spec("torchvision") is None:
        stand_in_for_torchvision()
    from torchdistill.core.distillation import DistillationBox
    from torchdistill.datasets.registry import register_collate_func

    teacher, tokenizer = load_teacher(given.teacher)
    texts, gold = rows(given.data, "train", given.rows)
    register_collate_func(DataCollatorWithPadding(tokenizer), key="DataCollatorWithPadding")
    with clocked() as clock:
        tokens = tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        data = [{"input_ids": ids, "labels": label} for ids, label in zip(tokens, gold)]
        student = new_student(given.student, len(tokenizer), given.seed)
        settings = config(given.student, given.epochs, given.epochs * -(-len(data) // BATCH))
        box = DistillationBox(
            teacher, student, {"sst2/train": data}, settings, torch.device("cpu"), device_ids=None, distributed=False,
            lr_factor=1,
        )  # fmt: skip
        for epoch in range(given.epochs):
            box.pre_epoch_process(epoch=epoch)
            for batch in box.train_data_loader:
                labels = batch.pop("labels")
                box.post_forward_process(loss=box.forward_process(batch, targets=labels))
            box.post_epoch_process()
    tell(clock, given, lambda: accuracy(student, tokenizer, given.data))


if __name__ == "__main__":
    main()
