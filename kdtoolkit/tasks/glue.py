"""The GLUE tasks (Wang et al. 2019, arXiv:1804.07461): columns, label names and metrics.

Label order is that of the Hugging Face hub; it differs from the alphabetical order of some files.
"""

from __future__ import annotations

from .task import Task

GLUE: dict[str, Task] = {
    task.name: task
    for task in (
        Task("cola", text=("sentence",), label="label", labels=("unacceptable", "acceptable"), metric="mcc",
             metrics=("mcc", "accuracy")),
        Task("sst2", text=("sentence",), label="label", labels=("negative", "positive"), metrics=("accuracy",)),
        Task("mrpc", text=("sentence1", "sentence2"), label="label", labels=("not_equivalent", "equivalent"),
             metrics=("accuracy", "f1")),
        Task("stsb", kind="regression", text=("sentence1", "sentence2"), label="label",
             metrics=("pearson", "spearman")),
        Task("qqp", text=("question1", "question2"), label="label", labels=("not_duplicate", "duplicate"),
             metrics=("accuracy", "f1")),
        Task("mnli", text=("premise", "hypothesis"), label="label",
             labels=("entailment", "neutral", "contradiction"), metrics=("accuracy",), splits=("dev_mismatched",)),
        Task("qnli", text=("question", "sentence"), label="label", labels=("entailment", "not_entailment"),
             metrics=("accuracy",)),
        Task("rte", text=("sentence1", "sentence2"), label="label", labels=("entailment", "not_entailment"),
             metrics=("accuracy",)),
        Task("wnli", text=("sentence1", "sentence2"), label="label", labels=("not_entailment", "entailment"),
             metrics=("accuracy",)),
    )
}  # fmt: skip


def canonical_name(name: str) -> str:
    """The one name of a task or its folder: SST-2, sst-2, sst_2 and sst2 are "sst2"; other names stay as they are."""
    folded = name.lower().replace("-", "").replace("_", "")
    return folded if folded in GLUE else name
