"""One entry of the catalogue, and where its options' types and defaults come from."""

from __future__ import annotations

import ast
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from ..recipe.schema import Recipe
from ..recipe.terms import KNOWN_TERMS
from ..schedule import Schedule


@dataclass(frozen=True)
class OptionLine:
    """A recipe key. type, required, default: read from the schema or the signature, never retyped."""

    key: str
    type: str
    required: bool
    default: Any
    meaning: str


@dataclass(frozen=True)
class Entry:
    """What there is to say about one objective, balance, sampler, head, schedule or augmentation rule.

    use: how a recipe asks for it. formula: plain lines. options: recipe key -> meaning; for a term, its own option.
    notes: limits, degenerate cases, where it differs from the paper's code. rowwise: objectives only: whether the loss
    is a sum over rows, so that cutting a batch changes nothing.
    """

    kind: str
    name: str
    summary: str
    use: str
    formula: tuple[str, ...]
    source: str
    options: dict[str, str]
    notes: tuple[str, ...] = ()
    rowwise: bool | None = None

    @property
    def is_term(self) -> bool:
        """Whether it is one of `objective.terms`, whose options are its constructor's."""
        return self.kind == "objective" and self.name in KNOWN_TERMS

    def option_lines(self) -> list[OptionLine]:
        """Its options with types and defaults."""
        if self.is_term:
            known = KNOWN_TERMS[self.name].options()
            return [
                OptionLine(
                    key,
                    shown(known[key].type),
                    known[key].required,
                    ast.literal_eval(known[key].default or "None"),
                    meaning,
                )
                for key, meaning in self.options.items()
            ]
        return [OptionLine(key, *_schema_option(key), meaning) for key, meaning in self.options.items()]


def _schema_option(key: str) -> tuple[str, bool, Any]:
    """Type, whether it is required, and default of a key such as "balance.temperature", or "SCHEDULE.from"."""
    section, _, name = key.rpartition(".")
    model: type[BaseModel] = Recipe
    if section == "SCHEDULE":
        model, name = Schedule, {"from": "from_"}.get(name, name)
    else:
        for part in section.split(".") if section else []:
            model = _model_in(model.model_fields[part].annotation)
    field = model.model_fields[name]
    required = field.is_required()
    default = None if required else field.get_default(call_default_factory=True)
    return shown(field.annotation), required, default


def _model_in(annotation: Any) -> type[BaseModel]:
    """The section that an annotation names, also in `Section | None`."""
    parts = typing.get_args(annotation) or (annotation,)
    return next(part for part in parts if isinstance(part, type) and issubclass(part, BaseModel))


_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}


def shown(annotation: Any) -> str:
    """A type as a reader of recipes names it."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        parts = [shown(argument) for argument in arguments]
        return " or ".join(part for part in parts if part != "null") + (" or null" if "null" in parts else "")
    if origin is typing.Annotated:
        return shown(arguments[0])
    if origin is list:
        return f"list of {shown(arguments[0])}s"
    if isinstance(annotation, type) and issubclass(annotation, Schedule):
        return "schedule"
    return "mapping" if origin is dict else "value"
