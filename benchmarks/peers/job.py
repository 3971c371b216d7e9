"""The one job that all ways do: SST-2 rows, a fine-tuned MiniLM as the teacher, a BiLSTM (S1) or a small BERT (S2).

Batches of 32, AdamW without weight decay at 1e-3 (S1) or 5e-4 (S2), 10 % warm-up and linear decay, gradients clipped at
1, temperature 2, half of the loss T^2 * KL and half cross-entropy, one thread, float32 unless said otherwise. The clock
runs from tokenizing to the last update; imports and the loading of models are left out, but for kdtoolkit's own.

S1's embedding starts at a deviation of 0.1, as kdtoolkit's BiLSTM does, for all ways train the same student. torch's
own 1.0 costs no time and about 5 points of dev accuracy (hand loop, seeds 0 and 1: 0.757 in place of 0.804).
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH, TEMPERATURE, MAX_TOKENS = 32, 2.0, 64
RATE = {"s1": 1e-3, "s2": 5e-4}


def arguments(description: str | None, *switches: str) -> argparse.Namespace:
    """What every way is told; `switches` are what this one can be told besides."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--teacher", required=True, help="folder of the fine-tuned teacher")
    parser.add_argument("--data", type=Path, required=True, help="folder with sst-2/")
    parser.add_argument("--student", choices=("s1", "s2"), required=True)
    parser.add_argument("--rows", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    for switch in switches:
        parser.add_argument(f"--{switch}", action="store_true")
    return parser.parse_args()


def rows(data: Path, split: str, count: int | None = None) -> tuple[list[str], list[int]]:
    """Texts and labels of the first rows of SST-2."""
    with gzip.open(data / "sst-2" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines][:count]
    return [row["sentence1"] for row in found], [int(row["label"]) for row in found]


class S1(nn.Module):
    """A BiLSTM of 2 x 150 over the teacher's word pieces, the maximum over time, one hidden layer."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(pieces, 300)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.lstm = nn.LSTM(300, 150, batch_first=True, bidirectional=True)
        self.hidden, self.output = nn.Linear(300, 150), nn.Linear(150, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Tensor:
        """(rows, 2) logits. Packed where rows are ragged, plain where they are not."""
        lengths = attention_mask.sum(1)
        embedded = functional.dropout(self.embedding(input_ids), 0.3, self.training)
        if int(lengths.min()) == input_ids.shape[1]:
            states = self.lstm(embedded)[0]
        else:
            packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
            states = nn.utils.rnn.pad_packed_sequence(
                self.lstm(packed)[0], batch_first=True, total_length=input_ids.shape[1]
            )[0]
            states = states.masked_fill(~attention_mask.bool().unsqueeze(2), float("-inf"))
        pooled = functional.dropout(states.amax(1), 0.3, self.training)
        return self.output(functional.dropout(self.hidden(pooled).relu(), 0.3, self.training))


class S2(nn.Module):
    """BERT of 2 layers of 128, from random weights."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=pieces, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512
        )
        self.bert = BertForSequenceClassification(config)

    @property
    def embedding(self) -> nn.Embedding:
        """That of the word pieces."""
        found = self.bert.get_input_embeddings()
        assert isinstance(found, nn.Embedding)
        return found

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Tensor:
        """(rows, 2) logits."""
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).logits


def new_student(name: str, pieces: int, seed: int) -> S1 | S2:
    """The student with fresh weights."""
    torch.manual_seed(seed)
    return S1(pieces) if name == "s1" else S2(pieces)


def loss_of(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """The mean over the rows: half soft, half gold."""
    soft = functional.kl_div(
        (student / TEMPERATURE).log_softmax(1), (teacher / TEMPERATURE).softmax(1), reduction="batchmean"
    )
    return 0.5 * TEMPERATURE**2 * soft + 0.5 * functional.cross_entropy(student, labels)


def factor(step: int, steps: int) -> float:
    """The learning rate's, at a step of so many."""
    warm = int(0.1 * steps)
    return (step + 1) / warm if step < warm else 1 - (step - warm) / max(steps - warm, 1)


def load_teacher(folder: str) -> tuple[Any, Any]:
    """Model and tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_padding()
    return AutoModelForSequenceClassification.from_pretrained(folder).eval(), tokenizer


@torch.no_grad()
def accuracy(student: nn.Module, tokenizer: Any, data: Path) -> float:
    """On dev."""
    student.eval()
    texts, labels = rows(data, "dev")
    right = 0
    for start in range(0, len(texts), 64):
        batch = tokenizer(texts[start : start + 64], truncation=True, max_length=MAX_TOKENS, padding=True,
                          return_tensors="pt")  # fmt: skip
        found = student(batch["input_ids"], batch["attention_mask"]).argmax(1)
        right += int((found == torch.tensor(labels[start : start + 64])).sum())
    return right / len(texts)


class Clock:
    """CPU and wall seconds between `start` and `stop`."""

    def start(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu


@contextmanager
def clocked() -> Iterator[Clock]:
    """A clock that runs while the body does."""
    clock = Clock()
    clock.start()
    yield clock
    clock.stop()


def tell(clock: Clock | dict[str, float], given: argparse.Namespace, measure: Callable[[], float]) -> None:
    """Prints what a way took, as JSON; the peak of memory is that of the process until the last update."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    times = clock if isinstance(clock, dict) else {"cpu": clock.cpu, "wall": clock.wall}
    print(json.dumps({**times, "visits": given.rows * given.epochs, "mb": peak, "accuracy": measure()}))
