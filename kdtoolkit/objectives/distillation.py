"""The loss of a batch of any tasks: teacher and gold, mixed by weights that may change over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..ops import KINDS, soft_cross_entropy
from ..recipe.schema import Objective
from ..schedule import Schedule, extremes, value_at
from ..tasks import Task
from .further import FurtherTerm, FurtherValues, Sides, further_values
from .mixture import mean_logits, present_weights, weight_table
from .ranking import Candidates, Ranked, rank
from .rows import RowFacts, Rows

if TYPE_CHECKING:
    from ..data.collate import Batch
    from ..heads import HeadOutputs

NO_LABEL = -100
ROW_VALUES = ("alpha", "temperature", "weight", "beta")


class ObjectiveResult(NamedTuple):
    """loss: 0-dim float32, summed over the batch's rows, each times its task's weight; it carries the gradient.

    The others are detached float32 sums per task, (tasks,), for logging. soft, hard: the teacher's and the gold part,
    before alpha and the task's weight. rows: rows of the batch. soft_rows, hard_rows: those of them with such a part (a
    part whose weight is 0 is not computed and counts as none).

    terms, term_rows: (terms, tasks), the same of the further terms, before their weights; None: there are none.

    Only where a balance of the tasks asks for them (`by_task`), (tasks,) float32 each. task_losses: `loss` by task;
    they carry the gradient. task_weights: sums of the tasks' weights over the rows that have a loss.
    """

    loss: Tensor
    soft: Tensor
    hard: Tensor
    rows: Tensor
    soft_rows: Tensor
    hard_rows: Tensor
    terms: Tensor | None = None
    term_rows: Tensor | None = None
    task_losses: Tensor | None = None
    task_weights: Tensor | None = None


class DistillationObjective:
    """The loss of a batch, all tasks in one call of `soft_cross_entropy`, and its parts.

    Classification: the recipe's kind against the teacher, cross-entropy against the gold class. Multilabel: `bce`
    against the teacher's softened sigmoids and against the gold 0 and 1. Regression: squared error, on the scale on
    which gold values have mean 0 and variance 1, against the target alpha * gold + (1 - alpha) * teacher (BAM,
    arXiv:1907.04829, section 3).

    A row without gold label has alpha 0, one without teacher has alpha 1 (as MT-DNN-KD, arXiv:1904.09482, trains tasks
    without teachers), and one with neither has no loss.

    tasks: the run's, resolved, in the order of `batch.tasks`. steps: optimizer steps that schedules stretch over.
    gold_only: the baseline; no teacher is read. scaling: (mean, standard deviation) of a regression task's gold values,
    one pair a task. member_weights: per task the weights of its ensemble's members; None: equal.
    ranking: by position, the tasks that are ranked, and the column of their relevant label: their rows are compared
    within the groups of the batch, as `ranking.rank` says.
    terms: the recipe's further terms, in the order of `HeadOutputs.features`. What a term says of a row is added to the
    row's loss, times the weights of term and task. A row without teacher, or without hidden states that the term reads,
    has no such part, and `gold_only` has none at all.
    Raises InputError if a value of the recipe leaves its range.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        objective: Objective,
        *,
        steps: int,
        gold_only: bool = False,
        scaling: Sequence[tuple[float, float]] | None = None,
        member_weights: Sequence[Sequence[float]] | None = None,
        ranking: Mapping[int, int] | None = None,
        terms: Sequence[FurtherTerm] = (),
    ) -> None:
        self.tasks, self.objective, self.steps, self.gold_only = list(tasks), objective, steps, gold_only
        scaling = [(0.0, 1.0)] * len(self.tasks) if scaling is None else scaling
        for name, values in (("scaling", scaling), ("member_weights", member_weights)):
            if values is not None and len(values) != len(self.tasks):
                raise ValueError(f"{name}: expected one entry a task ({len(self.tasks)}), received {len(values)}")
        self.terms = () if gold_only else tuple(terms)
        self._options = [objective.of(task.name) for task in self.tasks]
        for task, options in zip(self.tasks, self._options):
            check_ranges(task.name, options)
        self._scheduled = any(isinstance(own[name], Schedule) for own in self._options for name in ROW_VALUES)
        self._values: Tensor | None = None  # of each task, at the last step that was asked for
        own_kind = {"regression": "mse", "multilabel": "bce"}
        kinds = [own_kind.get(task.kind, options["kind"]) for task, options in zip(self.tasks, self._options)]
        self._one_kind = kinds[0] if len(set(kinds)) == 1 else None
        self._width = max((task.outputs for task in self.tasks), default=1)
        self._member_weights = None if member_weights is None else weight_table(member_weights)
        self._weights: Tensor | None = None  # of each task's members, for as many as were last asked for
        self._kinds = torch.tensor([KINDS[kind] for kind in kinds])
        self._ranking = dict(ranking or {})
        columns = [self._ranking.get(position, -1) for position in range(len(self.tasks))]
        self._positive = torch.tensor(columns)  # -1 for a task that is not ranked
        self._there = {task.kind for task in self.tasks}
        task_kinds = ("classification", "regression", "multilabel")
        self._of_kind = {kind: torch.tensor([task.kind == kind for task in self.tasks]) for kind in task_kinds}
        self._scaling = torch.tensor(list(scaling), dtype=torch.float32).reshape(-1, 2)
        if not bool((self._scaling[:, 1] > 0).all()):
            raise ValueError(f"scaling: expected positive standard deviations, received {list(scaling)}")

    def values(self, step: int) -> dict[str, float]:
        """What schedules give at a step (0-based): "alpha/TASK", "temperature/TASK", "weight/TASK or TERM"."""
        values = {}
        for task, options in zip(self.tasks, self._options):
            for name in ("alpha", "temperature", "weight"):
                values[f"{name}/{task.name}"] = value_at(options[name], step, self.steps)
            if self.gold_only:
                values[f"alpha/{task.name}"] = 1.0
        for further in self.terms:
            values[f"weight/{further.label}"] = value_at(further.weight, step, self.steps)
        return values

    def facts(self, batch: Batch, step: int) -> RowFacts:
        """What does not depend on the student's answers; a loop may ask for it ahead, where the batch is."""
        tasks = batch.tasks
        alpha, temperature, weight, beta = self._row_values(step, tasks).unbind(0)
        teacher, members = self._teacher(batch)
        taught = members.sum(0) > 0
        labelled = ~batch.labels.isnan()
        if batch.targets is not None:
            labelled = labelled | ~batch.targets[:, 0].isnan() & self._is("multilabel", tasks)
        alpha = torch.where(labelled, torch.where(taught, alpha, 1.0), 0.0)
        has_soft, has_hard = taught & (alpha < 1), labelled & (alpha > 0)
        weight = torch.where(has_soft | has_hard, weight, 0.0)
        classes = has_hard & self._is("classification", tasks) if self._there != {"classification"} else has_hard
        labels = torch.where(classes, batch.labels, NO_LABEL).long()
        parts = torch.stack([has_soft, has_hard]) & (weight > 0)
        each = torch.cat([torch.ones_like(weight).unsqueeze(0), parts.to(weight.dtype)])
        counts = torch.zeros(3, len(self.tasks), device=tasks.device).index_add_(1, tasks, each)
        kind = self._kinds.to(tasks.device)[tasks]
        return RowFacts(teacher, members, labels, kind, temperature, alpha, beta, weight, parts, counts)

    def __call__(
        self, heads: HeadOutputs, batch: Batch, step: int, *, by_task: bool = False, facts: RowFacts | None = None
    ) -> ObjectiveResult:
        """The loss of a batch at an optimizer step (0-based); by_task: also that of each task.

        facts: those of this batch and step, if they were asked for.
        """
        facts = self.facts(batch, step) if facts is None else facts
        tasks, (outputs, start, count) = batch.tasks, heads[:3]
        teacher, members, weight = facts.teacher, facts.members, facts.weight
        rows = Rows(outputs, teacher, members, facts.labels, facts.kind, facts.temperature, facts.alpha, facts.beta,
                    weight, start, count)  # fmt: skip
        ranked = self._ranked(rows, batch, *facts.parts)
        if ranked is not None:
            rows = rows._replace(alpha=ranked.alpha, weight=ranked.weight)
        apart = None
        if "regression" in self._there:
            rows, apart = self._regression_rows(rows, batch)
        doubled = None
        if "multilabel" in self._there:
            rows, doubled = self._multilabel_rows(rows, batch)
        loss, soft, hard = soft_cross_entropy(
            rows.outputs, rows.teacher, rows.labels,
            kind=rows.kind if self._one_kind is None else self._one_kind, temperature=rows.temperature,
            scale_T2=self.objective.scale_T2, alpha=rows.alpha, beta=rows.beta, weight=rows.weight,
            columns=(rows.start, rows.width), ignore="hard", ignore_index=NO_LABEL, reduction="none",
            teacher_weights=rows.members, return_parts=True,
        )  # fmt: skip
        by_row = torch.stack([soft, hard]) / rows.weight.masked_fill(rows.weight == 0, 1.0)
        first = by_row[:, : len(tasks)]
        if doubled is not None:
            first[1].index_copy_(0, doubled, by_row[0, len(tasks) :])
        if ranked is not None:
            first = torch.where(ranked.grouped, ranked.parts, first)
            loss = loss + F.pad(ranked.loss, (0, len(loss) - len(tasks)))
        further: tuple[Tensor, ...] = ()
        if self.terms:
            values = self._further(outputs, start, teacher, members, heads, batch, step)
            loss = loss + F.pad(weight * values.by_row, (0, len(loss) - len(tasks)))
            further = (values.sums, values.rows)
        parts = first if apart is None else torch.where(self._is("regression", tasks), apart, first)
        parts = torch.where(facts.parts, parts, 0.0).float()
        soft, hard = torch.zeros(2, len(self.tasks), device=tasks.device).index_add_(1, tasks, parts)
        result = ObjectiveResult(loss.sum(), soft, hard, *facts.counts, *further)
        if not by_task:
            return result
        none = torch.zeros(len(self.tasks), device=tasks.device)
        of_row = tasks if doubled is None else torch.cat([tasks, tasks[doubled]])
        return result._replace(
            task_losses=none.index_add(0, of_row, loss.float()), task_weights=none.index_add(0, tasks, weight)
        )

    def _further(
        self,
        outputs: Tensor,
        start: Tensor,
        teacher: Tensor,
        members: Tensor,
        heads: HeadOutputs,
        batch: Batch,
        step: int,
    ) -> FurtherValues:
        """What the further terms say of the batch."""
        temperature = [value_at(options["temperature"], step, self.steps) for options in self._options]
        sides = Sides(outputs, start, teacher, members, temperature)
        return further_values(self.terms, self.tasks, sides, heads.features, batch, step=step, steps=self.steps)

    def _row_values(self, step: int, tasks: Tensor) -> Tensor:
        """(4, rows) float32: alpha (before what a row lacks), temperature, weight, beta."""
        values = self._values
        if values is None or self._scheduled or values.device != tasks.device:
            table = [[value_at(options[name], step, self.steps) for options in self._options] for name in ROW_VALUES]
            values = self._values = torch.tensor(table, dtype=torch.float32).to(tasks.device)
        return values[:, tasks]

    def _is(self, kind: str, tasks: Tensor) -> Tensor:
        """(rows,) whether a row's task is of that kind."""
        return self._of_kind[kind].to(tasks.device)[tasks]

    def _teacher(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The members' values, (members, rows, width) wide enough for every task, and their weights (members, rows)."""
        rows, device = len(batch.tasks), batch.tasks.device
        if batch.teacher is None or self.gold_only:
            return torch.zeros(1, rows, self._width, device=device), torch.zeros(1, rows, device=device)
        teacher = batch.teacher
        if teacher.shape[2] < self._width:
            teacher = F.pad(teacher, (0, self._width - teacher.shape[2]))
        members = teacher.shape[0]
        weights = present_weights(teacher, self._weights_of(members, device)[batch.tasks].t())
        if self.objective.ensemble == "logits" and members > 1:
            return mean_logits(teacher, weights).unsqueeze(0), (weights.sum(0, keepdim=True) > 0).to(weights.dtype)
        return teacher, weights

    def _weights_of(self, members: int, device: torch.device) -> Tensor:
        """(tasks, members) what each of so many members weighs."""
        found = self._weights
        if found is None or found.shape[1] != members or found.device != device:
            found = torch.ones(len(self.tasks), members)
            if self._member_weights is not None:
                found = F.pad(self._member_weights, (0, max(0, members - self._member_weights.shape[1])))[:, :members]
            found = self._weights = found.to(device)
        return found

    def _ranked(self, rows: Rows, batch: Batch, has_soft: Tensor, has_hard: Tensor) -> Ranked | None:
        """What the ranked tasks' groups say, for all rows of the batch; None if it has no candidates."""
        if not self._ranking or batch.groups is None:
            return None
        column = self._positive.to(batch.tasks.device)[batch.tasks]
        ranked = column >= 0
        column = column.clamp(min=0)
        places = rows.start + torch.stack([column, torch.where(ranked, 1 - column, column)])
        yes, no = rows.outputs.gather(1, places.t()).unbind(1)
        told = rows.teacher.gather(2, (places - rows.start).t().expand(len(rows.teacher), -1, -1))
        return rank(
            Candidates(
                batch.groups, yes - no, told[..., 0] - told[..., 1], rows.members, rows.labels == column,
                has_soft & ranked, has_hard & ranked, rows.alpha, rows.temperature, rows.weight,
                rows.kind == KINDS["kl"],
            ),
            scale_T2=self.objective.scale_T2,
        )  # fmt: skip

    def _regression_rows(self, rows: Rows, batch: Batch) -> tuple[Rows, Tensor]:
        """Rows whose regression rows have their target in the teacher's place, and (2, rows) soft and hard parts."""
        regression = self._is("regression", batch.tasks)
        mean, deviation = self._scaling.to(batch.tasks.device)[batch.tasks].unbind(1)
        gold = (batch.labels - mean) / deviation
        value = (mean_logits(rows.teacher, rows.members)[:, 0] - mean) / deviation
        # Selected at the ends, for gold is NaN where there is no label.
        mixed = rows.alpha * gold + (1 - rows.alpha) * value
        target = torch.where(rows.alpha == 0, value, torch.where(rows.alpha == 1, gold, mixed))
        student = rows.outputs.detach().gather(1, rows.start.unsqueeze(1)).squeeze(1)
        parts = torch.stack([(student - value).square(), (student - gold).square()])
        return rows._replace(
            teacher=torch.where(regression.unsqueeze(1), target.unsqueeze(1), rows.teacher),
            members=rows.members.masked_fill(regression, 1.0),
            alpha=rows.alpha.masked_fill(regression, 0.0),
        ), parts

    def _multilabel_rows(self, rows: Rows, batch: Batch) -> tuple[Rows, Tensor]:
        """Rows with multilabel rows twice, in place for the teacher and at the end for gold; and which those are."""
        multilabel = self._is("multilabel", batch.tasks)
        double = multilabel.nonzero().squeeze(1)
        alpha = rows.alpha
        end = Rows(*(tensor[:, double] if name in ("teacher", "members") else tensor[double]
                     for name, tensor in rows._asdict().items()))  # fmt: skip
        gold = torch.zeros_like(end.teacher[0])
        if batch.targets is not None:
            width = min(gold.shape[1], batch.targets.shape[1])
            gold[:, :width] = batch.targets[double, :width]
        end = end._replace(
            # A sigmoid of +-inf is exactly 1 or 0, at any temperature.
            teacher=torch.where(gold > 0.5, math.inf, -math.inf).expand_as(end.teacher),
            members=torch.ones_like(end.members),
            temperature=torch.ones_like(end.temperature),
            alpha=torch.zeros_like(end.alpha),
            weight=end.weight * alpha[double],
        )
        here = rows._replace(
            alpha=alpha.masked_fill(multilabel, 0.0),
            weight=torch.where(multilabel, rows.weight * (1 - alpha), rows.weight),
        )
        both = (
            torch.cat(pair, int(name in ("teacher", "members"))) for name, pair in zip(Rows._fields, zip(here, end))
        )
        return Rows(*both), double


def check_ranges(task: str, options: dict[str, object]) -> None:
    """Refuses alpha outside [0, 1], a temperature not above 0 and a weight below 0, anywhere in a schedule."""
    rules = {
        "alpha": (lambda low, high: low >= 0 and high <= 1, "it lies between 0 and 1"),
        "temperature": (lambda low, high: low > 0, "it is positive; 1 to 8 are usual"),
        "weight": (lambda low, high: low >= 0, "it is 0 or more"),
    }
    for name, (good, remedy) in rules.items():
        low, high = extremes(options[name])  # type: ignore[arg-type]
        if not good(low, high):
            raise InputError(f"objective.{name} of task '{task}'", f"{low if low == high else (low, high)}", remedy)
