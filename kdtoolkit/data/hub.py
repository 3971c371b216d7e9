"""Splits of a hub data set, through `datasets` and its cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..tasks import GLUE, Task
from .readers import Source

GLUE_REPOSITORY = "nyu-mll/glue"
READ_ROWS = 10_000


class HubSplit(Source):
    """One split of a hub data set, read batch by batch from its memory-mapped cache."""

    def __init__(self, name: str, dataset: Any) -> None:
        super().__init__(name, dataset.column_names)
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def class_names(self, column: str) -> tuple[str, ...] | None:
        names = getattr(self._dataset.features.get(column), "names", None)
        return tuple(names) if names else None

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        for column in columns:
            if column not in self.columns:
                raise self.missing_column(column)
        chosen = self._dataset.select_columns(list(dict.fromkeys(columns)))
        for start in range(0, len(chosen), READ_ROWS):
            batch = chosen[start : start + READ_ROWS]
            yield from enumerate(zip(*(batch[column] for column in columns)), start + 1)


def hub_name(task: Task, named: str | None = None) -> tuple[str, str | None]:
    """(repository, configuration) of a task's data on the hub.

    named: what the recipe says, "owner/name" or "owner/name:configuration"; None: GLUE's own for its tasks, else a data
    set called like the task.
    """
    if named is not None:
        repository, _, configuration = named.partition(":")
        return repository, configuration or None
    return (GLUE_REPOSITORY, task.name) if task.name in GLUE else (task.name, None)


def hub_splits(task: Task, named: str | None = None) -> Mapping[str, Source]:
    """All splits of the task's data set, by their names on the hub; `named` as in `hub_name`.

    HF_HUB_OFFLINE, HF_HOME and HF_DATASETS_CACHE hold as everywhere. Raises InputError, with the forms that need no
    network, if the data set can neither be reached nor is in the cache.
    """
    import datasets
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repository, configuration = hub_name(task, named)
    called = f"'{repository}'" + (f" ({configuration})" if configuration else "")
    # No network, no such data set or configuration, a data set that is a script.
    failures = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError, HfHubHTTPError, HFValidationError)
    try:
        loaded = datasets.load_dataset(repository, configuration)
    except failures as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"task '{task.name}'",
            f"no local data are named, and the hub data set {called} cannot be loaded ({cause})",
            f"give --data FOLDER with {task.name}/train and {task.name}/dev as .tsv, .csv, .jsonl or .parquet "
            f"(also .gz), or --train FILE --dev FILE, or data.{task.name}.train in the recipe",
        ) from error
    return {split: HubSplit(f"{repository} {configuration or ''}".strip() + f" {split}", part)
            for split, part in loaded.items() if len(part)}  # fmt: skip
