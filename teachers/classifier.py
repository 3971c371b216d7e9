"""A sequence-classification model as the loop and the teacher call it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdtoolkit.heads import HeadOutputs

if TYPE_CHECKING:
    from kdtoolkit.data.collate import Batch
    from kdtoolkit.student import Tokens


class Classifier(nn.Module):
    """A sequence-classification model with tokens in and one row of outputs an example out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        # Types without segments (RoBERTa has one) are told nothing about them.
        self.reads_segments = int(getattr(model.config, "type_vocab_size", 0) or 0) > 1

    def outputs(self, tokens: Tokens) -> Tensor:
        """(rows, outputs) in the model's own label order."""
        segments = {"token_type_ids": tokens.segments} if self.reads_segments else {}
        return self.model(input_ids=tokens.ids, attention_mask=tokens.mask.long(), **segments).logits

    def forward(self, batch: Batch) -> HeadOutputs:
        outputs = self.outputs(batch.tokens)
        start = torch.zeros(len(outputs), dtype=torch.int64, device=outputs.device)
        return HeadOutputs(outputs, start, torch.full_like(start, outputs.shape[1]))
