"""The op inside torch.compile, torch.export and torch's own checks of operators."""

import shutil

import pytest
import torch
from op_backends import BACKENDS, need_compiled, use
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from kdtoolkit.ops import KINDS, SparseTeacher, library_op, soft_cross_entropy
from kdtoolkit.ops.arguments import check_arguments

# torch's compiler uses what torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
CLASSES = 5


@pytest.fixture(autouse=True)
def nothing_compiled_yet():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def random(*shape, seed=0, dtype=torch.float32):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


def case(name, rows):
    """(teacher, labels, options) of a call with that many rows."""
    teacher, labels = random(rows, CLASSES, seed=1), torch.arange(rows) % CLASSES
    values, indices = teacher.softmax(-1).topk(2)
    each = torch.Generator().manual_seed(3)
    cases = {
        "soft": (teacher, None, {"temperature": 2.0}),
        "mixed": (teacher, labels, {"alpha": 0.3, "kind": "kl", "temperature": 2.0}),
        "gold alone": (None, labels, {"alpha": 1.0}),
        "per row": (
            teacher,
            labels,
            {
                "kind": torch.arange(rows) % (len(KINDS) - 1), "alpha": torch.rand(rows, generator=each),
                "temperature": 1 + torch.rand(rows, generator=each), "weight": torch.rand(rows, generator=each),
                "beta": 0.1 + 0.8 * torch.rand(rows, generator=each), "ignore": "hard",
            },
        ),
        "columns": (
            teacher[:, :3],
            labels % 2,
            {"columns": (torch.arange(rows) % 3, 2 + torch.arange(rows) % 2), "alpha": 0.5, "reduction": "none"},
        ),
        "members": ([teacher, teacher.flip(0)], None, {"kind": "jsd", "teacher_weights": torch.tensor([1.0, 2.0])}),
        "sparse": (SparseTeacher(indices, probs=values), None, {"kind": "rkl"}),
        "sparse logarithms": (SparseTeacher(indices, logprobs=values.log(), tail="uniform"), labels, {"alpha": 0.5}),
        "a loss per row": (teacher, labels, {"alpha": 0.3, "reduction": "none"}),
        "sum over a number": (teacher, None, {"normalizer": 7.0}),
    }  # fmt: skip
    return cases[name]


BRIEF = ["mixed", "per row", "sparse"]
"""What the reference is tried with: it is traced as any program is."""
CASES = [
    "soft", "mixed", "gold alone", "per row", "columns", "members", "sparse", "sparse logarithms", "a loss per row",
    "sum over a number",
]  # fmt: skip


def on_backends(names):
    """Runs a test on the compiled backend with all of these cases, on the reference with the brief ones."""
    pairs = [(backend, name) for backend in BACKENDS for name in names if backend == "cpu" or name in BRIEF]
    return pytest.mark.parametrize(("backend", "name"), pairs)


def check(compiled, name, dtypes=(torch.float32,), rows=(6,)):
    for dtype in dtypes:
        for count in rows:
            student = random(count, CLASSES, dtype=dtype).requires_grad_()
            teacher, labels, options = case(name, count)
            results = compiled(student, teacher, labels, options)
            wanted = soft_cross_entropy(student * 2.0, teacher, labels, return_parts=True, **options)
            assert not results[1].requires_grad and not results[2].requires_grad
            for one, other in zip(results, wanted):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
            incoming = torch.linspace(0.5, 1.5, results[0].numel()).reshape(results[0].shape)
            gradients = [torch.autograd.grad(x[0], student, incoming)[0] for x in (results, wanted)]
            tolerance = 1e-5 if dtype == torch.float32 else 1e-2
            torch.testing.assert_close(*gradients, atol=tolerance, rtol=tolerance)


def call(student, teacher, labels, options):
    return soft_cross_entropy(student * 2.0, teacher, labels, return_parts=True, **options)


@on_backends(CASES)
def test_a_compiled_program_holds_the_whole_op_and_gives_the_same(backend, name, monkeypatch):
    use(backend, monkeypatch)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    dtypes = (torch.float32, torch.float16, torch.bfloat16) if name in BRIEF else (torch.float32,)
    check(compiled, name, dtypes=dtypes)


@on_backends(["per row", "columns", "a loss per row"])
def test_numbers_of_rows_may_change_without_compiling_anew(backend, name, monkeypatch):
    use(backend, monkeypatch)
    programs = []

    def compiler(program, inputs):
        programs.append(program)
        return torch._dynamo.lookup_backend("aot_eager")(program, inputs)

    compiled = torch.compile(call, backend=compiler, fullgraph=True, dynamic=True)
    check(compiled, name, rows=(4,))
    made = len(programs)
    check(compiled, name, rows=(6, 9))
    assert 0 < len(programs) == made


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs g++")
@on_backends(["mixed", "a loss per row"])
def test_inductor_compiles_the_op(backend, name, monkeypatch):
    use(backend, monkeypatch)
    check(torch.compile(call, fullgraph=True), name, dtypes=(torch.float32, torch.bfloat16))


@on_backends(["mixed", "per row", "columns", "sparse"])
def test_an_exported_program_gives_the_same(backend, name, monkeypatch):
    use(backend, monkeypatch)
    teacher, labels, options = case(name, 6)

    class Loss(torch.nn.Module):
        def forward(self, student):
            return soft_cross_entropy(student, teacher, labels, **options)

    student = random(6, CLASSES)
    program = torch.export.export(Loss(), (student,)).module()
    torch.testing.assert_close(program(student), Loss()(student))


@pytest.mark.parametrize("name", CASES)
def test_torchs_own_checks_of_operators_pass(name, monkeypatch):
    use("cpu", monkeypatch)
    teacher, labels, options = case(name, 6)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        student = random(6, CLASSES, dtype=dtype).requires_grad_()
        arguments = check_arguments(student, teacher, labels, **options)
        wanted = dtype != torch.float16 and options.get("reduction") != "none"
        inputs = (*library_op.inputs_of(arguments), wanted)
        torch.library.opcheck(torch.ops.kdtoolkit.soft_cross_entropy.default, inputs)
        incoming = torch.ones(6 if options.get("reduction") == "none" else (), dtype=arguments.number)
        detached = library_op.inputs_of(arguments._replace(student=student.detach()))
        torch.library.opcheck(torch.ops.kdtoolkit.soft_cross_entropy_backward.default, (incoming, *detached))


def test_values_out_of_range_are_refused_when_a_compiled_program_runs(monkeypatch):
    use("cpu", monkeypatch)
    compiled = torch.compile(
        lambda z, v, y: soft_cross_entropy(z, v, y, alpha=0.5), backend="aot_eager", fullgraph=True
    )
    with pytest.raises(ValueError, match=r"labels: expected class numbers from 0 to 4.*received 9 in row 1"):
        compiled(random(2, CLASSES), random(2, CLASSES, seed=1), torch.tensor([1, 9]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_writing_over_the_logits_is_refused_in_compiled_programs(backend, monkeypatch):
    use(backend, monkeypatch)
    compiled = torch.compile(
        lambda z, v: soft_cross_entropy(z * 2, v, grad_inplace=True), backend="aot_eager", fullgraph=True
    )
    with pytest.raises(Exception, match=r"grad_inplace: expected False under torch.compile"):
        compiled(random(2, CLASSES).requires_grad_(), random(2, CLASSES, seed=1))


def test_tensors_without_memory_get_results_without_memory(monkeypatch):
    use("cpu", monkeypatch)
    for reduction in ("mean", "none"):
        with FakeTensorMode():
            student = torch.empty(6, CLASSES, requires_grad=True)
            loss = soft_cross_entropy(student, torch.empty(6, CLASSES), reduction=reduction)
            (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert loss.shape == ((6,) if reduction == "none" else ()) and gradient.shape == student.shape


def test_recorders_see_one_operator_and_onlookers_the_usual_way(monkeypatch):
    use("cpu", monkeypatch)
    student, teacher = random(6, CLASSES), random(6, CLASSES, seed=1)
    program = make_fx(lambda z: soft_cross_entropy(z * 2, teacher))(student)
    assert torch.ops.kdtoolkit.soft_cross_entropy.default in [node.target for node in program.graph.nodes]
    torch.testing.assert_close(program(teacher * 0.5), soft_cross_entropy(teacher, teacher))
    seen = []

    class Onlooker(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            seen.append(str(operator))
            return operator(*args, **(kwargs or {}))

    with Onlooker():
        soft_cross_entropy(student.requires_grad_(), teacher).backward()
    assert seen and not any("kdtoolkit" in name for name in seen)


def test_a_class_of_tensors_keeps_its_class(monkeypatch):
    use("cpu", monkeypatch)

    class Named(torch.Tensor):
        pass

    student, teacher = random(6, CLASSES).as_subclass(Named).requires_grad_(), random(6, CLASSES, seed=1)
    loss = soft_cross_entropy(student, teacher)
    assert type(loss) is Named
    plain = student.detach().as_subclass(torch.Tensor).requires_grad_()
    wanted = torch.autograd.grad(soft_cross_entropy(plain, teacher), plain)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0].as_subclass(torch.Tensor), wanted)


def test_the_operator_refuses_a_gradient_of_its_gradient(monkeypatch):
    use("cpu", monkeypatch)
    student = random(4, CLASSES).requires_grad_()
    for reduction in ("mean", "none"):
        arguments = check_arguments(student, random(4, CLASSES, seed=1), reduction=reduction)
        loss = library_op.call(arguments)[0].sum()
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            torch.autograd.grad(loss, student, create_graph=True)


def test_a_program_traced_for_a_compiled_op_says_so_where_there_is_none(monkeypatch):
    need_compiled()
    arguments = check_arguments(random(4, CLASSES), random(4, CLASSES, seed=1))
    use("reference", monkeypatch)
    with pytest.raises(RuntimeError, match=r"traced where a compiled op was in use.*doctor"):
        library_op.call(arguments)
