"""The twenty numerical and behavioural pitfalls of the op that notes/fused_op.md, section 4, lists, by their numbers.

On the reference and on the compiled CPU op, for every instruction set of this processor. Rows of 5 classes lie in the
lanes of a vector, rows of 40 go through vectors themselves.
"""

import ctypes
import math
import mmap
import threading

import pytest
import torch
import torch.nn.functional as F
from op_backends import use
from op_instructions import available, using

from kdtoolkit.ops import KINDS, SparseTeacher, cpu_backend, native, soft_cross_entropy, soft_cross_entropy_reference
from kdtoolkit.ops.arguments import check_arguments

DISTRIBUTIONS = ["ce", "kl", "rkl", "jsd", "tvd"]
HARD_KINDS = [kind for kind in KINDS if kind != "bce"]
both_paths = pytest.mark.parametrize("classes", [5, 40])


@pytest.fixture(params=["reference", *available()])
def somewhere(request, monkeypatch):
    """The op on one backend; the name of it."""
    if request.param == "reference":
        use("reference", monkeypatch)
        yield request.param
        return
    use("cpu", monkeypatch)
    with using(request.param):
        yield request.param


@pytest.fixture
def compiled(monkeypatch):
    use("cpu", monkeypatch)


def random(*shape, seed=0, dtype=torch.float32):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


def value_and_gradient(student, *args, **options):
    leaf = student.detach().requires_grad_()
    loss = soft_cross_entropy(leaf, *args, **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


def exact(student, teacher, labels=None, **options):
    leaf = student.detach().double().requires_grad_()
    loss = soft_cross_entropy_reference(leaf, teacher, labels, **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


def error(gradient, wanted):
    """The largest, relative to the row's largest gradient."""
    return float(((gradient.double() - wanted).abs() / wanted.abs().amax(-1, keepdim=True)).max())


@both_paths
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_01_a_class_masked_on_both_sides_is_no_class(somewhere, kind, classes):
    student, teacher, labels = random(18, classes), random(18, classes, seed=1), torch.arange(18) % 4 + 1
    loss, gradient = value_and_gradient(student[:, 1:], teacher[:, 1:], labels - 1, kind=kind, alpha=0.5)
    student[:, 0] = teacher[:, 0] = -math.inf
    masked_loss, masked = value_and_gradient(student, teacher, labels, kind=kind, alpha=0.5)
    torch.testing.assert_close(masked_loss, loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(masked[:, 1:], gradient, atol=1e-6, rtol=1e-6)
    assert (masked[:, 0] == 0).all()


@both_paths
@pytest.mark.parametrize("kind", ["ce", "kl"])
def test_01_a_class_that_only_the_student_masks_costs_infinity_with_gradient_minus_T_p(somewhere, kind, classes):
    student, teacher = random(3, classes), random(3, classes, seed=1)
    student[1, 2] = -math.inf
    loss, gradient = value_and_gradient(student, teacher, kind=kind, temperature=2.0, reduction="none")
    assert loss.isinf().tolist() == [False, True, False] and gradient.isfinite().all()
    p = (teacher.double() / 2).softmax(-1)
    assert gradient[1, 2].item() == pytest.approx(-2 * p[1, 2].item(), rel=1e-5)
    torch.testing.assert_close(gradient.double(), 2 * ((student.double() / 2).softmax(-1) - p), atol=2e-6, rtol=0)


@both_paths
@pytest.mark.parametrize("spoil", ["-inf throughout", math.nan, math.inf])
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_01_a_row_that_is_no_distribution_is_nan_as_in_torch_and_the_others_are_not(somewhere, kind, spoil, classes):
    student, teacher = random(4, classes), random(4, classes, seed=1)
    if spoil == "-inf throughout":
        student[1] = -math.inf
    else:
        student[1, 3] = spoil
    loss, gradient = value_and_gradient(student, teacher, kind=kind, reduction="none")
    assert loss.isnan().tolist() == gradient.isnan().any(-1).tolist() == [False, True, False, False]
    assert gradient[[0, 2, 3]].isfinite().all()


@both_paths
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_02_a_row_that_does_not_count_leaks_nothing_and_has_gradient_zero(somewhere, kind, classes, dtype):
    student, teacher = random(20, classes, dtype=dtype), random(20, classes, seed=1, dtype=dtype)
    weight, labels = torch.ones(20), torch.arange(20) % classes
    weight[::3], labels[1::3] = 0.0, -100
    kept = torch.arange(20) % 3 == 2
    options = {"kind": kind, "alpha": 0.0 if kind == "bce" else 0.5}
    if kind == "bce":
        weight[1::3] = 0.0
    wanted = value_and_gradient(student[kept], teacher[kept], labels[kept], **options)
    for spoil in (math.nan, math.inf, -math.inf):
        student[~kept], teacher[~kept] = spoil, spoil
        loss, gradient = value_and_gradient(student, teacher, labels, weight=weight, **options)
        torch.testing.assert_close(loss, wanted[0], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(gradient[kept], wanted[1], atol=1e-6, rtol=2**-7 if dtype != torch.float32 else 1e-6)
        assert (gradient[~kept] == 0).all()


@both_paths
@pytest.mark.parametrize("offset", [0, 500, 5000, -5000])
@pytest.mark.parametrize("kind", ["ce", "kl", "rkl", "jsd"])
def test_03_an_offset_of_all_logits_costs_no_digits(somewhere, kind, classes, offset):
    """exp(z - lse) with lse as one float32 number would be off by 2.4e-4 at 5000."""
    student, teacher = random(20, classes) + offset, random(20, classes, seed=1) + offset
    labels = torch.arange(20) % classes
    options = {"kind": kind, "alpha": 0.3, "temperature": 1.5, "reduction": "sum"}
    wanted = exact(student, teacher, labels, **options)
    loss, gradient = value_and_gradient(student, teacher, labels, **options)
    assert error(gradient, wanted[1]) <= 1.5e-6
    torch.testing.assert_close(loss.double(), wanted[0], atol=0, rtol=1e-6)


@pytest.mark.parametrize("kind", ["ce", "kl", "jsd"])
def test_04_sums_over_a_vocabulary_keep_their_digits(somewhere, kind):
    """One float32 sum over 128k terms is off by 1e-5 of the row's largest gradient; sums of blocks are not."""
    student, teacher = random(3, 128_256), random(3, 128_256, seed=1)
    options = {"kind": kind, "temperature": 2.0, "alpha": 0.3, "reduction": "sum"}
    labels = torch.tensor([0, 77, 128_255])
    wanted = exact(student, teacher, labels, **options)
    loss, gradient = value_and_gradient(student, teacher, labels, **options)
    assert error(gradient, wanted[1]) <= 1e-6
    torch.testing.assert_close(loss.double(), wanted[0], atol=0, rtol=2e-6)


@both_paths
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_05_normalisers_are_never_held_in_half_precision(somewhere, classes, dtype):
    """With an offset of 20 one in bfloat16 would cost a tenth of each probability."""
    student, teacher = random(20, classes, dtype=dtype) + 20, random(20, classes, seed=1, dtype=dtype) + 20
    for options in ({}, {"reduction": "none"}):
        wanted = exact(student, teacher, torch.arange(20) % classes, alpha=0.5, temperature=2.0, **options)
        loss, gradient = value_and_gradient(
            student, teacher, torch.arange(20) % classes, alpha=0.5, temperature=2.0, **options
        )
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), wanted[0], atol=1e-6, rtol=2e-6)
        rounding = 2**-8 if dtype == torch.bfloat16 else 2**-11
        torch.testing.assert_close(gradient.double(), wanted[1], atol=1e-6, rtol=1.01 * rounding)


@both_paths
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("kind", ["ce", "rkl"])
def test_06_the_label_is_subtracted_before_the_gradient_is_rounded(somewhere, kind, temperature, classes, dtype):
    """q = 0.999 rounds to 1 in bfloat16, and 1 - 1 is no gradient."""
    student = torch.zeros(17, classes, dtype=dtype)
    student[:, 2] = math.log(0.999 * (classes - 1) / 0.001)
    q = student.double().softmax(-1)[0, 2].item()
    labels = torch.full((17,), 2)
    options = {"kind": kind, "reduction": "sum", "temperature": temperature}
    _, gradient = value_and_gradient(student, None, labels, alpha=1.0, **options)
    torch.testing.assert_close(gradient[:, 2].double(), torch.full((17,), q - 1).double(), atol=1e-6, rtol=2**-8)
    # Beside a soft part that is 0, for the teacher is the student.
    _, gradient = value_and_gradient(student, student.clone(), labels, alpha=0.5, **options)
    torch.testing.assert_close(gradient[:, 2].double(), torch.full((17,), (q - 1) / 2).double(), atol=1e-6, rtol=2**-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_07_a_small_divergence_is_no_difference_of_large_sums(somewhere, dtype):
    """5e-7 nats at 50,257 classes: every term is >= 0, and eager arithmetic in bfloat16 would be off by 6e-3."""
    teacher = random(8, 50_257, seed=1)
    student = (teacher + 1e-3 * random(8, 50_257, seed=2) / 2).to(dtype)
    teacher = teacher if dtype == torch.float32 else student.float() + 1e-3 * random(8, 50_257, seed=2) / 2
    wanted = exact(student, teacher, kind="kl", reduction="none")
    loss, gradient = value_and_gradient(student, teacher, kind="kl", reduction="none")
    assert (wanted[0] < 1e-6).all() and (wanted[0] > 1e-7).all()
    assert (loss >= 0).all()
    if somewhere == "reference":
        torch.testing.assert_close(loss.double(), wanted[0], atol=4e-7, rtol=0)
    else:  # by its series
        torch.testing.assert_close(loss.double(), wanted[0], atol=0, rtol=1e-4)
    p = float(teacher.double().softmax(-1).max())
    assert (gradient.double() - wanted[1]).abs().max() <= 2e-6 * p + 2**-8 * float(wanted[1].abs().max())


@both_paths
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_08_logits_are_divided_by_the_temperature_in_float32(somewhere, classes, dtype):
    student, teacher = random(20, classes, dtype=dtype) * 4, random(20, classes, seed=1, dtype=dtype) * 4
    for temperature in (3.0, 0.3, torch.linspace(0.3, 7, 20)):
        wanted, _ = exact(student, teacher, temperature=temperature, reduction="none")
        loss, _ = value_and_gradient(student, teacher, temperature=temperature, reduction="none")
        torch.testing.assert_close(loss.double(), wanted, atol=1e-6, rtol=2e-6)


@both_paths
def test_08_temperatures_that_are_none_are_refused_and_half_infinities_reported(somewhere, classes):
    student, teacher = random(3, classes, dtype=torch.float16), random(3, classes, seed=1, dtype=torch.float16)
    for wrong in (0.0, -1.0, math.nan, math.inf):
        for temperature in (wrong, torch.tensor([1.0, wrong, 1.0])):
            with pytest.raises(ValueError, match=r"temperature: expected finite numbers > 0, received"):
                soft_cross_entropy(student, teacher, temperature=temperature)
    student[1, 0] = torch.tensor(70_000.0).half()  # what a float16 matrix product leaves of it
    loss = soft_cross_entropy(student, teacher, reduction="none")
    assert loss.isnan().tolist() == [False, True, False]
    student[1, 0] = 65_504  # the largest there is, and no reason to overflow
    assert soft_cross_entropy(student, teacher, temperature=0.01, reduction="none").isfinite().all()


@both_paths
@pytest.mark.parametrize("kind", KINDS)
def test_09_temperature_squared_is_a_switch_and_on(somewhere, kind, classes):
    student, teacher = random(20, classes), random(20, classes, seed=1)
    on = value_and_gradient(student, teacher, kind=kind, temperature=3.0)
    for scale, wanted in ((True, on), (False, [value / 9 for value in on] if "mse" not in kind else on)):
        found = value_and_gradient(student, teacher, kind=kind, temperature=3.0, scale_T2=scale)
        for value, other in zip(found, wanted):
            torch.testing.assert_close(value, other, atol=1e-8, rtol=2e-6)


@both_paths
@pytest.mark.parametrize("kind", HARD_KINDS)
def test_10_at_alpha_one_the_teacher_is_not_read_and_at_alpha_zero_the_label_is_not(somewhere, kind, classes):
    """By select, row by row: rows of both sorts lie beside each other, and 0 * NaN would be NaN."""
    student, teacher, labels = random(20, classes), random(20, classes, seed=1), torch.arange(20) % classes
    alpha = torch.tensor([1.0, 0.0])[torch.arange(20) % 2]
    gold, taught = alpha == 1, alpha == 0
    options = {"kind": kind, "temperature": 2.0, "reduction": "none"}
    soft = value_and_gradient(student, teacher, **options)
    hard = F.cross_entropy(student, labels, reduction="none"), student.softmax(-1) - F.one_hot(labels, classes)
    for spoil in (math.nan, math.inf, -math.inf):
        spoiled = teacher.masked_fill(gold.unsqueeze(1), spoil)
        wrong = labels.where(gold, 10**9)
        loss, gradient = value_and_gradient(student, spoiled, wrong, alpha=alpha, **options)
        torch.testing.assert_close(loss, hard[0].where(gold, soft[0]), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(gradient, hard[1].where(gold.unsqueeze(1), soft[1]), atol=1e-6, rtol=1e-5)
    everywhere = torch.full_like(teacher, math.nan)
    for one in (1.0, torch.ones(20)):
        loss, gradient = value_and_gradient(student, everywhere, labels, alpha=one, **options)
        torch.testing.assert_close(loss, hard[0], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(gradient, hard[1], atol=1e-6, rtol=1e-5)
    assert taught.any()


def test_11_a_second_derivative_is_right_or_refused_at_once_never_zero(somewhere):
    student, teacher = random(3, 5, dtype=torch.float64).requires_grad_(), random(3, 5, seed=1)
    loss = soft_cross_entropy(student, teacher, kind="rkl")
    if somewhere != "reference":
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            torch.autograd.grad(loss, student, create_graph=True)
        return
    (gradient,) = torch.autograd.grad(loss, student, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), student)
    assert second.abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [5, 33, 513])
def test_12_rows_may_begin_anywhere_and_lie_any_stride_apart(somewhere, columns, dtype):
    """Odd lengths and odd beginnings: no row but the first could be on a vector's boundary."""
    room, other = random(4, 7, columns + 2, dtype=dtype), random(4, 7, columns + 4, seed=1, dtype=dtype)
    for student, teacher in (
        (room[..., 1:-1], other[..., 3:-1]),
        (room[:, :-1, 1:-1], other[:, 1:, 1:-3]),
        (room.transpose(0, 1)[..., :-2], other.transpose(0, 1)[..., 4:]),
        (room[::2, ::3, 2:], other[1::2, ::3, :-4]),
        (room[0, 0, 1:-1], other[0, 1, 1:-3]),
    ):
        labels = torch.arange(student.shape[:-1].numel()).reshape(student.shape[:-1]) % columns
        options = {"alpha": 0.3, "kind": "kl", "reduction": "sum"}
        wanted = value_and_gradient(student.contiguous(), teacher.contiguous(), labels, **options)
        found = value_and_gradient(student, teacher, labels, **options)
        for value, expected in zip(found, wanted):
            torch.testing.assert_close(value, expected, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_13_offsets_beyond_two_to_the_31_reach_the_right_row(compiled, dtype):
    """Rows of student, teacher and gradient 2^30 elements apart, in memory that is promised but never touched."""
    step, columns, size = 2**30 + 5, 40, torch.empty((), dtype=dtype).element_size()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    rooms = []
    for _ in range(2):
        try:
            memory = mmap.mmap(-1, (4 * step + columns) * size, flags=flags)
        except OSError as problem:
            pytest.skip(f"no room for addresses that far apart: {problem}")
        rooms.append(torch.frombuffer(memory, dtype=dtype))
    student, members = (
        rooms[0].as_strided((5, columns), (step, 1)),
        rooms[1].as_strided((2, 3, columns), (2 * step, step, 1)),
    )
    student.copy_(random(5, columns))
    members.copy_(random(2, 3, columns, seed=1))
    deep = rooms[0].as_strided((2, 2, columns), (2 * step, step, 1))  # rows in two dimensions
    for z, v in ((student[2:], members), (student[:3], members[1]), (deep[:, :1], members[:, :2].unsqueeze(2)[0])):
        for name in available():
            with using(name):
                before = z.clone()
                call = check_arguments(z, v, kind="kl", reduction="sum")
                elsewhere = torch.empty(z.shape, dtype=dtype)
                loss, *_ = cpu_backend.run(call, gradient=elsewhere)
                wanted = exact(before, v.clone(), kind="kl", reduction="sum")
                torch.testing.assert_close(loss.double(), wanted[0], atol=1e-6, rtol=2e-6)
                rounding = 2**-8 if dtype == torch.bfloat16 else 0.0
                torch.testing.assert_close(elsewhere.double(), wanted[1], atol=2e-6, rtol=rounding)
                cpu_backend.run(call, gradient=z)  # in place, so that the gradient lies as far apart
                torch.testing.assert_close(z.clone(), elsewhere, atol=0, rtol=0)
                z.copy_(before)


def test_14_autocast_changes_neither_results_nor_dtypes(somewhere):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        student, teacher = random(6, 5, dtype=dtype), random(6, 5, seed=1, dtype=dtype)
        plain = value_and_gradient(student, teacher, kind="jsd")
        with torch.autocast("cpu", torch.bfloat16):
            inside = value_and_gradient(student, teacher, kind="jsd")
        assert inside[0].dtype == torch.float32 and inside[1].dtype == dtype
        for value, wanted in zip(inside, plain):
            torch.testing.assert_close(value, wanted, atol=0, rtol=0)


def test_15_torch_compile_takes_the_op_whole(somewhere):
    """What else there is to it is in test_compile.py."""
    torch.compiler.reset()
    student, teacher, labels = random(6, 5), random(6, 5, seed=1), torch.arange(6) % 5

    def loss(z):
        return soft_cross_entropy(z, teacher, labels, alpha=0.5, kind="jsd")

    leaf = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(leaf), leaf)
    torch.testing.assert_close(gradient, value_and_gradient(student, teacher, labels, alpha=0.5, kind="jsd")[1])
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_16_function_transforms_are_refused_in_our_words(somewhere):
    teacher = random(6, 5, seed=1)
    for transform in (torch.func.grad, torch.func.vmap, torch.func.jacrev):
        with pytest.raises(RuntimeError, match=r"torch\.func.*soft_cross_entropy_reference"):
            transform(lambda z: soft_cross_entropy(z, teacher).sum())(random(2, 6, 5).squeeze(0))


def test_17_tensors_of_two_devices_are_refused(somewhere):
    """Streams and the device in use matter on a GPU alone; there they are tested."""
    student, teacher = random(6, 5), random(6, 5, seed=1)
    elsewhere = {
        "teacher_logits": (torch.empty(6, 5, device="meta"), {}),
        "labels": (teacher, {"labels": torch.empty(6, dtype=torch.long, device="meta"), "alpha": 0.5}),
        "weight": (teacher, {"weight": torch.empty(6, device="meta")}),
        "kind": (teacher, {"kind": torch.empty(6, dtype=torch.long, device="meta")}),
        "temperature": (teacher, {"temperature": torch.empty(6, device="meta")}),
    }
    for name, (given_teacher, options) in elsewhere.items():
        with pytest.raises(ValueError, match=rf"{name}.*expected device cpu.*received device meta"):
            soft_cross_entropy(student, given_teacher, **options)


@pytest.mark.parametrize("shape", [(5000, 3), (100, 5000)])
def test_18_the_same_call_gives_the_same_bits(somewhere, shape):
    """Any cut and any order of rows, and any number of threads: test_kernel_invariances.py."""
    student, teacher, labels = random(*shape), random(*shape, seed=1), torch.arange(shape[0]) % 3
    first = value_and_gradient(student, teacher, labels, alpha=0.3, temperature=1.7)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            if somewhere != "reference":
                torch.set_num_threads(threads)
            again = value_and_gradient(student, teacher, labels, alpha=0.3, temperature=1.7)
            assert all(map(torch.equal, again, first))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_19_no_rows_cost_zero_and_no_classes_are_refused(somewhere, kind):
    for classes in (1, 5, 40):
        for reduction in ("mean", "sum", "none"):
            loss, gradient = value_and_gradient(
                torch.zeros(0, classes), torch.zeros(0, classes), kind=kind, reduction=reduction
            )
            assert (
                loss.sum() == 0
                and loss.shape == ((0,) if reduction == "none" else ())
                and gradient.shape == (0, classes)
            )
    with pytest.raises(ValueError, match="at least one class"):
        soft_cross_entropy(torch.zeros(3, 0), torch.zeros(3, 0), kind=kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_19_one_class_costs_nothing(somewhere, kind, dtype):
    student, teacher = random(20, 1, dtype=dtype), random(20, 1, seed=1, dtype=dtype)
    for options in ({}, {"labels": torch.zeros(20, dtype=torch.long), "alpha": 0.5}):
        loss, gradient = value_and_gradient(student, teacher, kind=kind, temperature=3.0, **options)
        assert loss == 0 and (gradient == 0).all()
    listed = SparseTeacher(torch.zeros(20, 1, dtype=torch.long), probs=torch.ones(20, 1))
    loss, gradient = value_and_gradient(student, listed, kind=kind)
    assert loss == 0 and (gradient == 0).all()


def test_20_what_is_made_for_a_call_lives_as_long_as_the_call(compiled):
    """Copies (other dtypes, gaps, lists of members, sorted lists) while other threads take and free memory."""
    rows, classes = 300, 200
    wide = random(rows, 2 * classes)
    student, members = wide[:, ::2], [random(rows, classes, seed=seed)[:, torch.arange(classes)] for seed in (1, 2)]
    options = {
        "alpha": torch.rand(rows, 3).double()[:, 1], "weight": torch.arange(rows) % 3 > 0,
        "temperature": torch.rand(rows, 2)[:, 0] + 1,
        "labels": (torch.arange(2 * rows) % classes)[::2], "kind": (torch.arange(rows) % 7).to(torch.uint8),
    }  # fmt: skip
    wanted = value_and_gradient(student, members, **options)
    done = threading.Event()

    def churn():
        while not done.is_set():
            for size in (rows, 2 * rows, rows * classes):
                torch.full((size,), math.nan)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(30):
            assert all(map(torch.equal, value_and_gradient(student, members, **options), wanted))
    finally:
        done.set()
        thread.join()


def test_20_the_library_is_called_without_the_interpreters_lock(compiled):
    python_api = 4  # FUNCFLAG_PYTHONAPI of ctypes: what PyDLL sets, and CDLL does not
    assert isinstance(native.library().compute, ctypes._CFuncPtr)
    assert not native.library().compute._flags_ & python_api
