"""MT-DNN-KD (Liu et al. 2019): an ensemble against its members, and its student against gold labels.

python benchmarks/papers/mtdnn_kd.py --teacher FOLDER --data FOLDER
Every seed has three teachers of its own. Teachers and student start from the same model.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping

from common import Claim, Experiment, Figure, Results, Run, average, options

TAUGHT, UNTAUGHT = ["qqp", "sst2"], ["mrpc", "stsb"]
DATA = options(
    data__qqp__rows=1500, data__sst2__rows=1500, data__stsb__rows=800, data__mrpc__rows=600, data__max_tokens=40,
    evaluate__calibration_rows=100, evaluate__latency=False, evaluate__bootstrap=0,
)  # fmt: skip
TEACH = options(
    teachers__0__tasks=f"[{', '.join(TAUGHT)}]", teachers__0__members=3, teachers__0__keep=None,
    teachers__0__keep_by=None, teachers__0__epochs=2, teachers__0__learning_rate=5e-4, teachers__0__batch_rows=32,
    teachers__0__max_tokens=80, teachers__0__precision="bf16", teachers__0__refine__epochs=1,
    teachers__0__refine__learning_rate=5e-4,
)  # fmt: skip
STUDENT = options(train__epochs=3, train__batch_rows=32, train__precision="bf16", optimizer__learning_rate=5e-4)


def runs(given: argparse.Namespace, seed: int) -> list[Run]:
    base = ["--recipe", "mtdnn_kd", "--tasks", ",".join(TAUGHT + UNTAUGHT), "--data", given.data, *DATA]
    models = ["--teacher", given.teacher, "--student", f"hf:{given.teacher}"]
    return [Run("kd", [*base, *models, *TEACH, *STUDENT])]


def members(best: bool) -> Figure:
    """The mean over taught tasks of the members' mean metric, or of the best member's."""

    def figure(results: Mapping[str, Results]) -> float:
        tasks = results["kd"]["tasks"]
        choose = max if best else statistics.mean
        return statistics.mean(choose([m["value"] for m in tasks[task]["ensemble"]["members"]]) for task in TAUGHT)

    return figure


def disagreement(results: Mapping[str, Results]) -> float:
    """Share of rows on which the members differ, mean over taught tasks."""
    return statistics.mean(results["kd"]["tasks"][task]["ensemble"]["disagreement"] for task in TAUGHT)


Experiment(
    "mtdnn_kd",
    runs,
    claims=[
        Claim("the ensemble beats its members' mean", average("kd", "teacher", TAUGHT), members(best=False)),
        Claim("the ensemble beats its best member", average("kd", "teacher", TAUGHT), members(best=True)),
        Claim(
            "student above gold labels, tasks with teacher",
            average("kd", tasks=TAUGHT),
            average("kd", "gold_only", TAUGHT),
        ),
        Claim(
            "student above gold labels, tasks without",
            average("kd", tasks=UNTAUGHT),
            average("kd", "gold_only", UNTAUGHT),
        ),
    ],
    rows={
        "members, mean": members(best=False),
        "members, best": members(best=True),
        "ensemble": average("kd", "teacher", TAUGHT),
        "disagreement": disagreement,
        "gold labels, tasks with teacher": average("kd", "gold_only", TAUGHT),
        "student, tasks with teacher": average("kd", tasks=TAUGHT),
        "gold labels, tasks without": average("kd", "gold_only", UNTAUGHT),
        "student, tasks without": average("kd", tasks=UNTAUGHT),
    },
).main()
