"""The CUDA kernels without a GPU: the same source, run by fibers on a CPU, through the backend's whole Python path.

Every call runs in five orders of blocks, warps and threads, must give the same bits in each, and must agree with the
reference in float64, in value and gradient.
"""

from __future__ import annotations

import ctypes
import math
import random
import re
import shutil
import struct
import subprocess

import pytest
import torch
from shim import launcher

from kdtoolkit.ops import KINDS, SparseTeacher, function, soft_cross_entropy_reference
from kdtoolkit.ops.arguments import check_arguments
from kdtoolkit.ops.cuda import backend as cuda_backend
from kdtoolkit.ops.cuda import launch as cuda_launch
from kdtoolkit.ops.cuda.launch import Launch, rows_launch
from kdtoolkit.ops.native import FIELDS, LAYOUT

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 8e-3, torch.float16: 1e-3}
"""Of a gradient, relative to the row's largest."""
HALF_TYPES = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="session")
def compiler():
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("no C++ compiler: the CUDA kernels cannot be run on this CPU")
    return found


@pytest.fixture(scope="session")
def library(compiler, tmp_path_factory):
    return launcher.build(compiler, tmp_path_factory.mktemp("shim") / "libshim.so", "-shared")


@pytest.fixture
def device(library, monkeypatch):
    driver = launcher.ShimDriver(library)
    launcher.install(monkeypatch, driver)
    return driver


def generator(seed):
    return torch.Generator().manual_seed(seed)


def logits(*shape, seed=0, scale=3.0, dtype=torch.float32):
    return (torch.randn(*shape, generator=generator(seed)) * scale).to(dtype)


def computed(student, teacher, labels=None, grad_output=None, **options):
    """(loss, soft, hard, gradient) by the kernels."""
    leaf = student.detach().requires_grad_()
    call = check_arguments(leaf, teacher, labels, return_parts=True, **options)
    results = function.evaluate(call, cuda_backend)
    incoming = torch.ones(()) if grad_output is None else grad_output
    (gradient,) = torch.autograd.grad(results[0], leaf, incoming.to(results[0].dtype).expand(results[0].shape))
    return *(result.detach() for result in results), gradient


def expected(student, teacher, labels=None, grad_output=None, **options):
    """The same by the reference in float64."""
    double = lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x  # noqa: E731
    if isinstance(teacher, SparseTeacher):
        values = {"probs" if teacher.probs is not None else "logprobs": teacher.values.double()}
        teacher = SparseTeacher(teacher.indices, tail=teacher.tail, temperature=teacher.temperature, **values)
    leaf = student.detach().double().requires_grad_()
    options = {name: double(value) for name, value in options.items()}
    results = soft_cross_entropy_reference(leaf, double(teacher), labels, return_parts=True, **options)
    incoming = torch.ones(()) if grad_output is None else grad_output
    (gradient,) = torch.autograd.grad(results[0], leaf, incoming.double().expand(results[0].shape))
    return *(result.detach() for result in results), gradient


def agree(device, student, teacher, labels=None, *, orders=launcher.ORDERS, kernel="", slack=1.0, **options):
    """The kernels agree with the reference, and with themselves in every order."""
    first = None
    for device.order in orders:
        device.launches.clear()
        found = computed(student, teacher, labels, **options)
        assert launcher.counter_is_zero()
        assert kernel in device.launches[0].kernel if kernel else True, device.launches[0].kernel
        if first is None:
            first = found
        for one, other in zip(first, found):
            assert torch.equal(one.nan_to_num(1e30), other.nan_to_num(1e30)), f"other bits in order {device.order}"
    wanted = expected(student, teacher, labels, **options)
    precise = student.dtype == torch.float64
    for one, other in zip(first[:3], wanted[:3]):
        tolerance = 1e-12 if precise else 3e-6 * slack
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance, equal_nan=True)
    found, wanted = first[3].double(), wanted[3]
    assert torch.equal(found.isnan(), wanted.isnan())
    largest = wanted.nan_to_num(0.0).abs().amax(-1, keepdim=True).clamp(min=1e-2)
    error = ((found - wanted).nan_to_num(0.0).abs() / largest).max().item()
    assert error <= TOLERANCE[student.dtype] * slack, error


SIZES = [1, 2, 3, 4, 5, 8, 9, 31, 32, 33, 255, 1000, 1024, 1025, 4099]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_cross_entropy_and_kl_agree_at_every_size(device, size, dtype):
    rows = 9 if size < 100 else 3
    student, teacher = logits(rows, size, seed=size, dtype=dtype), logits(rows, size, seed=size + 1, dtype=dtype)
    labels = torch.arange(rows) % size
    few = launcher.ORDERS[:3]
    agree(device, student, teacher, kind="ce", temperature=2.0, orders=few)
    agree(device, student, teacher, labels, kind="kl", temperature=2.0, alpha=0.3, orders=few)
    agree(device, student, teacher, labels, kind="ce", temperature=1.5, alpha=0.5, reduction="none", orders=few[1:])
    agree(device, student, None, labels, alpha=1.0, orders=few[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vocabulary_agrees(device, dtype):
    student, teacher = logits(2, 30522, seed=1, dtype=dtype), logits(2, 30522, seed=2, dtype=dtype)
    labels = torch.tensor([5, 30521])
    agree(device, student, teacher, labels, alpha=0.3, temperature=2.0, orders=[(1, 0)], kernel="block")


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("size", [1, 3, 5, 33, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_kind_agrees(device, kind, size, dtype):
    rows = 6 if size < 100 else 3
    student, teacher = logits(rows, size, seed=3, dtype=dtype), logits(rows, size, seed=4, dtype=dtype)
    alpha = 0.0 if kind == "bce" else 0.4
    labels = torch.arange(rows) % size
    agree(device, student, teacher.double(), labels, kind=kind, temperature=1.7, alpha=alpha, beta=0.3, slack=3)


@pytest.mark.parametrize("tail", ["bucket", "uniform", "renorm", "none"])
@pytest.mark.parametrize("size,listed", [(3, 2), (4, 4), (20, 7), (200, 70), (200, 1)])
def test_sparse_teachers_agree(device, tail, size, listed):
    probabilities, indices = (logits(5, size, seed=size).softmax(-1)).topk(listed)
    values = {"probs": probabilities} if listed % 2 else {"logprobs": probabilities.log()}
    teacher = SparseTeacher(indices, tail=tail, temperature=2.0, **values)
    labels = torch.arange(5) % size
    for kind in ("ce", "kl") if tail == "none" else ("kl", "rkl", "jsd"):
        agree(device, logits(5, size), teacher, labels, kind=kind, temperature=2.0, alpha=0.3, slack=4)


@pytest.mark.parametrize("seed", range(40))
def test_any_combination_of_options_agrees(device, seed):
    choose, g = random.Random(seed), generator(seed)
    size = choose.choice([1, 2, 3, 5, 7, 16, 31, 33, 100, 600, 1030])
    rows = choose.choice([1, 2, 7, 40]) if size < 100 else 3
    dtype = choose.choice([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16])
    hot = choose.random() < 0.4
    student = logits(rows, size, seed=seed, dtype=dtype)
    if choose.random() < 0.2 and size > 1:
        student[:, choose.randrange(size)] = -math.inf
    kinds = ["ce", "kl"] if hot else list(KINDS)
    kind = choose.choice(kinds) if hot or choose.random() < 0.5 else torch.tensor(choose.choices(range(5), k=rows))
    members = 1 if hot else choose.choice([1, 2, 3])
    teacher = logits(members, rows, size, seed=seed + 1, dtype=dtype if hot else torch.float32)
    alpha = torch.rand(rows, generator=g).mul(1.4).sub(0.2).clamp(0, 1) if choose.random() < 0.5 else 0.3
    options = {"kind": kind, "alpha": 0.0 if isinstance(kind, str) and kind == "bce" else alpha}
    options["temperature"] = torch.rand(rows, generator=g) * 3 + 0.5 if choose.random() < 0.5 else 2.0
    if choose.random() < 0.5:
        options["weight"] = torch.rand(rows, generator=g) * (torch.rand(rows, generator=g) > 0.2)
    if members > 1:
        options["teacher_weights"] = torch.rand(members, rows, generator=g) + 0.1
    count = torch.full((rows,), size)
    if not hot and choose.random() < 0.5:
        count = torch.randint(1, size + 1, (rows,), generator=g)
        options["columns"] = ((torch.rand(rows, generator=g) * (size - count + 1)).long(), count)
    labels = (torch.rand(rows, generator=g) * count).long()
    labels[torch.rand(rows, generator=g) < 0.2] = -100
    options["reduction"] = choose.choice(["mean", "sum", "none"])
    options["ignore"] = choose.choice(["row", "hard"])
    options["scale_T2"] = choose.random() < 0.8
    if options["reduction"] == "mean" and choose.random() < 0.4:
        options["normalizer"] = torch.tensor(5.0)
    options["grad_output"] = torch.rand((rows,) if options["reduction"] == "none" else (), generator=g) + 0.5
    if isinstance(kind, str) and kind.startswith("mse") and student.isinf().any():
        student = student.nan_to_num(neginf=-1.0)
    agree(device, student, teacher, labels, orders=[launcher.ORDERS[seed % 5], (1, 0)], slack=20, **options)


@pytest.mark.parametrize("size", [3, 40, 1100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["ce", "jsd"])
def test_rows_that_begin_anywhere_in_memory_agree(device, size, dtype, kind):
    wide = logits(4, size + 9, seed=1, dtype=dtype)
    other = logits(4, size + 5, seed=2, dtype=dtype)
    for from_student, from_teacher in ((0, 0), (1, 1), (1, 2), (7, 5)):
        student, teacher = wide[:, from_student : from_student + size], other[:, from_teacher : from_teacher + size]
        agree(device, student, teacher, torch.tensor([0, 1, 2, 1]), kind=kind, alpha=0.5, orders=[(2, 1)], slack=3)
    sequence, given = logits(2, 5, size, seed=3, dtype=dtype), logits(2, 5, size, seed=4, dtype=dtype)
    agree(device, sequence[:, :-1], given[:, 1:], kind=kind, temperature=2.0, orders=[(1, 0)], slack=3)


@pytest.mark.parametrize(
    "shape,kind",
    [((9, 3), "ce"), ((9, 20), "kl"), ((3, 300), "ce"), ((3, 1500), "kl"), ((4, 70), "rkl"), ((9, 3), "tvd")],
)
@pytest.mark.parametrize("order", launcher.ORDERS)
def test_the_gradient_may_be_written_over_the_logits(device, shape, kind, order):
    device.order = order
    teacher, labels = logits(*shape, seed=1), torch.arange(shape[0]) % shape[1]
    for columns in (None, (torch.ones(shape[0], dtype=torch.long), torch.full((shape[0],), shape[1] - 1))):
        options = {"kind": kind, "alpha": 0.5, "temperature": 2.0}
        if columns is not None:
            options, labels = {**options, "columns": columns}, labels.clamp(max=shape[1] - 2)
        plain = computed(logits(*shape), teacher, labels, **options)
        leaf = logits(*shape).requires_grad_()
        student = leaf * 1
        memory = student.detach()
        loss, _, _ = function.evaluate(
            check_arguments(student, teacher, labels, grad_inplace=True, return_parts=True, **options), cuda_backend
        )
        assert torch.equal(memory, plain[3])
        assert torch.equal(loss.detach(), plain[0])


@pytest.mark.parametrize("size", [3, 200, 1100])
def test_rows_that_do_not_count_are_not_read(device, size):
    student, teacher = logits(6, size), logits(6, size, seed=1)
    labels, weight = torch.tensor([0, 1, -100, 2, 1, 0]), torch.tensor([1.0, 0.0, 1.0, 2.0, 1.0, 1.0])
    student[1:3] = math.nan
    teacher[1:3] = math.nan
    for kind in ("ce", "rkl"):
        options = {"alpha": 0.5, "weight": weight, "kind": kind}
        agree(device, student, teacher, labels, slack=3, **options)
        gradient = computed(student, teacher, labels, **options)[3]
        assert gradient.isfinite().all() and (gradient[1:3] == 0).all()
    agree(device, logits(6, size), teacher, labels.clamp(min=0), alpha=1.0)  # the teacher is not read at all


@pytest.mark.parametrize("size", [3, 200, 1100])
@pytest.mark.parametrize("kind", ["ce", "tvd"])
def test_a_label_that_is_no_class_makes_its_row_nan_and_no_other(device, size, kind):
    labels = torch.tensor([0, size, -1, 2])
    loss, _, _, gradient = computed(
        logits(4, size), logits(4, size, seed=1), labels, kind=kind, alpha=0.5, reduction="none"
    )
    assert loss.isnan().tolist() == [False, True, True, False]
    assert gradient.isnan().any(1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("size", [3, 70, 1100])
def test_masked_classes_agree(device, size):
    student, teacher = logits(4, size), logits(4, size, seed=1)
    student[:, 1] = teacher[:, 1] = -math.inf
    teacher[1, 0] = -math.inf
    student[3] = -math.inf
    agree(device, student, teacher, kind="ce", reduction="none", temperature=2.0)
    agree(device, student[:3], teacher[:3], kind="jsd", reduction="none", slack=3)


@pytest.mark.parametrize("ignore", ["row", "hard"])
def test_a_mean_over_many_rows_agrees(device, ignore):
    rows = cuda_launch.MOST_COUNTED + 77
    labels = torch.arange(rows) % 3
    labels[::5] = -100
    options = {"alpha": 0.5, "weight": torch.rand(rows, generator=generator(0)), "ignore": ignore}
    agree(device, logits(rows, 3), logits(rows, 3, seed=1), labels, orders=[(0, 0), (2, 1)], kernel="total", **options)


def test_all_rows_ignored_is_zero_with_zero_gradient(device):
    for rows in (3, cuda_launch.MOST_COUNTED + 1):
        labels = torch.full((rows,), -100)
        loss, _, _, gradient = computed(logits(rows, 3), logits(rows, 3), labels, alpha=0.5)
        assert loss == 0 and (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_too_long_for_shared_memory_are_read_again(library, monkeypatch, dtype):
    driver = launcher.ShimDriver(library)
    small = launcher.SMALL._replace(shared_per_block=cuda_launch.STATIC_SHARED + 60 * 32)
    launcher.install(monkeypatch, driver, small)
    agree(driver, logits(5, 1501, dtype=dtype), logits(5, 1501, seed=1, dtype=dtype), torch.arange(5), alpha=0.5,
          temperature=2.0, kernel="block")  # fmt: skip
    assert driver.launches[0].staged == 60


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_scaling_is_exact_and_may_be_in_place(device, dtype):
    gradient = logits(7, 1001, dtype=dtype)
    number = torch.float64 if dtype == torch.float64 else torch.float32
    factor = torch.tensor(0.3, dtype=number)
    wanted = (gradient.to(number) * factor).to(dtype)
    before = gradient.clone()
    assert torch.equal(cuda_backend.scale(gradient, factor, False), wanted)
    assert torch.equal(gradient, before)
    part = gradient[:, 1:].reshape(-1)[3:]  # begins between multiples of 16 bytes
    assert torch.equal(cuda_backend.scale(part, factor, False), (part.to(number) * factor).to(dtype))
    assert cuda_backend.scale(gradient, torch.ones((), dtype=number), True) is gradient
    assert torch.equal(gradient, before)
    assert torch.equal(cuda_backend.scale(gradient, factor, True), wanted)
    assert torch.equal(gradient, wanted)


def test_no_rows_launch_nothing(device):
    loss, _, _, gradient = computed(logits(0, 5), logits(0, 5))
    assert loss == 0 and gradient.shape == (0, 5)
    assert not [one for one in device.launches if not one.kernel.startswith("kd_scale")]


# ---- The choice of a launch ----


def fields(**values):
    """A call's fields by name."""
    usual = {"rows": 100, "inner": 100, "classes": 3, "members": 1, "gradient": 1, "loss": 1, "reduction": 2}
    return {**dict.fromkeys(FIELDS, 0), **usual, "width": values.get("classes", 3), **values}


@pytest.mark.parametrize(
    "classes,kernel",
    [(1, "group4"), (4, "group4"), (5, "group8"), (8, "group8"), (9, "group32"), (32, "group32"), (33, "warp"),
     (1024, "warp"), (1025, "block")],
)  # fmt: skip
def test_short_rows_take_few_threads(classes, kernel):
    assert rows_launch(fields(classes=classes), launcher.SMALL).kernel == f"kd_{kernel}_float32"
    general = rows_launch(fields(classes=classes, kind=KINDS["jsd"]), launcher.SMALL).kernel
    assert general == f"kd_any_{'group4' if classes <= 4 else 'group32' if classes <= 32 else 'block'}_float32"


def test_what_the_fast_kernels_cannot_do_takes_the_general_ones():
    changes = (
        {"members": 2},
        {"teacher_type": 3},
        {"kinds": 1},
        {"start": 1, "count": 1},
        {"listed": 2, "members": 0},
    )
    for change in changes:
        assert rows_launch(fields(**change), launcher.SMALL).kernel == "kd_any_group4_float32"
    assert rows_launch(fields(student_type=1, teacher_type=1), launcher.SMALL).kernel == "kd_any_group4_float64"
    assert rows_launch(fields(members=0), launcher.SMALL).kernel == "kd_group4_float32"
    # A matrix of many tasks' columns, each row with few of its own: the width of the teacher says how few.
    mixed = fields(classes=20, width=3, start=1, count=1)
    assert rows_launch(mixed, launcher.SMALL).kernel == "kd_any_group4_float32"


def test_every_launch_is_one_that_the_kernel_allows():
    source = (launcher.CSRC / "soft_cross_entropy.cu").read_text()
    bounds = {"group": 128, "warp": 128}
    for team in ("block", "any_block", "total"):
        bounds[team] = int(re.search(rf"KD_KERNEL\(kd_{team}_##type, (\d+),", source)[1])
    assert cuda_launch.BLOCK_THREADS[-1] == bounds["block"] and bounds["any_block"] == cuda_launch.GENERAL_THREADS
    assert bounds["total"] == cuda_launch.TOTAL_THREADS and cuda_launch.GROUP_THREADS == 128
    big = launcher.SMALL._replace(multiprocessors=132)
    for device in (launcher.SMALL, big):
        for classes in (1, 7, 33, 1024, 1025, 4000, 30522, 128256, 262144):
            for kind in (0, 3):
                for student_type in range(4):
                    call = fields(rows=70000, classes=classes, kind=kind, student_type=student_type,
                                  teacher_type=student_type)  # fmt: skip
                    launch = rows_launch(call, device)
                    assert launch.kernel in cuda_launch.KERNELS
                    assert launch.shared + cuda_launch.STATIC_SHARED <= device.shared_per_block
                    assert launch.block % 32 == 0 and 1 <= launch.grid <= cuda_launch.most_blocks(device)
                    limit = next(b for name, b in bounds.items() if re.search(rf"kd_(any_)?{name}", launch.kernel))
                    assert launch.block <= max(limit, bounds["any_block"] if "any_block" in launch.kernel else 0)


# ---- The sanitizers, and faults that must be caught ----


def recorded(call: bytes, launch: Launch, sizes: dict[str, int]) -> bytes:
    """A launch with the memory that it reads and writes, for the program of shim.cpp."""
    values = dict(zip(FIELDS, LAYOUT.unpack(call)))
    blocks = [(list(FIELDS).index(name), ctypes.string_at(values[name], size)) for name, size in sizes.items()]
    name = launch.kernel.encode()
    sizes_of_launch = launch.grid, launch.block, launch.shared, launch.staged
    head = struct.pack("=64siiiiqq", name, *sizes_of_launch, len(call), len(blocks))
    return head + call + b"".join(struct.pack("=qq", place, len(data)) + data for place, data in blocks)


@pytest.mark.parametrize("part", [3, pytest.param(0, marks=pytest.mark.slow)], ids=["bfloat16", "all"])
def test_kernels_stay_in_their_memory(device, compiler, tmp_path, monkeypatch, part):
    """Under the address and undefined-behaviour sanitizers, each buffer of exactly its size, in every order."""
    program = tmp_path / "sanitized"
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DKD_SHIM_PROGRAM", f"-DKD_PART={part}")
    try:
        launcher.build(compiler, program, *flags, "-rdynamic", "-ldl")
    except AssertionError as error:
        if "cannot find" in str(error):
            pytest.skip("the compiler has no sanitizers")
        raise
    cases = []
    launch = device.launch

    def record(function, grid, block, shared, stream, call, staged):
        values = dict(zip(FIELDS, LAYOUT.unpack(call)))
        element = {0: 4, 1: 8, 2: 2, 3: 2}
        rows, classes, number = values["rows"], values["classes"], 8 if values["student_type"] == 1 else 4
        if function.startswith("kd_scale"):
            size = classes * element[values["student_type"]]
            sizes = {"student": size, "gradient": size, "grad_output": number}
        else:
            reach = ((rows - 1) * values["student_inner"] + classes) * element[values["student_type"]]
            taught = (values["members"] - 1) * values["teacher_member"] + (rows - 1) * values["teacher_inner"]
            results = number * (rows if values["reduction"] == 0 else 1)
            sizes = {
                "student": reach, "gradient": rows * classes * element[values["student_type"]],
                "teacher": (taught + values["width"]) * element[values["teacher_type"]],
                "listed_index": 8 * rows * values["listed"], "listed_value": number * rows * values["listed"],
                "labels": 8 * rows, "start": 8 * rows, "count": 8 * rows, "kinds": 8 * rows,
                "temperatures": number * rows, "alphas": number * rows, "weights": number * rows,
                "loss": results, "soft": results, "hard": results,
                "grad_output": number, "row_results": 24 * grid, "counter": 4,
            }  # fmt: skip
        sizes = {name: size for name, size in sizes.items() if values[name]}
        if part in (0, cuda_launch.KERNELS[function]):
            cases.append(recorded(call, Launch(function, grid, block, shared, staged), sizes))
        launch(function, grid, block, shared, stream, call, staged)

    monkeypatch.setattr(device, "launch", record)
    for size in (1, 3, 7, 31, 33, 255, 1025):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            rows = 5 if size < 1000 else 2
            student, teacher = logits(rows, size + 1, dtype=dtype)[:, 1:], logits(rows, size, dtype=dtype)
            labels = torch.zeros(rows).long()
            computed(student, teacher, labels, alpha=0.5, temperature=2.0)
            computed(student, teacher, labels, alpha=0.5, kind="jsd", weight=torch.rand(rows))
    few, indices = logits(3, 50).softmax(-1).topk(9)
    computed(logits(3, 50), SparseTeacher(indices, probs=few), torch.tensor([0, 1, 2]), alpha=0.5)
    computed(logits(3, 9), logits(2, 3, 4), columns=(torch.tensor([0, 5, 3]), torch.tensor([4, 4, 1])), kind="rkl")
    assert cases
    file = tmp_path / "cases"
    file.write_bytes(b"".join(cases))
    quiet = {"ASAN_OPTIONS": "detect_leaks=0"}  # of what a fiber that never ends holds
    done = subprocess.run([str(program), str(file)], capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == f"{len(cases)} launches"


FAULTS = {
    "a dropped barrier": ("            if (lane == 0) slots[i][threadIdx.x / 32] = x[i];\n        __syncthreads();",
                          "            if (lane == 0) slots[i][threadIdx.x / 32] = x[i];"),
    "a wrong stride": ("k += many * threads.count()", "k += many * threads.count() + 1"),
    "a missing T squared": ("asked.soft_scale = softened && call.scale_T2 ? squared : one;", "asked.soft_scale = one;"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name, compiler, tmp_path, monkeypatch):
    old, new = FAULTS[name]
    changed = 0
    for file in launcher.CSRC.glob("*.cu*"):
        text = file.read_text()
        changed += text.count(old)
        (tmp_path / file.name).write_text(text.replace(old, new))
    assert changed == 1, "the text to be replaced is not in the source once"
    flags = ("-shared", "-O0", "-DKD_PART=2", "-Wno-unused-variable")
    driver = launcher.ShimDriver(launcher.build(compiler, tmp_path / "libfault.so", *flags, csrc=tmp_path))
    launcher.install(monkeypatch, driver)
    monkeypatch.setattr(cuda_backend, "scale", lambda gradient, factor, in_place: gradient * factor)
    with pytest.raises(AssertionError):
        agree(driver, logits(3, 5000), logits(3, 5000, seed=1), torch.arange(3), alpha=0.5, temperature=2.0)
