"""Hugging Face models as the loop and the teacher call them: tokens in, one row of outputs an example out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdtoolkit.data.collate import Batch
from kdtoolkit.encoder_layers import depths_of
from kdtoolkit.heads import HeadOutputs, MultiTaskHeads
from kdtoolkit.student import Encoded
from kdtoolkit.tasks import Task

if TYPE_CHECKING:
    from kdtoolkit.recipe.schema import Heads
    from kdtoolkit.student import Tokens


class Classifier(nn.Module):
    """A sequence-classification model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def outputs(self, tokens: Tokens) -> Tensor:
        """(rows, outputs) in the model's own label order."""
        return self.model(**arguments(self.model, tokens)).logits

    def forward(self, batch: Batch) -> HeadOutputs:
        outputs = self.outputs(batch.tokens)
        start = torch.zeros(len(outputs), dtype=torch.int64, device=outputs.device)
        return HeadOutputs(outputs, start, torch.full_like(start, outputs.shape[1]))

    def depths(self) -> dict[str, int]:
        """Depth of each parameter, by name: see `with_heads`."""
        return with_heads(self, f"model.{self.model.base_model_prefix}")


def with_heads(model: nn.Module, encoder: str) -> dict[str, int]:
    """By name of each parameter of `model`, its depth in the submodule `encoder`; heads lie at layers + 2.

    Empty where the encoder's layers cannot be told apart, as in ALBERT.
    Source: BAM (Clark et al. 2019, arXiv:1907.04829), section 3.3, with the numbers of the authors' code.
    """
    inside: Any = model.get_submodule(encoder)
    depths = depths_of(inside)
    if not depths:
        return {}
    heads = int(inside.config.num_hidden_layers) + 2
    return {name: depths.get(name.removeprefix(f"{encoder}."), heads) for name, _ in model.named_parameters()}


class SharedEncoder(nn.Module):
    """One encoder under a head a task, as it is trained (MT-DNN: Liu et al. 2019, arXiv:1901.11504, section 3).

    What linear heads read is the checkpoint's own pooled first token where the architecture has a pooler, else the
    first token's last state. dropout: on that. heads: None: all are linear; SAN reads the last states of all tokens.
    """

    def __init__(
        self, encoder: Any, tasks: Sequence[Task], *, dropout: float, mixed: bool, heads: Heads | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.dropout = encoder, nn.Dropout(dropout)
        # Two texts are one sequence here, whatever head the student has.
        joint = [task.with_(head="auto") for task in tasks]
        self.heads = MultiTaskHeads(joint, encoder.config.hidden_size, pairs="joint", mixed=mixed, heads=heads)

    def forward(self, batch: Batch) -> HeadOutputs:
        encoded = read(self.encoder, batch.tokens)
        encoded.pooled = self.dropout(encoded.pooled)
        return self.heads(encoded, batch)

    def outputs(self, tokens: Tokens) -> Tensor:
        """(rows, outputs) of the one task that there is, in the label order of the training."""
        rows = torch.arange(len(tokens.ids), device=tokens.ids.device)
        unlabelled = torch.full(rows.shape, torch.nan, device=rows.device)
        return self(Batch(tokens, rows, None, torch.zeros_like(rows), unlabelled)).outputs

    def depths(self) -> dict[str, int]:
        """Depth of each parameter, by name: see `with_heads`."""
        return with_heads(self, "encoder")


class OneHead(nn.Module):
    """The encoder and the linear head of one task, as a trained `SharedEncoder` left them.

    weight: (outputs, features); bias: (outputs,).
    """

    def __init__(self, encoder: Any, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def outputs(self, tokens: Tokens) -> Tensor:
        """(rows, outputs) in the label order of the training."""
        return nn.functional.linear(read(self.encoder, tokens).pooled, self.weight, self.bias)


def arguments(model: Any, tokens: Tokens) -> dict[str, Tensor]:
    """What a Hugging Face model is called with. Types without segments (RoBERTa has one) are told nothing of them."""
    read = {"input_ids": tokens.ids, "attention_mask": tokens.mask.long()}
    if int(getattr(model.config, "type_vocab_size", 0) or 0) > 1:
        read["token_type_ids"] = tokens.segments
    return read


def read(encoder: Any, tokens: Tokens) -> Encoded:
    """pooled: the encoder's own pooled output, or its first token's last state where it has no pooler; and states."""
    answer = encoder(**arguments(encoder, tokens))
    states, found = answer.last_hidden_state, getattr(answer, "pooler_output", None)
    return Encoded(pooled=states[:, 0] if found is None else found, states=states)
