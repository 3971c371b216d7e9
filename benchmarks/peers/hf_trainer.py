"""transformers' Trainer with a loss of its own and a live teacher, padded batch by batch: what most people write."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from job import BATCH, MAX_TOKENS, RATE, accuracy, arguments, clocked, load_teacher, loss_of, new_student, rows, tell
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenized texts with their labels."""

    def __init__(self, ids: list[list[int]], labels: list[int]) -> None:
        self.ids, self.labels = ids, labels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self.ids[row], "attention_mask": [1] * len(self.ids[row]), "labels": self.labels[row]}


class Distiller(Trainer):
    """Trainer whose loss asks the teacher."""

    teacher: torch.nn.Module

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        """The mean over the batch."""
        labels = inputs.pop("labels")
        with torch.no_grad():
            said = self.teacher(**inputs).logits
        return loss_of(model(**inputs), said, labels)


def main() -> None:
    given = arguments(__doc__)
    torch.set_num_threads(1)
    teacher, tokenizer = load_teacher(given.teacher)
    texts, gold = rows(given.data, "train", given.rows)
    with tempfile.TemporaryDirectory() as folder, clocked() as clock:
        ids = tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        student = new_student(given.student, len(tokenizer), given.seed)
        options = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=BATCH, num_train_epochs=given.epochs, seed=given.seed,
            learning_rate=RATE[given.student], weight_decay=0.0, warmup_steps=0.1, max_grad_norm=1.0, use_cpu=True,
            save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no", remove_unused_columns=False,
        )  # fmt: skip
        trainer = Distiller(
            student, options, train_dataset=Rows(ids, gold), data_collator=DataCollatorWithPadding(tokenizer)
        )
        trainer.teacher = teacher
        trainer.train()
    tell(clock, given, lambda: accuracy(student, tokenizer, given.data))


if __name__ == "__main__":
    main()
