"""Word pieces learned from the run's own text (Kudo and Richardson 2018, arXiv:1808.06226; unigram model)."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece

from ..errors import InputError
from ..files import atomic_file
from .base import JointTemplate, Tokenizer, check_options
from .sampling import sample_texts

MODEL = "sentencepiece.model"
PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# The trainer leaves out sentences over 4,192 bytes; a long text is better represented by its beginning.
MAX_CHARACTERS = 1000


class SentencePieceTokenizer(Tokenizer):
    """Pieces of a sentencepiece model; what is in brackets in PIECES can never come out of a text."""

    kind = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.unk = 1
        self.joint = JointTemplate(prefix=(2,), middle=(3,), suffix=(3,))

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocabulary: int, seed: int, options: dict[str, Any], mask: str | None = None
    ) -> SentencePieceTokenizer:
        """Learns at most `vocabulary` pieces; the same texts and seed give the same bytes.

        options: sample_rows (texts learned from, default 200,000), lowercase (default no; the text is NFKC-normalised
        either way), character_coverage (share of the text's characters that are known, default
        0.99995: at the library's 0.9995 the `!` and `?` of newspaper text are unknown).
        mask: a word that is one piece, whatever the text says of it.
        Raises InputError if there is no text, or more distinct characters than pieces.
        """
        check_options(options, {"sample_rows": int, "lowercase": bool, "character_coverage": (int, float)}, cls.kind)
        coverage = float(options.get("character_coverage", 0.99995))
        if not 0 < coverage <= 1:
            raise InputError("tokenizer.character_coverage", f"{coverage} is not a share", "0.9995 to 1 is usual")
        if options.get("sample_rows", 1) < 1:
            raise InputError("tokenizer.sample_rows", f"{options['sample_rows']} is not positive")
        sample = sample_texts(texts, options.get("sample_rows", 200_000), seed)
        # A sentence is a line to the trainer, so inner line ends become spaces.
        sentences = [" ".join(text[:MAX_CHARACTERS].split()) for text in sample]
        sentences = [sentence.encode("utf-8", "replace").decode("utf-8") for sentence in sentences if sentence]
        if not sentences:
            raise InputError("tokenizer", "there is no text to learn word pieces from", "check the text columns")
        lowercase = options.get("lowercase", False)
        # With the mark of the space before it: as a plain symbol it would be two pieces, that mark and itself.
        symbols = [] if mask is None else ["\u2581" + (mask.casefold() if lowercase else mask)]
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences), model_writer=model, model_type="unigram",
                vocab_size=vocabulary, hard_vocab_limit=False, character_coverage=coverage,
                normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
                user_defined_symbols=symbols,
                # One thread: with more, the sums of the EM steps depend on how the work was divided.
                num_threads=1, minloglevel=2,
                pad_id=0, unk_id=1, bos_id=2, eos_id=3,
                pad_piece=PIECES[0], unk_piece=PIECES[1], bos_piece=PIECES[2], eos_piece=PIECES[3],
            )  # fmt: skip
        except RuntimeError as error:
            if "smaller than required_chars" not in str(error):
                raise
            raise InputError(
                "tokenizer.vocabulary",
                f"{vocabulary} pieces are fewer than the text has characters",
                "raise it, or lower tokenizer.character_coverage",
            ) from error
        return cls(model.getvalue())

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self._processor.encode(texts, num_threads=1)

    def __len__(self) -> int:
        return len(self._processor)

    def config(self) -> dict[str, Any]:
        return {}

    def _definition(self) -> bytes:
        return self._model

    def write(self, folder: Path) -> None:
        with atomic_file(folder / MODEL) as temporary:
            temporary.write_bytes(self._model)

    @classmethod
    def read(cls, folder: Path, config: dict[str, Any]) -> SentencePieceTokenizer:
        model = (folder / MODEL).read_bytes()
        if not model:  # the library takes it, and fails later
            raise ValueError(f"{MODEL} is empty")
        try:
            return cls(model)
        except RuntimeError as error:
            raise ValueError(f"{MODEL} is no sentencepiece model") from error
