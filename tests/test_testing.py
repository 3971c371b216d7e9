"""The checks for plug-in authors find what they promise to find, and the tiny things can be learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdtoolkit import Encoded, Student, Task, Teacher
from kdtoolkit.data.collate import Batch
from kdtoolkit.heads import MultiTaskHeads
from kdtoolkit.shape import Shape
from kdtoolkit.student import Tokens
from kdtoolkit.testing import VOCABULARY, EchoTeacher, check_student, check_teacher, tiny_task, tiny_tokens

KINDS = ("classification", "regression", "multilabel")


# ------------------------------------------------------------------------------------------------------------- students
class WordAverage(Student):
    def __init__(self, vocab_size: int, *, width: int = 8) -> None:
        super().__init__(width=width)
        self.embed = nn.Embedding(vocab_size, width, padding_idx=0)

    def encode(self, batch):
        vectors = self.embed(batch.ids) * batch.mask.unsqueeze(-1)
        return vectors.sum(1) / batch.mask.sum(1, keepdim=True).clamp(min=1)


class PaddingCounts(WordAverage):
    def encode(self, batch):
        return self.embed(batch.ids).mean(1)


class RowsMeet(WordAverage):
    def encode(self, batch):
        pooled = super().encode(batch)
        return pooled - pooled.mean(0)


class OrderMatters(WordAverage):
    def encode(self, batch):
        pooled = super().encode(batch)
        return pooled * torch.linspace(1, 2, len(pooled)).unsqueeze(1)


class Random(WordAverage):
    def encode(self, batch):
        return nn.functional.dropout(super().encode(batch), 0.5, training=True)


class Deaf(WordAverage):
    def encode(self, batch):
        return self.embed.weight[1].expand(len(batch.ids), -1)


class Idle(WordAverage):
    def __init__(self, vocab_size: int, *, width: int = 8) -> None:
        super().__init__(vocab_size, width=width)
        self.forgotten = nn.Linear(width, width)


class Detached(WordAverage):
    def encode(self, batch):
        return super().encode(batch).detach()


class OneText(WordAverage):
    def encode(self, batch):
        return super().encode(batch).squeeze()


class NotANumber(WordAverage):
    def encode(self, batch):
        return super().encode(batch) / (batch.lengths > 1).unsqueeze(1)


class DoublePrecision(WordAverage):
    def encode(self, batch):
        return super().encode(batch).double()


class Meddler(WordAverage):
    def encode(self, batch):
        batch.ids[:, 0] = 1
        return super().encode(batch)


class PositionalOption(WordAverage):
    def __init__(self, vocab_size: int, width: int = 8) -> None:
        super().__init__(vocab_size, width=width)


class OtherFirstArgument(WordAverage):
    def __init__(self, vocabulary: int, *, width: int = 8) -> None:
        super().__init__(vocabulary, width=width)


class NoSuchPart(WordAverage):
    provides = frozenset({"thoughts"})


class PartMissing(WordAverage):
    provides = frozenset({"states"})


class StatesSeePadding(WordAverage):
    provides = frozenset({"states"})

    def encode(self, batch):
        vectors = self.embed(batch.ids)
        return Encoded(super().encode(batch), vectors + batch.ids.shape[1])


class LayersWithoutShape(WordAverage):
    provides = frozenset({"hidden"})


class LayersMissing(LayersWithoutShape):
    shape = Shape(1, 8)


class TooFewLayers(LayersMissing):
    def encode(self, batch):
        return Encoded(super().encode(batch), hidden=(self.embed(batch.ids),))


class LayersSeePadding(LayersMissing):
    def encode(self, batch):
        vectors = self.embed(batch.ids)
        return Encoded(super().encode(batch), hidden=(vectors, vectors + batch.ids.shape[1]))


class Forgetful(WordAverage):
    """Keeps something that it needs outside its state dict."""

    def __init__(self, vocab_size: int, *, width: int = 8) -> None:
        super().__init__(vocab_size, width=width)
        self.scale = torch.rand(1)

    def encode(self, batch):
        return super().encode(batch) * self.scale


class Unwritable(WordAverage):
    def resolved_options(self, options):
        return {"width": torch.tensor(8)}


class OtherShape(WordAverage):
    def resolved_options(self, options):
        return {"width": 4}


class SharedWeights(WordAverage):
    def __init__(self, vocab_size: int, *, width: int = 8) -> None:
        super().__init__(vocab_size, width=width)
        self.again = nn.Embedding(vocab_size, width)
        self.again.weight = self.embed.weight


class OwnRandomness(WordAverage):
    built = 0

    def __init__(self, vocab_size: int, *, width: int = 8) -> None:
        super().__init__(vocab_size, width=width)
        OwnRandomness.built += 1
        self.embed.weight = nn.Parameter(torch.full((vocab_size, width), float(OwnRandomness.built)))


class ManyPieces(WordAverage):
    def word_embedding(self):
        return nn.Embedding(7, 8)


@pytest.mark.parametrize("width", [1, 8, 33])
def test_the_smallest_student_keeps_the_contract(width):
    check_student(WordAverage, width=width)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (PaddingCounts, "padding by 1 more columns changes pooled"),
        (RowsMeet, "changes pooled"),
        (OrderMatters, "the order of the rows changes pooled"),
        (Random, "in evaluation|changes pooled"),
        (Deaf, "pooled is the same whatever the text"),
        (Idle, r"no gradient reaches forgotten\.weight, forgotten\.bias"),
        (Detached, "pooled has no gradient"),
        (NotANumber, "pooled has NaN or infinity for texts of 1 tokens"),
        (DoublePrecision, r"expected float32, got torch\.float64"),
        (Meddler, "encode changes its input"),
        (PositionalOption, "must be keyword-only; not so: width"),
        (OtherFirstArgument, "first argument must be vocab_size"),
        (NoSuchPart, "got thoughts"),
        (PartMissing, "provides names states, and encode gave none"),
        (StatesSeePadding, "changes states"),
        (LayersWithoutShape, "provides names hidden, and shape is None"),
        (LayersMissing, "provides promises hidden, and encode gave none"),
        (TooFewLayers, "hidden: expected 2, got 1"),
        (LayersSeePadding, r"padding changes hidden\[1\]"),
        (Forgetful, "something it needs is not in its state dict"),
        (Unwritable, "resolved_options cannot be written as JSON"),
        (OtherShape, "refuses the saved weights"),
        (SharedWeights, "safetensors cannot hold the state dict"),
        (OwnRandomness, r"two students built after torch\.manual_seed\(0\) differ"),
        (ManyPieces, "word_embedding: expected 64 rows, got 7"),
        (nn.Linear, r"no subclass of kdtoolkit\.Student"),
    ],
)
def test_a_student_that_breaks_a_promise_is_told_which(cls, words):
    with pytest.raises(AssertionError, match=words):
        check_student(cls)


def test_a_student_of_the_wrong_shape_is_told_by_the_base_class():
    with pytest.raises(ValueError, match=r"OneText.encode: expected pooled of shape \(1, 8\)"):
        check_student(OneText)


def test_an_option_that_the_constructor_does_not_take_is_named():
    with pytest.raises(AssertionError, match="WordAverage takes no depth"):
        check_student(WordAverage, depth=3)


# ------------------------------------------------------------------------------------------------------------- teachers
@pytest.mark.parametrize("echo", ["text", "gold"])
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_echo_keeps_the_contract(kind, pair, echo):
    task, examples = tiny_task(kind=kind, pair=pair, rows=40)
    check_teacher(EchoTeacher("echo", task, echo=echo), examples)


def test_an_echo_of_gold_labels_is_right_and_says_nothing_without_one():
    for kind in KINDS:
        task, examples = tiny_task(kind=kind, rows=20, classes=3)
        values = EchoTeacher("echo", task, echo="gold").logits(examples)
        for row, example in zip(values, examples):
            if kind == "classification":
                assert row.argmax() == example.label
            elif kind == "regression":
                assert row.tolist() == [example.label]
            else:
                assert tuple(int(value > 0) for value in row) == example.label
        unlabelled = type(examples[0])(task.name, "a text")
        assert np.isnan(EchoTeacher("echo", task, echo="gold").logits([unlabelled])).all()


def test_an_echo_counts_what_it_is_asked_and_other_seeds_are_other_teachers():
    task, examples = tiny_task(rows=10)
    one, other = EchoTeacher("echo", task), EchoTeacher("echo", task, seed=1)
    assert not np.allclose(one.logits(examples), other.logits(examples))
    assert one.fingerprint != other.fingerprint
    assert np.abs(one.logits(examples)).max() <= 3
    assert one.rows_asked == 20


class Broken(Teacher):
    """A teacher whose values one function spoils."""

    def __init__(self, task, spoil=None, **said):
        super().__init__("broken", task)
        self.echo, self.spoil, self.said, self.calls = EchoTeacher("echo", task, echo="gold"), spoil, said, 0

    def logits(self, examples):
        self.calls += 1
        values = self.echo.logits(examples)
        return values if self.spoil is None else self.spoil(values)

    @property
    def fingerprint(self):
        return self.said.get("fingerprint", f"{self.calls * self.said.get('drift', 0):x}")

    @property
    def kind(self):
        return self.said.get("kind", super().kind)

    @property
    def partial(self):
        return self.said.get("partial", False)

    def answers(self, ids):
        return self.said.get("answers", super().answers(ids))


def poke(value, rows=slice(1), columns=slice(None)):
    def spoil(values):
        values[rows, columns] = value
        return values

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said", "words"),
    [
        (lambda v: v.astype(np.float64), {}, "expected float32, got float64"),
        (lambda v: v.tolist(), {}, "expected a numpy array, got list"),
        (lambda v: v[:, :1], {}, r"expected shape \(40, 2\), got \(40, 1\)"),
        (lambda v: v if len(v) else v[:, :0], {}, r"expected shape \(0, 2\), got \(0, 0\)"),
        (lambda v: np.sort(v, axis=0), {}, "the order of the examples changes the values"),
        (lambda v: v + np.float32(len(v)), {}, "calls of 1 examples at a time change the values"),
        (poke(np.nan), {}, "only a teacher whose `partial` is True"),
        (poke(np.nan, columns=0), {"partial": True}, "is NaN in part"),
        (poke(np.nan, rows=slice(None)), {"partial": True}, "says nothing about any"),
        (poke(np.inf, columns=0), {}, r"hold \+inf"),
        (poke(-np.inf, columns=0), {}, "hold -inf"),
        (lambda v: v[:, ::-1], {}, "expected the order label0, label1, and they look like label1, label0"),
        (None, {"fingerprint": "Echo 1"}, "expected lower-case hex digits"),
        (None, {"drift": 1}, "the fingerprint changed"),
        (None, {"kind": "values"}, "expected logits or logprobs for classification"),
        (None, {"answers": np.ones(3, bool)}, "expected one bool for each id"),
        (None, {"answers": np.arange(40) > 1}, "no values for 2 of them"),
    ],
)
def test_a_teacher_that_breaks_a_promise_is_told_which(spoil, said, words):
    task, examples = tiny_task(rows=40)
    with pytest.raises(AssertionError, match=words):
        check_teacher(Broken(task, spoil, **said), examples)


def test_a_weak_teacher_is_not_accused_of_permuted_columns():
    task, examples = tiny_task(rows=60, classes=4)
    for seed in range(20):
        check_teacher(EchoTeacher("echo", task, seed=seed), examples)


# --------------------------------------------------------------------------------------------------------- small things
@given(
    kind=st.sampled_from(KINDS), pair=st.booleans(), rows=st.integers(0, 60), classes=st.integers(2, 4),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_tiny_task_has_as_many_different_examples_as_asked_with_labels_that_fit(kind, pair, rows, classes, seed):
    task, examples = tiny_task(kind=kind, pair=pair, rows=rows, classes=classes, seed=seed)
    assert (task.kind, task.pair) == (kind, pair)
    assert task.outputs == (1 if kind == "regression" else classes)
    assert len({example.id for example in examples}) == len(examples) == rows
    for example in examples:
        assert example.task == task.name
        assert (example.second is not None) == pair
        if kind == "classification":
            assert example.label in range(classes)
        elif kind == "regression":
            assert 0 <= example.label <= 1
        else:
            assert len(example.label) == classes
            assert set(example.label) <= {0, 1}
    assert tiny_task(kind=kind, pair=pair, rows=rows, classes=classes, seed=seed) == (task, examples)


def test_tiny_tokens_are_what_a_student_is_promised():
    tokens = tiny_tokens(lengths=(1, 4, 9), joint=True)
    assert tokens.ids.shape == (3, 9)
    assert tokens.lengths.tolist() == [1, 4, 9]
    assert bool(((tokens.ids > 0) == tokens.mask).all())
    assert int(tokens.ids.max()) < VOCABULARY
    assert tokens.segments.sum(1).tolist() == [0, 2, 4]
    assert not tokens.segments[~tokens.mask].any()
    assert not tiny_tokens().segments.any()


def encoded_words(texts, vocabulary):
    numbers = [[vocabulary.setdefault(word, len(vocabulary) + 1) for word in text.split()] for text in texts]
    ids = torch.zeros(len(texts), max(map(len, numbers)), dtype=torch.int64)
    for row, pieces in enumerate(numbers):
        ids[row, : len(pieces)] = torch.tensor(pieces)
    return Tokens(ids, ids > 0, torch.zeros_like(ids))


@pytest.mark.parametrize(("pair", "enough"), [(False, 0.95), (True, 0.9)])
def test_a_student_learns_a_tiny_task(pair, enough):
    task, examples = tiny_task(pair=pair, rows=300)
    texts = [example.text for example in examples] + [example.second for example in examples if pair]
    tokens = encoded_words(texts, {})
    labels = torch.tensor([example.label for example in examples])
    first = torch.arange(300)
    torch.manual_seed(0)
    student = WordAverage(VOCABULARY, width=16)
    heads = MultiTaskHeads([task], 16, pairs="separate", mixed=False)
    batch = Batch(tokens, first, first + 300 if pair else None, torch.zeros_like(first), labels.float())
    optimizer = torch.optim.Adam([*student.parameters(), *heads.parameters()], lr=0.05)
    train = slice(0, 200)
    for _ in range(80):
        optimizer.zero_grad()
        outputs = heads(student(tokens), batch).outputs
        nn.functional.cross_entropy(outputs[train], labels[train]).backward()
        optimizer.step()
    right = (outputs.argmax(1) == labels)[200:].float().mean().item()
    assert right >= enough


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="classes: expected 2 to 4, received 5"):
        tiny_task(classes=5)
    with pytest.raises(ValueError, match="echo: expected 'text' or 'gold', received 'both'"):
        EchoTeacher("echo", Task("t", labels=("a", "b")), echo="both")
