"""Train and the text that is generated from it, as rows on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from ..data.rows import Rows, RowWriter
from ..example import Example, example_id
from ..files import atomic_folder, read_json, write_json
from ..progress import track
from ..recipe.schema import Augment
from .language import Language, learn
from .rules import Texts, generate
from .tagger import tagger_digest

FORMAT = 1
CHUNK_ROWS = 1000
PREVIEW_ROWS = 1000
ROWS, FACTS, CANDIDATES = "rows.arrow", "facts.json", "candidates.arrow"


@dataclass(frozen=True)
class Counts:
    """Of a task's generated text: tries; those that repeat a text or one of the task's rows; those that are empty or
    nothing but masks; those left out of the sample of `augment.rows`; and what is left, the generated rows."""

    tries: int
    repeated: int
    empty: int
    sampled_out: int
    generated: int

    def __str__(self) -> str:
        cut = f", {self.sampled_out:,} are left out by augment.rows" if self.sampled_out else ""
        empty = f", {self.empty:,} are empty" if self.empty else ""
        return (
            f"{self.generated:,} generated rows without labels ({self.tries:,} tries; {self.repeated:,} repeat a text "
            f"or a row of the task{empty}{cut})"
        )


@dataclass(frozen=True)
class Preview:
    """What `augmented` would do: about how many rows it would generate, and some of them, with what they came from."""

    rows: int
    examples: list[tuple[Texts, Texts]]


def augmented(splits: Mapping[str, Rows], rules: Augment, folder: Path, *, seed: int) -> tuple[Rows, Counts]:
    """The rows of train, then generated rows without labels, in `folder`, which belongs to this function.

    splits: all of the task's; no text of any of them is generated. The same rows, rules and seed give the same bytes,
    and find them again. Memory: 16 bytes a try.
    Raises InputError if the tagger does not work.
    """
    train = splits["train"]
    key = _key(splits, rules, seed)
    if (folder / FACTS).is_file() and (kept := read_json(folder / FACTS))["key"] == key:
        return Rows.open(folder / ROWS, train.task), Counts(**kept["counts"])
    language = learn(train, rules)
    with atomic_folder(folder) as temporary:
        candidates, empty = _write_candidates(train, rules, language, temporary / CANDIDATES, seed)
        ids = candidates.ids()
        new = _first(ids) & ~np.isin(ids, np.concatenate([rows.ids() for rows in splits.values()]))
        chosen = np.flatnonzero(new)
        if rules.rows is not None and len(chosen) > rules.rows:
            chosen = np.sort(chosen[_sample(ids[chosen], rules.rows, seed)])
        with RowWriter(temporary / ROWS, train.task) as writer:
            for rows, numbers in ((train, np.arange(len(train))), (candidates, chosen)):
                for start in range(0, len(numbers), CHUNK_ROWS):
                    for example in rows.examples(numbers[start : start + CHUNK_ROWS]):
                        writer.add(example)
        tries = len(train) * rules.copies
        repeated = tries - empty - int(new.sum())
        counts = Counts(tries, repeated, empty, int(new.sum()) - len(chosen), len(chosen))
        (temporary / CANDIDATES).unlink()
        write_json(temporary / FACTS, {"key": key, "counts": asdict(counts)})
    return Rows.open(folder / ROWS, train.task), counts


def preview(splits: Mapping[str, Rows], rules: Augment, *, seed: int, shown: int = 3) -> Preview:
    """What `augmented` would generate, estimated from PREVIEW_ROWS rows of train; the examples are its very texts."""
    train = splits["train"]
    language = learn(train, rules)
    chosen = np.unique(np.linspace(0, len(train) - 1, min(PREVIEW_ROWS, len(train))).astype(np.int64))
    known = np.concatenate([rows.ids() for rows in splits.values()])
    seen: dict[bytes, tuple[Texts, Texts]] = {}
    for example, tries in _tries(train, chosen, rules, language, seed):
        for text, second in tries:
            if not _is_empty((text, second), rules):
                seen.setdefault(example_id(text, second), ((example.text, example.second), (text, second)))
    new = ~np.isin(np.frombuffer(b"".join(seen), "S16"), known)
    found = [pair for pair, is_new in zip(seen.values(), new) if is_new]
    rows = round(len(found) * len(train) / len(chosen))
    places = np.unique(np.linspace(0, len(found) - 1, min(shown, len(found))).astype(np.int64))
    return Preview(rows if rules.rows is None else min(rows, rules.rows), [found[place] for place in places])


def _tries(
    train: Rows, numbers: np.ndarray, rules: Augment, language: Language, seed: int
) -> Iterator[tuple[Example, list[Texts]]]:
    for start in range(0, len(numbers), CHUNK_ROWS):
        examples = train.examples(numbers[start : start + CHUNK_ROWS])
        texts = [example.text for example in examples]
        seconds = [example.second or "" for example in examples] if train.task.pair else None
        yield from zip(
            examples,
            generate(
                texts, seconds, rules, language.tagger, language.replacements, task=train.task.name, seed=seed
            ),
        )  # fmt: skip


def _write_candidates(train: Rows, rules: Augment, language: Language, path: Path, seed: int) -> tuple[Rows, int]:
    """Every try that changed its row, repeats of other rows included; and how many tries are empty."""
    empty = 0
    with track(f"{train.task.name}: generating text", len(train)) as advance, RowWriter(path, train.task) as writer:
        for example, tries in _tries(train, np.arange(len(train)), rules, language, seed):
            empty += sum(_is_empty(texts, rules) for texts in tries)
            for text, second in dict.fromkeys(tries):
                if (text, second) != (example.text, example.second) and not _is_empty((text, second), rules):
                    writer.add(Example(train.task.name, text, second))
            advance()
    return Rows.open(path, train.task), empty


def _is_empty(texts: Texts, rules: Augment) -> bool:
    return any(text is not None and not text.replace(rules.mask_token, "").strip() for text in texts)


def _first(ids: np.ndarray) -> np.ndarray:
    """Which of the ids, (n,) S16, stand there for the first time: (n,) bool."""
    found = np.zeros(len(ids), bool)
    found[np.unique(ids, return_index=True)[1]] = True
    return found


def _sample(ids: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Places of the `rows` ids whose hash is least: the same texts whatever their order."""
    salt, data = f"{seed} augment".encode(), ids.tobytes()
    keys = [blake2b(salt + data[16 * n : 16 * n + 16], digest_size=8).digest() for n in range(len(ids))]
    return np.argsort(np.frombuffer(b"".join(keys), ">u8"), kind="stable")[:rows]


def _key(splits: Mapping[str, Rows], rules: Augment, seed: int) -> str:
    facts = {"format": FORMAT, "rules": rules.model_dump(exclude={"tasks"}), "seed": seed}
    code = tagger_digest(rules)
    if code is not None:
        facts["tagger"] = code
    digest = blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
    for name, rows in sorted(splits.items()):
        digest.update(f"{name} {len(rows)}".encode())
        digest.update(rows.ids().tobytes())
        digest.update(np.ascontiguousarray(rows.labels()).tobytes())
    return digest.hexdigest()
