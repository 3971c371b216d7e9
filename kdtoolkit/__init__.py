"""kdtoolkit: distil any teacher into one small, fast student for many text tasks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .errors import InputError, WorkError
    from .example import Example
    from .pipeline import distill
    from .plugins import plugin
    from .predictor import Prediction, Predictor, load
    from .recipe import Recipe
    from .student import Encoded, Student, Tokens
    from .tasks import Task
    from .teacher import Teacher

# Names are resolved on first use, so that `import kdtoolkit` (and `kdtool --help`) imports neither torch nor
# transformers.
_PUBLIC = {
    "Encoded": ".student", "Example": ".example", "InputError": ".errors", "Prediction": ".predictor",
    "Predictor": ".predictor", "Recipe": ".recipe", "Student": ".student", "Task": ".tasks", "Teacher": ".teacher",
    "Tokens": ".student", "WorkError": ".errors", "distill": ".pipeline", "load": ".predictor", "plugin": ".plugins",
}  # fmt: skip

__all__ = [
    "Encoded", "Example", "InputError", "Prediction", "Predictor", "Recipe", "Student", "Task", "Teacher", "Tokens",
    "WorkError", "__version__", "distill", "load", "plugin",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name], __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
