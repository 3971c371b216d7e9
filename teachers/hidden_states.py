"""What an encoder has inside for a batch of texts, under the names of `kdtoolkit.teacher.Features`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtoolkit import Encoded
from kdtoolkit.encoder_layers import EncoderLayers, missing_part, provided_by, shape_of
from kdtoolkit.errors import InputError
from kdtoolkit.feature_name import FeatureName, corner
from kdtoolkit.parts import InParts
from kdtoolkit.student import Tokens
from kdtoolkit.teacher import Features

from .classifier import Classifier, OneHead, SharedEncoder, arguments
from .sequences import Reader, TokenSequence, padded


def check_names(config: Any, names: Sequence[str], place: str) -> None:
    """Raises InputError for features that a Hugging Face encoder with this config does not have."""
    sizes, provides = shape_of(config), provided_by(config)
    for name in names:
        feature = FeatureName.parse(name)
        if feature.part not in provides:
            raise InputError(
                f"{place}: {name}",
                missing_part(config, feature.part),
                "take a teacher of type BERT, RoBERTa, ELECTRA or DistilBERT, or a term that compares hidden states",
            )
        if sizes is None or feature.layer > sizes.layers:
            raise InputError(f"{place}: {name}", f"its last layer is {sizes.layers if sizes else 0}")


def encoder_of(model: Classifier | OneHead | SharedEncoder) -> Any:
    """The encoder under a head."""
    return model.model.base_model if isinstance(model, Classifier) else model.encoder


def encoded_by(
    encoder: Any, tokens: Tokens, names: Sequence[str], *, call: Callable[..., Any] | None = None
) -> Encoded:
    """One forward pass of a Hugging Face encoder, with what these features are made of.

    call: in place of the encoder itself, what calls it.
    """
    parts = {FeatureName.parse(name).part for name in names}
    with EncoderLayers(encoder).projected() if parts != {"hidden"} else nullcontext() as projected:
        answer = (call or encoder)(**arguments(encoder, tokens), output_hidden_states=True, return_dict=True)
    found = Encoded(pooled=answer.last_hidden_state[:, 0], hidden=tuple(answer.hidden_states))
    if projected is not None:
        found.queries, found.keys, found.values = (tuple(kept) for kept in projected)
        if "attentions" in parts:
            found.attentions = tuple(projected.scores(layer) for layer in range(len(projected.queries)))
    return found


def feature(name: str, encoded: Encoded, mask: Tensor) -> np.ndarray:
    """One feature of a batch, float32, 0 on padding. encoded: what the feature's part says, layer by layer."""
    kind, layer = FeatureName.parse(name)
    if kind in ("first", "hidden"):
        assert encoded.hidden is not None
        states = encoded.hidden[layer].float()
        return _array(states[:, 0] if kind == "first" else states * mask.unsqueeze(-1))
    if kind == "attention":
        assert encoded.attentions is not None
        return _array(encoded.attentions[layer - 1].float() * (mask[:, None, :, None] & mask[:, None, None, :]))
    kept: tuple[Tensor, ...] = getattr(encoded, kind)
    return _array(kept[layer - 1].float() * mask[:, None, :, None])


def inside(
    encoder: Any,
    parts: InParts | None,
    reader: Reader,
    sequences: Sequence[TokenSequence],
    batches: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    half: bool,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Row numbers and features of each batch of sequences, in bf16 if `half`.

    parts: what calls the encoder where processes share it; all of them come here at the same place.
    """
    device = next(encoder.parameters()).device
    for rows in batches if parts is None else parts.rounds(batches):
        # Others may have texts left, and this process calls the encoder along with them.
        read = reader.encode([""]) if rows is None else [sequences[row] for row in rows]
        tokens = padded(read, reader.pad_id).to(device)
        # Where it is shared, what is converted is not kept: those would be the weights of all layers.
        with torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=parts is None):
            encoded = encoded_by(encoder, tokens, names, call=parts)
        if rows is not None:
            yield rows, {name: feature(name, encoded, tokens.mask) for name in names}


def joined(
    pieces: Sequence[np.ndarray], names: Sequence[str], batches: Iterable[tuple[np.ndarray, dict[str, np.ndarray]]]
) -> Features:
    """The features of all texts, padded to the longest, from those of batches.

    pieces: of each text. batches: row numbers, and the features of those rows by name, padded to their longest.
    """
    lengths = np.array([len(some) for some in pieces], np.int64)
    mask = np.arange(int(lengths.max(initial=1))) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    if len(pieces):
        ids[mask] = np.concatenate(pieces)
    values: dict[str, np.ndarray] = {}
    for rows, found in batches:
        for name in names:
            axes = [axis + 1 for axis in FeatureName.parse(name).token_axes]
            shape = [mask.shape[1] if axis in axes else size for axis, size in enumerate(found[name].shape)]
            whole = values.setdefault(name, np.zeros((len(pieces), *shape[1:]), np.float32))
            whole[corner(rows, found[name].shape[1:])] = found[name]
    return Features(ids, mask, values)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
