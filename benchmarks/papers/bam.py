"""BAM (Clark et al. 2019): annealing against fixed weights, size^0.75 against size, the student against its teachers.

python benchmarks/papers/bam.py --teacher FOLDER --data FOLDER
Teachers and student start from the same model; every seed has teachers of its own. Two tasks are small: MRPC and CR.
"""

from __future__ import annotations

import argparse

from common import Claim, Experiment, Run, average, options

TASKS, SMALL = "[sst2, qqp, stsb, mrpc, {name: cr, labels: [negative, positive]}]", ["mrpc", "cr"]
DATA = options(
    tasks=TASKS, data__cr__text="sentence1", data__sst2__rows=2500, data__qqp__rows=2500, data__stsb__rows=1200,
    data__mrpc__rows=500, data__cr__rows=500, data__mrpc__both_orders=False, data__stsb__both_orders=False,
    data__max_tokens=40, evaluate__calibration_rows=100, evaluate__baseline=False, evaluate__latency=False,
    evaluate__bootstrap=0,
)  # fmt: skip
TEACH = options(
    teachers__0__epochs=2,
    teachers__0__learning_rate=1e-4,
    teachers__0__batch_rows=32,
    teachers__0__max_tokens=80,
    teachers__0__precision="bf16",
    teachers__0__epsilon=1e-8,
    teachers__0__bias_correction=True,
)
STUDENT = options(
    train__epochs=3,
    train__batch_rows=32,
    train__accumulate=1,
    train__precision="bf16",
    optimizer__learning_rate=2e-4,
    student__pooling="first",
)


def runs(given: argparse.Namespace, seed: int) -> list[Run]:
    base = ["--recipe", "bam", "--data", given.data, *DATA, *TEACH, *STUDENT]
    base += ["--teacher", given.teacher, "--student", f"hf:{given.teacher}"]
    return [
        Run("annealed", base),
        *(Run(name, [*base, *options(variant=name)]) for name in ("pure_distillation", "fixed_half", "by_size")),
    ]


Experiment(
    "bam",
    runs,
    claims=[
        Claim("annealing beats pure distillation (lambda 0)", average("annealed"), average("pure_distillation")),
        Claim("annealing beats fixed 0.5", average("annealed"), average("fixed_half")),
        Claim("size^0.75 beats size on MRPC and CR", average("annealed", tasks=SMALL), average("by_size", tasks=SMALL)),
        Claim("size^0.75 beats size on average", average("annealed"), average("by_size")),
        Claim("the student beats its single-task teachers", average("annealed"), average("annealed", "teacher")),
    ],
    rows={
        "Single (the teachers)": average("annealed", "teacher"),
        "Single to Multi, annealed (BAM)": average("annealed"),
        "lambda 0": average("pure_distillation"),
        "lambda 0.5": average("fixed_half"),
        "sampling by size": average("by_size"),
        "MRPC and CR, BAM": average("annealed", tasks=SMALL),
        "MRPC and CR, sampling by size": average("by_size", tasks=SMALL),
    },
).main()
