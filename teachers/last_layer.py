"""The last layer of a classifier's encoder for the first token alone, where its outputs come from nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdtoolkit.student import Tokens

from .classifier import Classifier, OneHead, SharedEncoder
from .hidden_states import encoder_of

CLOSE = 1e-4
"""By which part of the largest output two ways of computing the same may differ, in float32 arithmetic."""


class LastLayer:
    """Everything that follows the attention of the last layer (three quarters of its arithmetic) for one token a text.

    It is done where an encoder is built as BERT's is, and it is found that the outputs are the same: once, on a few
    made-up tokens.
    """

    def __init__(self, model: Classifier | OneHead | SharedEncoder) -> None:
        self._found = _after_attention(encoder_of(model))
        if self._found is not None and not self._same_outputs(model):
            self._found = None

    @property
    def is_shortened(self) -> bool:
        return self._found is not None

    @contextmanager
    def first_token(self) -> Iterator[None]:
        """What the model's forward passes in here are shortened by."""
        if self._found is None:
            yield
            return
        hook = self._found.register_forward_pre_hook(_first_of_each)
        try:
            yield
        finally:
            hook.remove()

    @torch.inference_mode()
    def _same_outputs(self, model: Classifier | OneHead | SharedEncoder) -> bool:
        device = next(model.parameters()).device
        try:
            size = int(encoder_of(model).config.vocab_size)
            ids = (torch.arange(10, device=device) * 7919 % size).view(2, 5)  # a prime, for tokens from everywhere
            mask = torch.arange(5, device=device) < torch.tensor([[5], [3]], device=device)
            tokens = Tokens(ids, mask, torch.zeros_like(ids))
            usual = model.outputs(tokens)
            with self.first_token():
                short = model.outputs(tokens)
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
            return False  # it reads other tokens too, or no made-up ones, or the module is called with other things
        return short.shape == usual.shape and bool(((short - usual).abs() <= CLOSE * usual.abs().max()).all())


def _after_attention(encoder: Any) -> nn.Module | None:
    """The module of the last layer that gets what attention gave and the layer's input; None: there is none such."""
    layers = getattr(encoder.config, "num_hidden_layers", None)
    found = [module for name, module in encoder.named_modules()
             if isinstance(layers, int) and name.endswith(f".{layers - 1}.attention.output")]  # fmt: skip
    return found[0] if len(found) == 1 and not encoder.training else None


def _first_of_each(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(states[:, :1] for states in inputs)
