"""Linear maps by oneDNN: the values and gradients of torch's own, and torch itself where oneDNN is not for."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from kdtoolkit import linear as module
from kdtoolkit.linear import Linear, linear, with_quick_products

SIZES = st.integers(1, 40)


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """oneDNN multiplies on every processor, however little; the list of its calls."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        pytest.fail("this torch has no oneDNN; constraints.txt pins one that has")
    calls = []
    real = module._product

    def product(*arguments):
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(module, "_product", product)
    monkeypatch.setattr(module, "_product_is_there", lambda: True)
    monkeypatch.setattr(module, "LEAST", 1)
    return calls


def both(values, weight, bias, slopes):
    """By torch and by oneDNN: values, and gradients of values, weight and bias."""
    found = []
    for way in (functional.linear, linear):
        leaves = [None if t is None else t.detach().clone().requires_grad_() for t in (values, weight, bias)]
        mapped = way(*leaves)
        mapped.backward(slopes)
        found.append([mapped, *(leaf.grad for leaf in leaves if leaf is not None)])
    return zip(*found)


def close(one, other):
    one, other = one.detach(), other.detach()
    scale = max(float(one.abs().max()), 1.0)
    return one.shape == other.shape and float((one - other).abs().max()) <= 1e-5 * scale


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # all examples want the same
@given(rows=SIZES, time=SIZES, inputs=SIZES, outputs=SIZES, biased=st.booleans(), flat=st.booleans())
def test_values_and_gradients_are_those_of_torch(rows, time, inputs, outputs, biased, flat):
    torch.manual_seed(rows * 64 + time)
    shape = (rows,) if flat else (rows, time)
    values, weight = torch.randn(*shape, inputs), torch.randn(outputs, inputs)
    bias = torch.randn(outputs) if biased else None
    assert all(close(*pair) for pair in both(values, weight, bias, torch.randn(*shape, outputs)))


@pytest.mark.parametrize("cut", [lambda t: t[:, :1], lambda t: t[:, ::2], lambda t: t.transpose(0, 1)])
def test_views_are_read_as_they_lie(cut, asked):
    values, weight, bias = cut(torch.randn(6, 8, 5)), torch.randn(7, 5), torch.randn(7)
    assert close(functional.linear(values, weight, bias), linear(values, weight, bias))
    assert close(functional.linear(values, weight[2:5], bias[2:5]), linear(values, weight[2:5], bias[2:5]))
    assert len(asked) == 2


def test_a_slope_that_is_one_number_spread_out():
    values, weight = torch.randn(4, 5), torch.randn(3, 5, requires_grad=True)
    linear(values, weight).sum().backward()
    assert close(weight.grad, values.sum(0).expand(3, 5))


def test_what_needs_no_gradient_gets_none(asked):
    layer = Linear(5, 3).requires_grad_(False)
    values = torch.randn(4, 5, requires_grad=True)
    layer(values).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None and len(asked) == 2
    with torch.no_grad():
        assert not layer(values).requires_grad


def test_a_second_derivative_is_refused():
    values = torch.randn(4, 5, requires_grad=True)
    (slope,) = torch.autograd.grad(linear(values, torch.randn(3, 5)).square().sum(), values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_torch(dtype, asked):
    layer, values = Linear(5, 3).to(dtype), torch.randn(4, 5).to(dtype)
    assert torch.equal(layer(values), functional.linear(values, layer.weight, layer.bias))
    assert not asked


def test_what_torch_must_do_itself_is_left_to_it(asked, monkeypatch):
    layer, values = Linear(5, 3), torch.randn(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(values).dtype == torch.bfloat16
    with monkeypatch.context() as off:
        off.setattr(torch.backends.mkldnn, "enabled", False)
        layer(values)
    layer(values[0])  # a vector
    monkeypatch.setattr(module, "LEAST", 4 * 5 * 3 + 1)
    layer(values)
    monkeypatch.setattr(module, "LEAST", 1)
    monkeypatch.setattr(module, "_product_is_there", lambda: False)
    layer(values)
    assert not asked


def test_the_layers_of_a_model_are_turned_where_they_stand(asked):
    class Odd(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), Odd(4, 3), nn.Linear(3, 2, bias=False))
    before, values = deepcopy(model), torch.randn(6, 5)
    turned = with_quick_products(model)
    assert turned is model and [type(layer) for layer in model] == [Linear, nn.ReLU, Odd, Linear]
    assert close(before(values), model(values)) and len(asked) == 2
    assert before.state_dict().keys() == deepcopy(model).state_dict().keys()


def test_nothing_is_turned_where_it_does_not_pay(monkeypatch):
    monkeypatch.setattr(module, "_product_is_there", lambda: False)
    assert type(with_quick_products(nn.Sequential(nn.Linear(2, 2)))[0]) is nn.Linear


@pytest.mark.parametrize(("maker", "flags", "there"), [
    ("AuthenticAMD", {"avx512f"}, True), ("AuthenticAMD", {"avx2"}, False), ("GenuineIntel", {"avx512f"}, False),
    ("", set(), False),
])  # fmt: skip
def test_which_processors_it_is_for(maker, flags, there, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(module.processor, "maker", lambda: maker)
    monkeypatch.setattr(module.processor, "flags", lambda: frozenset(flags))
    module._product_is_there.cache_clear()
    try:
        assert module._product_is_there() is (there and torch.backends.mkl.is_available())
    finally:
        module._product_is_there.cache_clear()
