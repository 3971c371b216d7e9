"""The compiled part of a training step does what torch does, in every instruction set."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_backends import need_compiled
from op_instructions import available, using
from torch import nn

from kdtoolkit.errors import InputError
from kdtoolkit.ops import native
from kdtoolkit.training import clipping, compiled_updates, eager
from kdtoolkit.training.compiled_updates import Pieces
from kdtoolkit.training.lazy_adamw import LazyAdamW

HEADER = (Path(native.__file__).parent / "csrc" / "updates.h").read_text(encoding="utf-8")
few = settings(max_examples=40, deadline=None)
dtypes = st.sampled_from([torch.float32, torch.float64])
instructions = st.sampled_from(available())
seeds = st.integers(0, 2**31)


@pytest.fixture(autouse=True)
def compiled():
    need_compiled()


def random(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.double(), expected.double(), rtol=bound, atol=bound)


@few
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    rows=st.integers(1, 30), width=st.integers(1, 70), dtype=dtypes, name=instructions, seed=seeds,
)  # fmt: skip
def test_rows_are_added_up_by_number(counts, rows, width, dtype, name, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = [
        (torch.randint(rows, (count,), generator=generator), random(count, width, seed=seed + place, dtype=dtype))
        for place, count in enumerate(counts)
    ]
    with using(name):
        numbers, values = compiled_updates.merged(parts, 0.5)
    dense = torch.zeros(rows, width, dtype=torch.float64)
    for which, what in parts:
        dense.index_add_(0, which, what.double() * 0.5)
    expected = torch.unique(torch.cat([which for which, _ in parts]))
    assert torch.equal(numbers, expected)
    close(values, dense[expected], dtype)


@few
@given(counts=st.lists(st.integers(0, 3000), min_size=1, max_size=5), dtype=dtypes, name=instructions, seed=seeds)
def test_sums_of_squares_products_and_gathering(counts, dtype, name, seed):
    tensors = [random(count, seed=seed + place, dtype=dtype) for place, count in enumerate(counts)]
    whole = torch.cat(tensors)
    with using(name):
        pieces, out = Pieces.of(tensors), torch.empty_like(whole)
        close(torch.tensor(pieces.squares(), dtype=torch.float64), whole.double().square().sum(), dtype)
        pieces.gather(out)
        assert torch.equal(out, whole)
        pieces.multiply(0.25)
    assert torch.equal(torch.cat(tensors), whole * 0.25)


@few
@given(
    counts=st.lists(st.integers(0, 2100), min_size=1, max_size=5),
    processes=st.integers(2, 5), dtype=dtypes, name=instructions, seed=seeds, data=st.data(),
)  # fmt: skip
def test_means_over_processes_are_the_same_bits_whoever_takes_them(counts, processes, dtype, name, seed, data):
    parts = [random(sum(counts), seed=seed + process, dtype=dtype) for process in range(processes)]
    unused = data.draw(st.integers(0, len(counts)))  # this one has no place for a mean
    found = []
    with using(name):
        for _ in range(2):
            out = [None if place == unused else torch.full((n,), 7.0, dtype=dtype) for place, n in enumerate(counts)]
            squares = Pieces(out, counts, dtype).average(parts)
            found.append(torch.cat([part for part in out if part is not None] or [torch.empty(0, dtype=dtype)]))
    every = (sum(part.double() for part in parts) / processes).split(counts)
    expected = [part for place, part in enumerate(every) if place != unused]
    close(found[0], torch.cat(expected) if expected else torch.empty(0), dtype)
    close(torch.tensor(squares, dtype=torch.float64), found[0].double().square().sum(), dtype)
    assert torch.equal(*found)


def test_what_is_no_piece_is_zeros_where_it_is_read():
    out = torch.full((5,), 9.0)
    pieces = Pieces([torch.ones(2), None], [2, 3], torch.float32)
    pieces.gather(out)
    assert out.tolist() == [1, 1, 0, 0, 0]
    pieces.multiply(2.0)
    assert pieces.squares() == 8.0


def parameters(sizes: list[int], dtype: torch.dtype) -> list[nn.Parameter]:
    return [nn.Parameter(random(size, seed=size, dtype=dtype)) for size in sizes]


@few
@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=6), dtype=dtypes, name=instructions,
    decay=st.sampled_from([0.0, 0.1]), steps=st.integers(1, 5), data=st.data(),
)  # fmt: skip
def test_adamw_is_torchs(monkeypatch_class, sizes, dtype, name, decay, steps, data):
    """Also of parameters that sit out steps."""
    taking = data.draw(st.lists(st.sets(st.integers(0, len(sizes) - 1)), min_size=steps, max_size=steps))
    found = []
    for compiled in (False, True):
        table = nn.Embedding(3, 2, dtype=dtype)
        own = parameters(sizes, dtype)
        group = {"params": [*own, table.weight], "weight_decay": decay, "lr": 0.1}
        optimizer = LazyAdamW([group], table, betas=(0.8, 0.9), eps=1e-6, fused=True)
        monkeypatch_class.setattr(LazyAdamW, "_made_at_once", made if compiled else lambda self: False)
        with using(name):
            for step, which in enumerate(taking):
                for place in which:
                    own[place].grad = random(sizes[place], seed=100 * step + place, dtype=dtype)
                optimizer.step()
                optimizer.zero_grad()
        states = [optimizer.state[parameter] for parameter in own if optimizer.state[parameter]]
        found.append([torch.cat(own)])
        for part in ("exp_avg", "exp_avg_sq", "step"):
            found[-1].append(torch.cat([torch.empty(0), *(state[part].flatten() for state in states)]))
    for one, other in zip(*found):
        close(other, one, dtype)


made = LazyAdamW._made_at_once


@pytest.fixture(scope="module")
def monkeypatch_class():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_adamw_is_made_at_once_but_for_what_it_cannot_do(monkeypatch):
    calls = []
    monkeypatch.setattr(eager.Eager, "step", lambda *_: calls.append("torch"))
    monkeypatch.setattr(compiled_updates.Updates, "make", lambda *_: calls.append("compiled"))

    def stepped(dtype=torch.float32, options=None, state=True, like=None):
        table, weight = nn.Embedding(3, 2), nn.Parameter(torch.ones(4, 6, dtype=dtype))
        group = {"params": [weight, table.weight], "weight_decay": 0.0, "lr": 0.1}
        optimizer = LazyAdamW([group], table, fused=True)
        optimizer.param_groups[0].update(options or {})
        if state:
            optimizer.state[weight] = {"step": torch.zeros(()), **{
                name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}}  # fmt: skip
        weight.grad = torch.ones(4, 6, dtype=dtype) if like is None else like
        optimizer.step()
        return calls.pop()

    assert stepped() == stepped(torch.float64) == "compiled"
    assert stepped(state=False) == stepped(torch.bfloat16) == stepped(like=torch.ones(6, 4).t()) == "torch"
    assert stepped(options={"amsgrad": True}) == stepped(options={"maximize": True}) == "torch"
    monkeypatch.setenv("KDTOOLKIT_OP_BACKEND", "reference")
    assert stepped() == "torch"


@few
@given(count=st.integers(0, 12), dtype=dtypes, most=st.sampled_from([1e-3, 1.0, 1e6]), seed=seeds)
def test_clipping_is_torchs(count, dtype, most, seed):
    found = []
    for backend in ("auto", "reference"):
        table, weight = nn.Embedding(5, 3, sparse=True, dtype=dtype), nn.Parameter(random(7, seed=seed, dtype=dtype))
        read = torch.randint(5, (count,), generator=torch.Generator().manual_seed(seed))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KDTOOLKIT_OP_BACKEND", backend)
            (table(read) * random(count, 3, seed=seed + 1, dtype=dtype)).sum().backward()
            weight.grad = random(7, seed=seed + 2, dtype=dtype)
            norm = clipping.clip_gradients([table.weight, weight], most)
        assert table.weight.grad.is_coalesced()
        found.append((norm, table.weight.grad.to_dense(), weight.grad))
    for one, other in zip(*found):
        close(other, one, dtype)


def test_a_gradient_that_is_no_number_stays_none():
    weight, table = nn.Parameter(torch.ones(2)), nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    weight.grad = torch.tensor([1.0, float("nan")])
    assert clipping.clip_gradients([weight, table.weight], 1.0).isnan()
    assert weight.grad.isnan().all() and table.weight.grad.to_dense()[1].isnan().all()


def test_the_table_is_packed_as_the_header_has_it():
    body = re.sub(r"//[^\n]*", "", re.search(r"struct kd_table \{(.*?)\};", HEADER, re.S)[1])
    letters = ""
    for kind, names in re.findall(r"(kd_int|void|double)([^;]*);", body):
        letters += "".join("P" if "*" in name else {"kd_int": "q", "double": "d"}[kind] for name in names.split(","))
    assert compiled_updates.TABLE.format == "@" + letters


@pytest.mark.parametrize("fault", ["a function is missing", "another size"])
def test_a_library_of_another_version_is_an_error(monkeypatch, fault):
    class Function:
        def __call__(self):
            return 1

    class Other:
        def __getattr__(self, name):
            if fault == "a function is missing" and name == "kd_adamw":
                raise AttributeError(name)
            return Function()

    real = native.library()
    monkeypatch.setattr(native, "library", lambda: real._replace(loaded=Other()))
    with pytest.raises(InputError, match=r"of another version.*install kdtoolkit again"):
        compiled_updates._library.__wrapped__()
    assert isinstance(real.loaded, ctypes.CDLL)
