"""Tasks, random features and batches for tests of heads."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from kdtoolkit import Encoded, Task, Tokens
from kdtoolkit.recipe.schema import Heads

WIDTH = 6
SST2 = Task("sst2", text=("s",), labels=("negative", "positive"))
MNLI = Task("mnli", text=("a", "b"), labels=("entailment", "neutral", "contradiction"))
QNLI = Task("qnli", text=("a", "b"), labels=("entailment", "not_entailment"))
STSB = Task("stsb", kind="regression", text=("a", "b"))
TAGS = Task("my-tags", kind="multilabel", text=("s",), labels=("x", "y", "z", "w"))


def section(name="auto", **options) -> Heads:
    """The recipe's section; `tasks` overrides it by task."""
    return Heads(name=name, **options)


def text_batch(tasks, positions, *, joint=False, seed=0, lengths=None, dtype=torch.float32):
    """(encoded, batch) of random features; row r is of tasks[positions[r]].

    Its texts have 1 to 7 tokens. What stands on padding is rubbish, as a student may leave it. joint: a pair is one
    sequence, its second half segment 1.
    """
    generator = torch.Generator().manual_seed(seed)
    of_rows = torch.tensor(positions)
    pair = torch.tensor([bool(task.pair) for task in tasks])[of_rows]
    rows = len(positions)
    texts = rows if joint else rows + int(pair.sum())
    if lengths is None:
        lengths = torch.randint(2 if joint else 1, 8, (texts,), generator=generator)
    lengths = torch.as_tensor(lengths)
    time = int(lengths.max())
    mask = torch.arange(time) < lengths[:, None]
    segments = torch.zeros(texts, time, dtype=torch.int64)
    first = torch.arange(rows)
    second = first.clone()
    if joint:
        begins = (lengths + 1) // 2
        segments = ((torch.arange(time) >= begins[:, None]) & mask & pair[:, None]).long()
    else:
        second[pair] = torch.arange(rows, texts)
    states = torch.randn(texts, time, WIDTH, generator=generator, dtype=dtype)
    pooled = torch.randn(texts, WIDTH, generator=generator, dtype=dtype)
    tokens = Tokens(mask.long(), mask, segments)
    separate = second if pair.any() and not joint else None
    return Encoded(pooled, states), SimpleNamespace(tasks=of_rows, first=first, second=separate, tokens=tokens)


def row_of(encoded, batch, row):
    """The batch of the one row, with as little padding as it can have."""
    texts = [int(batch.first[row])]
    second = batch.first if batch.second is None else batch.second
    if int(second[row]) != texts[0]:
        texts.append(int(second[row]))
    time = int(batch.tokens.mask[texts].sum(1).max())
    tokens = Tokens(*(tensor[texts, :time] for tensor in batch.tokens))
    own = None if batch.second is None else torch.tensor([len(texts) - 1])
    features = Encoded(encoded.pooled[texts], encoded.states[texts, :time])
    first = torch.tensor([0])
    return features, SimpleNamespace(tasks=batch.tasks[row : row + 1], first=first, second=own, tokens=tokens)


def own_columns(result, row):
    """The row's own outputs."""
    start, count = int(result.start[row]), int(result.count[row])
    return result.outputs[row, start : start + count]
