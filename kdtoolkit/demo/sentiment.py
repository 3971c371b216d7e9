"""Reviews and what they think: a compositional grammar whose value is computed together with the text.

A clause is worth +1 or -1 for its good or bad word; an intensifier scales it (slightly 0.5, plain 1, very 2); a
negation turns it round and halves it. "A but B", "although A, B" and "B even though A" are worth B; "A and B" is worth
their sum, so that the stronger side wins; "I doubt that C" and its kind turn C round, "I think that C" keeps it.
"""

from __future__ import annotations

from random import Random

from .lexicon import ASPECTS, BAD, BAD_FEELINGS, BAD_NOUNS, GOOD, GOOD_FEELINGS, GOOD_NOUNS, pick

STRONG = ("very", "really", "extremely", "truly", "utterly", "incredibly")
WEAK = ("slightly", "somewhat", "fairly", "rather", "mildly")
NEGATIONS = ("not", "never", "hardly", "far from", "anything but", "by no means")
COPULAS = ("is", "was", "felt", "seemed", "looked")
KEEPING = ("I think that", "everyone agrees that", "my sister says that", "it is clear that", "we found that")
TURNING = ("I doubt that", "nobody can say that", "it is not true that", "I do not believe that", "it is a lie that")
OPENERS = (
    "honestly,",
    "in short,",
    "last week I noted:",
    "on the whole,",
    "to be fair,",
    "for the record,",
    "once more,",
)


def clause(rng: Random) -> tuple[str, float]:
    """One judgement and its value, never 0."""
    good = rng.random() < 0.5
    value = 1.0 if good else -1.0
    aspect = pick(rng, ASPECTS)
    kind = rng.random()
    if kind < 0.12:
        feeling = pick(rng, GOOD_FEELINGS if good else BAD_FEELINGS)
        return f"I {feeling} the {aspect}", value
    if kind < 0.22:
        noun = pick(rng, GOOD_NOUNS if good else BAD_NOUNS)
        return f"the {aspect} was a {noun}", value
    words = [pick(rng, GOOD if good else BAD)]
    degree = rng.random()
    if degree < 0.25:
        words.insert(0, rng.choice(STRONG))
        value *= 2
    elif degree < 0.4:
        words.insert(0, rng.choice(WEAK))
        value /= 2
    copula = rng.choice(COPULAS)
    if rng.random() < 0.2:
        negation = rng.choice(NEGATIONS)
        value /= -2
        copula = "is" if negation in ("not", "never") else copula
        words.insert(0, negation)
    return f"the {aspect} {copula} {' '.join(words)}", value


def statement(rng: Random) -> tuple[str, float]:
    """A clause, perhaps within "I doubt that" or "I think that"; its value is never 0."""
    text, value = clause(rng)
    frame = rng.random()
    if frame < 0.1:
        text, value = f"{rng.choice(TURNING)} {text}", -value
    if 0.06 < frame < 0.2:
        text = f"{rng.choice(KEEPING)} {text}"
    return text, value


def sentence(rng: Random) -> tuple[str, float]:
    """One statement or two, and the value; 0 where two sides weigh the same."""
    kind = rng.random()
    if kind < 0.5:
        return statement(rng)
    if kind < 0.65:  # only plain clauses: "I doubt that A and B" could be read in two ways
        (left, first), (right, second) = clause(rng), clause(rng)
        return f"{left} and {right}", first + second
    (left, first), (right, second) = statement(rng), statement(rng)
    if kind < 0.8:
        return f"{left}, but {right}", second
    if kind < 0.9:
        return f"although {left}, {right}", second
    return f"{left}, even though {right}", first


def review(rng: Random) -> tuple[str, str]:
    """A sentence of 4 to about 20 words and its label, "positive" or "negative"."""
    while True:
        text, value = sentence(rng)
        if value and text.count(" ") < 18:
            break
    if rng.random() < 0.15:
        text = f"{rng.choice(OPENERS)} {text}"
    return text[0].upper() + text[1:] + ".", "positive" if value > 0 else "negative"
