"""A Hugging Face tokenizer, usually the teacher's own, optionally with its word embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, did_you_mean
from ..files import write_text
from ..hub import checkpoint_folder, weight_files
from .base import JointTemplate, Tokenizer, check_options

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

DEFINITION = "tokenizer.json"
EMBEDDING_KEYS = ("word_embeddings.weight", "tok_embeddings.weight", "embed_tokens.weight", "wte.weight",
                  "word_embedding.weight", "shared.weight")  # fmt: skip


class TeacherTokenizer(Tokenizer):
    """A fast Hugging Face tokenizer whose padding is renumbered to 0.

    A padding piece elsewhere changes places with piece 0. A tokenizer without one, or whose padding is also something
    else, gets a new piece 0 and all others move up by one. `sources` tells the original numbers. Special pieces written
    out in a text ("[SEP]") are read as text, or as `unk`, so that no text can pose as the end of another.
    """

    kind = "teacher"

    def __init__(self, fast: FastTokenizer, *, pad: int | None, unk: int, template: JointTemplate) -> None:
        """pad, unk and template in the numbers of `fast`."""
        fast.no_padding()
        fast.no_truncation()
        fast.encode_special_tokens = True
        self._fast, self._pad, self._unk, self._template = fast, pad, unk, template
        # Not the number of pieces: the numbers may have holes.
        size = max(fast.get_vocab(with_added_tokens=True).values()) + 1
        numbers = np.arange(size)
        if pad is None:
            numbers = np.concatenate([[-1], numbers])
        else:
            numbers[[0, pad]] = numbers[[pad, 0]]
        self._sources = numbers
        self._shift, self._swap = (1, {}) if pad is None else (0, {0: pad, pad: 0} if pad else {})
        self.unk = self._own(unk)
        self.joint = template.renumbered(self._own)
        # What each original number becomes when it comes out of a text.
        self._numbers = [self._own(number) for number in range(size)]
        for number in {*template.prefix, *template.middle, *template.suffix} | ({pad} if pad is not None else set()):
            self._numbers[number] = self.unk

    def _own(self, number: int) -> int:
        return self._swap.get(number, number + self._shift)

    @classmethod
    def build(
        cls, source: str, *, vectors: str | None, options: dict[str, Any], mask: str | None = None
    ) -> TeacherTokenizer:
        """The tokenizer of a local folder, an alias or a hub id.

        vectors: "copy" or "project": read its word embeddings, which the pipeline then copies or projects into the
        student; None: the student learns its own. options: none. mask: a special piece of the tokenizer that is read as
        such where a text says so, its mask; a word that is no special piece is read as text.
        Raises InputError if there is no such tokenizer, or it has no fast form or no usable embeddings.
        """
        check_options(options, {}, cls.kind)
        if vectors not in (None, "copy", "project"):
            raise InputError("tokenizer.vectors", f"'{vectors}' is unknown", did_you_mean(vectors, ("copy", "project")))
        tokenizer = _load(source)
        fast = tokenizer.backend_tokenizer if mask is None else _readable(tokenizer.backend_tokenizer, mask)
        template = _template(fast, tokenizer)
        ends = (tokenizer.unk_token_id, tokenizer.sep_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
        unk = next((number for number in ends if number is not None), None)
        if unk is None:
            raise InputError("tokenizer.source", f"'{source}' has no special piece to stand for an empty text")
        pad = tokenizer.pad_token_id
        if pad in (unk, *template.prefix, *template.middle, *template.suffix):
            pad = None  # a decoder's end of text doing double duty: padding must stand for nothing else
        own = cls(fast, pad=pad, unk=unk, template=template)
        if vectors is not None:
            table = read_embeddings(source)
            sources = own.sources
            if sources.max() >= len(table):
                raise InputError(
                    "tokenizer.vectors", f"'{source}' has {sources.max() + 1} pieces and embeddings of {len(table)}"
                )
            own._vectors = table[np.maximum(sources, 0)]
            own._vectors[0] = 0
        return own

    def _encode(self, texts: list[str]) -> list[list[int]]:
        numbers = self._numbers
        encodings = self._fast.encode_batch_fast(texts, add_special_tokens=False)
        return [[numbers[number] for number in encoding.ids] for encoding in encodings]

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def sources(self) -> np.ndarray:
        return self._sources

    def config(self) -> dict[str, Any]:
        template = [list(part) for part in self._template]
        return {"pad": self._pad, "unk": self._unk, "template": template}

    def _definition(self) -> bytes:
        return self._fast.to_str().encode()

    def write(self, folder: Path) -> None:
        write_text(folder / DEFINITION, self._fast.to_str())

    @classmethod
    def read(cls, folder: Path, config: dict[str, Any]) -> TeacherTokenizer:
        # Without transformers: this file alone is the whole tokenizer, and it loads faster.
        from tokenizers import Tokenizer as FastTokenizer

        prefix, middle, suffix, segments = (tuple(part) for part in config["template"])
        definition = (folder / DEFINITION).read_text(encoding="utf-8")
        try:
            fast = FastTokenizer.from_str(definition)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{DEFINITION}: {error}") from error
        return cls(
            fast,
            pad=config["pad"],
            unk=config["unk"],
            template=JointTemplate(prefix, middle, suffix, segments),
        )


def _load(source: str) -> Any:
    from transformers import AutoTokenizer

    folder = _folder(source, weights=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
    except (OSError, ValueError, KeyError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            "tokenizer.source",
            f"no tokenizer can be loaded from '{source}' ({cause})",
            "give a folder with tokenizer.json, or a hub id while there is a network",
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise InputError("tokenizer.source", f"the tokenizer of '{source}' has no fast form", "use sentencepiece")
    return tokenizer


def mask_of(source: str) -> str | None:
    """The text that the tokenizer of a checkpoint reads as its mask ("[MASK]", "<mask>"), or None if it has none."""
    mask = _load(source).mask_token
    return None if mask is None else str(mask)


def _readable(fast: FastTokenizer, special: str) -> FastTokenizer:
    """The same tokenizer, with one special piece an ordinary one, which is found in a text."""
    from tokenizers import Tokenizer as FastTokenizer

    definition = json.loads(fast.to_str())
    for piece in definition["added_tokens"]:
        if piece["content"] == special:
            piece["special"] = False
    return FastTokenizer.from_str(json.dumps(definition))


def _template(fast: FastTokenizer, tokenizer: Any) -> JointTemplate:
    """What the tokenizer puts before, between and after two texts."""
    fast.no_padding()
    fast.no_truncation()
    encoding = fast.encode("a", "a")
    sides = [None if special else side for side, special in zip(encoding.sequence_ids, encoding.special_tokens_mask)]
    places = [[place for place, side in enumerate(sides) if side == wanted] for wanted in (0, 1)]
    if not all(places):
        raise InputError("tokenizer.source", "the tokenizer gives no piece for a text of one letter", "use another")
    (first, *_, first_end), (second, *_, second_end) = ([*place, place[-1]] for place in places)
    numbers = encoding.ids
    prefix, middle, suffix = numbers[:first], numbers[first_end + 1 : second], numbers[second_end + 1 :]
    if not middle:
        # A decoder's tokenizer joins two texts without a mark; a reader of pairs needs one.
        marks = (tokenizer.sep_token_id, tokenizer.eos_token_id)
        middle = [mark for mark in marks if mark is not None][:1]
    return JointTemplate(tuple(prefix), tuple(middle), tuple(suffix))


def read_embeddings(source: str) -> np.ndarray:
    """The word embeddings of a Hugging Face checkpoint, (pieces, width) float32; no other tensor is read."""
    from safetensors import safe_open

    names = {}
    for path in weight_files(_folder(source, weights=True), "tokenizer.vectors"):
        with safe_open(path, framework="pt") as tensors:
            names.update(dict.fromkeys(tensors.keys(), path))
    key = next((name for suffix in EMBEDDING_KEYS for name in sorted(names) if name.endswith(suffix)), None)
    if key is None:
        raise InputError(
            "tokenizer.vectors", f"the weights of '{source}' have no word embeddings under a known name",
            "leave tokenizer.vectors out",
        )  # fmt: skip
    # Read through torch, for numpy has no bfloat16.
    with safe_open(names[key], framework="pt") as tensors:
        return tensors.get_tensor(key).float().numpy()


def _folder(source: str, *, weights: bool) -> Path:
    """The folder of a checkpoint. One that is given need not have more in it than is read."""
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    return checkpoint_folder(source, "tokenizer.source", weights=weights)
