"""What happened to whom: meanings as concepts, and the many sentences that say the same.

An `Event` is a deed done to a thing or a person ("the nurse secretly bought the old lamp in the market"), or a state a
person is in ("the poet in the kitchen was sad"). `say` picks synonyms and a word order; what it says is always true of
exactly the event it was given, so two sentences of one event are paraphrases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from .lexicon import (
    OPPOSITE_STATES,
    OPPOSITE_VERBS,
    PEOPLE,
    PLACES,
    QUALITIES,
    SOCIAL_VERBS,
    STATES,
    THINGS,
    TIMES,
    VERBS,
    Concept,
    pick,
)

OPPOSITES: dict[Concept, Concept] = {
    **{a: b for pairs in (OPPOSITE_VERBS, OPPOSITE_STATES) for a, b in pairs},
    **{b: a for pairs in (OPPOSITE_VERBS, OPPOSITE_STATES) for a, b in pairs},
}
POOLS: dict[str, tuple[Concept, ...]] = {
    "person": PEOPLE, "thing": THINGS, "deed": VERBS, "meeting": SOCIAL_VERBS, "state": STATES, "quality": QUALITIES,
    "place": PLACES, "time": TIMES,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """who did `deed` to `what` (quality, place and time optional), or, without `what`, was in the state `deed`.

    general: names of the slots ("who", "what") that are named by their kind only: "the artist", "the vehicle".
    """

    who: Concept
    deed: Concept
    what: Concept | None = None
    quality: Concept | None = None
    place: Concept | None = None
    time: Concept | None = None
    negated: bool = False
    general: frozenset[str] = frozenset()

    def with_(self, **changes: object) -> Event:
        """A copy with some slots changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def random_event(rng: Random) -> Event:
    """An event with one or two details."""
    who = pick(rng, PEOPLE)
    draw = rng.random()
    place = pick(rng, PLACES) if rng.random() < 0.5 else None
    if draw < 0.2:
        return Event(who, pick(rng, STATES), place=place)
    time = pick(rng, TIMES) if rng.random() < 0.4 else None
    if draw < 0.35:
        what = pick(rng, PEOPLE)
        while what is who:
            what = pick(rng, PEOPLE)
        return Event(who, pick(rng, SOCIAL_VERBS), what, place=place, time=time)
    quality = pick(rng, QUALITIES) if rng.random() < 0.5 else None
    return Event(who, pick(rng, VERBS), pick(rng, THINGS), quality=quality, place=place, time=time)


def sibling(rng: Random, concept: Concept, *, near: bool = False) -> Concept:
    """Another concept for the same slot: one of the same kind with `near`, and never the opposite."""
    pool = PEOPLE if concept in PEOPLE else THINGS if concept in THINGS else POOLS[concept.category]
    while True:
        other = pick(rng, pool)
        if other is concept or other is OPPOSITES.get(concept):
            continue
        if not near or other.category == concept.category:
            return other


def say(rng: Random, event: Event) -> str:
    """A sentence that says the event: any synonyms, active or passive, details in any of their places."""
    who = event.who.category if "who" in event.general else pick(rng, event.who.forms)
    place = f"in the {pick(rng, event.place.forms)}" if event.place else ""
    time = pick(rng, event.time.forms) if event.time else ""
    if event.what is None:
        state = pick(rng, event.deed.forms)
        words = [f"the {who}", "was not" if event.negated else "was", state, time]
        words.insert(0 if rng.random() < 0.3 else 4, place)
    else:
        base, past, participle = pick(rng, event.deed.verbs)
        what = event.what.category if "what" in event.general else pick(rng, event.what.forms)
        if event.quality:
            what = f"{pick(rng, event.quality.forms)} {what}"
        if rng.random() < 0.3:
            words = [f"the {what}", "was not" if event.negated else "was", participle, f"by the {who}", time]
        else:
            words = [f"the {who}", f"did not {base}" if event.negated else past, f"the {what}", time]
        words.insert(0 if rng.random() < 0.25 else len(words), place)
    text = " ".join(word for word in words if word)
    return text[0].upper() + text[1:] + "."
