"""A teacher is run once on each text, in the same batches however the work is cut, stopped or shared."""

import itertools
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtoolkit import Example, InputError, Task, Teacher
from kdtoolkit.data.rows import write_rows
from kdtoolkit.labels import LabelStore, label_rows

TASK = Task("mood", text=("text",), labels=("bad", "good"))


class CountingTeacher(Teacher):
    """Logits that depend on the text and, in the last bits, on the batch, as those of a real model do."""

    def __init__(self, source="counting", task=TASK, *, fingerprint="c0", batch_noise=True, version=True, shift=0.0):
        super().__init__(source, task)
        self._fingerprint, self.batch_noise, self.version, self.shift = fingerprint, batch_noise, version, shift
        self.seen = []

    def logits(self, examples):
        self.seen += [example.text for example in examples]
        assert all(example.label is None for example in examples), "a teacher must not see gold labels"
        numbers = [int.from_bytes(blake2b(e.text.encode(), digest_size=4).digest(), "big") for e in examples]
        values = np.array([[n / 2**32, -n / 2**31] for n in numbers], np.float32) + np.float32(self.shift)
        return values + (np.float32(1e-6 * sum(numbers) % 1e-5) if self.batch_noise else np.float32(0))

    @property
    def fingerprint(self):
        return self._fingerprint

    @property
    def reusable(self):
        return self.version


def rows_of(folder, texts, name="train"):
    return write_rows(folder / f"{name}.arrow", TASK, [[Example("mood", text, None, 1) for text in texts]])


def contents(store):
    return {part.name: part.read_bytes() for part in store.parts()}


def words(count):
    return ["word " * (number * 7 % 11 + 1) + str(number) for number in range(count)]


SMALL = {"batch_rows": 4, "part_batches": 2}


def test_each_text_is_labelled_once_and_never_again(tmp_path):
    teacher = CountingTeacher()
    train, dev = rows_of(tmp_path, words(30) * 2), rows_of(tmp_path, words(35), "dev")
    store = LabelStore.of(teacher, tmp_path)
    report = label_rows(teacher, [train, dev], store, **SMALL)
    assert sorted(teacher.seen) == sorted(words(35))
    assert (report.rows, report.labelled, report.already) == (35, 35, 0)
    again = label_rows(teacher, [dev, train], LabelStore.of(teacher, tmp_path), **SMALL)
    assert (again.rows, again.labelled, again.already) == (35, 0, 35)
    assert len(teacher.seen) == 35


def test_only_new_texts_are_labelled_when_a_store_grows(tmp_path):
    teacher = CountingTeacher(batch_noise=False)
    store = LabelStore.of(teacher, tmp_path)
    label_rows(teacher, [rows_of(tmp_path, words(20))], store, **SMALL)
    before = contents(store)
    teacher.seen.clear()
    grown = rows_of(tmp_path, words(33), "grown")
    report = label_rows(teacher, [grown], store, **SMALL)
    assert (report.labelled, report.already) == (13, 20) and sorted(teacher.seen) == sorted(words(33)[20:])
    assert before.items() <= contents(store).items()
    np.testing.assert_array_equal(store.read(grown.ids()), teacher.logits([Example("mood", t) for t in words(33)]))


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 40), st.integers(1, 3))
def test_order_splits_and_repeats_of_rows_change_no_byte(tmp_path_factory, random, count, splits):
    texts = words(count)
    folder = tmp_path_factory.mktemp("case")
    plain = LabelStore.of(CountingTeacher(), folder / "plain")
    label_rows(CountingTeacher(), [rows_of(folder, texts)], plain, **SMALL)
    shuffled = texts + random.sample(texts, random.randint(0, count))
    random.shuffle(shuffled)
    cut = sorted(random.randint(0, len(shuffled)) for _ in range(splits - 1))
    pieces = [shuffled[a:b] for a, b in zip([0, *cut], [*cut, len(shuffled)])]
    other = LabelStore.of(CountingTeacher(), folder / "other")
    label_rows(CountingTeacher(), [rows_of(folder, p, f"split{i}") for i, p in enumerate(pieces)], other, **SMALL)
    assert contents(plain) == contents(other) != {}


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(0, 5)))
def test_whichever_parts_are_missing_they_come_back_with_the_same_bytes(tmp_path_factory, lost):
    folder = tmp_path_factory.mktemp("case")
    rows, store = rows_of(folder, words(45)), LabelStore.of(CountingTeacher(), folder)
    label_rows(CountingTeacher(), [rows], store, **SMALL)
    whole = contents(store)
    assert len(whole) == 6
    for number in lost:
        store.parts()[0 if number >= len(store.parts()) else number].unlink()
    label_rows(CountingTeacher(), [rows], store, **SMALL)
    assert contents(store) == whole


@settings(max_examples=25, deadline=None)
@given(texts=st.integers(0, 60), world_size=st.integers(2, 5), seed=st.integers(0, 2**31), told=st.booleans())
def test_any_number_of_processes_write_the_same_parts_and_share_them(tmp_path_factory, texts, world_size, seed, told):
    folder = tmp_path_factory.mktemp("case")
    rows, pauses = rows_of(folder, words(texts)), random.Random(seed)
    alone, shared = (LabelStore.of(CountingTeacher(), folder / name) for name in ("alone", "shared"))
    label_rows(CountingTeacher(), [rows], alone, **SMALL)
    label_rows(CountingTeacher(), [rows], shared, **SMALL)
    for part in shared.parts():  # the others are there already
        if pauses.random() < 0.7:
            part.unlink()
    left = texts - len(shared.ids())
    numbers, begun = itertools.count(), threading.Barrier(world_size)
    teachers = [CountingTeacher() for _ in range(world_size)]

    def turns():
        begun.wait(60)
        return iter(lambda: (time.sleep(pauses.random() / 1000), next(numbers))[1], None)

    def label(teacher):
        store = LabelStore.of(teacher, folder / "shared")
        return label_rows(teacher, [rows], store, turns=turns, sharing=world_size if told else 1, **SMALL)

    with ThreadPoolExecutor(world_size) as threads:
        reports = list(threads.map(label, teachers))
    assert contents(shared) == contents(alone)
    assert sum(report.labelled for report in reports) == sum(len(teacher.seen) for teacher in teachers) == left
    assert [report.labelled for report in reports] == [len(teacher.seen) for teacher in teachers]


@pytest.mark.parametrize(("texts", "had"), [(80, 16), (32, 8)], ids=["", "the last parts"])
def test_the_next_part_goes_to_whoever_is_free_first(tmp_path, texts, had):
    """One process that is slow costs no more than the part it has, and, not of the last, one that it has read ahead."""
    rows = rows_of(tmp_path, words(texts))
    store = LabelStore.of(CountingTeacher(), tmp_path)
    numbers, begun, others_done = itertools.count(), threading.Barrier(2), threading.Event()

    class Slow(CountingTeacher):
        def logits(self, examples):
            assert others_done.wait(60)
            return super().logits(examples)

    def turns():
        begun.wait(60)
        return iter(lambda: next(numbers), None)

    slow, quick = Slow(), CountingTeacher()
    with ThreadPoolExecutor(1) as thread:
        both = {"turns": turns, "sharing": 2, **SMALL}
        report = thread.submit(label_rows, slow, [rows], LabelStore.of(slow, tmp_path), **both)
        label_rows(quick, [rows], store, **both)
        others_done.set()
        assert report.result(60).labelled <= had
    assert len(quick.seen) >= texts - had and not store.missing(rows.ids()).any()


def test_other_batches_give_other_bytes_so_that_equal_bytes_mean_something(tmp_path):
    rows = rows_of(tmp_path, words(45))
    stores = [LabelStore.of(CountingTeacher(), tmp_path / str(size)) for size in (4, 8)]
    for store, size in zip(stores, (4, 8)):
        label_rows(CountingTeacher(), [rows], store, batch_rows=size, part_batches=8 // size)
    assert contents(stores[0]).keys() == contents(stores[1]).keys()
    assert contents(stores[0]) != contents(stores[1])


def test_a_changed_teacher_never_mixes_with_the_old_one(tmp_path):
    rows = rows_of(tmp_path, words(10))
    old, new = CountingTeacher(fingerprint="01d"), CountingTeacher(fingerprint="0e3", shift=5.0)
    for teacher in (old, new):
        label_rows(teacher, [rows], LabelStore.of(teacher, tmp_path), **SMALL)
    assert len(new.seen) == len(old.seen) == 10
    difference = LabelStore.of(new, tmp_path).read(rows.ids()) - LabelStore.of(old, tmp_path).read(rows.ids())
    np.testing.assert_allclose(difference, 5.0, rtol=1e-5)


def test_a_teacher_without_version_is_asked_again_about_32_stored_rows(tmp_path):
    rows = rows_of(tmp_path, words(200))
    first = CountingTeacher(version=False)
    label_rows(first, [rows], LabelStore.of(first, tmp_path))
    same = CountingTeacher(version=False)
    label_rows(same, [rows], LabelStore.of(same, tmp_path))
    assert len(same.seen) == 32
    changed = CountingTeacher(version=False, shift=0.01)
    with pytest.raises(InputError, match=r"other values for 32 of 32 texts.*give it a `version`.*or delete"):
        label_rows(changed, [rows], LabelStore.of(changed, tmp_path))


def test_texts_that_a_teacher_lacks_are_counted_before_it_is_run(tmp_path):
    class Lacking(CountingTeacher):
        def answers(self, ids):
            return np.arange(len(ids)) % 10 != 0

    teacher = Lacking()
    with pytest.raises(InputError, match=r"no values for 5 of 50 texts, such as 'word.*\(id [0-9a-f]{32}\)"):
        label_rows(teacher, [rows_of(tmp_path, words(50))], LabelStore.of(teacher, tmp_path))
    assert not teacher.seen


@pytest.mark.parametrize(
    "result, cause",
    [
        (lambda values: values[:, :1], r"shape \(8, 1\) where \(8, 2\)"),
        (lambda values: values * np.nan, "NaN among the logits in 8 of 8 rows"),
        (lambda values: [["x", "y"]] * len(values), "could not convert"),
    ],
)
def test_what_is_no_array_of_logits_is_refused(tmp_path, result, cause):
    class Wrong(CountingTeacher):
        def logits(self, examples):
            return result(super().logits(examples))

    with pytest.raises(InputError, match=cause):
        label_rows(Wrong(), [rows_of(tmp_path, words(8))], LabelStore.of(Wrong(), tmp_path))


def test_no_rows_are_no_work(tmp_path):
    teacher = CountingTeacher()
    assert label_rows(teacher, [rows_of(tmp_path, [])], LabelStore.of(teacher, tmp_path)).rows == 0
    assert label_rows(teacher, [], LabelStore.of(teacher, tmp_path)).rows == 0


def test_labelling_that_is_killed_resumes_to_the_same_bytes(tmp_path):
    rows = rows_of(tmp_path, words(90))
    whole = LabelStore.of(CountingTeacher(), tmp_path / "whole")
    label_rows(CountingTeacher(), [rows], whole, **SMALL)
    script = tmp_path / "slow.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_labelling import SMALL, TASK, CountingTeacher
        from kdtoolkit.data.rows import Rows
        from kdtoolkit.labels import LabelStore, label_rows

        class Slow(CountingTeacher):
            def logits(self, examples):
                time.sleep(0.03)
                return super().logits(examples)

        teacher = Slow()
        label_rows(teacher, [Rows.open({str(rows.path)!r}, TASK)], LabelStore.of(teacher, {str(tmp_path / "killed")!r}),
                   **SMALL)
        """)
    )
    killed = LabelStore.of(CountingTeacher(), tmp_path / "killed")
    finished = 0
    for wanted in (2, 6):  # killed twice
        process = subprocess.Popen([sys.executable, str(script)])
        deadline = time.monotonic() + 60
        while len(killed.parts()) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert finished < len(killed.parts()) < len(whole.parts())
        finished = len(killed.parts())
        assert contents(killed).items() <= contents(whole).items()
    teacher = CountingTeacher()
    report = label_rows(teacher, [rows], killed, **SMALL)
    assert contents(killed) == contents(whole)
    assert report.labelled + report.already == 90 and report.already >= 6 * 8


def test_impossible_classes_of_a_teacher_without_version_are_the_same_when_it_is_asked_again(tmp_path):
    class Certain(CountingTeacher):
        kind = "logprobs"

        def logits(self, examples):
            return np.array([[0.0, -np.inf]] * len(examples), np.float32)

    rows = rows_of(tmp_path, words(9))
    for _ in range(2):
        teacher = Certain(version=False)
        report = label_rows(teacher, [rows], LabelStore.of(teacher, tmp_path))
    assert (report.already, report.labelled) == (9, 0)


class Reading(CountingTeacher):
    """Reads in a thread, while it answers."""

    def __init__(self, **options):
        super().__init__(**options)
        self.threads, self.reads, self.overlapped = set(), 0, None
        self.answering, self.read_again = threading.Event(), threading.Event()

    def read(self, examples):
        self.threads.add(threading.current_thread().name)
        self.reads += 1
        if self.reads > SMALL["part_batches"] and self.answering.wait(10):
            self.read_again.set()
        return list(examples)

    def answer(self, read):
        self.answering.set()
        if self.overlapped is None:
            self.overlapped = self.read_again.wait(10)
        return super().logits(read)


def test_the_next_part_is_read_while_one_is_answered(tmp_path):
    rows = rows_of(tmp_path, words(40))
    reading, plain = Reading(), CountingTeacher()
    label_rows(reading, [rows], LabelStore.of(reading, tmp_path / "a"), **SMALL)
    label_rows(plain, [rows], LabelStore.of(plain, tmp_path / "b"), **SMALL)
    assert reading.overlapped
    assert threading.main_thread().name not in reading.threads
    assert contents(LabelStore.of(reading, tmp_path / "a")) == contents(LabelStore.of(plain, tmp_path / "b"))


@pytest.mark.parametrize("where", ["class", "object"])
def test_a_teacher_with_another_logits_is_asked_for_those(tmp_path, where):
    class Sharper(Reading):
        def logits(self, examples):
            return 3 * CountingTeacher.logits(self, examples)

    teacher = Sharper() if where == "class" else Reading()
    if where == "object":
        teacher.logits = lambda examples: 3 * CountingTeacher.logits(teacher, examples)
    rows = rows_of(tmp_path, words(4))
    store = LabelStore.of(teacher, tmp_path)
    label_rows(teacher, [rows], store, **SMALL)
    assert not teacher.threads
    expected = 3 * CountingTeacher(batch_noise=False).logits([Example("mood", text) for text in words(4)])
    np.testing.assert_allclose(store.read(rows.ids()), expected, rtol=0, atol=1e-4)


def test_texts_that_a_teacher_cannot_read_are_refused_like_those_it_cannot_answer(tmp_path):
    class Choosy(Reading):
        def read(self, examples):
            raise ValueError("no such letter")

    with pytest.raises(InputError, match="failed on a batch of 3 rows: no such letter"):
        label_rows(Choosy(), [rows_of(tmp_path, words(3))], LabelStore.of(Choosy(), tmp_path), **SMALL)
