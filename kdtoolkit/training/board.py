"""TensorBoard: scalars of training and a table of example predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Board:
    """Event files in one folder; nothing is written, and tensorboard is not imported, before the first value."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._writer: Any = None
        self._purge_step: int | None = None

    def resume_at(self, step: int) -> None:
        """Values at `step` and later that an interrupted run left are hidden by TensorBoard."""
        self._purge_step = step if step else None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes numbers by tag; a tag such as "loss/sst2" groups in the browser."""
        if self.folder is not None and values:
            from tensorboard.compat.proto.summary_pb2 import Summary

            # One event for all: one a number costs a training of nine tasks a hundredth of its time.
            numbers = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            self._open().file_writer.add_summary(Summary(value=numbers), step)

    def table(self, tag: str, header: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None:
        """Writes a Markdown table, which TensorBoard shows under Text."""
        if self.folder is not None:
            cells = [[str(c).replace("|", "\\|").replace("\n", " ") for c in row] for row in rows]
            lines = [header, ["---"] * len(header), *cells]
            self._open().add_text(tag, "\n".join("| " + " | ".join(line) + " |" for line in lines), step)

    def hparams(self, values: Mapping[str, float | str | bool], metrics: Mapping[str, float]) -> None:
        """Writes one row of the HParams tab: a flat recipe beside final metrics."""
        if self.folder is not None:
            from torch.utils.tensorboard.summary import hparams

            writer = self._open()
            for summary in hparams(dict(values), dict(metrics)):
                writer.file_writer.add_summary(summary)
            self.scalars(metrics, 0)

    def flush(self) -> None:
        """Hands what was written to the operating system."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=self._purge_step)
        return self._writer
