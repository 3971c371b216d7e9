"""Parts of speech of words: induced from the running text, or what a callable of the user's says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Protocol

from ..errors import InputError
from ..plugins import import_module, import_object, source_of
from ..recipe.schema import Augment

INDUCED = "induced"
PYTHON = "python:"
PLACE = "augment.tagger"


class Tagger(Protocol):
    """The part of speech of each word of a text."""

    def __call__(self, words: list[str]) -> list[str]: ...


class PythonTagger:
    """A callable `list[str] -> list[str]` behind "module:function" or "path/to/file.py:function", its answers checked.

    It must give the same tags for the same words, or words are left as they are that it calls otherwise now.
    Raises InputError if there is no such callable, it fails, or it gives anything but one tag a word.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._call: Any = import_object(name, PLACE)
        if not callable(self._call):
            raise InputError(PLACE, f"'{name}' is a {type(self._call).__name__}, which cannot be called")

    def __call__(self, words: list[str]) -> list[str]:
        try:
            tags = self._call(list(words))
        except Exception as error:
            cause = f"'{self._name}' failed on {len(words)} words ({type(error).__name__}: {error})"
            raise InputError(PLACE, cause, "it takes a list of words") from error
        if not isinstance(tags, Sequence) or isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
            shown = " ".join(repr(tags).split())[:60]
            raise InputError(PLACE, f"'{self._name}' gave {shown}, no list of tags", "one text for each word")
        if len(tags) != len(words):
            shown = " ".join(words)[:60]
            cause = f"'{self._name}' gave {len(tags)} tags for the {len(words)} words of {shown!r}"
            raise InputError(PLACE, cause, "one tag for each word, in their order")
        return list(tags)


def build_tagger(rules: Augment, texts: Iterable[list[str]]) -> Tagger:
    """The tagger that a recipe asks for. texts: the words of the running text, which "induced" learns from."""
    if rules.tagger == INDUCED:
        from .induced import induce  # scikit-learn takes seconds to load

        return induce(texts, rules.classes)
    return PythonTagger(rules.tagger.removeprefix(PYTHON))


def tagger_digest(rules: Augment) -> str | None:
    """Hex digits of the code of the user's callable, that of its module; None: it is "induced".

    Raises InputError if there is no such callable.
    """
    if rules.tagger == INDUCED:
        return None
    name = rules.tagger.removeprefix(PYTHON)
    import_object(name, PLACE)
    source = source_of(import_module(name.rpartition(":")[0]))
    return blake2b(source.encode(), digest_size=16).hexdigest()
