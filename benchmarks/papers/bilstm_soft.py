"""BiLSTM_SOFT (Tang et al. 2019) on SST-2: gold labels, distillation, distillation with generated text.

python benchmarks/papers/bilstm_soft.py --teacher FOLDER --data FOLDER
Equal updates for all (max_steps: 1,600, and 6,000 for those called long), 10,000 labelled rows of SST-2, one teacher
for all seeds.
"""

from __future__ import annotations

import argparse

from common import Claim, Experiment, Run, average, options

DATA = options(data__sst2__gold_rows=10000, data__sst2__transfer_rows=0)
STUDENT = options(
    train__epochs=100, train__max_steps=1600, train__batch_rows=50, data__max_tokens=64, evaluate__latency=False,
    evaluate__bootstrap=0,
)  # fmt: skip
LONG = [*STUDENT, *options(train__max_steps=6000, evaluate__baseline=False)]


def runs(given: argparse.Namespace, seed: int) -> list[Run]:
    base = ["--recipe", "bilstm_soft", "--tasks", "sst2", "--data", given.data]
    tune = options(teachers__0__epochs=2, teachers__0__max_tokens=64, teachers__0__precision="bf16")
    taught = ["--teacher", str(given.out / "teacher" / "teacher" / "sst2"), "--set", "teachers.0.max_tokens=64"]
    return [
        Run("teacher", [*base, *DATA, "--teacher", given.teacher, *tune], command="teach", once=True),
        Run("plain", [*base, *DATA, *STUDENT, *taught, *options(augment=None)]),
        Run("augmented", [*base, *DATA, *STUDENT, *taught, *options(augment__rows=30000, evaluate__baseline=False)]),
        Run("plain_long", [*base, *DATA, *LONG, *taught, *options(augment=None)]),
        Run("augmented_long", [*base, *DATA, *LONG, *taught, *options(augment__rows=30000)]),
    ]


Experiment(
    "bilstm_soft",
    runs,
    claims=[
        Claim("distillation adds to gold labels", average("plain"), average("plain", "gold_only")),
        Claim("augmentation adds to distillation", average("augmented"), average("plain")),
        Claim("the same after 6,000 updates", average("augmented_long"), average("plain_long")),
    ],
    rows={
        "teacher": average("plain", "teacher"),
        "gold labels": average("plain", "gold_only"),
        "distilled": average("plain"),
        "distilled, with generated text": average("augmented"),
        "distilled, 6,000 updates": average("plain_long"),
        "distilled, with generated text, 6,000 updates": average("augmented_long"),
    },
).main()
