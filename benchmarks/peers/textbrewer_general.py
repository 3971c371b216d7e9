"""TextBrewer's GeneralDistiller with a live teacher, padded batch by batch."""

from __future__ import annotations

import tempfile
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
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig


def main() -> None:
    given = arguments(__doc__)
    torch.set_num_threads(1)
    teacher, tokenizer = load_teacher(given.teacher)
    texts, gold = rows(given.data, "train", given.rows)

    def collate(chosen: list[int]) -> dict[str, Any]:
        batch = tokenizer.pad({"input_ids": [ids[row] for row in chosen]}, return_tensors="pt")
        return {**batch, "labels": torch.tensor([gold[row] for row in chosen])}

    def of_teacher(batch: dict[str, Any], outputs: Any) -> dict[str, Any]:
        return {"logits": outputs.logits}

    def of_student(batch: dict[str, Any], logits: Any) -> dict[str, Any]:
        loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
        return {"logits": logits, "losses": loss}

    with tempfile.TemporaryDirectory() as folder, clocked() as clock:
        ids = tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        student = new_student(given.student, len(tokenizer), given.seed)
        optimizer = torch.optim.AdamW(student.parameters(), lr=RATE[given.student], weight_decay=0.0)
        steps = given.epochs * -(-len(ids) // BATCH)
        # Its soft loss has no T^2.
        config = DistillationConfig(
            temperature=TEMPERATURE, kd_loss_weight=0.5 * TEMPERATURE**2, hard_label_weight=0.5, kd_loss_type="ce"
        )
        training = TrainingConfig(device="cpu", output_dir=folder, log_dir=None, ckpt_epoch_frequency=10**6)
        loader = torch.utils.data.DataLoader(
            range(len(ids)), batch_size=BATCH, shuffle=True, collate_fn=collate,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(given.seed),
        )  # fmt: skip
        distiller = GeneralDistiller(training, config, _Answers(teacher), student, of_teacher, of_student)
        with distiller:
            distiller.train(
                optimizer, loader, given.epochs, max_grad_norm=1.0,
                scheduler_class=torch.optim.lr_scheduler.LambdaLR,
                scheduler_args={"lr_lambda": lambda step: factor(step, steps)},
            )  # fmt: skip
    tell(clock, given, lambda: accuracy(student, tokenizer, given.data))


class _Answers(torch.nn.Module):
    """The teacher, which must not see the labels."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask)


if __name__ == "__main__":
    main()
