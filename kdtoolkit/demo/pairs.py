"""The tasks on pairs of sentences: an event, a change of it that fixes the label, and a sentence for each."""

from __future__ import annotations

from random import Random

from .events import OPPOSITES, Event, random_event, say, sibling
from .lexicon import PLACES, QUALITIES, TIMES, pick

DETAILS = {"quality": QUALITIES, "place": PLACES, "time": TIMES}
WEIGHTS = {"deed": 2.0, "who": 1.5, "what": 1.5, "quality": 0.5, "place": 0.5, "time": 0.5}


def entailment(rng: Random) -> tuple[str, str, str]:
    """Premise, hypothesis and "entailment", "neutral" or "contradiction"; "the" names the same one in both sentences.

    Entailed: details left out, a person or thing named by its kind. Contradicted: the opposite deed or state, or a
    negation, of what is entailed otherwise. Neutral: a detail nobody mentioned, the specific for the general, or
    another deed, state, person or thing.
    """
    event = random_event(rng)
    label = rng.choice(("entailment", "neutral", "contradiction"))
    if rng.random() < 0.1:  # "did not X" says less than "did not X a Y", so a negated premise keeps all its details
        event = event.with_(negated=True)
        other = event.with_(negated=label != "contradiction")
    else:
        other = _less(rng, event)
        if label == "contradiction":
            opposite = OPPOSITES.get(event.deed)
            denied = opposite is None or rng.random() < 0.3
            other = other.with_(negated=True) if denied else other.with_(deed=opposite)
    if label == "neutral":
        other = _elsewhere(rng, event, other)
    return say(rng, event), say(rng, other), label


def _less(rng: Random, event: Event) -> Event:
    """Something that follows from the event."""
    changes: dict[str, object] = {name: None for name in DETAILS if getattr(event, name) and rng.random() < 0.5}
    slots = ("who",) if event.what is None else ("who", "what")
    changes["general"] = frozenset(slot for slot in slots if rng.random() < 0.15)
    return event.with_(**changes)


def _elsewhere(rng: Random, event: Event, other: Event) -> Event:
    """Something about which the event says nothing."""
    missing = [name for name in DETAILS if getattr(event, name) is None and (name != "quality" or event.what)]
    if missing and not event.negated and rng.random() < 0.25:
        name = rng.choice(missing)
        return other.with_(**{name: pick(rng, DETAILS[name])})
    slot = rng.choice(("deed", "deed", "who") if event.what is None else ("deed", "deed", "what", "who"))
    return other.with_(**{slot: sibling(rng, getattr(event, slot))}, general=other.general - {slot})


def paraphrase(rng: Random) -> tuple[str, str, str]:
    """Two sentences and "same" or "different": said again in other words, or with one thing changed."""
    event = random_event(rng)
    if rng.random() < 0.5:
        return say(rng, event), say(rng, event), "same"
    draw = rng.random()
    slots = [slot for slot in WEIGHTS if getattr(event, slot) is not None]
    if draw < 0.15:
        other = event.with_(negated=True)
    elif draw < 0.3 and event.deed in OPPOSITES:
        other = event.with_(deed=OPPOSITES[event.deed])
    elif event.deed.category == "meeting" and draw < 0.4:
        other = event.with_(who=event.what, what=event.who)
    else:
        slot = rng.choice(slots)
        other = event.with_(**{slot: sibling(rng, getattr(event, slot), near=rng.random() < 0.5)})
    return say(rng, event), say(rng, other), "different"


def similarity(rng: Random) -> tuple[str, str, float]:
    """Two sentences and 0 to 5 in steps of 0.2: the weighted share of slots with the same concept.

    A slot counts half where both are of one kind (two garments), a quarter where deeds are opposites, and nothing where
    only one sentence has it; weights are in WEIGHTS.
    """
    event = random_event(rng)
    keep = rng.random()
    changes: dict[str, object] = {}
    for slot in WEIGHTS:
        concept = getattr(event, slot)
        if concept is None or rng.random() < keep:
            continue
        draw = rng.random()
        if slot in DETAILS and draw < 0.5:
            changes[slot] = None
        elif slot == "deed" and draw < 0.2 and concept in OPPOSITES:
            changes[slot] = OPPOSITES[concept]
        else:
            changes[slot] = sibling(rng, concept, near=slot in ("who", "what") and draw < 0.4)
    other = event.with_(**changes)
    return say(rng, event), say(rng, other), score(event, other)


def score(first: Event, second: Event) -> float:
    """The similarity of two events, 0 to 5."""
    total = got = 0.0
    for slot, weight in WEIGHTS.items():
        one, two = getattr(first, slot), getattr(second, slot)
        if one is None and two is None:
            continue
        total += weight
        if one is two:
            got += weight
        elif one is not None and two is not None:
            if OPPOSITES.get(one) is two:
                got += weight / 4
            elif slot in ("who", "what") and one.category == two.category:
                got += weight / 2
    return round(25 * got / total) / 5
