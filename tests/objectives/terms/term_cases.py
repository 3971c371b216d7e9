"""Random students and teachers with hidden states, as terms see them."""

from __future__ import annotations

from dataclasses import replace

import torch

from kdtoolkit.data.collate import Batch
from kdtoolkit.objectives.terms import TERMS, Seen
from kdtoolkit.shape import Shape
from kdtoolkit.student import Encoded, Tokens

STUDENT, TEACHER = Shape(2, 12, 3), Shape(4, 24, 3)
CLASSES = 4
LENGTHS = (5, 3, 4, 1, 5, 2)


def random(*sizes, scale=1.0):
    return scale * torch.randn(*sizes)


def encoded(shape, mask):
    """What a student of that shape may give for rows of that mask, with noise on padding."""
    rows, time = mask.shape
    head = shape.width // shape.heads

    def layers(count, *sizes):
        return tuple(random(rows, *sizes).requires_grad_() for _ in range(count))

    return Encoded(
        pooled=random(rows, shape.width).requires_grad_(),
        hidden=layers(shape.layers + 1, time, shape.width),
        attentions=layers(shape.layers, shape.heads, time, time),
        queries=layers(shape.layers, shape.heads, time, head),
        keys=layers(shape.layers, shape.heads, time, head),
        values=layers(shape.layers, shape.heads, time, head),
    )


def features_of(shape, mask):
    """What a teacher of that shape may show."""
    return as_features(encoded(shape, mask))


def as_features(given):
    """The hidden states of an `Encoded` by the names that a teacher gives them."""
    features = {f"hidden/{layer}": states for layer, states in enumerate(given.hidden)}
    features |= {f"first/{layer}": states[:, 0] for layer, states in enumerate(given.hidden)}
    for kind, layers in (("attention", given.attentions), ("queries", given.queries), ("keys", given.keys),
                         ("values", given.values)):  # fmt: skip
        features |= {f"{kind}/{layer}": states for layer, states in enumerate(layers, 1)}
    return {name: states.detach() for name, states in features.items()}


def mask_of(lengths=LENGTHS, time=None):
    return torch.arange(time or max(lengths)) < torch.tensor(lengths).unsqueeze(1)


def batch_of(mask, second=None):
    rows = len(mask)
    tokens = Tokens(mask.long(), mask, torch.zeros_like(mask, dtype=torch.int64))
    return Batch(tokens, torch.arange(rows), second, torch.zeros(rows, dtype=torch.int64), torch.zeros(rows))


def seen_of(term, given, mask, features, *, logits=None):
    """`Seen` of the rows, the student's side made by the term itself."""
    rows = len(mask)
    student, teacher = logits if logits is not None else (random(rows, CLASSES), random(rows, CLASSES))
    needed = {name: features[name] for name in term.teacher_needs}
    labels = torch.arange(rows) % CLASSES
    return Seen(term(given, batch_of(mask)), needed, mask, student, teacher, labels, 2.0)


def of_rows(seen, rows):
    """The same for some of the rows, in that order."""
    return replace(
        seen,
        student={name: states[rows] for name, states in seen.student.items()},
        teacher={name: states[rows] for name, states in seen.teacher.items()},
        mask=seen.mask[rows],
        student_logits=seen.student_logits[rows],
        teacher_logits=seen.teacher_logits[rows],
        labels=seen.labels[rows],
    )


CASES = {
    **{name: (name, {}) for name in TERMS},
    "pkd mean": ("pkd", {"reduction": "mean", "layers": [3]}),
    "attention last": ("attention", {"layers": "last"}),
    "hidden explicit": ("hidden", {"layers": [4, 4]}),
    "minilm layer": ("minilm", {"layer": 2}),
    "minilmv2 states": ("minilmv2", {"states": True, "heads": 4, "layer": 3}),
    "minilmv2 keys": ("minilmv2", {"queries": 0.0, "values": 0.0, "keys": 2.0}),
    "cosine first": ("cosine", {"first": True}),
    "rkd logits": ("rkd", {"on": "logits"}),
    "rkd angles": ("rkd", {"distance": 0.0, "angle": 1.0}),
    "dist rows": ("dist", {"columns": 0.0}),
}
"""Every term as it is, and with options that take another path: name -> (term, options)."""


def built(case, student=STUDENT, teacher=TEACHER):
    name, options = CASES[case]
    return TERMS[name](student, teacher, **options)
