"""What is refused before any long work: a run and `kdtool check` ask the same questions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import InputError, InputErrors
from ..heads import refusal
from ..ops import backend
from ..progress import log
from ..recipe import Recipe
from ..recipe.checks import teacher_heads
from ..recipe.pretrained import checkpoint_of, from_teacher
from ..student import Tokens
from ..student_folder import build_student, student_config
from ..tasks import Task
from ..tokenizers import build_tokenizer
from ..training.depths import student_depths
from ..training.embeddings import table_of
from .embedding import table_for
from .teach import option_problems

FEW_PIECES = 16
LONGEST_TRIED = 4096
USUAL_RATE = 3e-4
"""Above this, fine-tuning forgets what a checkpoint knew (Devlin et al. 2019, appendix A.3, use 2e-5 to 5e-5)."""
SAMPLE = "a few words to try a tokenizer on"


@contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    """Keeps an InputError for later, so that all problems can be reported together."""
    try:
        yield
    except InputErrors as error:
        problems += error.problems
    except InputError as error:
        problems.append(str(error))


def raise_together(problems: Sequence[str], source: str = "recipe") -> None:
    """Raises InputErrors with all the problems, if there is one."""
    if problems:
        raise InputErrors(source, problems)


def refuse(recipe: Recipe, tasks: Sequence[Task], folder: Path, *, teacher_source: str | None) -> None:
    """Raises InputErrors with all that is wrong with options, teachers' heads, op, tokenizer, student and heads.

    tasks: as the data have completed them. folder: for what is tried out; nothing is left there.
    teacher_source: folder or hub id of the first Hugging Face teacher.
    """
    problems: list[str] = []
    with collected(problems):
        problems += option_problems(recipe)
    for problem in teacher_heads.of_teachers(recipe, tasks):
        problems.append(f"{'.'.join(map(str, problem.path))}: {problem.message}")
    with collected(problems):
        backend(op_device())
    width = None
    with collected(problems):
        width = _try_tokenizer(recipe, folder, teacher_source)
    with collected(problems):
        _try_student(recipe, tasks, teacher_source, width)
    raise_together(list(dict.fromkeys(problems)))
    if checkpoint_of(recipe.student) is not None and recipe.optimizer.learning_rate > USUAL_RATE:
        log.warning(
            "optimizer.learning_rate: %g is much for a student that starts from a checkpoint; 1e-5 to 1e-4 are usual",
            recipe.optimizer.learning_rate,
        )


def op_device() -> str:
    """The type of device on which a run computes its loss."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _try_tokenizer(recipe: Recipe, folder: Path, teacher_source: str | None) -> int | None:
    """Builds the tokenizer from a few words; returns the width of its pretrained vectors, None if it has none."""
    section = recipe.tokenizer
    width = None
    if section.name == "words" and section.vectors is not None:
        from ..tokenizers.words import vectors_width

        width = vectors_width(Path(section.vectors))
        # The file may have gigabytes: its first line must do, which `_try_student` holds against the student.
        section = section.model_copy(update={"vectors": None})
    section = section.model_copy(update={"vocabulary": 8000})  # enough for SAMPLE; what the text needs, it will show
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".try-", dir=folder) as name:
        built = build_tokenizer(
            section, lambda: iter([SAMPLE]), seed=0, folder=Path(name), teacher_source=teacher_source
        )
    vectors = built.vectors()
    return width if vectors is None else vectors.shape[1]


def _try_student(recipe: Recipe, tasks: Sequence[Task], teacher_source: str | None, width: int | None) -> None:
    """Builds the student for a handful of pieces, copies what it starts from, and has it read the longest text."""
    section = from_teacher(recipe.student, teacher_source)
    config = student_config(
        section, tasks, vocab_size=FEW_PIECES, max_tokens=recipe.data.max_tokens, mixed=False, scaling={}
    )
    with torch.random.fork_rng(devices=()):
        student = build_student(config)
        refused = [text for task in tasks if (text := refusal(task, student, recipe.heads)) is not None]
        raise_together(refused)
        if recipe.optimizer.layer_decay != 1.0:
            student_depths(student)
        table_of(student, recipe.optimizer)
        if width is not None:
            table_for(student, width, str(recipe.tokenizer.vectors))
        student.initialise()
        # A text as long as the recipe allows, for one may come when the student predicts, if not before.
        pieces = torch.ones(1, min(recipe.data.max_tokens, LONGEST_TRIED), dtype=torch.int64)
        with torch.inference_mode():
            student.eval()(Tokens(pieces, pieces.bool(), torch.zeros_like(pieces)))
