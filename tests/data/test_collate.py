"""Batches of tensors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import BertProcessing

from kdtoolkit.data.collate import Collator, TaskArrays
from kdtoolkit.data.tokens import write_arrays
from kdtoolkit.tasks import Task
from kdtoolkit.tokenizers import JointTemplate
from kdtoolkit.tokenizers.words import WordTokenizer

TEMPLATE = JointTemplate((2,), (3,), (3,))
TASKS = [
    Task("single", labels=("no", "yes", "maybe"), pair=False),
    Task("pairs", kind="regression", pair=True),
    Task("many", kind="multilabel", labels=("a", "b"), pair=False),
    Task("untaught", labels=("no", "yes"), pair=True),
]
ROWS = [7, 6, 5, 4]
MAX_TOKENS = 12


def token_arrays(folder, rows, texts_per_row, seed):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, MAX_TOKENS + 1, rows * texts_per_row)
    ids = generator.integers(4, 50, int(lengths.sum()), dtype=np.int32)
    meta = {"rows": rows, "texts_per_row": texts_per_row, "max_tokens": MAX_TOKENS}
    return write_arrays(folder, [(ids, lengths)], 50, {**meta, "fingerprint": "", "rows_digest": ""}, lambda: 0)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("tokens"), np.random.default_rng(0)
    labels = [
        np.array([0, 1, 2, np.nan, 0, 1, 2], np.float32),
        generator.standard_normal(6).astype(np.float32),
        np.array([[0, 1], [1, 1], [np.nan, np.nan], [0, 0], [1, 0]], np.float32),
        np.array([np.nan, 0, 1, 1], np.float32),
    ]
    teachers = [generator.standard_normal((n, m, c), np.float32) for n, m, c in ((7, 2, 3), (6, 1, 1), (5, 1, 2))]
    teachers[0][4, 1] = np.nan
    return [
        TaskArrays(token_arrays(folder / task.name, rows, 1 + bool(task.pair), i), of_task, teacher)
        for i, (task, rows, of_task, teacher) in enumerate(zip(TASKS, ROWS, labels, [*teachers, None]))
    ]


def collator(arrays, pairs, tasks=TASKS, **options):
    return Collator(tasks, arrays, TEMPLATE, pairs=pairs, **options)


def place(row):
    """Task and row within it of a global row."""
    task = int(np.searchsorted(np.cumsum(ROWS), row, side="right"))
    return task, row - sum(ROWS[:task])


def texts_of(arrays, row):
    """The texts of a global row as lists of pieces."""
    task, own = place(row)
    tokens = arrays[task].tokens
    texts = range(own * tokens.texts_per_row, (own + 1) * tokens.texts_per_row)
    return [tokens.ids[tokens.offsets[t] : tokens.offsets[t + 1]].tolist() for t in texts]


def read(tokens, text):
    return tokens.ids[text][tokens.mask[text]].tolist()


def shortened(texts, room):
    """Pieces dropped one by one from the longer text; of equally long ones, from that which was the shorter at first,
    or from the first.
    """
    one_by_one = [list(text) for text in texts]
    order = sorted(one_by_one, key=len)  # stable: the first of equally long ones first
    while sum(map(len, one_by_one)) > room and max(map(len, one_by_one)) > 1:
        max(order, key=len).pop()
    return one_by_one


some_rows = st.lists(st.integers(0, sum(ROWS) - 1), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows=some_rows)
def test_texts_read_apart_come_back_as_they_are(arrays, rows):
    batch = collator(arrays, "separate")(np.array(rows, np.int32))
    paired = [len(texts_of(arrays, row)) == 2 for row in rows]
    assert (batch.second is None) == (not any(paired))
    assert len(batch.tokens.ids) == len(rows) + sum(paired)
    for position, row in enumerate(rows):
        first = int(batch.first[position])
        second = first if batch.second is None else int(batch.second[position])
        assert [read(batch.tokens, first), read(batch.tokens, second)][: 1 + paired[position]] == texts_of(arrays, row)
        assert paired[position] or first == second
    assert not batch.tokens.segments.any()


@pytest.mark.parametrize("max_tokens", [None, 4, 5, 9, 100])
@settings(max_examples=30, deadline=None)
@given(rows=some_rows)
def test_texts_read_jointly_are_one_sequence_cut_from_the_longer_text(arrays, max_tokens, rows):
    batch = collator(arrays, "joint", max_tokens=max_tokens)(np.array(rows))
    assert batch.second is None and batch.first.tolist() == list(range(len(rows)))
    limit = max_tokens or MAX_TOKENS
    for position, row in enumerate(rows):
        texts = texts_of(arrays, row)
        first, *rest = shortened(texts, limit - 1 - len(texts))
        tail = [*rest[0], 3] if rest else []
        assert read(batch.tokens, position) == [2, *first, 3, *tail]
        segments = [0] * (len(first) + 2) + [1] * len(tail)
        assert batch.tokens.segments[position].tolist() == segments + [0] * (len(batch.tokens.ids[0]) - len(segments))


@pytest.mark.parametrize("max_tokens", range(5, MAX_TOKENS + 1))
def test_pairs_read_jointly_are_cut_as_the_tokenizers_of_teachers_cut_them(tmp_path, max_tokens):
    """A term by token compares what the two read at the same place."""
    backend = BackendTokenizer(WordLevel({"[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5}))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.enable_truncation(max_tokens, strategy="longest_first")
    lengths = np.array([(a, b) for a in range(1, max_tokens + 1) for b in range(1, max_tokens + 1)])
    ids = np.concatenate([np.full(n, 4 + i % 2, np.int32) for i, n in enumerate(lengths.ravel())])
    meta = {"rows": len(lengths), "texts_per_row": 2, "max_tokens": max_tokens, "fingerprint": "", "rows_digest": ""}
    tokens = write_arrays(tmp_path / "pairs", [(ids, lengths.ravel())], 50, meta, lambda: 0)
    pairs = TaskArrays(tokens, np.zeros(len(lengths), np.float32), None)
    batch = Collator(TASKS[1:2], [pairs], TEMPLATE, pairs="joint")(np.arange(len(lengths)))
    for row, (a, b) in enumerate(lengths):
        assert read(batch.tokens, row) == backend.encode(" ".join("a" * a), " ".join("b" * b)).ids, (a, b)


@pytest.mark.parametrize("pairs", ["separate", "joint"])
@settings(max_examples=40, deadline=None)
@given(rows=some_rows)
def test_padding_is_on_the_right_and_holds_no_token(arrays, pairs, rows):
    tokens = collator(arrays, pairs)(np.array(rows)).tokens
    assert tokens.ids.dtype == tokens.segments.dtype == torch.int64 and tokens.mask.dtype == torch.bool
    assert not tokens.ids[~tokens.mask].any() and not tokens.segments[~tokens.mask].any()
    assert tokens.ids[tokens.mask].all()
    assert tokens.mask[:, 0].all() and not (tokens.mask[:, 1:] & ~tokens.mask[:, :-1]).any()
    assert tokens.mask[:, -1].any()


def same(one, two):
    torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("pairs", ["separate", "joint"])
@settings(max_examples=40, deadline=None)
@given(rows=some_rows, data=st.data())
def test_a_batch_of_permuted_rows_is_the_permuted_batch(arrays, pairs, rows, data):
    order = data.draw(st.permutations(range(len(rows))))
    batch, moved = (collator(arrays, pairs)(np.array(rows)[index]) for index in (slice(None), order))
    for text in ("first", "second"):
        one, two = getattr(batch, text), getattr(moved, text)
        assert (one is None) == (two is None)
        if one is not None:
            for tensor, other in zip(batch.tokens, moved.tokens):
                same(tensor[one][order], other[two])
    same(batch.labels[order], moved.labels)
    same(batch.tasks[order], moved.tasks)
    for name, dim in (("targets", 0), ("teacher", 1)):
        one, two = getattr(batch, name), getattr(moved, name)
        assert (one is None) == (two is None)
        if one is not None:
            same(one.index_select(dim, torch.tensor(order)), two)


@settings(max_examples=60, deadline=None)
@given(rows=some_rows)
def test_labels_and_teacher_values_are_those_of_each_row(arrays, rows):
    batch = collator(arrays, "separate")(np.array(rows))
    assert batch.rows == len(rows)
    for position, row in enumerate(rows):
        task, own = place(row)
        assert batch.tasks[position] == task
        labels, teacher, outputs = arrays[task].labels[own], arrays[task].teacher, TASKS[task].outputs
        if task == 2:
            assert batch.labels[position].isnan()
            np.testing.assert_array_equal(batch.targets[position, :2], labels)
            assert not batch.targets[position, 2:].any()
        else:
            np.testing.assert_array_equal(batch.labels[position], labels)
            assert batch.targets is None or batch.targets[position].isnan().all()
        if batch.teacher is None:
            assert teacher is None
            continue
        said = batch.teacher[:, position]
        assert not said[:, outputs:].any()  # and not NaN
        members = 0 if teacher is None else teacher.shape[1]
        np.testing.assert_array_equal(said[:members, :outputs], teacher[own] if members else np.empty((0, outputs)))
        assert said[members:, :outputs].isnan().all()


@pytest.mark.parametrize("pairs", ["separate", "joint"])
@pytest.mark.parametrize("task", range(4))
def test_a_task_alone_gives_what_it_gives_among_others(arrays, pairs, task):
    rows = np.arange(ROWS[task])
    alone = collator([arrays[task]], pairs, [TASKS[task]])(rows)
    among = collator(arrays, pairs)(rows + sum(ROWS[:task]))
    for one, two in zip((*alone.tokens, alone.labels), (*among.tokens, among.labels)):
        same(one, two)
    assert (alone.teacher is None) == (among.teacher is None)
    if alone.teacher is not None:
        same(alone.teacher, among.teacher)


@pytest.mark.parametrize("pairs", ["separate", "joint"])
def test_no_rows_are_a_batch_of_none(arrays, pairs):
    for tasks, of_tasks in ((TASKS, arrays), (TASKS[:1], arrays[:1]), (TASKS[1:2], arrays[1:2])):
        batch = collator(of_tasks, pairs, tasks)(np.array([], np.int32))
        assert batch.rows == 0 and batch.tokens.ids.shape[0] == 0 and len(batch.labels) == len(batch.tasks) == 0


def test_a_task_without_rows_is_passed_over(arrays, tmp_path):
    nothing = TaskArrays(token_arrays(tmp_path / "none", 0, 1, 0), np.empty(0, np.float32))
    batch = collator([nothing, arrays[0]], "separate", [TASKS[0], TASKS[0]])(np.array([0, 6]))
    assert batch.tasks.tolist() == [1, 1] and read(batch.tokens, 1) == texts_of(arrays, 6)[0]


@pytest.mark.parametrize("rows", [[-1], [sum(ROWS)], [0, sum(ROWS)]])
def test_a_row_that_does_not_exist_is_refused(arrays, rows):
    with pytest.raises(IndexError):
        collator(arrays, "separate")(np.array(rows))


def test_arrays_of_different_sizes_are_refused(arrays):
    short = TaskArrays(arrays[0].tokens, arrays[0].labels[:-1])
    with pytest.raises(ValueError, match="single"):
        collator([short], "separate", TASKS[:1])
    with pytest.raises(ValueError, match="expected arrays of 4 tasks"):
        collator([short], "separate")


@pytest.mark.parametrize("pairs", ["separate", "joint"])
@pytest.mark.parametrize("task", [0, 1])
def test_loose_texts_make_the_batch_that_stored_ones_make(arrays, pairs, task):
    tokenizer = WordTokenizer(["<pad>", "<unk>", "<cls>", "<sep>"])
    rows = np.arange(ROWS[task]) + sum(ROWS[:task])
    texts = [texts_of(arrays, row) for row in rows]
    loose = Collator.for_texts(TASKS, tokenizer, pairs=pairs, max_tokens=MAX_TOKENS).batch_of(
        task, [t[0] + [7] * 50 if len(t[0]) == MAX_TOKENS else t[0] for t in texts],
        [t[1] for t in texts] if task == 1 else None,
    )  # fmt: skip
    stored = collator(arrays, pairs)(rows)
    for one, two in zip((*loose.tokens, loose.first, loose.tasks), (*stored.tokens, stored.first, stored.tasks)):
        same(one, two)
    assert loose.labels.isnan().all() and loose.teacher is None
    assert (loose.second is None) == (stored.second is None)


def test_other_templates_keep_their_segments(arrays):
    template = JointTemplate((), (8, 9), (10,), (0, 0, 5, 6, 7))
    batch = Collator(TASKS, arrays, template, pairs="joint", max_tokens=99)(np.array([sum(ROWS[:1])]))
    first, second = texts_of(arrays, sum(ROWS[:1]))
    assert read(batch.tokens, 0) == [*first, 8, 9, *second, 10]
    assert batch.tokens.segments[0].tolist() == [0] * len(first) + [5, 5] + [6] * len(second) + [7]


def test_rows_that_lose_pieces_jointly_are_counted(arrays):
    expected = []
    for task, rows in enumerate(ROWS):
        texts = [texts_of(arrays, sum(ROWS[:task]) + row) for row in range(rows)]
        expected.append(sum(sum(map(len, t)) + 1 + len(t) > MAX_TOKENS for t in texts))
    assert collator(arrays, "joint").joint_cuts() == expected and sum(expected) > 0


def test_a_batch_moves_as_a_whole(arrays):
    batch = collator(arrays, "separate")(np.arange(sum(ROWS)))
    moved = batch.to("meta")
    for tensor in (*moved.tokens, moved.first, moved.second, moved.tasks, moved.labels, moved.targets, moved.teacher):
        assert tensor.device.type == "meta"
    assert moved.teacher.shape == batch.teacher.shape and moved.size == batch.size
    assert batch.to("cpu") is batch  # where it is
    read_by_student = sum(tensor.nbytes for tensor in (*batch.tokens, batch.targets, batch.teacher))
    assert batch.size == read_by_student
