"""Ways to one gradient: our call, what people write in PyTorch, Inductor's and Liger-Kernel's."""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtoolkit.ops import KINDS, SparseTeacher, soft_cross_entropy

T, ALPHA = 2.0, 0.3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Loss = Callable[[Tensor], Tensor]
"""From student logits to a scalar."""


class Case(NamedTuple):
    """Ways to one gradient of one leaf. The first is ours."""

    title: str
    leaf: Tensor
    ways: dict[str, Loss]


def soft_eager(z: Tensor, v: Tensor) -> Tensor:
    z, v = z.float(), v.float()
    return -((v / T).softmax(-1) * (z / T).log_softmax(-1)).sum(-1).mean() * T**2


def mixed_eager(z: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return (1 - ALPHA) * soft_eager(z, v) + ALPHA * F.cross_entropy(z.float(), y)


def kl_div(z: Tensor, v: Tensor) -> Tensor:
    z, v = z.float(), v.float()
    return F.kl_div((z / T).log_softmax(-1), (v / T).softmax(-1), reduction="batchmean") * T**2


def probability_targets(z: Tensor, v: Tensor) -> Tensor:
    z, v = z.float(), v.float()
    return F.cross_entropy(z / T, (v / T).softmax(-1)) * T**2


def rkl_eager(z: Tensor, v: Tensor) -> Tensor:
    log_q, log_p = (z.float() / T).log_softmax(-1), (v.float() / T).log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean() * T**2


def jsd_eager(z: Tensor, v: Tensor) -> Tensor:
    log_q, log_p = (z.float() / T).log_softmax(-1), (v.float() / T).log_softmax(-1)
    log_m = torch.logaddexp(log_q, log_p) - math.log(2)
    both = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return both.sum(-1).mean() * (T**2 / 2)


def tvd_eager(z: Tensor, v: Tensor) -> Tensor:
    return ((z.float() / T).softmax(-1) - (v.float() / T).softmax(-1)).abs().sum(-1).mean() * (T**2 / 2)


def bce_eager(z: Tensor, v: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(z.float() / T, (v.float() / T).sigmoid()) * T**2


def mse_eager(z: Tensor, v: Tensor) -> Tensor:
    return F.mse_loss(z.float(), v.float())


def ensemble_eager(z: Tensor, v: Tensor) -> Tensor:
    return -((v / T).softmax(-1).mean(0) * (z / T).log_softmax(-1)).sum(-1).mean() * T**2


def sparse_eager(z: Tensor, index: Tensor, probs: Tensor) -> Tensor:
    """Top-k with the rest as one class."""
    log_q = (z / T).log_softmax(-1).gather(-1, index)
    rest_p, rest_q = 1 - probs.sum(-1), torch.log1p(-log_q.exp().sum(-1))
    return -((probs * log_q).sum(-1) + rest_p * rest_q).mean() * T**2


KINDS_EAGER = {"rkl": rkl_eager, "jsd": jsd_eager, "tvd": tvd_eager, "bce": bce_eager, "mse": mse_eager}


def ours(v: Any, y: Tensor | None = None, **options: Any) -> Loss:
    options = {"temperature": T, "alpha": 0.0 if y is None else ALPHA, **options}
    return lambda z: soft_cross_entropy(z, v, y, **options)


def compiled(function: Callable[..., Tensor], *others: Tensor) -> Loss:
    """By Inductor, for the first shape it sees."""
    made = torch.compile(function, dynamic=False)
    return lambda z: made(z, *others)


def inductor_problem(device: str) -> str | None:
    """Why there is no Inductor here; None if there is."""
    compiler = os.environ.get("CXX", "g++")
    if device == "cpu" and shutil.which(compiler) is None:
        return f"no C++ compiler ({compiler})"
    return None


def logits(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
    return drawn.mul_(3).to(dtype)


def named(shape: tuple[int, int], dtype: str) -> str:
    return f"[{shape[0]}, {shape[1]}] {dtype}"


def main_cases(shape: tuple[int, int], dtype: str, device: str, inductor: bool) -> list[Case]:
    """Soft and mixed over the same logits."""
    z, v = (logits(shape, DTYPES[dtype], device, seed) for seed in (0, 1))
    y = torch.randint(0, shape[1], shape[:1], generator=torch.Generator().manual_seed(2)).to(device)
    soft = {
        "ours": ours(v),
        "eager": lambda z: soft_eager(z, v),
        "F.kl_div": lambda z: kl_div(z, v),
        "F.cross_entropy": lambda z: probability_targets(z, v),
    }
    mixed = {"ours": ours(v, y), "eager": lambda z: mixed_eager(z, v, y)}
    if inductor:
        soft["Inductor"], mixed["Inductor"] = compiled(soft_eager, v), compiled(mixed_eager, v, y)
    if device == "cuda":
        soft.update(liger_kl(v))
    leaf = z.requires_grad_()
    return [Case(f"{named(shape, dtype)}, soft", leaf, soft), Case(f"{named(shape, dtype)}, mixed", leaf, mixed)]


def liger_kl(v: Tensor) -> dict[str, Loss]:
    """Liger-Kernel's KL of probabilities; the softmaxes are torch's."""
    try:
        from liger_kernel.transformers import LigerKLDIVLoss
    except ImportError:
        return {}
    loss = LigerKLDIVLoss(reduction="batchmean")
    return {"Liger KL": lambda z: loss((z.float() / T).log_softmax(-1), (v.float() / T).softmax(-1)) * T**2}


def liger_cases(shape: tuple[int, int], dtype: str) -> Iterator[Case]:
    """Its other distillation losses, against our kinds of these names."""
    try:
        from liger_kernel.transformers import LigerJSD, LigerTVDLoss
    except ImportError:
        return
    z, v = (logits(shape, DTYPES[dtype], "cuda", seed) for seed in (0, 1))
    jsd, tvd = LigerJSD(beta=0.5), LigerTVDLoss(reduction="batchmean")
    theirs: dict[str, Loss] = {
        "jsd": lambda z: jsd((z.float() / T).log_softmax(-1), (v.float() / T).log_softmax(-1)) * T**2,
        "tvd": lambda z: tvd((z.float() / T).softmax(-1), (v.float() / T).softmax(-1)) * T**2,
    }
    for kind, loss in theirs.items():
        ways = {"ours": ours(v, kind=kind), "eager": lambda z, f=KINDS_EAGER[kind]: f(z, v), f"Liger {kind}": loss}
        yield Case(f"{named(shape, dtype)}, {kind}", z.detach().clone().requires_grad_(), ways)


def nine_tasks(dtype: str, device: str) -> Case:
    """64 rows of nine tasks, with heads of 1, 2, 3 and 7 columns; each task has its temperature, alpha and weight."""
    draw, rows = random.Random(3), 64
    counts = [2, 2, 2, 2, 1, 3, 2, 2, 7]
    starts = [sum(counts[:task]) for task in range(9)]
    task = torch.tensor([draw.randrange(9) for _ in range(rows)])
    settings = [(draw.uniform(1, 4), draw.uniform(0.1, 0.9), draw.uniform(0.5, 2)) for _ in range(9)]
    settings = [(t, 0.0, w) if count == 1 else (t, a, w) for count, (t, a, w) in zip(counts, settings)]
    z, v = logits((rows, sum(counts)), DTYPES[dtype], device, 4), logits((rows, max(counts)), torch.float32, device, 5)
    start, count = torch.tensor(starts)[task].to(device), torch.tensor(counts)[task].to(device)
    y = (torch.rand(rows, generator=torch.Generator().manual_seed(6)) * torch.tensor(counts)[task]).long().to(device)
    temperature, alpha, weight = torch.tensor(settings)[task].to(device).unbind(1)
    options: dict[str, Any] = {
        "kind": torch.where(count == 1, KINDS["mse"], KINDS["ce"]), "temperature": temperature,
        "alpha": alpha, "weight": weight, "columns": (start, count), "ignore": "hard",
    }  # fmt: skip
    groups = [(number, (task == number).nonzero().squeeze(1).to(device)) for number in range(9)]

    def loop(z: Tensor) -> Tensor:
        total = z.new_zeros((), dtype=torch.float32)
        for number, of_task in groups:
            if len(of_task) == 0:
                continue
            own, width = z[of_task, starts[number] : starts[number] + counts[number]].float(), counts[number]
            teacher, (t, a, w) = v[of_task, :width], settings[number]
            if width == 1:
                total = total + w * (own - teacher).square().sum()
                continue
            soft = -((teacher / t).softmax(-1) * (own / t).log_softmax(-1)).sum() * t**2
            total = total + w * ((1 - a) * soft + a * F.cross_entropy(own, y[of_task], reduction="sum"))
        return total

    def with_parts(z: Tensor) -> Tensor:
        loss, _, _ = soft_cross_entropy(z, v, y, reduction="none", return_parts=True, **options)
        return loss.sum()

    ways: dict[str, Loss] = {
        "ours": lambda z: soft_cross_entropy(z, v, y, reduction="sum", **options),
        "ours, losses and parts per row": with_parts,
        "eager": loop,
    }
    return Case(f"nine tasks, 64 rows {dtype}", z.requires_grad_(), ways)


def risky_cases(device: str, inductor: bool, quick: bool) -> Iterator[Case]:
    """Sizes and options where we may lose."""

    def pair(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return logits(shape, torch.float32, device, 0).requires_grad_(), logits(shape, torch.float32, device, 1)

    def with_inductor(ways: dict[str, Loss], function: Callable[..., Tensor], *others: Tensor) -> dict[str, Loss]:
        return {**ways, "Inductor": compiled(function, *others)} if inductor and not quick else ways

    for shape in [(4096, 1), (1, 3), (1, 30522), (4096, 33), (4096, 48), (4096, 64), (4096, 1000)]:
        z, v = pair(shape)
        function, kind = (mse_eager, "mse") if shape[1] == 1 else (soft_eager, "ce")
        ways = {"ours": ours(v, kind=kind), "eager": lambda z, f=function, v=v: f(z, v)}
        yield Case(f"{named(shape, 'fp32')}, {kind}", z, with_inductor(ways, function, v))
    for shape in [(4096, 3), (64, 30522)]:
        z, v = pair(shape)
        for kind in ("rkl", "jsd", "tvd", "bce"):
            function = KINDS_EAGER[kind]
            ways = {"ours": ours(v, kind=kind), "eager": lambda z, f=function, v=v: f(z, v)}
            ways = with_inductor(ways, function, v) if shape[1] > 3 else ways
            yield Case(f"{named(shape, 'fp32')}, {kind}", z, ways)
        members = logits((3, *shape), torch.float32, device, 7)
        ways = {"ours": ours(members), "eager": lambda z, v=members: ensemble_eager(z, v)}
        yield Case(f"{named(shape, 'fp32')}, three teachers", z, with_inductor(ways, ensemble_eager, members))
    for shape in [(64, 30522)] if quick else [(64, 30522), (512, 30522)]:
        z, v = pair(shape)
        probs, index = (v / T).softmax(-1).topk(32)
        listed = SparseTeacher(index, probs=probs, tail="bucket", temperature=T)
        ways = {"ours": ours(listed), "eager": lambda z, i=index, p=probs: sparse_eager(z, i, p)}
        ways = with_inductor(ways, sparse_eager, index, probs)
        # Another loss, so its gradient is not compared: what a dense teacher would have cost.
        yield Case(f"{named(shape, 'fp32')}, top 32", z, {**ways, "ours, dense": ours(v)})
