"""Schedules: a mapping in the place of a number."""

from __future__ import annotations

from .entry import Entry

_X = "x = (step / (steps - 1) - start) / (end - start), between 0 and 1"
_KEYS = {
    "SCHEDULE.from": "value up to start",
    "SCHEDULE.to": "value from end on",
    "SCHEDULE.shape": "how it goes between",
    "SCHEDULE.start": "fraction of the steps",
    "SCHEDULE.end": "fraction of the steps, after start",
}


def _shape(name: str, summary: str, formula: str, source: str, notes: tuple[str, ...] = ()) -> Entry:
    use = f"objective: {{alpha: {{from: 0.0, to: 1.0, shape: {name}}}}}"
    return Entry("schedule", name, summary, use, (formula, _X), source, dict(_KEYS), notes)


SCHEDULES = (
    Entry(
        "schedule", "constant", "a number", "objective: {alpha: 0.5}", ("value = the number",), "a plain number",
        {"objective.alpha": "for example"}, ("alpha: 0.5 is Hinton's fixed mixture.",),
    ),
    _shape(
        "linear", "a straight line", "value = (1 - x) * from + x * to",
        "BAM's teacher annealing, alpha from 0 to 1: Clark et al. 2019, arXiv:1907.04829, section 3",
        ("BAM mixes targets. Cross-entropy is linear in them, so kind: ce at temperature: 1 is the same.",),
    ),
    _shape(
        "cosine", "half a wave: slow, fast, slow", "value as linear, with x replaced by (1 - cos(pi x)) / 2",
        "Loshchilov and Hutter 2017, arXiv:1608.03983",
    ),
    _shape("step", "a jump in the middle of start and end", "value = from while x < 1/2, then to", "a plain jump"),
    Entry(
        "schedule", "exponential", "geometric: equal factors in equal times",
        "objective: {temperature: {from: 8.0, to: 1.0, shape: exponential}}",
        ("value = from^(1 - x) * to^x", _X), "a geometric progression", dict(_KEYS),
        ("Both ends must be positive.",),
    ),
)  # fmt: skip
