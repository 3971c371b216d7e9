"""`augment:`: the rules by which text is generated."""

from __future__ import annotations

from .entry import Entry

_TANG = "Tang et al. 2019, arXiv:1903.12136, section 3.3"
_COPIES = {
    "augment.copies": "tries per row of train; what repeats a text is dropped",
    "augment.rows": "most rows a task",
}
_LABELS = "The teacher labels what is generated; the gold-only baseline does not see it."

AUGMENTATION = (
    Entry(
        "augment", "mask", "words become the mask token", "augment: {mask: 0.1}",
        ("each word, with X uniform on (0, 1):  X < mask: the mask token", "  mask <= X < mask + replace: see replace"),
        _TANG, {"augment.mask": "probability of a word", "augment.mask_token": "what stands for it", **_COPIES},
        (_LABELS,),
    ),
    Entry(
        "augment", "replace", "words become others of their part of speech", "augment: {replace: 0.1}",
        ("each word, with X uniform on (0, 1):  X < mask: see mask",
         "  mask <= X < mask + replace: another of its class, drawn by how often it occurs"),
        _TANG,
        {"augment.replace": "probability of a word", "augment.tagger": "induced from the text itself, or a callable",
         "augment.classes": "induced: number of word classes", **_COPIES},
        ("The paper's parts of speech come from a trained tagger; induced classes are ours.", _LABELS),
    ),
    Entry(
        "augment", "ngram", "the text is cut to one of its n-grams", "augment: {ngram: 0.25}",
        ("with probability ngram: n consecutive words, n uniform on 1 .. longest_ngram",), _TANG,
        {"augment.ngram": "probability of a text", "augment.longest_ngram": "largest n", **_COPIES}, (_LABELS,),
    ),
    Entry(
        "augment", "pairs", "of a pair, one text is changed or both", "augment: {both: 0.3333333333333333}",
        ("both texts with probability both, else the first or the second alone",), _TANG,
        {"augment.both": "probability that both are changed", **_COPIES},
        ("The share of one third is that of the authors' code.", _LABELS),
    ),
)  # fmt: skip
