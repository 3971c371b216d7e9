"""How gradients are cut into messages; that processes agree after one is in tests/distributed."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kdtoolkit.training import gradient_exchange

parameters = st.lists(st.tuples(st.integers(0, 30), st.sampled_from([torch.float32, torch.float64])), max_size=12)


@given(parameters, st.integers(1, 200))
def test_every_parameter_is_in_one_message_of_its_type_that_is_no_longer_than_it_may_be(sizes, longest):
    given_ = [nn.Parameter(torch.zeros(size, dtype=dtype)) for size, dtype in sizes]
    before, gradient_exchange.MESSAGE = gradient_exchange.MESSAGE, longest
    try:
        messages = list(gradient_exchange._messages(given_))
    finally:
        gradient_exchange.MESSAGE = before
    assert sorted(id(p) for message in messages for p in message) == sorted(map(id, given_))
    for message in messages:
        assert len({p.dtype for p in message}) == 1
        assert len(message) == 1 or sum(p.numel() * p.element_size() for p in message) <= longest
    for one, other in itertools.pairwise(messages):  # and as long as it may be
        room = sum(p.numel() * p.element_size() for p in (*one, other[0]))
        assert one[0].dtype != other[0].dtype or room > longest
