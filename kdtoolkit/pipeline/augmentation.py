"""The augment stage: generated text beside the rows of train, which the teachers label and the student learns from.

The teachers' fine-tuning and the gold-only baseline do not see it: it stands in a split of its own, without labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..augment.language import refuse_non_text
from ..augment.rows import Preview, augmented, preview
from ..augment.tagger import INDUCED, build_tagger, tagger_digest
from ..augment.words import split
from ..data.plan import together
from ..data.prepare import AUGMENTED, TaskRows
from ..errors import InputError
from ..recipe import Recipe
from ..recipe.schema import Augment
from ..teacher import Teacher
from ..tokenizers.teacher import mask_of
from .run_folder import RunFolder
from .teach import teacher_checkpoint


def augmented_tasks(recipe: Recipe) -> list[str]:
    """The tasks whose text is augmented, in the recipe's order."""
    if recipe.augment is None:
        return []
    asked = recipe.augment.tasks
    names = [task.name for task in recipe.task_list()]
    return [name for name in names if (asked is None or name in asked) and recipe.teachers_of(name)]


def mask_token(recipe: Recipe) -> str | None:
    """The word that stands for a masked one in generated text; None: no text is generated.

    A teacher that was pretrained with a mask should meet its own, and a text is the same for all who read it: so it is
    the mask of the first Hugging Face teacher's tokenizer, "[MASK]" or "<mask>", if that has one and the recipe asks
    for no other. With spaces around it, it comes out of every student tokenizer as one piece (`build_tokenizer`).
    """
    if recipe.augment is None:
        return None
    asked, source = recipe.augment.mask_token, teacher_checkpoint(recipe)
    if asked != Augment().mask_token or source is None:
        return asked
    return mask_of(source) or asked


def augment(recipe: Recipe, data: Mapping[str, TaskRows], folder: Path) -> dict[str, Any]:
    """Adds the split `augmented` and a note to each augmented task of `data`; returns the stage's facts.

    folder: data/ of the run; what is in TASK/augmented there already is found again.
    """
    rules, tries, generated, notes = _rules(recipe), 0, 0, {}
    for name in augmented_tasks(recipe):
        rows, counts = augmented(data[name].splits, rules, folder / name / AUGMENTED, seed=recipe.seed)
        data[name].splits[AUGMENTED] = rows
        notes[name] = f"augment: {counts}"
        data[name].notes.append(notes[name])
        tries, generated = tries + counts.tries, generated + counts.generated
    return {"rows": generated, "dropped": tries - generated, "notes": notes, "tagger": tagger_digest(rules)}


def forget_other_text(run: RunFolder) -> None:
    """Has text whose tagger was edited since generated anew; InputError once it is labelled, and more hangs on it."""
    done, rules = run.done("augment") or {}, run.recipe.augment
    if rules is None or "tagger" not in done or done["tagger"] == tagger_digest(rules):
        return
    if run.done("label") is not None:
        raise InputError(
            str(run.path),
            "its augment.tagger is not the one that its text was generated with",
            "put its file back as it was, or start a new run with --out",
        )
    run.forget("augment")


def previews(recipe: Recipe, data: Mapping[str, TaskRows]) -> dict[str, Preview]:
    """What `augment` would do, by task."""
    rules = _rules(recipe) if augmented_tasks(recipe) else None
    return {name: preview(data[name].splits, rules, seed=recipe.seed) for name in augmented_tasks(recipe) if rules}


def refuse_augmentation(
    recipe: Recipe, data: Mapping[str, TaskRows], teachers: Mapping[str, Sequence[Teacher]] | None = None
) -> None:
    """Raises InputError, before any long work, for what is no text, a tagger that fails on the first row, and teachers
    that cannot answer for text that is yet to be generated."""
    with together("augment") as attempt:
        for name in augmented_tasks(recipe):
            attempt(refuse_non_text, data[name].splits["train"])
            attempt(_try_tagger, recipe, data[name])
            attempt(refuse_stored, name, (teachers or {}).get(name, ()))


def _rules(recipe: Recipe) -> Augment:
    assert recipe.augment is not None
    return recipe.augment.model_copy(update={"mask_token": mask_token(recipe)})


def _try_tagger(recipe: Recipe, rows: TaskRows) -> None:
    assert recipe.augment is not None
    if recipe.augment.tagger != INDUCED:
        words, _ = split(rows.splits["train"].examples(slice(0, 1))[0].text)
        build_tagger(recipe.augment, [words])(words)


def refuse_stored(name: str, teachers: Sequence[Teacher]) -> None:
    """Raises InputError if the teachers of an augmented task cannot answer for text that is yet to be generated."""
    stored = [teacher for teacher in teachers if type(teacher).answers is not Teacher.answers]
    if any(not teacher.partial for teacher in stored) or (stored and len(stored) == len(teachers)):
        raise InputError(
            "augment",
            f"the teacher '{stored[0].source}' of task '{name}' has stored values, and none for text that is generated",
            f"give it a teacher that answers for any text, or leave '{name}' out of augment.tasks",
        )
