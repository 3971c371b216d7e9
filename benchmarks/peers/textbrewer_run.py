"""TextBrewer: GeneralDistiller with a live teacher, padded batch by batch.

--fixed pads all rows to the most tokens beforehand, as its examples do. --cached is its BasicDistiller with
is_caching_logits, the one that can cache: it keeps the batches with the teacher's logits and shuffles their order.
"""

from __future__ import annotations

import random
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
from textbrewer import BasicDistiller, DistillationConfig, GeneralDistiller, TrainingConfig


def main() -> None:
    given = arguments(__doc__, "fixed", "cached")
    torch.set_num_threads(1)
    random.seed(given.seed)  # what the cache is shuffled with
    teacher, tokenizer = load_teacher(given.teacher)
    texts, gold = rows(given.data, "train", given.rows)

    def collate(chosen: list[int]) -> dict[str, Any]:
        if given.fixed:
            batch = {name: values[chosen] for name, values in tokens.items()}
        else:
            batch = tokenizer.pad({"input_ids": [tokens["input_ids"][row] for row in chosen]}, return_tensors="pt")
        return {**batch, "labels": torch.tensor([gold[row] for row in chosen])}

    def of_teacher(batch: dict[str, Any], outputs: Any) -> dict[str, Any]:
        return {"logits": outputs.logits}

    def of_student(batch: dict[str, Any], logits: Any) -> dict[str, Any]:
        loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
        return {"logits": logits, "losses": loss}

    with tempfile.TemporaryDirectory() as folder, clocked() as clock:
        padding = {"padding": "max_length", "return_tensors": "pt"} if given.fixed else {}
        tokens = tokenizer(texts, truncation=True, max_length=MAX_TOKENS, **padding)
        student = new_student(given.student, len(tokenizer), given.seed)
        optimizer = torch.optim.AdamW(student.parameters(), lr=RATE[given.student], weight_decay=0.0)
        steps = given.epochs * -(-len(texts) // BATCH)
        # Its soft loss has no T^2.
        config = DistillationConfig(
            temperature=TEMPERATURE, kd_loss_weight=0.5 * TEMPERATURE**2, hard_label_weight=0.5, kd_loss_type="ce",
            is_caching_logits=given.cached,
        )  # fmt: skip
        training = TrainingConfig(device="cpu", output_dir=folder, log_dir=None, ckpt_epoch_frequency=10**6)
        loader = torch.utils.data.DataLoader(
            range(len(texts)), batch_size=BATCH, shuffle=True, collate_fn=collate,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(given.seed),
        )  # fmt: skip
        kind = BasicDistiller if given.cached else GeneralDistiller
        distiller = kind(training, config, _Answers(teacher), student, of_teacher, of_student)
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
