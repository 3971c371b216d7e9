"""`balance:`: how tasks are weighed against each other."""

from __future__ import annotations

from .entry import Entry

_GRADIENTS = {"balance.gradients": "sum, or pcgrad for conflicting gradients"}

BALANCES = (
    Entry(
        "balance", "fixed", "objective.weight alone", "balance: {weights: fixed}",
        ("loss = sum over tasks of objective.weight * sum over its rows",), "the sum of MT-DNN: arXiv:1901.11504",
        {"balance.weights": "how losses are weighed", "objective.weight": "a number or schedule a task",
         **_GRADIENTS},
        ("How much a task weighs is also a matter of how often its rows are drawn: `kdtool explain sampler`.",),
    ),
    Entry(
        "balance", "uncertainty", "weights that are learned with the student, one log-variance a task",
        "balance: {weights: uncertainty}",
        ("regression:                  w * (L * exp(-s) / 2 + s / 2)",
         "classification, multilabel:  w * (L * exp(-s) + s / 2)",
         "L: loss of a row; w: objective.weight; s = log sigma^2 of the task, learned, 0 at first"),
        "Kendall, Gal and Cipolla 2018, arXiv:1705.07115, section 3.2",
        {"balance.weights": "how losses are weighed", "objective.weight": "a factor of the whole"},
        ("A sum over rows. s belongs to the checkpoint and is no part of the student.",
         "A task whose loss falls to 0 drives its weight up without bound.",
         "Implementations differ in the start of s (LibMTL: -0.5) and in the 1/2 of classification."),
    ),
    Entry(
        "balance", "dwa", "dynamic weight average: tasks whose loss falls slowly weigh more",
        "balance: {weights: dwa}",
        ("weight_k = K * softmax(r / temperature)_k,  r_k = L_k(last epoch) / L_k(the epoch before)",
         "K: number of tasks; 1 for all in the first two epochs"),
        "Liu, Johns and Davison 2019, arXiv:1803.10704",
        {"balance.weights": "how losses are weighed", "balance.temperature": "of the softmax; large: equal weights",
         "objective.weight": "a factor of the whole"},
        ("Fewer than three epochs: nothing changes.", "Its weights depend on all rows of earlier epochs."),
    ),
    Entry(
        "balance", "pcgrad", "gradients of tasks that point against each other are projected",
        "balance: {gradients: pcgrad}; sampler: {batch: mixed}",
        ("for each task i, over the other tasks j in random order, if g_i . g_j < 0:",
         "  g_i <- g_i - (g_i . g_j / |g_j|^2) g_j",
         "gradient of a step = sum_i g_i, of the parameters that tasks share"),
        "Yu et al. 2020, arXiv:2001.06782, algorithm 1",
        {"balance.gradients": "sum, or pcgrad", "sampler.batch": "mixed, for it needs several tasks in a step"},
        ("No conflict, or one task: the plain sum.", "The gradients of all tasks of a step are held at once.",
         "Not a sum over rows: the projection is of whole steps. The order depends on seed and step alone."),
    ),
)  # fmt: skip
