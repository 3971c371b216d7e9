"""Wrong arguments are refused with what was expected and what was received; a backend that is absent is named."""

import inspect
import math

import pytest
import torch

from kdtoolkit.errors import InputError
from kdtoolkit.ops import KINDS, SparseTeacher, backend, soft_cross_entropy
from kdtoolkit.ops.arguments import check_arguments
from kdtoolkit.ops.backend import VARIABLE

Z, V, Y = torch.zeros(4, 3), torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
ROW = torch.ones(4)

WRONG = {
    "integer student": ((Z.long(), V), {}, "student_logits.*received.*int64"),
    "no classes": ((Z[:, :0], V[:, :0]), {}, "at least one class.*received"),
    "other classes": ((Z, torch.zeros(4, 2)), {}, r"expected shape \(4, 3\).*received shape \(4, 2\)"),
    "other rows": ((Z, torch.zeros(5, 3)), {}, r"received shape \(5, 3\)"),
    "no teacher": ((Z, None), {}, "a teacher unless alpha is exactly 1"),
    "teacher with gradient": ((Z, V.clone().requires_grad_()), {}, "requires grad"),
    "uneven members": ((Z, [V, torch.zeros(4, 2)]), {}, "members of shape"),
    "no member": ((Z, []), {}, "no member"),
    "integer teacher": ((Z, V.long()), {}, "teacher_logits"),
    "other device": ((Z, torch.zeros(4, 3, device="meta")), {}, "device cpu.*received device meta"),
    "labels missing": ((Z, V), {"alpha": 0.5}, "labels: expected class numbers.*received None"),
    "labels float": ((Z, V, Y.float()), {"alpha": 0.5}, "labels.*float32"),
    "labels shape": ((Z, V, Y[:3]), {"alpha": 0.5}, r"labels.*\(4,\).*received shape \(3,\)"),
    "label too large": ((Z, V, Y + 2), {"alpha": 0.5}, "from 0 to 2.*received 3 in row 1"),
    "label negative": ((Z, V, Y - 1), {"alpha": 0.5}, "received -1 in row 0"),
    "kind unknown": ((Z, V), {"kind": "cross"}, "kind: expected one of ce, kl.*received 'cross'"),
    "kind code": ((Z, V), {"kind": torch.tensor([0, 1, 2, 9])}, "received 9 in row 3"),
    "kind float": ((Z, V), {"kind": ROW}, "kind"),
    "temperature 0": ((Z, V), {"temperature": 0.0}, "temperature: expected.*> 0, received 0.0"),
    "temperature nan": ((Z, V), {"temperature": math.nan}, "received nan"),
    "temperature inf": ((Z, V), {"temperature": math.inf}, "received inf"),
    "temperature row": ((Z, V), {"temperature": torch.tensor([1.0, 2.0, -1.0, 1.0])}, "received -1.0 in row 2"),
    "temperature text": ((Z, V), {"temperature": "2"}, "temperature.*received '2'"),
    "temperature true": ((Z, V), {"temperature": True}, "received True"),
    "temperature gradient": ((Z, V), {"temperature": torch.tensor(1.0, requires_grad=True)}, "requires grad"),
    "temperature shape": ((Z, V), {"temperature": torch.ones(4, 1)}, r"shape \(4,\), received shape \(4, 1\)"),
    "alpha above": ((Z, V, Y), {"alpha": 1.5}, "alpha: expected numbers from 0 to 1, received 1.5"),
    "alpha row": ((Z, V, Y), {"alpha": torch.tensor([0.0, 0.5, -0.5, 1.0])}, "received -0.5 in row 2"),
    "beta 1": ((Z, V), {"kind": "jsd", "beta": 1.0}, "beta: expected.*received 1.0"),
    "beta 0": ((Z, V), {"kind": "jsd", "beta": 0.0}, "beta: expected.*received 0.0"),
    "weight negative": ((Z, V), {"weight": -ROW}, "weight: expected finite numbers >= 0, received -1.0 in row 0"),
    "ignore": ((Z, V), {"ignore": "all"}, "ignore: expected one of row, hard, received 'all'"),
    "reduction": ((Z, V), {"reduction": "batchmean"}, "mean, sum, none, received 'batchmean'"),
    "flag": ((Z, V), {"scale_T2": 1}, "scale_T2: expected True or False, received 1"),
    "normalizer 0": ((Z, V), {"normalizer": 0}, "normalizer: expected.*> 0, received 0"),
    "normalizer with sum": ((Z, V), {"normalizer": 2, "reduction": "sum"}, "reduction='mean'.*received.*'sum'"),
    "bce with gold": ((Z, V, Y), {"kind": "bce", "alpha": 0.5}, "0 for kind 'bce'.*received 0.5"),
    "bce row with gold": (
        (Z, V, Y),
        {"kind": torch.tensor([0, 7, 0, 0]), "alpha": 0.5 * ROW},
        "0 for kind 'bce'.*in row 1",
    ),
    "columns single": ((Z, V), {"columns": Y}, r"a pair \(start, count\)"),
    "columns beyond": ((Z, V), {"columns": (Y, Y + 1)}, r"at most 3.*received 1 \+ 2|at most 3.*received 2 \+ 3"),
    "columns none": ((Z, V), {"columns": (Y, Y)}, "1 to 3 columns.*received 0 in row 0"),
    "columns wide": ((Z, V[:, :1]), {"columns": (Y, Y + 1)}, r"1 to 1 columns.*received 2 in row 1"),
    "columns float": ((Z, V), {"columns": (ROW, ROW)}, "columns, start"),
    "weights alone": ((Z, V, Y), {"teacher_weights": [1.0, 2.0]}, r"teacher_weights: expected shape \(1,\)"),
    "weights zero": ((Z, [V, V]), {"teacher_weights": [0.0, 0.0]}, "not all 0"),
    "weights zero in a row": (
        (Z, [V, V]),
        {"teacher_weights": torch.tensor([[1.0, 0.0, 1.0, 1.0]] * 2)},
        r"received \[0.0, 0.0\] in row 1",
    ),
    "weights negative": ((Z, [V, V]), {"teacher_weights": [1.0, -1.0]}, "teacher_weights.*>= 0"),
    "ignore_index text": ((Z, V), {"ignore_index": "-100"}, "ignore_index: expected a whole number, received '-100'"),
    "in place on a view": (
        (Z.clone().requires_grad_()[1:], V[1:]),
        {"grad_inplace": True},
        "received a view of a leaf",
    ),
    "in place on a leaf": ((Z.clone().requires_grad_(), V), {"grad_inplace": True}, "received a leaf"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_refused_with_expected_and_received(case):
    arguments, options, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as error:
        soft_cross_entropy(*arguments, **options)
    assert "expected" in str(error.value) and "received" in str(error.value)


INDICES, PROBS = torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0.5, 0.25], [0.5, 0.25]])
WRONG_SPARSE = {
    "both": ({"probs": PROBS, "logprobs": PROBS.log()}, {}, "exactly one of probs and logprobs"),
    "none": ({}, {}, "exactly one"),
    "shape": ({"probs": PROBS[:1]}, {}, "of one shape"),
    "tail": ({"probs": PROBS, "tail": "cut"}, {}, "bucket, uniform, renorm, none, received 'cut'"),
    "temperature": ({"probs": PROBS, "temperature": 0.0}, {}, "a positive number, received 0.0"),
    "sum": ({"probs": PROBS * 2}, {}, "a sum of at most 1"),
    "negative": ({"probs": -PROBS}, {}, "probabilities >= 0"),
    "range": ({"indices": INDICES + 1, "probs": PROBS}, {}, r"classes of the row, received \[2, 3\] in row 1"),
    "repeated": ({"indices": INDICES * 0, "probs": PROBS}, {}, "distinct classes"),
    "other temperature": ({"probs": PROBS}, {"temperature": 2.0}, "1.0, at which the sparse.*received 2.0"),
    "kind": ({"probs": PROBS}, {"kind": "mse"}, "for this SparseTeacher, received 'mse'"),
    "kind of none": ({"probs": PROBS, "tail": "none"}, {"kind": "jsd"}, "expected one of ce, kl.*received 'jsd'"),
    "gradient": ({"probs": PROBS.clone().requires_grad_()}, {}, "without gradient"),
}


@pytest.mark.parametrize("case", WRONG_SPARSE)
def test_a_wrong_sparse_teacher_is_refused(case):
    fields, options, message = WRONG_SPARSE[case]
    with pytest.raises(ValueError, match=message):
        soft_cross_entropy(torch.zeros(2, 3), SparseTeacher(**{"indices": INDICES, **fields}), **options)


def test_the_signature_is_the_one_that_is_checked():
    public, checked = (inspect.signature(f).parameters for f in (soft_cross_entropy, check_arguments))
    assert [(p.name, p.default, p.kind) for p in public.values()] == [
        (p.name, p.default, p.kind) for p in checked.values()
    ]
    assert list(public) == [
        "student_logits", "teacher_logits", "labels", "kind", "temperature", "scale_T2", "alpha", "beta", "weight",
        "columns", "ignore_index", "ignore", "reduction", "normalizer", "teacher_weights", "return_parts",
        "grad_inplace",
    ]  # fmt: skip


def test_codes_of_kinds_stay_what_compiled_backends_know():
    assert list(KINDS) == ["ce", "kl", "rkl", "jsd", "tvd", "mse", "mse_centered", "bce"]
    assert list(KINDS.values()) == list(range(8))


def test_labels_of_rows_that_do_not_count_are_not_checked():
    labels = torch.tensor([0, 99, 1, 2])
    loss = soft_cross_entropy(Z, V, labels, alpha=0.5, weight=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    torch.testing.assert_close(loss, torch.tensor(math.log(3)))


def test_the_backend_says_which_it_is_and_why(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert backend().name and backend().reason
    monkeypatch.setenv(VARIABLE, "reference")
    assert backend().name == "reference" and VARIABLE in backend().reason


def test_a_backend_that_is_asked_for_and_absent_is_refused_with_what_there_is(monkeypatch):
    monkeypatch.setenv(VARIABLE, "abacus")
    for call in (backend, lambda: soft_cross_entropy(Z, V)):
        with pytest.raises(InputError, match=r"'abacus' is not available here; available: auto,.*reference") as error:
            call()
        assert error.value.exit_code == 2


def test_permission_to_write_the_gradient_in_place_changes_no_number():
    leaf = torch.randn(4, 3, requires_grad=True)
    plain = torch.autograd.grad(soft_cross_entropy(leaf * 2, V, kind="kl"), leaf)[0]
    permitted = torch.autograd.grad(soft_cross_entropy(leaf * 2, V, kind="kl", grad_inplace=True), leaf)[0]
    torch.testing.assert_close(permitted, plain)
