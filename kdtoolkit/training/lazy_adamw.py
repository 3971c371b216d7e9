"""AdamW that updates the rows of an embedding table when they are read, and not in every step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from . import compiled_updates, eager
from .clipping import coalesced

SETTLE_EVERY = 4096
"""Steps after which all rows are brought up to date in any case; what is kept for each step costs so little time."""


TINY = 1e-37
"""So that what has no moments does not move, and nothing is divided by 0."""


class LazyAdamW(eager.AdamW):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) whose step costs nothing for word pieces it does not read.

    A row without a gradient moves on in Adam: its moments fade, and it follows the first of them. Here these moves are
    made up for at once when the row is read next, and for every row in `settle`, so that the weights are those of the
    usual update, but for rounding, and for `eps`, of which a mean over the steps in between takes part.

    table: its gradient comes sparse from here until `close`. It must be read through its own `forward` alone: a step
    that finds a dense gradient of it, as of a table that is tied to something else, makes up for all, and is a usual
    one from then on.
    """

    def __init__(self, groups: list[dict[str, Any]], table: nn.Embedding, **options: Any) -> None:
        super().__init__(groups, **options)
        self.table, self._was_sparse = table, table.sparse
        weight = table.weight
        self._group = next(g for g in self.param_groups if any(p is weight for p in g["params"]))
        table.sparse = True
        self._reading = table.register_forward_pre_hook(self._before_reading)
        self._current = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
        self._forget()

    def _forget(self) -> None:
        """All rows are up to date. From here, by step: what a row last touched in it has still to do."""
        self._steps = 0
        self._current.zero_()  # (rows,) the step up to which each is brought
        self._moves = torch.zeros(SETTLE_EVERY, dtype=torch.float64)  # times first moment / root of the second
        self._margins = torch.zeros(SETTLE_EVERY, dtype=torch.float64)  # of these, each times what eps has to be
        self._decays = torch.ones(SETTLE_EVERY, dtype=torch.float64)  # what is left of the weight

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update. The table's gradient is gone after it."""
        weight = self.table.weight
        gradient = weight.grad
        if self.table.sparse and gradient is not None:
            if gradient.is_sparse:
                self._update(coalesced(gradient))
                weight.grad = None
            else:
                self.close()
        if self.table.sparse and closure is None and self._made_at_once():
            return None
        # Not AdamW's, which calls what is hooked into steps; torch has made that so by the first AdamW of the process.
        return eager.Eager.step(self, closure)

    def _made_at_once(self) -> bool:
        """Updates what has a gradient by compiled code, if that can; where moments are missing torch makes them."""
        updates, chosen, options = compiled_updates.Updates(), [], set()
        for group in self.param_groups:
            options.add((group["betas"], group["eps"], group["amsgrad"], group["maximize"]))
            rate, decay = float(group["lr"]), group["weight_decay"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state or gradient.is_sparse or state["step"].dtype != torch.float32:
                    return False
                chosen += [parameter, gradient, state["exp_avg"], state["exp_avg_sq"]]
                updates.add(parameter, gradient, state, rate=rate, weight_decay=decay)
        if len(options) != 1 or not chosen or not compiled_updates.can(chosen):
            return not chosen
        [(betas, epsilon, *others)] = options
        if any(others):
            return False
        updates.make(chosen[0].dtype, betas, epsilon)
        return True

    @torch.no_grad()
    def settle(self) -> None:
        """Brings every row up to date; weights and moments are then those of the usual update."""
        if self._steps:
            self._bring(torch.nonzero(self._current < self._steps).squeeze(1))
            self._forget()

    def close(self) -> None:
        """Settles, and gives the table back as it was found; the optimizer is a plain AdamW after this."""
        self.settle()
        self._reading.remove()
        self.table.sparse = self._was_sparse

    def _factors(self) -> tuple[float, float, float, float, float]:
        """Of the next update: rate over the first moment's correction, root of the second's, betas, decay."""
        group, step = self._group, float(self._moments()["step"]) + 1
        one, two = group["betas"]
        rate = float(group["lr"])
        return rate / (1 - one**step), math.sqrt(1 - two**step), one, two, 1 - rate * group["weight_decay"]

    def _moments(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[self.table.weight]
        if not state:
            weight = self.table.weight
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        return state

    def _update(self, gradient: Tensor) -> None:
        """The update of the rows of a coalesced gradient; those that were read here are up to date."""
        rate, root, one, two, kept = self._factors()
        state = self._moments()
        rows, slopes = gradient.indices()[0], gradient.values()
        if self._compiled(rows, slopes):
            compiled_updates.update(self._packed(), rows, slopes, rate, root, kept)
            state["step"] += 1
            self._advance()
            return
        since = self._current[rows]
        late = int((since < self._steps).sum())  # rows that another process has read, and not this one
        if late:
            order = torch.argsort(since)
            rows, slopes, since = rows[order], slopes[order], since[order]
        new, first, second = found = self._found(rows)
        if late:
            self._catch_up(since[:late], *(values[:late] for values in found))
        state["step"] += 1
        group = self._group
        torch._fused_adamw_(
            [new], [slopes], [first], [second], [], [state["step"]], lr=float(group["lr"]), beta1=one, beta2=two,
            weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip
        self._put(rows, *found)
        self._current[rows] = self._steps + 1
        # A row last touched in step s moves now by rate * one^k m / (sqrt(two^k v) / root + eps), k = steps - s,
        # which is (rate * root * (one / sqrt(two))^k) * m / (sqrt(v) + eps * root / sqrt(two)^k).
        steps = slice(self._steps + 1)
        idle = torch.arange(self._steps + 1, 0, -1, dtype=torch.float64)
        self._decays[steps] *= kept
        self._moves[steps] *= kept
        self._moves[steps] += rate * root * (one / math.sqrt(two)) ** idle
        self._margins[steps] *= kept
        self._margins[steps] += rate * root**2 * (one / two) ** idle
        self._advance()

    def _advance(self) -> None:
        """A step of the table is done."""
        self._steps += 1
        if self._steps >= SETTLE_EVERY:
            self.settle()

    def _compiled(self, rows: Tensor, *values: Tensor) -> bool:
        return compiled_updates.can([*self._tables(), *values]) and rows.is_contiguous()

    def _packed(self) -> bytes:
        history = (self._moves, self._margins, self._decays)
        group = self._group
        weight, first, second = self._tables()
        return compiled_updates.table(
            weight, first, second, self._current, self._steps, history, group["betas"], group["eps"]
        )

    @torch.no_grad()
    def _before_reading(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        """Of the ids that a table is called with: their rows are to be up to date."""
        ids = given[0]
        if not self._steps:
            return
        if ids.dtype == torch.int64 and self._compiled(ids):
            compiled_updates.bring(self._packed(), ids)
        else:
            self._bring(torch.unique(ids))

    @torch.no_grad()
    def _bring(self, rows: Tensor) -> None:
        """Makes up for what the rows, each once, have not done since their last step."""
        if not self._steps:
            return
        since = self._current[rows]
        late = since < self._steps
        if not late.all():
            rows, since = rows[late], since[late]
        if not len(rows):
            return
        found = self._found(rows)
        self._catch_up(since, *found)
        self._put(rows, *found)
        self._current[rows] = self._steps

    def _catch_up(self, since: Tensor, weight: Tensor, first: Tensor, second: Tensor) -> None:
        """Brings copies of rows up to date, in place. since: (rows,) the step up to which each is."""
        one, two = self._group["betas"]
        place = since.cpu()
        idle = (self._steps - place).double()
        moves = self._moves[place]
        least = (self._group["eps"] * self._margins[place] / moves.clamp(min=TINY)).clamp(min=TINY)
        factors = torch.stack([moves, least, self._decays[place], one**idle, two**idle])
        moved, least, kept, fades, fades_too = factors.to(weight).unsqueeze(2)  # each (rows, 1)
        slowness = second.sqrt().add_(least)
        weight.mul_(kept).addcdiv_(first * moved, slowness, value=-1)
        first.mul_(fades)
        second.mul_(fades_too)

    def _tables(self) -> list[Tensor]:
        state = self._moments()
        return [self.table.weight.detach(), state["exp_avg"], state["exp_avg_sq"]]

    def _found(self, rows: Tensor) -> list[Tensor]:
        """Weights and both moments of some rows, copied."""
        return [table.index_select(0, rows) for table in self._tables()]

    def _put(self, rows: Tensor, *values: Tensor) -> None:
        """Writes them back; each row once."""
        for table, new in zip(self._tables(), values):
            if table.is_cpu and table.dtype in (torch.float32, torch.float64):
                table.numpy()[rows.numpy()] = new.numpy()  # a copy a row, in half the time of torch's loop
            else:
                table.index_copy_(0, rows, new)


def settle(optimizer: torch.optim.Optimizer) -> None:
    """Before weights are measured or saved: what an optimizer has put off is done."""
    if isinstance(optimizer, LazyAdamW):
        optimizer.settle()
