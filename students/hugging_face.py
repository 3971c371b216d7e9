"""Any Hugging Face encoder as the student."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdtoolkit.encoder_layers import EncoderLayers, depths_of, missing_part, provided_by, shape_of
from kdtoolkit.errors import InputError
from kdtoolkit.hub import checkpoint_folder, quiet
from kdtoolkit.linear import with_quick_products
from kdtoolkit.progress import log
from kdtoolkit.shape import Shape
from kdtoolkit.student import Encoded, Student, Tokens

from .options import one_of

PLACE = "student.model"


class HuggingFaceEncoder(Student):
    """The encoder of a Hugging Face checkpoint, without its head.

    model: an alias (distilbert), a hub id or a folder. config: its config as a mapping with `model_type`, in place of
    `model`; then nothing is read and `initialise` does nothing.
    pretrained: whether `initialise` copies the checkpoint's weights. Its word embeddings are not among them, for only
    its tokenizer knows their numbers: they come with `tokenizer: {name: teacher, source: model, vectors: copy}`, which
    is what a recipe with this student has if it says nothing else, and go where `word_embedding` says.
    pooling: "first" (the state of the first token), "mean" over the real tokens, or "pooler", the encoder's own: for
    BERT and its kin a dense layer with tanh on the first token's state.

    `encode` gives pooled and states; set the attribute `output` to any of {"hidden", "attentions", "relations"} for
    these too. Attention scores and relations (queries, keys, values) are there for the types that
    `kdtoolkit.encoder_layers` knows, as `provides` of an instance says.
    Raises ValueError for an option outside its range, InputError if the checkpoint is not there.
    """

    pairs: Literal["joint", "separate"] = "joint"
    provides = frozenset({"states", "hidden", "attentions", "relations"})

    def __init__(
        self,
        vocab_size: int,
        *,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        pretrained: bool = True,
        pooling: Literal["first", "mean", "pooler"] = "first",
    ) -> None:
        one_of("pooling", pooling, ("first", "mean", "pooler"))
        if (model is None) == (config is None):
            raise InputError(PLACE, "one of `model` (a checkpoint) and `config` is needed", "for example hf:distilbert")
        source = _config(model, config)
        super().__init__(width=int(source.hidden_size))
        self.pooling, self.source = pooling, model if pretrained else None
        self._stored = {key: value for key, value in source.to_dict().items() if key != "_name_or_path"}
        padding = source.pad_token_id
        built = deepcopy(source)
        # The core's piece 0 is padding; every other special token is a piece like any other.
        built.vocab_size, built.pad_token_id = vocab_size, 0
        for name in ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id"):
            if hasattr(built, name):
                setattr(built, name, None)
        self.encoder: Any = _build(built, pooler=pooling == "pooler")
        self.provides = provided_by(built) | {"states"}
        accepted = inspect.signature(type(self.encoder).forward).parameters
        self._segments = "token_type_ids" in accepted and int(getattr(source, "type_vocab_size", 0) or 0) > 1
        self._first_position, self._longest = _positions(self.encoder, padding)
        self._numbers_positions = "position_ids" in accepted

    def encode(self, batch: Tokens) -> Encoded:
        time = batch.ids.shape[1]
        if self._longest is not None and time > self._longest:
            raise InputError(
                PLACE, f"a text has {time} tokens, and the encoder can read {self._longest}", "lower data.max_tokens"
            )
        inputs: dict[str, Any] = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
        if self._segments:
            inputs["token_type_ids"] = batch.segments
        if self._numbers_positions:
            # RoBERTa would count its positions from the padding number, which is another one here.
            positions = torch.arange(self._first_position, self._first_position + time, device=batch.ids.device)
            inputs["position_ids"] = positions.expand(len(batch.ids), time)
        asked = {"attentions", "relations"} & set(self.output)
        for part in asked - self.provides:
            raise InputError(PLACE, missing_part(self.encoder.config, part), "leave out the term that compares it")
        with EncoderLayers(self.encoder).projected() if asked else nullcontext() as projected:
            answer = self.encoder(**inputs, output_hidden_states="hidden" in self.output, return_dict=True)
        real = batch.mask.unsqueeze(-1)
        states: Tensor = answer.last_hidden_state * real
        encoded = Encoded(pooled=self._pooled(answer, states, real), states=states)
        if "hidden" in self.output:
            encoded.hidden = tuple(answer.hidden_states)
        if projected is not None and "attentions" in asked:
            encoded.attentions = tuple(projected.scores(layer) for layer in range(len(projected.queries)))
        if projected is not None and "relations" in asked:
            encoded.queries, encoded.keys, encoded.values = (tuple(kept) for kept in projected)
        return encoded

    def _pooled(self, answer: Any, states: Tensor, real: Tensor) -> Tensor:
        """(rows, width), from what the encoder gave. real: (rows, time, 1)."""
        if self.pooling == "pooler":
            return answer.pooler_output
        return states[:, 0] if self.pooling == "first" else states.sum(1) / real.sum(1)

    @property
    def shape(self) -> Shape | None:
        return shape_of(self.encoder.config)

    def depths(self) -> dict[str, int]:
        return {f"encoder.{name}": depth for name, depth in depths_of(self.encoder).items()}

    def word_embedding(self) -> nn.Embedding | None:
        table = self.encoder.get_input_embeddings()
        return table if isinstance(table, nn.Embedding) else None

    @torch.no_grad()
    def initialise(self) -> None:
        """Copies the checkpoint's weights, all but the word embeddings.

        Raises InputError if the checkpoint cannot be read or lacks weights of the encoder.
        """
        if self.source is None:
            return
        table = self.word_embedding()
        pretrained, fresh = _load(self.source)
        ours, theirs = self.encoder.state_dict(), pretrained.state_dict()
        for name, tensor in ours.items():
            if name in fresh or (table is not None and tensor.data_ptr() == table.weight.data_ptr()):
                continue
            if name not in theirs or theirs[name].shape != tensor.shape:
                raise InputError(PLACE, f"'{self.source}' has no weights for '{name}' of shape {tuple(tensor.shape)}")
            tensor.copy_(theirs[name])
        log.info("student: weights of '%s'; word embeddings come from the tokenizer's vectors", self.source)
        if fresh & ours.keys():
            log.info("student: '%s' has no weights for its pooler, which starts from random ones", self.source)

    def resolved_options(self, options: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in options.items() if key not in ("model", "config", "pretrained")}
        return {**kept, "config": self._stored, "pretrained": False}


def _config(model: str | None, config: dict[str, Any] | None) -> Any:
    from transformers import AutoConfig

    if model is not None:
        folder = checkpoint_folder(model, PLACE, weights=False)
        try:
            found: Any = AutoConfig.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(PLACE, f"{folder / 'config.json'} cannot be read ({error})") from error
    else:
        values = dict(config or {})
        model_type = values.pop("model_type", None)
        if model_type is None:
            raise InputError("student.config", "says no `model_type`", "give a whole config.json as a mapping")
        try:
            found = AutoConfig.for_model(model_type, **values)
        except (ValueError, KeyError) as error:
            raise InputError("student.config", f"transformers knows no model type '{model_type}'") from error
    if getattr(found, "is_encoder_decoder", False) or not isinstance(getattr(found, "hidden_size", None), int):
        raise InputError(PLACE, f"'{found.model_type}' is no plain text encoder", "give a BERT-type checkpoint")
    return found


def _build(config: Any, *, pooler: bool) -> nn.Module:
    from transformers import AutoModel

    try:
        encoder: Any = AutoModel.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError) as error:
        raise InputError(PLACE, f"an encoder of type '{config.model_type}' cannot be built ({error})") from error
    if getattr(encoder, "pooler", None) is None:
        if pooler:
            cause = f"an encoder of type '{config.model_type}' has none of its own"
            raise InputError("student.pooling: pooler", cause, "choose first or mean")
    elif not pooler:
        encoder.pooler = None  # the pooling is ours; these weights would never learn
    return with_quick_products(encoder)


def _load(source: str) -> tuple[nn.Module, frozenset[str]]:
    """The encoder, and the names of the weights that the checkpoint lacks, all of the pooler.

    Raises InputError if it cannot be read, or lacks others.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel

    folder = checkpoint_folder(source, PLACE)
    try:
        with quiet():
            model, report = AutoModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise InputError(PLACE, f"{folder} cannot be loaded ({error})") from error
    # A pooler is often missing; anything else would stay random without a word.
    fresh = frozenset(name for name in report["missing_keys"] if "pooler" in name)
    missing = sorted(report["missing_keys"] - fresh)
    if missing:
        raise InputError(PLACE, f"{folder} has no weights for '{missing[0]}' ({len(missing)} in all)", "fetch it again")
    return model, fresh


def _positions(encoder: nn.Module, padding: int | None) -> tuple[int, int | None]:
    """The number of the first token's position, and how many tokens there are positions for (None: any number)."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            # A padding row in the table is the mark of those that number positions from the padding token's number + 1.
            first = 0 if module.padding_idx is None else (1 if padding is None else padding) + 1
            return first, module.num_embeddings - first
    return 0, None
