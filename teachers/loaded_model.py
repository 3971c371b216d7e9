"""The model that a Hugging Face teacher answers with, in memory from when it is asked for until `close`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from kdtoolkit.memory import keep_few_kernels
from kdtoolkit.parts import InParts

from .checkpoint import Checkpoint
from .common import Common, common
from .task_heads import trained_head

if TYPE_CHECKING:
    from .classifier import Classifier, OneHead, SharedEncoder
    from .last_layer import LastLayer


class LoadedModel:
    """A checkpoint's model with the head of a task; the encoder of a joint training is there once for all its tasks.

    `sharded`: the encoder alone, of which each process keeps a part.
    """

    def __init__(self, checkpoint: Checkpoint, task: str) -> None:
        self.checkpoint, self.task, self.sharded = checkpoint, task, False
        self._model: Classifier | OneHead | SharedEncoder | None = None
        self._last: LastLayer | None = None
        self._encoder: Common[Any] | None = None

    @property
    def whole(self) -> Classifier | OneHead | SharedEncoder:
        """On the device that answers, in evaluation mode."""
        if self._model is None:
            _keep_few_kernels()
            self._model = self._from_checkpoint().to(device()).eval()
        return self._model

    @property
    def last_layer(self) -> LastLayer:
        """That of `whole`."""
        if self._last is None:
            from .last_layer import LastLayer

            self._last = LastLayer(self.whole)
        return self._last

    @property
    def parts(self) -> InParts:
        """What calls the encoder where it is sharded; all processes ask for it at the same place."""
        _keep_few_kernels()
        encoder = self._common(self._encoder_alone)
        return encoder.parts(encoder.model, device())

    def shard(self) -> None:
        """It is loaded and cut when it is asked for."""
        if not self.sharded:
            self.close()
            self.sharded = True

    def close(self) -> None:
        """Out of memory, until it is asked for again."""
        self._model = self._last = self._encoder = None

    def _from_checkpoint(self) -> Classifier | OneHead | SharedEncoder:
        """The model, on a CPU."""
        from .classifier import Classifier, OneHead

        checkpoint = self.checkpoint
        if not checkpoint.joint_tasks:
            return Classifier(checkpoint.load())
        encoder = checkpoint.load_encoder() if self.sharded else self._common(checkpoint.load_encoder).model
        if self.task in checkpoint.heads:
            return trained_head(checkpoint, self.task, encoder)
        return OneHead(encoder, *checkpoint.head(self.task))

    def _encoder_alone(self) -> Any:
        """Without a head, which is not asked; on a CPU."""
        if self.checkpoint.joint_tasks:
            return self.checkpoint.load_encoder()
        model: Any = self.checkpoint.load()
        return model.base_model

    def _common(self, load: Callable[[], Any]) -> Common[Any]:
        if self._encoder is None:
            checkpoint = self.checkpoint
            self._encoder = common((checkpoint.digest(), checkpoint.trust_remote_code, self.sharded), load)
        return self._encoder


def device() -> torch.device:
    """Where teachers answer."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _keep_few_kernels() -> None:
    if device().type == "cpu":
        keep_few_kernels()
