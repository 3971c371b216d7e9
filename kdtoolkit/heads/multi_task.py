"""The heads of all tasks of a run: one matrix product for a batch of any tasks whose heads are alike."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..recipe.checks.heads import head_name
from ..recipe.schema import HeadOptions, Heads
from ..student import Encoded
from ..tasks import Task
from .biattention import BiAttention
from .by_task import TaskModules, TaskParameters
from .dropout import row_dropout
from .interaction import FACTOR, interaction
from .linear import HiddenLayer, initial_parameters
from .ranking import relevance_logits
from .refusal import READ_STATES, head_problem
from .san import StochasticAnswer
from .two_texts import Text, two_texts

if TYPE_CHECKING:
    from ..data.collate import Batch


class HeadOutputs(NamedTuple):
    """What the heads say about a batch.

    outputs: (rows, columns), the columns of every task in the batch, in the order of the run's tasks.
    start, count: (rows,) int64. A row's own columns are start .. start + count - 1; the others are what other tasks'
    heads would say of it, or 0.
    """

    outputs: Tensor
    start: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody asks a batch for
    features: tuple[dict[str, Tensor], ...] = ()
    """Per further term of the objective, the student's features as the term compares them (`Term.forward`)."""
    log_variances: Tensor | None = None
    """(tasks,) what the balance `uncertainty` has learned; None: another balance."""


class MultiTaskHeads(nn.Module):
    """One head a task over the features of one student.

    tasks: the run's tasks, in order; `Batch.tasks` numbers them. width: features of the student's `pooled` and
    `states`.
    pairs: how the student reads two texts. "joint": every head is linear on `pooled`. "separate": a task of pairs reads
    [a; b; |a - b|; a * b] of its two texts, a task of single texts reads `pooled`.
    mixed: whether a batch may hold rows of several tasks. The linear and pair heads then have to be one product of one
    width, so with "separate", if any such task reads pairs, all read the interaction, and a single text is paired with
    itself.
    heads: the recipe's section. Linear and pair heads without `hidden` are multiplied together as above. All others
    (`hidden`, biattention, san, ranking) are computed task by task on their own rows.

    Output layers are stored one by one, `weight.<task>` (outputs, features) and `bias.<task>` (outputs,), and
    concatenated in the forward pass; beside them `hidden.<task>`, `san.<task>`, `biattention.<task>`, and
    `shared_biattention` of the tasks that share it. Only the tasks that occur in a batch take part, so that an idle
    task has gradient None and an optimizer leaves it as it is, to the bit, weight decay and momentum included.

    Raises ValueError if there is no task, names repeat, a task has no outputs yet, or a head cannot be served (see
    `refusal`).
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        width: int,
        *,
        pairs: Literal["joint", "separate"],
        mixed: bool,
        heads: Heads | None = None,
    ) -> None:
        super().__init__()
        if not tasks:
            raise ValueError("heads: expected at least one task")
        if len({task.name for task in tasks}) != len(tasks):
            raise ValueError(f"heads: task names repeat: {', '.join(task.name for task in tasks)}")
        heads = Heads() if heads is None else heads
        for task in tasks:
            if task.outputs < 1:
                raise ValueError(f"heads: task '{task.name}' has no label names yet; read its data first")
            if (problem := head_problem(task, heads, pairs)) is not None:
                raise ValueError(problem)
        self.tasks, self._pairs = tuple(tasks), pairs
        self._options = tuple(heads.of(task.name) for task in tasks)
        self._names = tuple(head_name(task, options) for task, options in zip(tasks, self._options))
        self._rates = tuple(options.dropout or 0.0 for options in self._options)
        self._together = tuple(
            name in ("auto", "linear", "pair") and options.hidden is None
            for name, options in zip(self._names, self._options)
        )
        reads_pairs = [pairs == "separate" and (bool(t.pair) or name == "pair") for t, name in zip(tasks, self._names)]
        if mixed and any(pair for pair, together in zip(reads_pairs, self._together) if together):
            reads_pairs = [pair or together for pair, together in zip(reads_pairs, self._together)]
        self._reads_pairs = tuple(reads_pairs)

        self.hidden, self.san, self.biattention = TaskModules(), TaskModules(), TaskModules()
        self.shared_biattention: BiAttention | None = None
        weights, biases = {}, {}
        for position, task in enumerate(tasks):
            features = self._add_reader(position, width)
            outputs = 1 if self._names[position] == "ranking" else task.outputs
            weights[task.name], biases[task.name] = initial_parameters(outputs, features)
        self.weight, self.bias = TaskParameters(weights), TaskParameters(biases)
        self.counts: Tensor
        self.rates: Tensor
        self.register_buffer("counts", torch.tensor([task.outputs for task in tasks]), persistent=False)  # (tasks,)
        self.register_buffer("rates", torch.tensor(self._rates), persistent=False)  # (tasks,)

    def _add_reader(self, position: int, width: int) -> int:
        """Builds what stands between the student and a task's output layer; how many features that layer reads."""
        name, task, options = self._names[position], self.tasks[position].name, self._options[position]
        if name == "san":
            assert options.steps is not None and options.step_dropout is not None
            answer = StochasticAnswer(
                width,
                options.width or width,
                steps=options.steps,
                step_dropout=options.step_dropout,
                dropout=self._rates[position],
            )
            self.san.add(task, answer)
            return answer.features
        features = FACTOR * width if self._reads_pairs[position] else width
        if name == "biattention":
            features = self._add_biattention(task, width, options).features
        if options.hidden is None:
            return features
        self.hidden.add(task, HiddenLayer(features, options.hidden))
        return options.hidden

    def _add_biattention(self, task: str, width: int, options: HeadOptions) -> BiAttention:
        integrator = options.width or max(width // 2, 1)
        if not options.shared:
            own = BiAttention(width, integrator)
            self.biattention.add(task, own)
            return own
        if self.shared_biattention is None:
            self.shared_biattention = BiAttention(width, integrator)
        if self.shared_biattention.integrator.hidden_size != integrator:
            raise ValueError(f"heads: task '{task}' shares a bi-attention of another width; set shared: false")
        return self.shared_biattention

    @property
    def read_states(self) -> bool:
        """Whether one of them reads the states of all tokens."""
        return not READ_STATES.isdisjoint(self._names)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those that several tasks reach: of the bi-attention, where more than one reads it."""
        if self.shared_biattention is None:
            return []
        reading = [
            name == "biattention" and task.name not in self.biattention for task, name in zip(self.tasks, self._names)
        ]
        return list(self.shared_biattention.parameters()) if sum(reading) > 1 else []

    def forward(self, encoded: Encoded, batch: Batch) -> HeadOutputs:
        """Outputs of every row of the batch.

        Raises ValueError if linear or pair heads that read different features meet in one batch of heads built with
        mixed=False, or a head reads token states and the student gave none, or of another width.
        """
        present = self._present(batch.tasks)
        together = [task for task in present if self._together[task]]
        count = self.counts[batch.tasks]
        if len(together) == len(present):
            outputs = self._product(encoded, batch.first, batch.second, batch.tasks, together)
        elif len(present) == 1:
            outputs = self._alone(encoded, batch, batch.first, batch.second, present[0])
        else:
            outputs = self._apart(encoded, batch, present, together)
        if len(present) == 1:
            return HeadOutputs(outputs, torch.zeros_like(count), count)
        # Where each present task's columns begin, found without a copy from the CPU, which would wait for the device.
        width = torch.zeros_like(self.counts).index_copy(0, batch.tasks, count)  # 0 for idle tasks
        return HeadOutputs(outputs, (width.cumsum(0) - width)[batch.tasks], count)

    def _present(self, tasks: Tensor) -> list[int]:
        """Positions of the tasks that occur, ascending; with one task there is nothing to ask a device."""
        return [0] if len(self.tasks) == 1 else torch.unique(tasks).tolist()

    def _product(
        self, encoded: Encoded, first: Tensor, second: Tensor | None, tasks: Tensor, present: list[int]
    ) -> Tensor:
        """(rows, columns of the tasks `present`) of rows whose heads are multiplied together."""
        as_pair = self._reads_pairs[present[0]]
        if any(self._reads_pairs[task] != as_pair for task in present):
            names = ", ".join(self.tasks[task].name for task in present)
            raise ValueError(f"heads: tasks of one text and of two ({names}) share a batch, which needs mixed=True")
        features = _pooled(encoded, first, second, as_pair)
        rates = {self._rates[task] for task in present}
        if self.training and rates != {0.0}:
            if len(rates) == 1:
                features = functional.dropout(features, rates.pop())
            else:
                features = row_dropout(features, self.rates[tasks])
        names_present = [self.tasks[task].name for task in present]
        return functional.linear(features, self.weight.gather(names_present), self.bias.gather(names_present))

    def _apart(self, encoded: Encoded, batch: Batch, present: list[int], together: list[int]) -> Tensor:
        """(rows, columns) of a batch of several tasks, some of which are computed on their own rows alone."""
        parts: list[tuple[list[int], Tensor, Tensor]] = []  # tasks, their rows, the outputs of these
        if together:
            rows = torch.isin(batch.tasks, torch.tensor(together, device=batch.tasks.device)).nonzero().squeeze(1)
            values = self._product(encoded, *_of_rows(batch, rows), batch.tasks[rows], together)
            parts.append((together, rows, values))
        for task in present:
            if not self._together[task]:
                rows = (batch.tasks == task).nonzero().squeeze(1)
                parts.append(([task], rows, self._alone(encoded, batch, *_of_rows(batch, rows), task)))
        starts, columns = {}, 0
        for task in present:
            starts[task], columns = columns, columns + self.tasks[task].outputs
        dtype = functools.reduce(torch.promote_types, (values.dtype for _, _, values in parts))
        outputs = parts[0][2].new_zeros(len(batch.tasks), columns, dtype=dtype)
        for tasks, rows, values in parts:
            own = [starts[task] + column for task in tasks for column in range(self.tasks[task].outputs)]
            outputs[rows.unsqueeze(1), torch.tensor(own, device=rows.device)] = values.to(dtype)
        return outputs

    def _alone(self, encoded: Encoded, batch: Batch, first: Tensor, second: Tensor | None, task: int) -> Tensor:
        """(rows, outputs of the task) of rows of the one task at position `task`."""
        name, options = self.tasks[task].name, self._options[task]
        weight, bias = self.weight[name], self.bias[name]
        if self._names[task] == "san":
            one, other = self._texts(encoded, batch, first, second, task)
            return self.san[name](one, other, weight, bias)
        if self._names[task] == "biattention":
            own = name in self.biattention
            reader = self.biattention[name] if own else self.shared_biattention
            assert reader is not None
            features = reader(*self._texts(encoded, batch, first, second, task))
        else:
            features = _pooled(encoded, first, second, self._reads_pairs[task])
        if name in self.hidden:
            features = self.hidden[name](features)
        outputs = functional.linear(functional.dropout(features, self._rates[task], self.training), weight, bias)
        if self._names[task] != "ranking":
            return outputs
        assert options.gamma is not None
        return relevance_logits(outputs, gamma=options.gamma, positive=positive_column(self.tasks[task], options))

    def _texts(
        self, encoded: Encoded, batch: Batch, first: Tensor, second: Tensor | None, task: int
    ) -> tuple[Text, Text | None]:
        states = encoded.states
        if states is None or states.shape[2] != encoded.pooled.shape[1]:
            shape = "none" if states is None else f"some of {states.shape[2]}"
            width = encoded.pooled.shape[1]
            raise ValueError(
                f"heads: '{self._names[task]}' reads states of {width} features, and the student gave {shape}"
            )
        pair = bool(self.tasks[task].pair)
        return two_texts(states, batch.tokens, first, second, pair=pair, pairs=self._pairs)


def positive_column(task: Task, options: HeadOptions) -> int:
    """The column of the label that a ranking head takes for relevant."""
    return 0 if options.positive is None else task.labels.index(options.positive)


def ranking_columns(tasks: Sequence[Task], heads: Heads) -> dict[int, int]:
    """By position, the tasks whose head is `ranking`, and the column of their relevant label."""
    chosen = {position: heads.of(task.name) for position, task in enumerate(tasks)}
    ranking = {p: options for p, options in chosen.items() if head_name(tasks[p], options) == "ranking"}
    return {p: positive_column(tasks[p], options) for p, options in ranking.items()}


def _of_rows(batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    return batch.first[rows], None if batch.second is None else batch.second[rows]


def _pooled(encoded: Encoded, first: Tensor, second: Tensor | None, as_pair: bool) -> Tensor:
    """(rows, features) that linear and pair heads read."""
    features = encoded.pooled.index_select(0, first)
    if not as_pair:
        return features
    return interaction(features, features if second is None else encoded.pooled.index_select(0, second))
