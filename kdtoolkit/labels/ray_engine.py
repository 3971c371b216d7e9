"""Labelling by Ray Data: on the cluster that `ray.init` finds, or on this machine.

Every machine must see the run's data and the label store under the same paths. A task of Ray that fails is tried again
by Ray; a part is written under its final name when it is whole, and its name is that of its texts, so nothing is stored
twice or lost.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, WorkError
from .labelling import Labeller, Part, place_of
from .workers import Job, labelled

RETRIES = 3
"""How often Ray tries a part again whose worker died; a text that kills every worker must not do so for ever."""
WAVE = 4096
"""Parts that are handed to Ray at a time."""


class RayData:
    """An engine of `workers` actors of Ray Data; None: as many as there are CPUs (or GPUs, where there are any)."""

    def __init__(self, workers: int | None = None) -> None:
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            remedy = "pip install 'kdtoolkit[ray]'"
            raise InputError("--engine ray", f"Ray Data is not installed ({error})", remedy) from error
        self.workers = workers

    def label(self, labeller: Labeller, parts: Sequence[Part]) -> Iterator[tuple[int, int]]:
        """Stores all parts; yields (rows, log-probabilities raised) as they are done."""
        import ray
        import ray.data

        if not parts:
            return
        job = Job.of(labeller)
        if not ray.is_initialized():
            paths = os.pathsep.join(path for path in sys.path if path)
            ray.init(
                runtime_env={"env_vars": {"PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"}},
                log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False,
            )  # fmt: skip
        ray.data.DataContext.get_current().enable_progress_bars = False
        for name in ("ray.data", "ray"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # we tell the progress, and what went wrong
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        most = self.workers or gpus or max(int(resources.get("CPU", 1)), 1)
        # Of a class with the job in it, for an argument of the actor would not outlive a machine of the cluster.
        actor = type("Actor", (_Actor,), {"job": job})
        try:
            for start in range(0, len(parts), WAVE):
                some = parts[start : start + WAVE]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # ray_remote_args_fn, until 2.64
                    done = ray.data.from_items([_item(p) for p in some], override_num_blocks=len(some)).map_batches(
                        actor,
                        batch_size=1,
                        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(most, len(some))),
                        num_cpus=1,
                        num_gpus=1 if gpus else 0,
                        ray_remote_args_fn=_retries,
                    )
                for row in done.iter_rows():
                    yield int(row["rows"]), int(row["raised"])
        except ray.exceptions.RayError as error:
            raise WorkError(
                f"{place_of(labeller.teacher)}: Ray could not label ({_cause(error)}); what was finished is stored: "
                "start again, with any engine"
            ) from error


class _Actor:
    """A worker: one teacher, one part at a time."""

    job: Job

    def __init__(self) -> None:
        self.labeller = self.job.labeller()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        part = Part(
            np.frombuffer(batch["ids"][0], "S16"), np.frombuffer(batch["split"][0], np.int32),
            np.frombuffer(batch["row"][0], np.int64),
        )  # fmt: skip
        rows, raised = labelled(self.labeller, part)
        return {"rows": np.array([rows]), "raised": np.array([raised])}


def _retries() -> dict[str, Any]:
    return {"max_restarts": RETRIES, "max_task_retries": RETRIES}


def _item(part: Part) -> dict[str, bytes]:
    # Bytes, for ids lose their trailing zeros in numpy's hands.
    return {
        "ids": np.ascontiguousarray(part.ids, "S16").tobytes(),
        "split": np.ascontiguousarray(part.split, np.int32).tobytes(),
        "row": np.ascontiguousarray(part.row, np.int64).tobytes(),
    }


def _cause(error: BaseException) -> str:
    """Our own error, if Ray's account has one; else the last line of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = [line.partition(": ")[2] for line in lines if line.startswith("kdtoolkit.errors.")]
    return [type(error).__name__, *lines[-1:], *own[:1]][-1]
