"""A strong engineer's loop: one teacher pass sorted by length, cached logits, batches by length, fused AdamW.

--compact trains an embedding of the word pieces that occur alone, and puts its rows back into the whole one at the end.
Without weight decay that is exact, for Adam never moves a row without gradient, and the student still reads any text.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator

import torch
from job import (
    BATCH,
    MAX_TOKENS,
    RATE,
    accuracy,
    arguments,
    clocked,
    factor,
    load_teacher,
    loss_of,
    new_student,
    rows,
    tell,
)

TOKENS = 4096


def by_length(lengths: list[int]) -> Iterator[list[int]]:
    """Rows of one length each, so many that they have about TOKENS tokens."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    start = 0
    while start < len(order):
        length, stop = lengths[order[start]], start
        while stop < len(order) and lengths[order[stop]] == length and (stop - start) * length < TOKENS:
            stop += 1
        yield order[start:stop]
        start = stop


def batches(lengths: list[int], epoch: int, seed: int) -> list[list[int]]:
    """Batches of rows of like length, in random order; other rows share a batch in every epoch."""
    drawn = random.Random(seed * 1000 + epoch)
    order = sorted(drawn.sample(range(len(lengths)), len(lengths)), key=lengths.__getitem__)
    cut = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return drawn.sample(cut, len(cut))


def padded(ids: list[list[int]], chosen: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask of some rows."""
    some = [torch.tensor(ids[row]) for row in chosen]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in some], batch_first=True)
    return torch.nn.utils.rnn.pad_sequence(some, batch_first=True), mask


def compacted(embedding: torch.nn.Embedding, ids: list[list[int]]) -> tuple[list[list[int]], Callable[[], None]]:
    """The ids in an embedding that from now on has only the pieces that occur, and what makes it whole again."""
    whole = embedding.weight
    used = sorted({0}.union(*ids))  # 0 is padding, and stays 0
    place = {piece: row for row, piece in enumerate(used)}
    embedding.weight = torch.nn.Parameter(whole.detach()[used])

    def restore() -> None:
        with torch.no_grad():
            whole[used] = embedding.weight
        embedding.weight = whole

    return [[place[piece] for piece in text] for text in ids], restore


def main() -> None:
    given = arguments(__doc__, "compact")
    torch.set_num_threads(1)
    teacher, tokenizer = load_teacher(given.teacher)
    texts, gold = rows(given.data, "train", given.rows)
    pieces = len(tokenizer)
    with clocked() as clock:
        ids: list[list[int]] = tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        lengths, labels = list(map(len, ids)), torch.tensor(gold)
        logits = torch.empty(len(ids), 2)
        with torch.inference_mode():
            for chosen in by_length(lengths):
                tokens, mask = padded(ids, chosen)
                logits[chosen] = teacher(input_ids=tokens, attention_mask=mask).logits
        student = new_student(given.student, pieces, given.seed)
        if given.compact:
            ids, restore = compacted(student.embedding, ids)
        optimizer = torch.optim.AdamW(student.parameters(), lr=RATE[given.student], weight_decay=0.0, fused=True)
        steps, step = given.epochs * -(-len(ids) // BATCH), 0
        student.train()
        for epoch in range(given.epochs):
            for chosen in batches(lengths, epoch, given.seed):
                tokens, mask = padded(ids, chosen)
                loss_of(student(tokens, mask), logits[chosen], labels[chosen]).backward()
                torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
                for group in optimizer.param_groups:
                    group["lr"] = RATE[given.student] * factor(step, steps)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
        if given.compact:
            restore()
    tell(clock, given, lambda: accuracy(student, tokenizer, given.data))


if __name__ == "__main__":
    sys.exit(main())
