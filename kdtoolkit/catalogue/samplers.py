"""`sampler:`: how often each task's rows are visited."""

from __future__ import annotations

from .entry import Entry

_EXPONENT = {"sampler.exponent": "e; a number or schedule"}
_BATCH = {"sampler.batch": "whether a batch holds rows of one task or of all"}

SAMPLERS = (
    Entry(
        "sampler", "size", "each row once an epoch: tasks by their size", "sampler: {exponent: 1.0}",
        ("share of task k = n_k / sum_j n_j,  n: rows of train",),
        "MT-DNN: Liu et al. 2019, arXiv:1901.11504, algorithm 1; MT-DNN-KD: arXiv:1904.09482",
        {**_EXPONENT, **_BATCH}, ("Large tasks drown small ones.",),
    ),
    Entry(
        "sampler", "power", "between size and equal shares", "sampler: {exponent: 0.75}",
        ("share of task k = n_k^e / sum_j n_j^e",), "BAM, e = 0.75: Clark et al. 2019, arXiv:1907.04829, section 3",
        {**_EXPONENT, **_BATCH},
        ("e = 1: by size; e = 0: uniform. An epoch has as many row visits whatever e is, so small tasks repeat rows.",),
    ),
    Entry(
        "sampler", "uniform", "equal shares for all tasks", "sampler: {exponent: 0.0}", ("share of task k = 1 / K",),
        "the limit e = 0 of size^e", {**_EXPONENT, **_BATCH}, ("Small tasks are repeated most.",),
    ),
    Entry(
        "sampler", "annealed", "from sizes towards equal shares over training",
        "sampler: {exponent: {from: 1.0, to: 0.2}}",
        ("share of task k = n_k^e(epoch) / sum_j n_j^e(epoch)",),
        "Stickland and Murray 2019, arXiv:1902.02671 (e from 1 to 0.2)", {**_EXPONENT, **_BATCH},
        ("The schedule is read at the start of each epoch; with one epoch it stays where it begins.",),
    ),
    Entry(
        "sampler", "capped", "sizes count only up to a cap", "sampler: {cap: 10000}",
        ("share of task k = min(n_k, cap)^e / sum_j min(n_j, cap)^e",),
        "examples-proportional mixing: Raffel et al. 2020, arXiv:1910.10683, section 3.5.2",
        {"sampler.cap": "rows beyond it do not enlarge a share", **_EXPONENT, **_BATCH},
        ("A cap above the largest task changes nothing; one below the smallest gives equal shares.",),
    ),
)  # fmt: skip
