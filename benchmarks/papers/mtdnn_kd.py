"""MT-DNN-KD (Liu et al. 2019): an ensemble against its members, and its student against gold labels.

python benchmarks/papers/mtdnn_kd.py --teacher FOLDER --data FOLDER
Every seed has three teachers of its own. Teachers and student start from the same model. "kd": the teachers' dropout is
0.1, 0.2 and 0.3 as in the recipe; "alike": 0.1 for all, so that they differ in their seeds alone.
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
    alike = options(teachers__0__vary="{}", teachers__0__dropout=0.1, evaluate__baseline=False)
    return [
        Run("kd", [*base, *models, *TEACH, *STUDENT]),
        Run("alike", [*base, *models, *TEACH, *STUDENT, *alike]),
    ]


def members(run: str, *, best: bool) -> Figure:
    """The mean over taught tasks of the members' mean metric, or of the best member's."""

    def figure(results: Mapping[str, Results]) -> float:
        tasks = results[run]["tasks"]
        choose = max if best else statistics.mean
        return statistics.mean(choose([m["value"] for m in tasks[task]["ensemble"]["members"]]) for task in TAUGHT)

    return figure


def disagreement(run: str) -> Figure:
    """Share of rows on which the members differ, mean over taught tasks."""
    return lambda results: statistics.mean(results[run]["tasks"][task]["ensemble"]["disagreement"] for task in TAUGHT)


def claims(run: str, words: str) -> list[Claim]:
    """What the paper says of a run. The student on gold labels is the same for all."""
    claim = [
        Claim("the ensemble beats its members' mean", average(run, "teacher", TAUGHT), members(run, best=False)),
        Claim("the ensemble beats its best member", average(run, "teacher", TAUGHT), members(run, best=True)),
        Claim("student above gold labels, tasks with teacher", average(run, tasks=TAUGHT), gold(TAUGHT)),
        Claim("student above gold labels, tasks without", average(run, tasks=UNTAUGHT), gold(UNTAUGHT)),
    ]
    return [Claim(f"{words}: {c.words}", c.better, c.worse) for c in claim]


def gold(tasks: list[str]) -> Figure:
    return average("kd", "gold_only", tasks)


def rows(run: str, words: str) -> dict[str, Figure]:
    """The figures of a run's ensemble and student."""
    return {
        f"{words}: members, mean": members(run, best=False),
        f"{words}: members, best": members(run, best=True),
        f"{words}: ensemble": average(run, "teacher", TAUGHT),
        f"{words}: disagreement": disagreement(run),
        f"{words}: student, tasks with teacher": average(run, tasks=TAUGHT),
        f"{words}: student, tasks without": average(run, tasks=UNTAUGHT),
    }


VARIED, ALIKE = "dropout varied", "dropout 0.1"
Experiment(
    "mtdnn_kd",
    runs,
    claims=[*claims("kd", VARIED), *claims("alike", ALIKE)],
    rows={
        **rows("kd", VARIED),
        **rows("alike", ALIKE),
        "gold labels, tasks with teacher": gold(TAUGHT),
        "gold labels, tasks without": gold(UNTAUGHT),
    },
).main()
