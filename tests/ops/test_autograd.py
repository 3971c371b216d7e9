"""What the op does inside autograd: memory, repeated and refused backward passes, in-place gradients, checkpoints."""

import math
import threading
import weakref

import pytest
import torch
from op_backends import BACKENDS, need_compiled, use
from torch.utils.checkpoint import checkpoint

from kdtoolkit.ops import SparseTeacher, native, soft_cross_entropy, soft_cross_entropy_reference

REFERENCE = "soft_cross_entropy_reference"
# torch's own forward-mode code uses what torch deprecates.
torch_warns = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@pytest.fixture(params=BACKENDS)
def any_backend(request, monkeypatch):
    use(request.param, monkeypatch)
    return request.param


@pytest.fixture
def compiled(monkeypatch):
    use("cpu", monkeypatch)


def random(*shape, seed=0, dtype=torch.float32):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


PLANS = {
    "gradient in forward": {},
    "mixed with gold": {"alpha": 0.3},
    "a loss per row": {"reduction": "none"},
    "a loss per row, with parts": {"reduction": "none", "return_parts": True, "alpha": 0.5},
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 1e-3}


def loss_of(student, **options):
    rows = student.shape[:-1]
    labels = torch.arange(rows.numel()).reshape(rows) % student.shape[-1]
    result = soft_cross_entropy(student, random(*student.shape, seed=1), labels, **options)
    return result[0] if options.get("return_parts") else result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("plan", PLANS)
def test_gradients_are_the_references_whatever_comes_in(any_backend, plan, dtype):
    student = random(6, 5, dtype=dtype).requires_grad_()
    loss = loss_of(student, **PLANS[plan])
    incoming = 0.5 + torch.rand(loss.shape, generator=torch.Generator().manual_seed(2), dtype=loss.dtype)
    (gradient,) = torch.autograd.grad(loss, student, incoming)
    exact = student.detach().double().requires_grad_()
    labels = torch.arange(6) % 5
    result = soft_cross_entropy_reference(exact, random(6, 5, seed=1), labels, **PLANS[plan])
    result = result[0] if isinstance(result, tuple) else result
    (wanted,) = torch.autograd.grad(result, exact, incoming.double())
    assert gradient.dtype == dtype and loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(gradient.double(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_small_gradients_of_float16_survive_a_loss_scale(any_backend):
    """Unscaled they are far below what float16 holds: the scale must come before the rounding."""
    student = random(64, 4000, dtype=torch.float16).requires_grad_()
    loss = soft_cross_entropy(student, random(64, 4000, seed=1), kind="kl")
    (gradient,) = torch.autograd.grad(loss * 65536, student)
    exact = student.detach().double().requires_grad_()
    wanted = soft_cross_entropy_reference(exact, random(64, 4000, seed=1), kind="kl") * 65536
    (wanted,) = torch.autograd.grad(wanted, exact)
    torch.testing.assert_close(gradient.double(), wanted, atol=1e-6, rtol=1e-3)
    assert ((gradient == 0) & (wanted.abs() > 1e-6)).sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kept_graph_gives_the_same_gradient_again_and_leaves_the_first_alone(any_backend, dtype):
    student = random(6, 5, dtype=dtype).requires_grad_()
    loss = loss_of(student) * 3
    (first,) = torch.autograd.grad(loss, student, retain_graph=True)
    copy = first.clone()
    (second,) = torch.autograd.grad(loss, student, torch.tensor(2.0), retain_graph=True)
    (third,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(first, copy, atol=0, rtol=0)
    torch.testing.assert_close(second, first * 2)
    torch.testing.assert_close(third, first)


@pytest.mark.parametrize("plan", PLANS)
def test_a_second_backward_through_a_freed_graph_is_torchs_own_error(any_backend, plan):
    student = random(6, 5).requires_grad_()
    loss = loss_of(student, **PLANS[plan]).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_logits_changed_between_forward_and_backward_are_torchs_own_error(compiled):
    for place in (0, 1, 2):
        leaf = random(6, 5).requires_grad_()
        tensors = [leaf * 1, random(6, 5, seed=1), torch.rand(6)]
        loss = soft_cross_entropy(tensors[0], tensors[1], weight=tensors[2], reduction="none")
        tensors[place].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.sum().backward()


def test_the_plan_with_the_gradient_in_forward_needs_no_logits_afterwards(compiled):
    leaf, teacher = random(6, 5).requires_grad_(), random(6, 5, seed=1)
    student = leaf * 2
    wanted = torch.autograd.grad(soft_cross_entropy_reference(student, teacher), leaf, retain_graph=True)[0]
    loss = soft_cross_entropy(student, teacher)
    held = [weakref.ref(student), weakref.ref(teacher)]
    del student, teacher
    assert [reference() for reference in held] == [None, None]
    torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], wanted)


def test_a_leaf_takes_over_the_gradient_without_a_copy(compiled):
    """Peak memory beyond the logits: one gradient."""
    student, teacher = random(512, 1000).requires_grad_(), random(512, 1000, seed=1)
    labels = torch.zeros(512, dtype=torch.long)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        soft_cross_entropy(student, teacher, labels, alpha=0.5).backward()
    live = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    size = student.numel() * student.element_size()
    assert size <= peak < size + 4096
    assert student.grad.is_contiguous()


def test_without_a_wish_for_gradients_none_is_computed(any_backend):
    student, teacher = random(6, 5).requires_grad_(), random(6, 5, seed=1)
    attached = soft_cross_entropy(student, teacher)
    with torch.no_grad():
        assert not soft_cross_entropy(student, teacher).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(soft_cross_entropy(student, teacher), attached.detach())
    loss = soft_cross_entropy(student.detach(), teacher)
    assert not loss.requires_grad and loss == attached.detach()


def test_logits_made_in_inference_mode_will_do(any_backend):
    with torch.inference_mode():
        student, teacher = random(6, 5), random(6, 3, seed=1).softmax(-1)
        sparse = SparseTeacher(torch.tensor([0, 1, 4]).expand(6, 3), probs=teacher)
        inside = soft_cross_entropy(student, sparse)
    assert soft_cross_entropy(student, sparse) == inside


@pytest.mark.parametrize("plan", PLANS)
def test_a_gradient_of_the_gradient_is_refused_at_once_with_the_way_out(compiled, plan):
    student = random(6, 5).requires_grad_()
    with pytest.raises(RuntimeError, match=rf"cannot be differentiated again.*{REFERENCE}"):
        torch.autograd.grad(loss_of(student, **PLANS[plan]).sum(), student, create_graph=True)


def test_the_reference_can_be_differentiated_twice():
    student, teacher = random(3, 4, dtype=torch.float64).requires_grad_(), random(3, 4, seed=1).double()
    assert torch.autograd.gradgradcheck(lambda z: soft_cross_entropy_reference(z, teacher, kind="rkl"), (student,))


@torch_warns
def test_function_transforms_are_refused_with_the_way_out(any_backend):
    student, teacher = random(6, 5), random(6, 5, seed=1)

    def loss(z):
        return soft_cross_entropy(z, teacher)

    calls = [
        lambda: torch.func.grad(loss)(student),
        lambda: torch.func.jvp(loss, (student,), (student,)),
        lambda: torch.func.vmap(loss)(student.expand(2, 6, 5)),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=rf"torch.func.*{REFERENCE}"):
            call()
    expected = torch.autograd.grad(loss(leaf := student.clone().requires_grad_()), leaf)[0]
    other = torch.func.grad(lambda z: soft_cross_entropy_reference(z, teacher))(student)
    torch.testing.assert_close(other, expected)


def test_batched_backward_passes_are_refused(compiled):
    student = random(6, 5).requires_grad_()
    with pytest.raises(RuntimeError, match=REFERENCE):
        torch.autograd.grad(loss_of(student), student, torch.ones(2), is_grads_batched=True)


@torch_warns
@pytest.mark.parametrize("requires_grad", [False, True])
def test_forward_mode_differentiation_is_refused(compiled, requires_grad):
    student = random(6, 5).requires_grad_(requires_grad)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(student, torch.ones(6, 5))
        with pytest.raises(RuntimeError, match=rf"forward-mode.*{REFERENCE}"):
            loss_of(dual)
        assert loss_of(student.detach()).isfinite()


def test_checkpointed_segments_compute_the_same(any_backend):
    leaf = random(6, 5).requires_grad_()
    for plan in PLANS.values():

        def segment(x, plan=plan):
            return loss_of((x * 2).tanh(), **plan).sum()

        wanted = torch.autograd.grad(segment(leaf), leaf)[0]
        for reentrant in (False, True):
            again = torch.autograd.grad(checkpoint(segment, leaf, use_reentrant=False), leaf)[0]
            if reentrant:
                leaf.grad = None
                checkpoint(segment, leaf, use_reentrant=True).backward()
                again = leaf.grad
            torch.testing.assert_close(again, wanted, atol=0, rtol=0)


def test_hooks_on_saved_tensors_see_the_gradient_and_may_move_it(compiled):
    leaf = random(6, 5).requires_grad_()
    wanted = torch.autograd.grad(loss_of(leaf), leaf)[0]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.numpy().copy(), torch.from_numpy):
        loss = loss_of(leaf)
    torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], wanted, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("plan", PLANS)
def test_autocast_changes_nothing(any_backend, plan, dtype):
    student = random(6, 5, dtype=dtype).requires_grad_()
    loss = loss_of(student, **PLANS[plan])
    (wanted,) = torch.autograd.grad(loss.sum(), student)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss_of(student, **PLANS[plan])
    assert inside.dtype == loss.dtype
    (gradient,) = torch.autograd.grad(inside.sum(), student)
    torch.testing.assert_close(gradient, wanted, atol=0, rtol=0)


def test_two_threads_may_call_at_once(any_backend):
    students = [random(200, 50, seed=seed) for seed in range(4)]
    wanted = [torch.autograd.grad(loss_of(leaf := s.clone().requires_grad_()), leaf)[0] for s in students]
    wrong = []

    def work(number):
        for _ in range(20):
            leaf = students[number].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss_of(leaf), leaf)
            if not torch.equal(gradient, wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_loss_parts_carry_no_gradient_and_are_not_needed_for_it(any_backend):
    student = random(6, 5).requires_grad_()
    for reduction in ("mean", "none"):
        labels = torch.arange(6) % 5
        loss, soft, hard = soft_cross_entropy(
            student, random(6, 5, seed=1), labels, alpha=0.25, reduction=reduction, return_parts=True
        )
        assert loss.requires_grad and not soft.requires_grad and not hard.requires_grad
        torch.testing.assert_close(loss.detach(), 0.75 * soft + 0.25 * hard)
        with pytest.raises(RuntimeError, match="does not require grad"):
            soft.sum().backward()


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (0, 3, 5)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows_cost_nothing_and_keep_the_graph(any_backend, shape, reduction):
    student = torch.zeros(shape, requires_grad=True)
    loss, soft, hard = soft_cross_entropy(
        student, torch.zeros(shape), torch.zeros(shape[:-1], dtype=torch.long), alpha=0.5, reduction=reduction,
        return_parts=True,
    )  # fmt: skip
    assert loss.requires_grad and loss.shape == (shape[:-1] if reduction == "none" else ())
    assert [part.sum() for part in (loss, soft, hard)] == [0, 0, 0]
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient.shape == student.shape


# The gradient over the logits' own memory.


def in_place_pair(make, **options):
    """Gradients of a leaf through `make(leaf)`, without and with permission, and the logits of the second call."""
    leaf = random(12, 5).requires_grad_()
    plain = torch.autograd.grad(loss_of(make(leaf), **options).sum() * 1.5, leaf)[0]
    logits = make(leaf)
    loss = loss_of(logits, grad_inplace=True, **options).sum() * 1.5
    return plain, torch.autograd.grad(loss, leaf)[0], logits


@pytest.mark.parametrize("plan", PLANS)
def test_a_permitted_gradient_lies_where_the_logits_were(compiled, plan):
    plain, permitted, logits = in_place_pair(lambda leaf: leaf * 2, **PLANS[plan])
    torch.testing.assert_close(permitted, plain)
    assert not torch.equal(logits, random(12, 5) * 2)
    torch.testing.assert_close(logits.detach() * 2, plain)


def test_a_permitted_gradient_takes_no_memory(compiled):
    leaf = random(512, 1000).requires_grad_()
    student, teacher = leaf * 1, random(512, 1000, seed=1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss = soft_cross_entropy(student, teacher, grad_inplace=True)
    taken = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert sum(n for n in taken if n > 0) < 4096
    loss.backward()
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_whoever_kept_the_logits_gets_torchs_error(compiled, reduction):
    leaf = random(6, 5).requires_grad_()
    logits = leaf.tanh()  # its derivative is made of its result
    loss = soft_cross_entropy(logits, random(6, 5, seed=1), reduction=reduction, grad_inplace=True).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


UNFIT = {
    "expanded rows": lambda leaf: (leaf[:1] * 2).expand(12, 5),
    "overlapping windows": lambda leaf: (leaf * 2).reshape(-1).unfold(0, 5, 1)[:12],
    "other last stride": lambda leaf: (leaf * 2).t().contiguous().t(),
}


@pytest.mark.parametrize("plan", ["gradient in forward", "a loss per row"])
@pytest.mark.parametrize("case", UNFIT)
def test_logits_whose_memory_is_unfit_are_left_alone(compiled, case, plan):
    plain, permitted, logits = in_place_pair(UNFIT[case], **PLANS[plan])
    torch.testing.assert_close(permitted, plain)
    torch.testing.assert_close(logits, UNFIT[case](random(12, 5)), atol=0, rtol=0)


def test_logits_that_are_the_teachers_too_are_left_alone(compiled):
    leaf = random(6, 5).requires_grad_()
    logits = leaf * 2
    loss = soft_cross_entropy(logits, logits.detach()[torch.arange(6)], grad_inplace=True)  # a copy: fit
    assert not torch.equal(logits, leaf * 2)
    logits = leaf * 2
    loss = soft_cross_entropy(logits, logits.detach(), kind="rkl", grad_inplace=True)
    assert torch.equal(logits, leaf * 2)
    loss.backward()


def test_permission_is_not_used_without_gradient_nor_in_a_kept_graph(compiled):
    leaf, teacher = random(6, 5).requires_grad_(), random(6, 5, seed=1)
    for logits in (leaf.detach() * 2, random(6, 5)):
        before = logits.clone()
        soft_cross_entropy(logits, teacher, grad_inplace=True)
        assert torch.equal(logits, before)
    logits = leaf * 2
    loss = soft_cross_entropy(logits, teacher, reduction="none", grad_inplace=True).sum()
    first = torch.autograd.grad(loss, leaf, retain_graph=True)[0]
    assert torch.equal(logits, leaf * 2)
    torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], first)
    logits = leaf * 2
    loss = soft_cross_entropy(logits, teacher, grad_inplace=True)
    first = torch.autograd.grad(loss * 2, leaf, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss * 2, leaf)[0], first)


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x[1:], lambda x: x.view(-1, 5)])
def test_permission_to_write_over_a_parameter_is_refused(any_backend, view):
    with pytest.raises(ValueError, match=r"grad_inplace: expected student_logits computed.*received a.*leaf"):
        loss_of(view(random(6, 5).requires_grad_()), grad_inplace=True)


@pytest.mark.parametrize("plan", PLANS)
def test_logits_are_never_written_without_permission(any_backend, plan):
    leaf = random(6, 5).requires_grad_()
    logits, teacher = leaf * 2, random(6, 5, seed=1)
    before, version = logits.clone(), logits._version
    loss_of(logits, **PLANS[plan]).sum().backward()
    assert torch.equal(logits, before) and logits._version == version
    assert torch.equal(teacher, random(6, 5, seed=1))


def test_strided_logits_take_a_gradient_in_place(compiled):
    """Shifted language-model logits: rows with two strides."""
    leaf, teacher = random(3, 5, 7).requires_grad_(), random(3, 5, 7, seed=1)
    labels = torch.arange(12).reshape(3, 4) % 7

    def gradient(**options):
        logits = leaf * 2
        loss = soft_cross_entropy(logits[:, :-1], teacher[:, 1:], labels, alpha=0.5, **options)
        return torch.autograd.grad(loss, leaf)[0], logits

    plain, _ = gradient()
    permitted, logits = gradient(grad_inplace=True)
    torch.testing.assert_close(permitted, plain)
    torch.testing.assert_close(logits.detach()[:, :-1] * 2, plain[:, :-1])
    assert torch.equal(logits.detach()[:, -1], 2 * leaf.detach()[:, -1])


def test_more_members_than_a_kernel_takes_are_averaged_by_the_reference():
    need_compiled()
    student = random(4, 5, dtype=torch.float64).requires_grad_()
    members = random(native.MOST_MEMBERS + 1, 4, 5, seed=1, dtype=torch.float64)
    loss = soft_cross_entropy(student, members, kind="kl")
    expected = soft_cross_entropy(student, members.softmax(-1).mean(0).log(), kind="kl")
    torch.testing.assert_close(loss, expected)
    assert math.isfinite(torch.autograd.grad(loss, student)[0].sum())
