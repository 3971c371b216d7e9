"""Student tokenizers: word pieces of the run's own text, whole words, or the teacher's."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..errors import InputError, WorkError, did_you_mean
from ..files import read_json, write_json
from ..recipe.schema import TokenizerSection
from .base import FILE, VECTORS, JointTemplate, Tokenizer
from .compact import CompactTokenizer, compact

__all__ = ["CompactTokenizer", "JointTemplate", "Tokenizer", "build_tokenizer", "compact", "load_tokenizer"]

# Resolved when asked for: each brings its own library.
_CLASSES = {
    "sentencepiece": ".sentencepiece:SentencePieceTokenizer",
    "words": ".words:WordTokenizer",
    "teacher": ".teacher:TeacherTokenizer",
    "compact": ".compact:CompactTokenizer",
}
_BUILT_FROM = "built_from.json"


def build_tokenizer(
    section: TokenizerSection,
    texts: Callable[[], Iterator[str]],
    *,
    seed: int,
    folder: Path,
    teacher_source: str | None,
    mask: str | None = None,
) -> Tokenizer:
    """The tokenizer that a recipe asks for, saved in `folder`, pretrained vectors included.

    texts: the student's train texts, streamed anew at each call. teacher_source: folder or hub id of the first Hugging
    Face teacher, for `name: teacher` without a `source`. A folder that already holds the tokenizer of the same section,
    seed, source and mask is reopened; it belongs to one run, so its texts are the same.
    mask: a word that stands for any other in the texts and must be one piece, with spaces around it: sentencepiece
    gets a piece for it, the teacher's tokenizer reads its own mask as such, and to `words` it is a word like others.
    Raises InputError for unknown options and whatever the kinds say.
    """
    source = section.source if section.source is not None else teacher_source
    built_from = {"section": section.model_dump(mode="json"), "seed": seed}
    if section.name == "teacher":
        built_from["source"] = source
    if mask is not None:
        built_from["mask"] = mask
    if (folder / FILE).is_file() and (folder / _BUILT_FROM).is_file() and read_json(folder / _BUILT_FROM) == built_from:
        return load_tokenizer(folder)
    tokenizer = _build(section, texts, seed, source, mask)
    (folder / FILE).unlink(missing_ok=True)
    write_json(folder / _BUILT_FROM, built_from)
    tokenizer.save(folder, vectors=True)
    return tokenizer


def _build(
    section: TokenizerSection, texts: Callable[[], Iterator[str]], seed: int, source: str | None, mask: str | None
) -> Tokenizer:
    if section.name != "teacher" and section.source is not None:
        raise InputError("tokenizer.source", f"the {section.name} tokenizer has none", "use name: teacher")
    if section.name == "teacher":
        from .teacher import TeacherTokenizer

        if source is None:
            raise InputError(
                "tokenizer.source", "no teacher brings a tokenizer", "give a folder or hub id, or use sentencepiece"
            )
        return TeacherTokenizer.build(source, vectors=section.vectors, options=section.options, mask=mask)
    if section.name == "words":
        from .words import WordTokenizer

        return WordTokenizer.train(
            texts(), vocabulary=section.vocabulary, seed=seed, vectors=section.vectors, options=section.options
        )
    from .sentencepiece import SentencePieceTokenizer

    if section.vectors is not None:
        raise InputError("tokenizer.vectors", "the sentencepiece tokenizer has none", "use words or teacher")
    return SentencePieceTokenizer.train(
        texts(), vocabulary=section.vocabulary, seed=seed, options=section.options, mask=mask
    )


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote; InputError if there is none, WorkError if a file is missing or
    damaged."""
    folder = Path(folder)
    config = read_json(folder / FILE)
    try:
        tokenizer = tokenizer_class(config["kind"]).read(folder, config)
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise WorkError(
            f"{folder}: the tokenizer is damaged ({error}); delete it and run again with --resume"
        ) from error
    if (folder / VECTORS).is_file():
        tokenizer._vectors = np.load(folder / VECTORS, allow_pickle=False)
    return tokenizer


def tokenizer_class(kind: str) -> type[Tokenizer]:
    """The class that reads tokenizers of a kind."""
    if kind not in _CLASSES:
        raise InputError("tokenizer", f"kind '{kind}' is unknown", did_you_mean(kind, _CLASSES))
    module, name = _CLASSES[kind].split(":")
    return getattr(importlib.import_module(module, __name__), name)
