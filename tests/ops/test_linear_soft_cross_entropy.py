"""The linear layer with its loss by chunks, against the layer and the reference, in value and all gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from op_backends import BACKENDS, need_compiled, use
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from kdtoolkit.ops import (
    KINDS,
    SparseTeacher,
    linear_soft_cross_entropy,
    native,
    soft_cross_entropy,
    soft_cross_entropy_reference,
)
from kdtoolkit.ops.linear_chunks import CHUNK_BYTES, usual_chunk

WIDTH, CLASSES, TEACHER_WIDTH = 6, 9, 4
NAMES = ("hidden", "weight", "bias")
# torch's own compiler and forward-mode code use what torch deprecates.
torch_warns = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(params=BACKENDS)
def any_backend(request, monkeypatch):
    use(request.param, monkeypatch)
    return request.param


def random(*shape, seed=0, scale=1.0, dtype=torch.float64):
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (numbers * scale).to(dtype)


def layer(*rows, dtype=torch.float64, classes=CLASSES, bias=True):
    """Leaves: hidden states of that shape of rows, weight, bias."""
    made = [random(*rows, WIDTH, dtype=dtype), random(classes, WIDTH, seed=1, dtype=dtype)]
    made += [random(classes, seed=2, dtype=dtype)] if bias else []
    return [value.requires_grad_() for value in made]


def teachers(form, rows):
    """(teacher_logits, arguments of a teacher made of hidden states) of a form, and its logits for the reference."""
    logits = random(*rows, CLASSES, seed=3, scale=2.0)
    if form == "dense":
        return logits, {}, logits
    if form == "half":
        return logits.bfloat16(), {}, logits.bfloat16()
    if form == "shifted":  # no one stride leads through its rows
        padded = random(*[size + 1 for size in rows], CLASSES, seed=3, scale=2.0)
        shifted = padded[tuple(slice(1, None) for _ in rows)]
        return shifted, {}, shifted
    if form == "ensemble":
        stack = random(3, *rows, CLASSES, seed=3, scale=2.0)
        return stack, {}, stack
    if form == "sparse":
        values, indices = (logits / 2).softmax(-1).topk(3)
        sparse = SparseTeacher(indices, probs=values, tail="bucket", temperature=2.0)
        return sparse, {}, sparse
    made = random(*rows, TEACHER_WIDTH, seed=4), random(CLASSES, TEACHER_WIDTH, seed=5), random(CLASSES, seed=6)
    given = dict(zip(("teacher_hidden", "teacher_weight", "teacher_bias"), made))
    return None, given, F.linear(*made)


FORMS = ["dense", "half", "shifted", "ensemble", "sparse", "hidden states"]


def composed(leaves, teacher, labels=None, row_weight=None, **options):
    """What the function must equal."""
    return soft_cross_entropy_reference(F.linear(*leaves), teacher, labels, weight=row_weight, **options)


def gradients(loss, leaves, incoming=None):
    incoming = torch.ones_like(loss) if incoming is None else incoming
    return torch.autograd.grad(loss, leaves, incoming)


def incoming_for(loss):
    return 0.5 + torch.rand(loss.shape, generator=torch.Generator().manual_seed(7), dtype=loss.dtype)


each_row = st.sampled_from(["one", "each"])


@st.composite
def calls(draw):
    rows = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    form = draw(st.sampled_from(FORMS))
    allowed = ["ce", "kl", "rkl", "jsd", "tvd"] if form == "sparse" else sorted(KINDS)
    kind = draw(st.sampled_from(allowed))
    numbers = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def uniform(low, high):
        return low + (high - low) * torch.rand(rows, generator=numbers, dtype=torch.float64)

    options = {"kind": kind, "scale_T2": draw(st.booleans()), "ignore": draw(st.sampled_from(["row", "hard"]))}
    options["temperature"] = 2.0 if form == "sparse" or draw(st.booleans()) else uniform(0.5, 3.0)
    if kind == "bce" or draw(st.booleans()):
        options["alpha"] = 0.0
    else:
        options["alpha"] = draw(st.sampled_from([0.3, 1.0, uniform(0.0, 1.0), (uniform(0, 1) > 0.5).double()]))
    options["beta"] = 0.3 if draw(st.booleans()) else uniform(0.2, 0.8)
    options["row_weight"] = draw(st.sampled_from([None, 0.7, 0.0, uniform(0.0, 1.0), uniform(0, 1) > 0.5]))
    options["reduction"] = draw(st.sampled_from(["mean", "sum", "none"]))
    if options["reduction"] == "mean":
        options["normalizer"] = draw(st.sampled_from([None, 3.5, torch.tensor(2.5, dtype=torch.float64)]))
    if form == "ensemble":
        weights = [None, [0.2, 0.5, 0.3], torch.stack([uniform(0.1, 1.0) for _ in range(3)])]
        options["teacher_weights"] = draw(st.sampled_from(weights))
    labels = torch.randint(0, CLASSES, rows, generator=numbers)
    labels = torch.where(torch.rand(rows, generator=numbers) < 0.3, -100, labels)
    return rows, form, labels, options, draw(st.booleans()), draw(st.integers(1, 12))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=150)
@given(call=calls())
def test_it_is_the_layer_followed_by_the_loss_however_rows_are_cut(backend, call):
    rows, form, labels, options, bias, chunk_rows = call
    leaves = layer(*rows, bias=bias)
    teacher, hidden_teacher, logits = teachers(form, rows)
    with pytest.MonkeyPatch.context() as patch:
        use(backend, patch)
        found = linear_soft_cross_entropy(
            *leaves, *[None] * (not bias), teacher, labels, **hidden_teacher, chunk_rows=chunk_rows, return_parts=True,
            **options,
        )  # fmt: skip
        incoming = incoming_for(found[0])
        found_gradients = gradients(found[0], leaves, incoming)
    expected = composed(leaves, logits, labels, return_parts=True, **options)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    for name, ours, theirs in zip(NAMES, found_gradients, gradients(expected[0], leaves, incoming)):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("form", ["dense", "hidden states"])
def test_all_dtypes_agree_with_float64_to_their_own_precision(any_backend, dtype, reduction, form):
    leaves = layer(40, dtype=dtype)
    exact = [value.detach().double().requires_grad_() for value in leaves]
    teacher, hidden_teacher, logits = teachers(form, (40,))
    if teacher is None:
        hidden_teacher = {name: value.to(dtype) for name, value in hidden_teacher.items()}
        logits = F.linear(*[value.double() for value in hidden_teacher.values()])
    options = {"temperature": 2.0, "kind": "kl", "reduction": reduction}
    loss = linear_soft_cross_entropy(*leaves, teacher, chunk_rows=7, **hidden_teacher, **options)
    assert loss.dtype == torch.float32
    expected = composed(exact, logits, **options)
    incoming = incoming_for(expected)
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    torch.testing.assert_close(loss.double(), expected, atol=tolerance, rtol=tolerance)
    found = gradients(loss, leaves, incoming.float())
    for ours, theirs in zip(found, gradients(expected, exact, incoming)):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_gradients_of_the_weight_are_added_up_in_float32(any_backend):
    """Where bfloat16 would stop counting: 1,024 rows give the same small gradient, each in a chunk of its own."""
    rows = 1024
    hidden = torch.ones(rows, WIDTH, dtype=torch.bfloat16)
    weight = torch.zeros(CLASSES, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.zeros(CLASSES, dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.zeros(rows, CLASSES)
    teacher[:, 0] = 1.0
    loss = linear_soft_cross_entropy(hidden, weight, bias, teacher, reduction="sum", chunk_rows=1)
    loss.backward()
    expected = rows * (torch.full((CLASSES,), 1 / CLASSES) - teacher[0].softmax(-1))
    torch.testing.assert_close(weight.grad.float(), expected.unsqueeze(1).expand(-1, WIDTH), rtol=2**-7, atol=0)
    torch.testing.assert_close(bias.grad.float(), expected, rtol=2**-7, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    "trained", [(True, False, False), (False, True, False), (False, False, True), (False, True, True)]
)
def test_only_what_is_trained_gets_a_gradient(any_backend, trained, reduction):
    leaves = [value.detach().requires_grad_(wanted) for value, wanted in zip(layer(5), trained)]
    teacher = random(5, CLASSES, seed=3)
    wanted = [value for value in leaves if value.requires_grad]
    loss = linear_soft_cross_entropy(*leaves, teacher, chunk_rows=2, reduction=reduction)
    expected = composed(leaves, teacher, reduction=reduction)
    for ours, theirs in zip(gradients(loss, wanted), gradients(expected, wanted)):
        torch.testing.assert_close(ours, theirs, atol=1e-13, rtol=1e-13)


def test_without_gradients_there_is_no_graph(any_backend):
    leaves, teacher = layer(5), random(5, CLASSES, seed=3)
    expected = composed(leaves, teacher).detach()
    with torch.no_grad():
        loss = linear_soft_cross_entropy(*leaves, teacher, chunk_rows=2)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected)
    with torch.inference_mode():
        torch.testing.assert_close(linear_soft_cross_entropy(*leaves, teacher, chunk_rows=2), expected)


class Largest(TorchDispatchMode):
    """Sees every tensor that torch makes: `numbers`, the most elements that one of them holds in memory."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.numbers = max(self.numbers, value.untyped_storage().nbytes() // value.element_size())
        return result


@pytest.mark.parametrize("form", ["sparse", "hidden states"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_tensor_holds_the_logits_of_all_rows(any_backend, form, reduction):
    rows, chunk_rows = 64, 8
    leaves = layer(rows)
    teacher, hidden_teacher, _ = teachers(form, (rows,))
    with Largest() as largest:
        loss = linear_soft_cross_entropy(
            *leaves, teacher, **hidden_teacher, temperature=2.0, chunk_rows=chunk_rows, reduction=reduction
        )
        gradients(loss, leaves)
    biggest_input = max(rows * WIDTH, CLASSES * WIDTH)
    assert chunk_rows * CLASSES <= largest.numbers <= biggest_input < rows * CLASSES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["dense", "hidden states"])
def test_memory_of_a_step_is_the_gradients_and_a_chunk(monkeypatch, form, dtype):
    """By torch's own record of the allocations of a compiled step. A second chunk: the hidden teacher's."""
    use("cpu", monkeypatch)
    rows, classes, chunk_rows = 128, 5000, 16
    hidden, weight, bias = layer(rows, classes=classes, dtype=dtype)
    given = {"teacher_logits": random(rows, classes, seed=3, dtype=dtype)}
    if form == "hidden states":
        names, shapes = ("teacher_hidden", "teacher_weight"), ((rows, TEACHER_WIDTH), (classes, TEACHER_WIDTH))
        given = {name: random(*shape, seed=3, dtype=dtype) for name, shape in zip(names, shapes)}
    chunk = chunk_rows * classes * dtype.itemsize
    unavoidable = sum(value.nbytes for value in (hidden, weight, bias))
    if dtype == torch.bfloat16:  # in float32 too, and blocks no larger than a chunk to add to them
        unavoidable += (weight.numel() + bias.numel()) * 4 + chunk
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        linear_soft_cross_entropy(hidden, weight, bias, **given, chunk_rows=chunk_rows).backward()
    held = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert held >= sum(value.nbytes for value in (hidden, weight, bias))  # the record is one of this step
    small = 8 * classes * dtype.itemsize
    assert peak <= unavoidable + chunk * (1 if form == "dense" else 2) + small
    assert peak < rows * classes * dtype.itemsize


@given(rows=st.integers(0, 10**6), classes=st.integers(1, 300_000), itemsize=st.sampled_from([2, 4, 8]))
def test_the_usual_chunk_is_of_a_bounded_size(rows, classes, itemsize):
    row_bytes, size = classes * itemsize, CHUNK_BYTES["cpu"]
    chunk = usual_chunk(rows, row_bytes, size)
    assert chunk % 16 == 0
    assert chunk * row_bytes <= max(size, 16 * row_bytes)
    if rows:
        chunks = math.ceil(rows / chunk)
        assert rows - (chunks - 1) * chunk > chunk - 16 * chunks  # none is much smaller than the others
        assert usual_chunk(rows, row_bytes, size, sums=rows * row_bytes) == rows
        assert usual_chunk(rows, row_bytes, size, sums=rows * row_bytes - 1) == chunk


def test_a_row_that_does_not_count_may_hold_anything(any_backend):
    leaves, teacher, labels = layer(6), random(6, CLASSES, seed=3), torch.arange(6)
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, 1.0])
    labels[3] = -100
    options = {"alpha": 0.5, "row_weight": weights}
    counted = (weights > 0) & (labels != -100)
    expected = linear_soft_cross_entropy(*leaves, teacher, labels, chunk_rows=4, **options)
    expected_gradients = gradients(expected, leaves)
    with torch.no_grad():
        leaves[0][~counted] = math.nan
        teacher[~counted] = math.nan
    loss = linear_soft_cross_entropy(*leaves, teacher, labels, chunk_rows=4, **options)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(gradients(loss, leaves), expected_gradients):
        torch.testing.assert_close(ours, theirs)
    assert (expected_gradients[0][~counted] == 0).all() and (expected_gradients[0][counted] != 0).any()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_where_no_row_counts_loss_and_gradients_are_zero(any_backend, reduction):
    leaves, teacher = layer(4), random(4, CLASSES, seed=3)
    labels = torch.full((4,), -100)
    loss = linear_soft_cross_entropy(*leaves, teacher, labels, alpha=0.5, reduction=reduction, chunk_rows=3)
    assert loss.item() == 0 and loss.requires_grad
    for gradient in gradients(loss, leaves):
        assert (gradient == 0).all()


@pytest.mark.parametrize("rows", [(0,), (3, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("form", FORMS)
def test_no_rows_are_a_loss_of_zero_with_zero_gradients(any_backend, rows, reduction, form):
    leaves = layer(*rows)
    teacher, hidden_teacher, _ = teachers(form, rows)
    loss = linear_soft_cross_entropy(*leaves, teacher, **hidden_teacher, temperature=2.0, reduction=reduction)
    assert loss.shape == (rows if reduction == "none" else ()) and loss.sum().item() == 0
    for gradient, leaf in zip(gradients(loss, leaves), leaves):
        assert gradient.shape == leaf.shape and (gradient == 0).all()


def test_a_bias_of_minus_infinity_masks_a_class(any_backend):
    hidden, weight, bias = layer(6)
    teacher = random(6, CLASSES, seed=3)
    teacher[:, 4] = -math.inf
    with torch.no_grad():
        bias[4] = -math.inf
    left = [0, 1, 2, 3, 5, 6, 7, 8]
    loss = linear_soft_cross_entropy(hidden, weight, bias, teacher, kind="kl", chunk_rows=4)
    found = gradients(loss, [hidden, weight, bias])
    expected = composed([hidden, weight[left], bias[left]], teacher[:, left], kind="kl")
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(found, gradients(expected, [hidden, weight, bias])):
        torch.testing.assert_close(ours, theirs)


def test_layers_may_lie_in_memory_as_they_like(any_backend):
    hidden = random(WIDTH, 4, 3).permute(2, 1, 0).requires_grad_()
    weight = random(WIDTH, CLASSES, seed=1).t().requires_grad_()
    bias = random(CLASSES, 2, seed=2)[:, 0].requires_grad_()
    teacher = random(CLASSES, 4, 3, seed=3).permute(2, 1, 0)
    loss = linear_soft_cross_entropy(hidden, weight, bias, teacher, chunk_rows=5)
    expected = composed([hidden, weight, bias], teacher)
    torch.testing.assert_close(loss, expected)
    leaves = [hidden, weight, bias]
    for ours, theirs in zip(gradients(loss, leaves), gradients(expected, leaves)):
        torch.testing.assert_close(ours, theirs)


def test_it_is_usable_where_the_weight_is_also_an_embedding(any_backend):
    found = []
    for function in (linear_soft_cross_entropy, None):
        table = random(CLASSES, WIDTH, seed=1).requires_grad_()
        hidden = F.embedding(torch.arange(6), table).tanh()
        teacher = random(6, CLASSES, seed=3)
        loss = function(hidden, table, None, teacher, chunk_rows=4) if function else composed([hidden, table], teacher)
        loss.backward()
        found.append(table.grad)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_under_autocast_products_are_as_autocasts_linear_and_the_weights_gradient_keeps_its_dtype(
    any_backend, reduction
):
    leaves, teacher = layer(20, dtype=torch.float32), random(20, CLASSES, seed=3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_soft_cross_entropy(*leaves, teacher, chunk_rows=6, reduction=reduction)
        expected = composed(leaves, teacher, reduction=reduction)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients(loss, leaves), gradients(expected, leaves)):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() <= 2e-2 * theirs.abs().max()
    doubles = layer(4)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear_soft_cross_entropy(*doubles, teacher[:4]).dtype == torch.float64


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_kept_graph_can_be_used_again_and_gives_the_same(any_backend, reduction):
    leaves, teacher = layer(5), random(5, CLASSES, seed=3)
    loss = linear_soft_cross_entropy(*leaves, teacher, reduction=reduction, chunk_rows=2).sum()
    first = torch.autograd.grad(loss * 3, leaves, retain_graph=True)
    copies = [value.clone() for value in first]
    second = torch.autograd.grad(loss * 6, leaves)
    for before, now, later in zip(copies, first, second):
        torch.testing.assert_close(before, now, atol=0, rtol=0)
        torch.testing.assert_close(later, 2 * now)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, leaves)


def test_gradients_become_those_of_the_parameters_without_a_copy(any_backend):
    leaves, teacher = layer(5), random(5, CLASSES, seed=3)
    loss = linear_soft_cross_entropy(*leaves, teacher, chunk_rows=2)
    kept = [value.data_ptr() for value in loss.grad_fn.saved_tensors]
    loss.backward()
    assert [value.grad.data_ptr() for value in leaves] == kept


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_change_before_backward_is_an_error_where_backward_reads_the_layer(any_backend, changed):
    leaves, teacher = layer(5), random(5, CLASSES, seed=3)
    results = []
    for reduction in ("none", "mean"):
        inputs = [value * 1.0 for value in leaves]
        loss = linear_soft_cross_entropy(*inputs, teacher, reduction=reduction, chunk_rows=2).sum()
        expected = gradients(composed(inputs, teacher, reduction=reduction).sum(), inputs)
        inputs[changed].detach().zero_()
        results.append((loss, inputs, expected))
    (each, inputs, _), (mean, others, expected) = results
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(each, inputs)
    for ours, theirs in zip(gradients(mean, others), expected):  # has its gradients already
        torch.testing.assert_close(ours, theirs)


def test_a_checkpoint_around_it_changes_nothing(any_backend):
    leaves, teacher = layer(5), random(5, CLASSES, seed=3)

    def loss_of(*inputs):
        return linear_soft_cross_entropy(*inputs, teacher, chunk_rows=2)

    expected = gradients(loss_of(*leaves), leaves)
    for ours, theirs in zip(gradients(checkpoint(loss_of, *leaves, use_reentrant=False), leaves), expected):
        torch.testing.assert_close(ours, theirs)


def test_the_gradient_is_the_slope_of_the_value(any_backend):
    leaves, teacher, labels = layer(4), random(4, CLASSES, seed=3), torch.arange(4)
    for options in ({}, {"kind": "rkl", "alpha": 0.4}, {"reduction": "none"}):
        assert torch.autograd.gradcheck(
            lambda *inputs, options=options: linear_soft_cross_entropy(
                *inputs, teacher, labels, chunk_rows=3, **options
            ),
            leaves,
        )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_derivative_is_refused(any_backend, reduction):
    leaves, teacher = layer(5), random(5, CLASSES, seed=3)
    loss = linear_soft_cross_entropy(*leaves, teacher, reduction=reduction, chunk_rows=2).sum()
    with pytest.raises(RuntimeError, match=r"^linear_soft_cross_entropy: .*soft_cross_entropy_reference"):
        torch.autograd.grad(loss, leaves, create_graph=True)


@torch_warns
def test_transforms_and_forward_mode_are_refused(any_backend):
    leaves, teacher = layer(5), random(5, CLASSES, seed=3)
    hidden, *rest = [value.detach() for value in leaves]

    def loss_of(hidden):
        return linear_soft_cross_entropy(hidden, *rest, teacher)

    for transform in (lambda: torch.func.grad(loss_of)(hidden), lambda: torch.func.jacrev(loss_of)(hidden)):
        with pytest.raises(RuntimeError, match=r"^linear_soft_cross_entropy: torch.func"):
            transform()
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"^linear_soft_cross_entropy: forward-mode"):
        loss_of(forward_ad.make_dual(hidden, torch.ones_like(hidden)))


@torch_warns
def test_torch_compile_leaves_its_graph_and_refuses_to_be_kept_in_it(any_backend):
    torch._dynamo.reset()
    leaves, teacher = layer(5), random(5, CLASSES, seed=3)

    def step(hidden, weight, bias):
        return linear_soft_cross_entropy(hidden.tanh(), weight, bias, teacher, chunk_rows=2) * 2

    expected = step(*leaves)
    loss = torch.compile(step, backend="aot_eager")(*leaves)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(gradients(loss, leaves), gradients(expected, leaves)):
        torch.testing.assert_close(ours, theirs)
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"linear_soft_cross_entropy: cannot be traced"):
        torch.compile(step, backend="aot_eager", fullgraph=True)(*leaves)

    class Step(torch.nn.Module):
        def forward(self, *inputs):
            return step(*inputs)

    inputs = tuple(value.detach() for value in leaves)
    with pytest.raises(Exception, match=r"linear_soft_cross_entropy: cannot be traced"):
        torch.export.export(Step(), inputs, strict=False)
    torch._dynamo.reset()


def test_tensors_without_memory_have_results_without_memory(any_backend):
    with FakeTensorMode():
        leaves = [torch.empty(shape, requires_grad=True) for shape in ((5, WIDTH), (CLASSES, WIDTH), (CLASSES,))]
        loss = linear_soft_cross_entropy(*leaves, torch.empty(5, CLASSES), chunk_rows=2)
        assert loss.shape == ()
        assert [value.shape for value in gradients(loss, leaves)] == [value.shape for value in leaves]


def test_the_loss_is_that_of_the_public_function_to_the_last_bit_in_one_chunk(monkeypatch):
    need_compiled()
    monkeypatch.setenv("KDTOOLKIT_OP_BACKEND", "cpu")
    leaves, teacher = layer(32, dtype=torch.float32), random(32, CLASSES, seed=3, dtype=torch.float32)
    loss = linear_soft_cross_entropy(*leaves, teacher, reduction="sum", temperature=2.0)
    expected = soft_cross_entropy(F.linear(*leaves), teacher, reduction="sum", temperature=2.0)
    torch.testing.assert_close(loss, expected, atol=0, rtol=1e-6)
    assert native.library() is not None


def wrong_calls():
    hidden, weight, bias = (value.detach() for value in layer(4))
    teacher, labels = random(4, CLASSES, seed=3), torch.zeros(4, dtype=torch.int64)
    own = {"teacher_hidden": random(4, 3), "teacher_weight": random(CLASSES, 3)}

    def call(**changed):
        return {"hidden": hidden, "weight": weight, "bias": bias, "teacher_logits": teacher, **changed}

    return [
        (call(hidden="words"), r"hidden: expected a tensor of float32.*received 'words'"),
        (call(hidden=hidden.long()), r"hidden: expected a tensor of float32.*torch.int64"),
        (call(hidden=torch.tensor(1.0)), r"hidden: expected shape \(\.\.\., width\), received shape \(\)"),
        (call(weight=weight.t()), r"weight: expected shape \(classes, 6\) for hidden .*received shape \(6, 9\)"),
        (call(weight=weight[:0]), r"weight: expected shape \(classes, 6\).*received shape \(0, 6\)"),
        (call(weight=None), r"weight: expected a tensor .*received None"),
        (call(bias=bias[1:]), r"bias: expected shape \(9,\) for weight .*received shape \(8,\)"),
        (call(weight=weight.float()), r"hidden, weight, bias: expected one dtype, .*float64, .*float32, .*float64"),
        (call(hidden=hidden.to("meta")), r"weight: expected device meta, of hidden, received device cpu"),
        (call(teacher_logits=None), r"teacher_logits: expected a teacher unless alpha is exactly 1"),
        (call(teacher_logits=teacher[:3]), r"teacher_logits: expected shape \(4, 9\).*received shape \(3, 9\)"),
        (call(teacher_logits=teacher[:, :5]), r"teacher_logits: expected shape \(4, 9\).*received shape \(4, 5\)"),
        (call(teacher_logits=teacher.clone().requires_grad_()), r"teacher_logits: expected a teacher without gradient"),
        (call(**own), r"teacher_logits: expected None beside a teacher's hidden states"),
        (call(teacher_logits=None, teacher_hidden=random(4, 3)), r"teacher_weight: expected a tensor .*received None"),
        (call(teacher_logits=None, teacher_weight=weight), r"teacher_hidden: expected a tensor .*received None"),
        (
            call(teacher_logits=None, **{**own, "teacher_hidden": random(5, 3)}),
            r"teacher_hidden: expected shape \(4, width\), received shape \(5, 3\)",
        ),
        (
            call(teacher_logits=None, **{**own, "teacher_weight": random(8, 3)}),
            r"teacher_weight: expected shape \(9, 3\) for teacher_hidden .*received shape \(8, 3\)",
        ),
        (
            call(teacher_logits=None, **{**own, "teacher_weight": random(CLASSES, 3).requires_grad_()}),
            r"teacher_weight: expected a teacher without gradient",
        ),
        (
            call(teacher_logits=None, **own, teacher_bias=random(8)),
            r"teacher_bias: expected shape \(9,\) for teacher_weight .*received shape \(8,\)",
        ),
        (
            call(teacher_logits=None, **{**own, "teacher_weight": random(CLASSES, 3).float()}),
            r"teacher_hidden, teacher_weight: expected one dtype",
        ),
        (call(chunk_rows=0), r"chunk_rows: expected a whole number of at least 1, or None, received 0"),
        (call(chunk_rows=2.5), r"chunk_rows: .*received 2.5"),
        (call(chunk_rows=True), r"chunk_rows: .*received True"),
        (call(row_weight=-1.0), r"row_weight: expected finite numbers >= 0, received -1.0"),
        (call(row_weight=torch.tensor([1.0, 1, 1, -2])), r"row_weight: .*received -2.0 in row 3"),
        (call(row_weight=torch.ones(3)), r"row_weight: expected one value per row, shape \(4,\)"),
        (call(labels=labels + torch.tensor([0, 0, 0, 9]), alpha=0.5), r"labels: expected .*received 9 in row 3"),
        (call(alpha=0.5), r"labels: expected class numbers unless alpha is exactly 0"),
        (call(temperature=0.0), r"temperature: expected finite numbers > 0"),
        (call(temperature=torch.tensor([1.0, 1, 1, 0])), r"temperature: .*received 0.0 in row 3"),
        (call(kind="mean"), r"kind: expected one of"),
        (call(kind="bce", alpha=0.5, labels=labels), r"alpha: expected 0 for kind 'bce'"),
        (call(reduction="batchmean"), r"reduction: expected one of"),
        (call(reduction="sum", normalizer=2.0), r"normalizer: expected reduction='mean'"),
        (call(return_parts=1), r"return_parts: expected True or False"),
    ]


@pytest.mark.parametrize("number", range(len(wrong_calls())))
def test_what_does_not_fit_is_refused_with_what_was_expected_and_received(any_backend, number):
    arguments, message = wrong_calls()[number]
    with pytest.raises(ValueError, match=r"^linear_soft_cross_entropy: " + message):
        linear_soft_cross_entropy(**arguments, **({} if "chunk_rows" in arguments else {"chunk_rows": 2}))
