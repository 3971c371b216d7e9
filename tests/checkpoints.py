"""Tiny Hugging Face checkpoints on disk, for every test that needs one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = ["good", "great", "fine", "bad", "awful", "poor", "film", "plot", "the", "a", "very", "is", "so", "it", "##s"]


def write_tokenizer(folder: Path, family: str, words: Sequence[str] = WORDS) -> int:
    """A word-piece tokenizer in the manner of BERT or RoBERTa (padding is piece 1); returns its size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if family == "roberta":
        names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        names |= {"cls_token": "<s>", "sep_token": "</s>"}
        single, pair = "<s> $A </s>", "<s> $A </s> </s> $B:0 </s>"
    else:
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    specials = list(dict.fromkeys(names.values()))
    vocabulary = {piece: number for number, piece in enumerate([*specials, *words])}
    fast = Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk_token"]))
    fast.normalizer = normalizers.Lowercase()
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    used = [(piece, vocabulary[piece]) for piece in specials]
    fast.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=used)
    # As MiniLM's file does: a fixed padding that must not reach the model.
    fast.enable_padding(length=40, pad_id=vocabulary[names["pad_token"]], pad_token=names["pad_token"])
    PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=64, **names).save_pretrained(folder)
    return len(vocabulary)


def write_checkpoint(
    folder: Path,
    family: str = "bert",
    labels: Sequence[str] | None = None,
    *,
    head: bool = True,
    problem_type: str | None = None,
    words: Sequence[str] = WORDS,
    seed: int = 0,
    **config: Any,
) -> Path:
    """A randomly initialised model of 2 layers with (or without) a classification head of these label names."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(folder, family, words)
    sizes: dict[str, Any] = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 66, "vocab_size": size, "pad_token_id": 0, "initializer_range": 0.5,
    }  # fmt: skip
    if family == "roberta":
        sizes |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
    if family == "distilbert":
        sizes |= {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2}
    built = AutoConfig.for_model(family, **(sizes | config))
    if labels is not None:
        built.id2label = dict(enumerate(labels))
        built.label2id = {label: number for number, label in enumerate(labels)}
    built.problem_type = problem_type
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (AutoModelForSequenceClassification if head else AutoModel).from_config(built)
    model.save_pretrained(folder)
    return folder
