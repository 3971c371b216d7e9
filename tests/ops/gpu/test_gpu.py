"""The op on a real CUDA device. From a checkout on any machine with torch and a CUDA device, without installing it:

python -m pytest tests/ops/gpu -m gpu --confcutdir tests/ops/gpu
"""

from __future__ import annotations

import math
import sys
import threading
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))  # the checkout, where the package is not installed

from kdtoolkit.ops import KINDS, SparseTeacher, backend, soft_cross_entropy, soft_cross_entropy_reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11, torch.bfloat16: 8e-3, torch.float16: 1e-3}
"""Of a gradient, relative to the row's largest."""


@pytest.fixture(autouse=True)
def compiled():
    """These tests are of the kernels: a fallback is a failure here."""
    name, reason = backend("cuda")
    assert name in ("cuda-prebuilt", "cuda-nvrtc"), reason


def logits(*shape, seed=0, scale=3.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * scale).to(dtype).cuda()


def gradient_of(student, teacher, labels=None, op=soft_cross_entropy, **options):
    leaf = student.detach().requires_grad_()
    loss = op(leaf, teacher, labels, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), gradient


def agree(student, teacher, labels=None, slack=1.0, **options):
    """Value and gradient agree with the reference in float64; a second call gives the same bits."""
    loss, gradient = gradient_of(student, teacher, labels, **options)
    again = gradient_of(student, teacher, labels, **options)
    assert torch.equal(loss.nan_to_num(1e30), again[0].nan_to_num(1e30))
    assert torch.equal(gradient.nan_to_num(1e30), again[1].nan_to_num(1e30))
    double = lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x  # noqa: E731
    wide = {name: double(value) for name, value in options.items()}
    wanted, slope = gradient_of(student.double(), double(teacher), labels, soft_cross_entropy_reference, **wide)
    tolerance = 1e-11 if student.dtype == torch.float64 else 1e-5 * slack
    torch.testing.assert_close(loss.double(), wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    assert torch.equal(gradient.isnan(), slope.isnan())
    largest = slope.nan_to_num(0.0).abs().amax(-1, keepdim=True).clamp(min=1e-2)
    assert ((gradient.double() - slope).nan_to_num(0.0).abs() / largest).max() <= TOLERANCE[student.dtype] * slack


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 31, 32, 33, 255, 1000, 1024, 1025, 4099, 30522, 50257, 128256])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_cross_entropy_and_kl_agree_at_every_size(size, dtype):
    rows = 4000 if size < 40 else 300 if size < 5000 else 20
    student, teacher = logits(rows, size, seed=1, dtype=dtype), logits(rows, size, seed=2, dtype=dtype)
    labels = torch.arange(rows, device="cuda") % size
    labels[::7] = -100
    for temperature in (1.0, 2.0, 3.0):
        agree(student, teacher, temperature=temperature)
        agree(student, teacher, labels, kind="kl", alpha=0.3, temperature=temperature)
    agree(student, teacher, labels, alpha=0.5, ignore="hard", reduction="none")
    agree(student, None, labels, alpha=1.0)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("size", [1, 3, 20, 70, 3000])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_every_kind_agrees(kind, size, dtype):
    student, teacher = logits(50, size, seed=3, dtype=dtype), logits(2, 50, size, seed=4)
    labels = torch.arange(50, device="cuda") % size
    weight = torch.rand(50, device="cuda")
    alpha = 0.0 if kind == "bce" else 0.4
    shares = torch.rand(2, 50, device="cuda") + 0.1
    agree(student, teacher[0], labels, kind=kind, temperature=1.7, alpha=alpha, weight=weight, slack=5)
    agree(student, teacher, labels, kind=kind, temperature=1.7, alpha=alpha, teacher_weights=shares, slack=5)


@pytest.mark.parametrize("tail", ["bucket", "uniform", "renorm", "none"])
@pytest.mark.parametrize("size", [4, 30, 500])
def test_sparse_teachers_agree(tail, size):
    probabilities, indices = logits(40, size, seed=5).softmax(-1).topk(3)
    teacher = SparseTeacher(indices, probs=probabilities, tail=tail, temperature=2.0)
    labels = torch.arange(40, device="cuda") % size
    agree(logits(40, size), teacher, labels, kind="kl", temperature=2.0, alpha=0.3, slack=5)


def test_rows_of_several_tasks_agree():
    kinds = torch.arange(90, device="cuda") % 5
    count = torch.arange(90, device="cuda") % 3 + 1
    start = torch.arange(90, device="cuda") % 17
    temperature = torch.rand(90, device="cuda") * 3 + 1
    agree(logits(90, 20), logits(90, 3, seed=1), count - 1, kind=kinds, columns=(start, count), alpha=0.5,
          temperature=temperature, slack=5)  # fmt: skip


def test_rows_anywhere_in_memory_agree():
    for dtype in (torch.float32, torch.bfloat16):
        wide, other = logits(9, 2009, dtype=dtype), logits(9, 2006, seed=1, dtype=dtype)
        for start, begin in ((0, 0), (1, 1), (1, 2), (7, 5)):
            for size in (3, 700, 2001):
                agree(wide[:, start : start + size], other[:, begin : begin + size], temperature=2.0)
        sequence, given = logits(2, 5, 333, dtype=dtype), logits(2, 5, 333, seed=1, dtype=dtype)
        agree(sequence[:, :-1], given[:, 1:], kind="kl")


@pytest.mark.parametrize("shape", [(500, 3), (500, 30), (200, 900), (60, 40001)])
def test_the_gradient_may_be_written_over_the_logits(shape):
    teacher, labels = logits(*shape, seed=1), torch.arange(shape[0], device="cuda") % shape[1]
    for kind in ("ce", "jsd"):
        _, wanted = gradient_of(logits(*shape), teacher, labels, kind=kind, alpha=0.5)
        for _ in range(5):
            student = logits(*shape).requires_grad_() * 1
            soft_cross_entropy(student, teacher, labels, kind=kind, alpha=0.5, grad_inplace=True)
            assert torch.equal(student.detach(), wanted)


@pytest.mark.parametrize("size", [3, 300, 5000])
def test_rows_that_do_not_count_and_wrong_labels(size):
    student, teacher = logits(6, size), logits(6, size, seed=1)
    student[1], teacher[1] = math.nan, math.nan
    labels = torch.tensor([0, 1, size, -100, 2, 1], device="cuda")
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0], device="cuda")
    loss, gradient = gradient_of(student, teacher, labels, alpha=0.5, weight=weight, reduction="none")
    assert loss.isnan().tolist() == [False, False, True, False, False, False]
    assert gradient.isnan().any(1).tolist() == [False, False, True, False, False, False]
    assert (gradient[[1, 3]] == 0).all()


@pytest.mark.parametrize("size", [3, 300, 30522])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_waits_for_the_device(size, dtype):
    student, teacher = logits(64, size, dtype=dtype).requires_grad_(), logits(64, size, dtype=dtype)
    labels, weight = torch.zeros(64, dtype=torch.long, device="cuda"), torch.rand(64, device="cuda")
    options = {"alpha": 0.5, "temperature": 2.0, "weight": weight, "return_parts": True}
    soft_cross_entropy(student, teacher, labels, **options)[0].backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, _, _ = soft_cross_entropy(student, teacher, labels, **options)
        (loss * 0.5).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("rows,size", [(64, 3), (64, 30522), (20000, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_graph_replays_the_call(rows, size, dtype):
    student, teacher = logits(rows, size, dtype=dtype).requires_grad_(), logits(rows, size, seed=1, dtype=dtype)
    labels, weight = torch.zeros(rows, dtype=torch.long, device="cuda"), torch.rand(rows, device="cuda")

    def step():
        loss = soft_cross_entropy(student, teacher, labels, alpha=0.5, weight=weight)
        return loss, *torch.autograd.grad(loss, student)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, gradient = step()
    for seed in range(3):
        with torch.no_grad():
            student.copy_(logits(rows, size, seed=seed, dtype=dtype))
        graph.replay()
        wanted = step()
        assert torch.equal(loss, wanted[0]) and torch.equal(gradient, wanted[1])


def test_streams_do_not_disturb_each_other():
    student, teacher = logits(3000, 5), logits(3000, 5, seed=1)
    wanted = gradient_of(student, teacher)
    torch.cuda.synchronize()
    found = []
    for _ in range(50):
        for stream in (torch.cuda.Stream(), torch.cuda.Stream()):
            with torch.cuda.stream(stream):
                found.append(gradient_of(student, teacher))
    torch.cuda.synchronize()
    for loss, gradient in found:
        assert torch.equal(loss, wanted[0]) and torch.equal(gradient, wanted[1])


def test_a_thread_of_its_own_can_call_it():
    student, teacher, found = logits(30, 50), logits(30, 50, seed=1), []
    thread = threading.Thread(target=lambda: found.append(gradient_of(student, teacher)))
    thread.start()
    thread.join()
    wanted = gradient_of(student, teacher)
    assert torch.equal(found[0][1], wanted[1])


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.device_count() < 2, reason="one device only")
def test_another_device_than_the_current_one():
    student, teacher = logits(30, 50).to("cuda:1"), logits(30, 50, seed=1).to("cuda:1")
    _, gradient = gradient_of(student, teacher)
    assert torch.equal(gradient.cpu(), gradient_of(student.to("cuda:0"), teacher.to("cuda:0"))[1].cpu())


@pytest.mark.parametrize("factor", [1.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_backward_multiplies_by_what_comes_in(factor, dtype):
    student, teacher = logits(70, 1001, dtype=dtype), logits(70, 1001, seed=1, dtype=dtype)
    _, plain = gradient_of(student, teacher, reduction="sum")
    leaf = student.requires_grad_()
    (soft_cross_entropy(leaf, teacher, reduction="sum") * factor).backward()
    torch.testing.assert_close(leaf.grad, plain * factor, rtol=TOLERANCE[dtype], atol=1e-6)


def test_the_extra_memory_is_one_gradient():
    student, teacher = logits(512, 30522).requires_grad_(), logits(512, 30522, seed=1)
    soft_cross_entropy(student, teacher).backward()
    student.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    soft_cross_entropy(student, teacher).backward()
    extra = torch.cuda.max_memory_allocated() - before
    size = student.numel() * student.element_size()
    assert size <= extra <= size + (1 << 20)


def test_more_elements_than_32_bits_can_count():
    rows, size = 16400, 131072
    needed = 3 * rows * size * 2 + (1 << 30)
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed >> 30} GiB of free device memory")
    student = torch.empty(rows, size, dtype=torch.bfloat16, device="cuda").normal_()
    teacher = torch.empty_like(student).normal_()
    _, gradient = gradient_of(student, teacher, reduction="sum")
    _, wanted = gradient_of(student[-3:], teacher[-3:], reduction="sum")
    assert torch.equal(gradient[-3:], wanted)
