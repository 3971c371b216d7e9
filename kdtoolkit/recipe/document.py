"""A YAML text as plain values that still know their line. Only plain YAML: no tag ever builds an object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ..tasks import canonical_name

KeyPath = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_TYPED = {_TAG + name for name in ("null", "bool", "int", "float")}
_SECTIONS = {_TAG + "map", _TAG + "seq"}
_TEXT = {_TAG + name for name in ("str", "timestamp", "value")}


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a recipe: where (a path of keys), what (cause and way out), and a line if it is known."""

    path: KeyPath
    message: str
    line: int | None = None


@dataclass
class Document:
    """value: dicts, lists and scalars. problems: what is wrong with the YAML itself."""

    value: Any = None
    node: Node | None = None
    problems: list[Problem] = field(default_factory=list)

    def locate(self, path: KeyPath) -> tuple[int | None, str]:
        """Line of the deepest part of `path` that is written in the text, and the path as the user wrote it."""
        node, line = self.node, None
        shown: list[str] = []
        for part in path:
            if isinstance(node, MappingNode):
                pair = _pair(node, part)
                if pair is None and isinstance(part, int):
                    continue  # `teachers: {name: x}` is short for a list of one
                shown.append(str(part) if pair is None else str(pair[0].value))
                node = None if pair is None else pair[1]
                line = line if pair is None else pair[0].start_mark.line + 1
            elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
                shown.append(str(part))
            else:
                node = None
                shown.append(str(part))
        return line, ".".join(shown)

    def written(self, path: KeyPath) -> bool:
        """Whether the text itself has a value at `path`."""
        node = self.node
        for part in path:
            if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
            elif isinstance(node, MappingNode) and (pair := _pair(node, part)) is not None:
                node = pair[1]
            else:
                return False
        return True


def read_yaml(text: str) -> Document:
    """The one YAML document in `text`; what is wrong with it is in `problems`, never raised."""
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        cause = " ".join(part for part in (error.context, error.problem) if part)
        return Document(problems=[Problem((), f"no valid YAML: {cause}", mark.line + 1 if mark else None)])
    except YAMLError as error:
        return Document(problems=[Problem((), f"no valid YAML: {str(error).splitlines()[0]}")])
    if node is None:
        return Document()
    document = Document(node=node)
    document.value = _Builder(yaml.constructor, document.problems).build(node, ())
    return document


def same_key(written: Any, part: str | int) -> bool:
    """Whether a key as written is the key `part`; names of GLUE tasks have several spellings."""
    return canonical_name(str(written)) == canonical_name(str(part))


def _pair(node: MappingNode, part: str | int) -> tuple[ScalarNode, Node] | None:
    found = None
    for key, value in node.value:
        if isinstance(key, ScalarNode) and same_key(key.value, part):
            found = (key, value)
    return found


class _Builder:
    """Turns nodes into plain values and notes duplicate keys, tags and loops."""

    def __init__(self, constructor: Any, problems: list[Problem]) -> None:
        self.constructor, self.problems = constructor, problems
        self.built: dict[int, Any] = {}
        self.open: set[int] = set()

    def build(self, node: Node, path: KeyPath) -> Any:
        if id(node) in self.open:
            self._note(node, path, "an alias (*) refers to what contains it")
            return None
        if id(node) not in self.built:
            self.open.add(id(node))
            self.built[id(node)] = self._value(node, path)
            self.open.discard(id(node))
        return self.built[id(node)]

    def _value(self, node: Node, path: KeyPath) -> Any:
        tag = str(node.tag)
        if tag not in _TYPED | _TEXT | _SECTIONS:
            self._note(node, path, f"the tag {tag.replace(_TAG, '!!')} is not allowed; recipes are plain YAML")
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, number)) for number, item in enumerate(node.value)]
        if tag in _TYPED:
            try:
                return self.constructor.construct_object(node, deep=True)
            except (ValueError, TypeError, YAMLError):  # `!!int many`
                self._note(node, path, f"'{node.value}' is no {tag.removeprefix(_TAG)}")
        return str(node.value)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                self._note(key, path, "a key must be a word")
            elif str(key.tag) == _TAG + "merge":
                for one in item.value if isinstance(item, SequenceNode) else [item]:
                    value = self.build(one, path)
                    merged = {**value, **merged} if isinstance(value, dict) else merged
            else:
                name = str(key.value)
                if name in lines:
                    self._note(key, (*path, name), f"the key is given twice, first on line {lines[name]}; keep one")
                values[name], lines[name] = self.build(item, (*path, name)), line
        return {**merged, **values}

    def _note(self, node: Node, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(path, message, node.start_mark.line + 1))
