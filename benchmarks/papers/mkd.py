"""MKD (Liu et al. 2019): joint distillation over five tasks against each task alone, and refinement after it.

python benchmarks/papers/mkd.py --teacher FOLDER --data FOLDER
One jointly trained teacher for all seeds. The same student and as many updates jointly and apart.
"""

from __future__ import annotations

import argparse

from common import Claim, Experiment, Run, average, options

TASKS = ["mnli", "qqp", "mrpc", "rte", "sst2"]
DATA = options(data__qqp__rows=10000, data__sst2__rows=10000, data__max_tokens=48)
STUDENT = options(
    student__width=100, student__embedding=200, tokenizer__vocabulary=8000, train__epochs=3, train__batch_rows=64,
    refine=None, evaluate__baseline=False, evaluate__latency=False, evaluate__bootstrap=0,
)  # fmt: skip
REFINE = options(refine__epochs=1, refine__learning_rate=2e-4)
REFINE_SOFT = [*REFINE, *options(refine__alpha=0.0)]


def runs(given: argparse.Namespace, seed: int) -> list[Run]:
    base = ["--recipe", "mkd_bilstm", "--tasks", ",".join(TASKS), "--data", given.data, *DATA]
    tune = options(
        teachers__0__epochs=2,
        teachers__0__learning_rate=1e-4,
        teachers__0__max_tokens=64,
        teachers__0__precision="bf16",
    )
    taught = ["--teacher", str(given.out / "teacher" / "teacher" / "joint-0"), "--set", "teachers.0.max_tokens=64"]
    return [
        Run("teacher", [*base, "--teacher", given.teacher, *tune], command="teach", once=True),
        Run("joint", [*base, *STUDENT, *taught]),
        Run("apart", [*base, *STUDENT, *taught, *options(variant="apart")]),
        Run("refined", REFINE, after="joint"),
        Run("refined_soft", REFINE_SOFT, after="joint"),
    ]


Experiment(
    "mkd",
    runs,
    claims=[
        Claim("joint distillation beats each task alone", average("joint"), average("apart")),
        *(Claim(f"on {t}", average("joint", tasks=[t]), average("apart", tasks=[t])) for t in TASKS),
        Claim("refinement on gold labels adds to it", average("refined"), average("joint")),
        Claim("refinement on the teacher's logits adds to it", average("refined_soft"), average("joint")),
    ],
    rows={
        "teacher": average("joint", "teacher"),
        "distilled, each task alone": average("apart"),
        "distilled jointly": average("joint"),
        "refined on gold labels": average("refined"),
        "refined on the teacher's logits": average("refined_soft"),
    },
).main()
