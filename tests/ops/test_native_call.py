"""The structure that compiled backends take: its layout, how tensors of any strides reach it, and what it refuses."""

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_backends import need_compiled, use

from kdtoolkit.ops import KINDS, SparseTeacher, cpu_backend, native, soft_cross_entropy, soft_cross_entropy_reference
from kdtoolkit.ops.arguments import check_arguments
from kdtoolkit.ops.call import packed

HEADER = (Path(native.__file__).parent / "csrc" / "call.cuh").read_text(encoding="utf-8")
CODE = re.sub(r"//[^\n]*", "", HEADER)
few = settings(max_examples=60, deadline=None)


@pytest.fixture
def compiled(monkeypatch):
    use("cpu", monkeypatch)


def random(*shape, seed=0, dtype=torch.float32):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


def fields_of(student, teacher, labels=None, *, gradient=None, grad_output=None, **options):
    call = check_arguments(student, teacher, labels, **options)
    data, kept = packed(call, gradient=gradient, grad_output=grad_output)
    return dict(zip(native.FIELDS, native.LAYOUT.unpack(data))), kept


def test_fields_are_those_of_the_header_in_name_order_and_type():
    body = re.search(r"struct kd_call \{(.*?)\n\};", CODE, re.S)[1]
    types = {"kd_int": "q", "double": "d"}
    declared = {}
    for statement in body.split(";"):
        if not statement.strip():
            continue
        kind, names = re.fullmatch(r"\s*((?:const )?\w+ ?\*?)\s+(.*)", statement, re.S).groups()
        for name in names.split(","):
            declared[name.strip()] = "P" if kind.endswith("*") else types[kind]
    assert list(declared.items()) == list(native.FIELDS.items())
    assert 8 * len(native.FIELDS) == native.SIZE


def test_enumerations_are_those_of_the_header():
    declared = {}
    for body in re.findall(r"enum \{(.*?)\}", CODE, re.S):
        value = -1
        for item in filter(None, (part.strip() for part in body.split(","))):
            name, _, given_value = (part.strip() for part in item.partition("="))
            value = int(given_value) if given_value else value + 1
            declared[name] = value
    assert declared == native.CODES
    assert set(native.TAILS.values()) == {
        declared[f"KD_{x}"] for x in ("DENSE", "BUCKET", "UNIFORM", "RENORM", "TRUNCATED")
    }
    assert {"none": declared["KD_EACH"], "sum": declared["KD_SUM"], "mean": declared["KD_MEAN"]} == native.REDUCTIONS
    for dtype, code in native.TYPES.items():
        assert declared[f"KD_{str(dtype).removeprefix('torch.').upper()}"] == code
    assert sorted(native.BAD_VALUES) == sorted(v for k, v in declared.items() if k.startswith("KD_BAD") and v > 0)


def test_every_option_reaches_its_field():
    student, teacher = random(4, 5), random(2, 4, 3, seed=1, dtype=torch.bfloat16)
    labels, codes = torch.tensor([0, 1, 2, 0], dtype=torch.int32), torch.tensor([0, 1, 3, 4], dtype=torch.uint8)
    temperature, alpha = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    mask, start = torch.tensor([True, False, True, True]), torch.tensor([0, 1, 2, 0])
    count = torch.tensor([3, 3, 3, 2], dtype=torch.int32)
    shares, total = torch.rand(2, 4), torch.tensor(3.0)
    gradient, incoming = torch.empty(4, 5), torch.tensor(2.0)
    found, kept = fields_of(
        student, teacher, labels, kind=codes, temperature=temperature, alpha=alpha, beta=0.25, weight=mask,
        columns=(start, count), ignore_index=-7, ignore="hard", normalizer=total, teacher_weights=shares,
        scale_T2=False, gradient=gradient, grad_output=incoming,
    )  # fmt: skip
    expected = {
        "size": native.SIZE, "rows": 4, "inner": 4, "classes": 5, "width": 3, "members": 2, "listed": 0,
        "student": student.data_ptr(), "student_type": 0, "student_outer": 0, "student_inner": 5,
        "gradient": gradient.data_ptr(), "gradient_inner": 5, "teacher": teacher.data_ptr(), "teacher_type": 3,
        "teacher_inner": 3, "teacher_member": 12, "tail": 0, "labels": labels.data_ptr(), "label_bytes": 4,
        "ignore_index": -7, "ignore_row": 0, "start": start.data_ptr(), "temperatures": temperature.data_ptr(),
        "betas": 0, "beta": 0.25, "shares": shares.data_ptr(), "share_member": 4, "share_row": 1, "scale_T2": 0,
        "reduction": 2, "grad_output": incoming.data_ptr(), "grad_output_stride": 0, "loss": 0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    made = {tensor.data_ptr(): tensor for tensor in kept}
    assert made[found["kinds"]].tolist() == codes.tolist() and made[found["kinds"]].dtype == torch.int64
    assert made[found["count"]].tolist() == count.tolist() and made[found["count"]].dtype == torch.int64
    assert made[found["alphas"]].dtype == made[found["weights"]].dtype == torch.float32
    assert made[found["weights"]].tolist() == [1.0, 0.0, 1.0, 1.0]
    sparse = SparseTeacher(torch.tensor([[2, 0]] * 4), probs=torch.tensor([[0.2, 0.7]] * 4), tail="uniform")
    found, kept = fields_of(student.double(), sparse, reduction="sum")
    made = {tensor.data_ptr(): tensor for tensor in (*kept, *sparse.ordered(torch.float64))}
    assert (found["members"], found["listed"], found["tail"], found["listed_is_log"]) == (0, 2, 2, 0)
    assert made[found["listed_index"]].tolist() == [[0, 2]] * 4 and found["reduction"] == 1
    torch.testing.assert_close(made[found["listed_value"]], torch.tensor([[0.7, 0.2]] * 4).double())


def test_a_sparse_teacher_is_sorted_once_and_again_after_a_change():
    values, indices = random(4, 9, seed=1).softmax(-1).topk(3)
    teacher = SparseTeacher(indices, probs=values)
    first = teacher.ordered(torch.float32)
    assert teacher.ordered(torch.float32)[0] is first[0]
    assert teacher.ordered(torch.float64)[1].dtype == torch.float64
    values.mul_(0.5)
    torch.testing.assert_close(teacher.ordered(torch.float32)[1], first[1] * 0.5)


NOT_COPIED = {
    "plain": lambda x: x,
    "shifted": lambda x: x[:, :-1],
    "every second": lambda x: x[::2],
    "other order of rows": lambda x: x.transpose(0, 1),
    "middle dimension of one": lambda x: x[:, 1:2],
    "one row": lambda x: x[1, 1],
    "four dimensions, one cut": lambda x: x.unflatten(0, (2, 3))[:, :, :-1],
    "columns of a wider matrix": lambda x: x[..., 1:],
    "expanded": lambda x: x[:1].expand(5, -1, -1),
}


@pytest.mark.parametrize("case", NOT_COPIED)
def test_rows_with_two_strides_are_read_where_they_lie(compiled, case):
    student, teacher = NOT_COPIED[case](random(6, 4, 5)), NOT_COPIED[case](random(6, 4, 5, seed=1))
    found, kept = fields_of(student, teacher)
    assert kept == [] and found["student"] == student.data_ptr() and found["teacher"] == teacher.data_ptr()
    agree(student, teacher)


def test_the_last_of_one_class_may_have_any_stride():
    assert fields_of(random(6, 3)[:, :1], random(6, 3)[:, 1:2])[1] == []
    assert fields_of(random(6, 3).t()[1:2].t(), random(6, 3)[:, 1:2])[1] == []


def test_only_the_matrix_that_does_not_fit_is_copied(compiled):
    student, teacher = random(3, 4, 5, 6), random(6, 5, 4, 3, seed=1).permute(3, 2, 1, 0)
    found, kept = fields_of(student, teacher)
    assert len(kept) == 1 and found["student"] == student.data_ptr() and found["teacher"] == kept[0].data_ptr()
    agree(student, teacher)
    found, kept = fields_of(teacher, student)
    assert len(kept) == 1 and found["teacher"] == student.data_ptr()
    agree(teacher, student)


def agree(student, teacher, labels=None, **options):
    """Loss and gradient of the compiled op and of the reference."""
    results = []
    for function in (soft_cross_entropy, soft_cross_entropy_reference):
        leaf = student.detach().requires_grad_()  # the same strides
        loss = function(leaf, teacher, labels, reduction="none", **options)
        weights = torch.linspace(1, 2, max(1, loss.numel())).reshape(loss.shape)
        results.append((loss.detach(), torch.autograd.grad((loss * weights).sum(), leaf)[0]))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@few
@given(st.data())
def test_any_strides_give_what_the_reference_gives(data):
    need_compiled()
    dimensions = data.draw(st.integers(1, 5))
    shape = [data.draw(st.integers(1, 3)) for _ in range(dimensions)]

    def tensor(shape, seed):
        order = data.draw(st.permutations(range(len(shape))))
        steps = [data.draw(st.sampled_from([1, 1, 2])) for _ in shape]
        room = random(*(shape[place] * steps[place] for place in order), seed=seed)
        room = room.permute([order.index(place) for place in range(len(shape))])
        return room[tuple(slice(None, None, step) for step in steps)]

    members = data.draw(st.sampled_from([0, 2]))
    agree(tensor(shape, 0), tensor([members, *shape] if members else shape, 1), temperature=2.0)


def test_values_per_row_may_have_gaps_and_other_dtypes(compiled):
    student, teacher, gaps = random(6, 5), random(6, 5, seed=1), torch.rand(6, 2) + 0.5
    agree(student, teacher, torch.arange(12)[::2] % 5, alpha=gaps[:, 0] / 2, temperature=gaps[:, 1], weight=gaps[:, 0])
    agree(student, teacher, torch.tensor(3), alpha=torch.tensor(0.5).double(), weight=torch.tensor(2).expand(6))
    agree(student.reshape(2, 3, 5), teacher.reshape(2, 3, 5), torch.arange(6).reshape(3, 2).t() % 5, alpha=0.5)


@pytest.mark.parametrize("expanded", [True, False])
def test_what_comes_in_per_row_may_be_one_number_expanded(compiled, expanded):
    student, teacher = random(2, 3, 5).requires_grad_(), random(2, 3, 5, seed=1)
    incoming = torch.tensor(2.0).expand(2, 3) if expanded else torch.rand(3, 2).t()
    gradients = []
    for function in (soft_cross_entropy, soft_cross_entropy_reference):
        loss = function(student, teacher, reduction="none")
        gradients.append(torch.autograd.grad(loss, student, incoming)[0])
    torch.testing.assert_close(*gradients)


BAD = {
    "KD_BAD_KIND": {"kind": torch.tensor([0, 9])},
    "KD_BAD_TEMPERATURE": {"temperature": torch.tensor([1.0, math.nan])},
    "KD_BAD_ALPHA": {"alpha": torch.tensor([0.5, 1.5])},
    "KD_BAD_BETA": {"kind": "jsd", "beta": torch.tensor([0.5, 1.0])},
    "KD_BAD_WEIGHT": {"weight": torch.tensor([1.0, math.inf])},
    "KD_BAD_COLUMNS": {"columns": (torch.tensor([0, 2]), torch.tensor([2, 2]))},
    "KD_BAD_LABEL": {"labels": torch.tensor([0, 3]), "alpha": 0.5},
    "KD_BAD_BINARY": {"kind": torch.tensor([0, KINDS["bce"]]), "alpha": torch.tensor([0.5, 0.5])},
    "KD_BAD_SHARES": {"teacher_weights": torch.tensor([[1.0, 0.0]])},
    "KD_BAD_LISTED": {},
}


@pytest.mark.parametrize("code", BAD)
def test_the_kernel_sees_each_wrong_value_and_python_says_which(compiled, code, monkeypatch):
    options = {"labels": torch.tensor([0, 1]), **BAD[code]}
    teacher = random(2, 3, seed=1)
    if code == "KD_BAD_LISTED":
        teacher = SparseTeacher(torch.tensor([[0, 1], [1, 1]]), probs=torch.full((2, 2), 0.5))
    with pytest.raises(ValueError, match=r"expected .*received .*(row 1|3)") as precise:
        soft_cross_entropy(random(2, 3), teacher, **options)
    assert "values in range" not in str(precise.value)
    monkeypatch.setattr(cpu_backend, "check_values", lambda call: None)
    name = native.BAD_VALUES[native.CODES[code]]
    with pytest.raises(ValueError, match=f"{name}: expected values in range, received another in row 1"):
        soft_cross_entropy(random(2, 3), teacher, **options)


def test_weights_of_members_may_all_be_zero_where_no_teacher_is_read(compiled):
    shares, weight = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([1.0, 0.0, 1.0])
    options = {"weight": weight, "alpha": torch.tensor([0.5, 0.5, 1.0]), "teacher_weights": shares}
    labels = torch.tensor([0, 1, 2])
    agree(random(3, 4), random(1, 3, 4, seed=1), labels, **options)
    for function in (soft_cross_entropy, soft_cross_entropy_reference):
        with pytest.raises(ValueError, match=r"not all 0, received \[0.0\] in row 2"):
            function(random(3, 4), random(1, 3, 4, seed=1), labels, **{**options, "alpha": 0.5})


def test_a_call_of_another_version_is_refused(compiled):
    call = check_arguments(random(2, 3), random(2, 3))
    data = (native.SIZE + 8).to_bytes(8, "little") + packed(call).data[8:]
    assert native.library().compute(data) == native.CODES["KD_BAD_VERSION"]
    with pytest.raises(RuntimeError, match="code -1"):
        cpu_backend.refuse(call, -1, 0)
    with pytest.raises(MemoryError):
        cpu_backend.refuse(call, native.NO_MEMORY, 0)
