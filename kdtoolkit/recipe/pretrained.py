"""Students that start from a checkpoint, and the tokenizer that its word embeddings belong to. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..hub import hub_id
from .names import resolve_student

if TYPE_CHECKING:
    from .schema import StudentSection, TokenizerSection

TEACHER = "teacher"
"""In place of a checkpoint's name: that of the run's first Hugging Face teacher, fine-tuned if the run does that."""

OPTIONS = ("model", "init_from")
"""The student's options that name a checkpoint."""


def checkpoint_of(section: StudentSection) -> str | None:
    """The checkpoint whose weights the student starts from, by the names of its options; None for a fresh student."""
    _, options = resolve_student(section)
    if options.get("pretrained") is False:
        return None
    return next((str(options[name]) for name in OPTIONS if options.get(name)), None)


def with_words(tokenizer: TokenizerSection, student: StudentSection, *, given: bool) -> TokenizerSection:
    """The tokenizer of a student that starts from a checkpoint: the checkpoint's own, with its word embeddings.

    A tokenizer that the recipe gives stays, unless it is that one with something left out. given: whether it does.
    """
    checkpoint = checkpoint_of(student)
    if checkpoint is None or (given and not is_own(tokenizer, checkpoint)):
        return tokenizer
    source = None if checkpoint == TEACHER else checkpoint
    changes = {"name": "teacher", "source": source, "vectors": tokenizer.vectors or "copy"}
    return type(tokenizer).model_validate({**tokenizer.model_dump(), **changes})


def is_own(tokenizer: TokenizerSection, checkpoint: str) -> bool:
    """Whether the tokenizer is that of the checkpoint."""
    if tokenizer.name != "teacher":
        return False
    source = TEACHER if tokenizer.source is None and checkpoint == TEACHER else tokenizer.source or checkpoint
    return hub_id(source) == hub_id(checkpoint)


def from_teacher(student: StudentSection, source: str | None) -> StudentSection:
    """The section with `source`, the folder of the run's teacher, where it says "teacher"."""
    name, options = resolve_student(student)
    if source is None or checkpoint_of(student) != TEACHER:
        return student
    named: dict[str, Any] = {key: source for key in OPTIONS if options.get(key) == TEACHER}
    return type(student).model_validate({"name": name, **options, **named})
