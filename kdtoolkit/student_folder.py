"""The folder of a trained student: config.json, model.safetensors, its tokenizer. It needs nothing else to predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import plugins
from .errors import InputError, WorkError
from .files import atomic_file, read_json, write_json
from .recipe.names import resolve_student
from .tasks import Task

if TYPE_CHECKING:
    from .recipe.schema import Heads, StudentSection
    from .student import Student
    from .tokenizers import Tokenizer
    from .training import StudentModel

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class StudentConfig:
    """What is written to config.json beside the weights: a name and arguments, never a pickled class.

    scaling: (mean, standard deviation) by regression task; temperature: the fitted one by task;
    alone: tasks that were trained apart from each other, each with weights in alone-TASK.safetensors; then
    model.safetensors is their common start alone. refined: tasks with fine-tuned weights in refined-TASK.safetensors.
    heads: by task, the options of its head that are set; what is missing has its default.
    """

    name: str
    options: dict[str, Any]
    vocab_size: int
    tasks: tuple[Task, ...]
    max_tokens: int
    mixed: bool
    scaling: dict[str, tuple[float, float]] = field(default_factory=dict)
    temperature: dict[str, float] = field(default_factory=dict)
    refined: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    provider: dict[str, str] = field(default_factory=dict)
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        fields = {**asdict(self), "tasks": [task.to_dict() for task in self.tasks]}
        return {"schema": 1, **fields}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudentConfig:
        """The config that `to_dict` described."""
        known = {key: value for key, value in values.items() if key != "schema"}
        known["tasks"] = tuple(Task.from_dict(task) for task in known["tasks"])
        known["scaling"] = {name: (mean, deviation) for name, (mean, deviation) in known["scaling"].items()}
        known["refined"], known["alone"] = tuple(known["refined"]), tuple(known.get("alone", ()))
        return cls(**known)


def student_config(
    section: StudentSection,
    tasks: Sequence[Task],
    *,
    vocab_size: int,
    max_tokens: int,
    mixed: bool,
    scaling: Mapping[str, tuple[float, float]],
    heads: Heads | None = None,
) -> StudentConfig:
    """The config of a student about to be trained as the recipe's sections say."""
    name, options = resolve_student(section)
    found = plugins.installed("student").get(name)
    provider = {"distribution": found.distribution, "version": found.version} if found else {}
    of_tasks = {} if heads is None else {t.name: heads.of(t.name).model_dump(exclude_none=True) for t in tasks}
    return StudentConfig(
        name, options, vocab_size, tuple(tasks), max_tokens, mixed,
        scaling=dict(scaling), provider=provider, heads=of_tasks,
    )  # fmt: skip


def build_student(config: StudentConfig) -> Student:
    """The student alone, with fresh weights. Raises InputError for options that it refuses."""
    cls = plugins.plugin("student", config.name)
    problems = plugins.option_problems("student", config.name, cls, config.options)
    if problems:
        raise InputError(f"student.{problems[0][0]}", problems[0][1])
    try:
        return cls(config.vocab_size, **config.options)
    except (TypeError, ValueError) as error:
        raise InputError(f"student '{config.name}'", str(error)) from error


def build_model(config: StudentConfig) -> StudentModel:
    """The student and its heads with fresh weights."""
    from .heads import MultiTaskHeads
    from .recipe.schema import HeadOptions, Heads
    from .training import StudentModel

    student = build_student(config)
    section = Heads(tasks={task: HeadOptions(**options) for task, options in config.heads.items()})
    heads = MultiTaskHeads(config.tasks, student.width, pairs=student.pairs, mixed=config.mixed, heads=section)
    return StudentModel(student, heads)


def save_student(folder: Path, model: StudentModel, config: StudentConfig, tokenizer: Tokenizer) -> StudentConfig:
    """Writes the student into `folder`, weights before config, and returns the config that rebuilds it alone."""
    from dataclasses import replace

    from safetensors.torch import save_file

    from .training.checkpoint import weights

    config = replace(config, options=model.student.resolved_options(dict(config.options)))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    with atomic_file(folder / WEIGHTS) as temporary:
        save_file(weights(model), temporary)
    write_json(folder / CONFIG, config.to_dict())
    return config


def read_config(folder: Path) -> StudentConfig:
    """config.json of a student folder."""
    if not (folder / CONFIG).is_file():
        raise InputError(str(folder), "holds no student (no config.json)", "give a finished run or its student folder")
    values = read_json(folder / CONFIG)
    try:
        return StudentConfig.from_dict(values)
    except (KeyError, TypeError) as error:
        raise WorkError(f"{folder / CONFIG}: is no student's config ({error})") from error


def refined_weights(task: str) -> str:
    """The file of a task's fine-tuned weights."""
    return f"refined-{task}.safetensors"


def alone_weights(task: str) -> str:
    """The file of the weights of a student that was trained on one task of several."""
    return f"alone-{task}.safetensors"


def weights_file(config: StudentConfig, task: str | None) -> str:
    """The file that answers for a task: its fine-tuned weights, its own, or those of all tasks (also for None)."""
    if task in config.refined:
        return refined_weights(str(task))
    return alone_weights(str(task)) if task in config.alone else WEIGHTS


def load_student(folder: Path, task: str | None = None) -> tuple[StudentModel, StudentConfig, Tokenizer]:
    """The trained student in `folder`, as it answers for `task`; None: with the weights of all tasks."""
    from .tokenizers import load_tokenizer
    from .training.checkpoint import load_weights, read_tensors

    config = read_config(folder)
    model = build_model(config)
    path = folder / weights_file(config, task)
    load_weights(model, read_tensors(path), str(path))
    model.eval()
    return model, config, load_tokenizer(folder)
