"""The bundled demo suite: four text tasks made by a seeded grammar, without any download.

`sentiment.py` makes single sentences with negation, contrast and intensifiers; `events.py` says what happened to whom
in many ways; `pairs.py` makes entailment, paraphrase and similarity of it; `lexicon.py` has the words.
"""

from .suite import SUITE, write_suite

__all__ = ["SUITE", "write_suite"]
