"""Bi-attention: values worked by hand, and what must not change it."""

from __future__ import annotations

import pytest
import torch
from head_cases import MNLI, SST2, WIDTH, section, text_batch
from torch import nn

from kdtoolkit.heads import MultiTaskHeads
from kdtoolkit.heads.attention import SelfAttentivePooling, masked_softmax
from kdtoolkit.heads.biattention import BiAttention
from kdtoolkit.heads.two_texts import Text


def text(values):
    """A row of a text with these states, (1, time, width)."""
    states = torch.tensor(values, dtype=torch.float32).unsqueeze(0)
    return Text(states, torch.ones(states.shape[:2], dtype=torch.bool))


class Sees(nn.Module):
    """In the integrator's place: gives back what it reads."""

    def forward(self, inputs):
        return inputs, None


def transparent(width):
    """Features of width 3 * width a token and equal shares of the self-attention: the pooled parts can be read off."""
    module = BiAttention(width, 1)
    module.integrator = Sees()
    module.attend = SelfAttentivePooling(3 * width)
    nn.init.zeros_(module.attend.score.weight)
    return module


def test_two_texts_of_two_tokens_by_hand():
    first, second = text([[1.0], [0.0]]), text([[2.0], [-2.0]])
    # A = [[2, -2], [0, 0]]: the first token looks at 2 almost alone, the second at both alike.
    high, low = torch.tensor([2.0, -2.0]).softmax(0).tolist()
    found = [2 * high - 2 * low, 0.0]
    # A' = [[2, 0], [-2, 0]], of the second text's tokens over the first's.
    share = torch.tensor([2.0, 0.0]).softmax(0)[0].item(), torch.tensor([-2.0, 0.0]).softmax(0)[0].item()
    tokens = [
        [[1, 1 - found[0], found[0]], [0, 0, 0]],
        [[2, 2 - share[0], 2 * share[0]], [-2, -2 - share[1], -2 * share[1]]],
    ]
    expected = []
    for of_text in torch.tensor(tokens):
        expected += [of_text.max(0).values, of_text.min(0).values, of_text.mean(0), of_text.mean(0)]
    torch.testing.assert_close(transparent(1)(first, second), torch.cat(expected).unsqueeze(0))


def test_a_text_of_one_token_finds_itself():
    features = transparent(2)(text([[3.0, -1.0]]))
    once = torch.tensor([3.0, -1.0, 0.0, 0.0, 9.0, 1.0])
    torch.testing.assert_close(features, once.repeat(8).unsqueeze(0))


def test_states_far_apart_make_the_attention_hard():
    shares = masked_softmax(torch.tensor([[1e4, 0.0, 2e4]]), torch.tensor([[True, True, False]]))
    assert shares.tolist() == [[1.0, 0.0, 0.0]]


def test_a_text_paired_with_itself_is_a_single_text():
    torch.manual_seed(0)
    module = BiAttention(4, 3)
    one = Text(torch.randn(5, 6, 4), torch.arange(6) < torch.tensor([6, 1, 3, 2, 5])[:, None])
    alone, paired = module(one), module(one, one)
    assert alone.shape == (5, module.features) == (5, 16 * 3)
    torch.testing.assert_close(alone, paired, rtol=0, atol=1e-6)
    assert torch.equal(*alone.chunk(2, 1))


def test_changing_the_texts_places_changes_the_halves_places():
    torch.manual_seed(0)
    module = BiAttention(4, 3)
    one, other = (Text(torch.randn(2, time, 4), torch.ones(2, time, dtype=torch.bool)) for time in (3, 5))
    forth, back = module(one, other).chunk(2, 1), module(other, one).chunk(2, 1)
    torch.testing.assert_close(torch.cat(forth), torch.cat(back[::-1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("more", [1, 4])
def test_padding_changes_nothing_beyond_1e_6(more):
    torch.manual_seed(0)
    module = BiAttention(4, 3)
    one, other = (Text(torch.randn(3, time, 4), torch.ones(3, time, dtype=torch.bool)) for time in (4, 2))

    def padded(given):
        states = nn.functional.pad(given.states, (0, 0, 0, more), value=9.0)
        return Text(states, nn.functional.pad(given.mask, (0, more)))

    for pair in ((padded(one), other), (one, padded(other)), (padded(one), padded(other))):
        torch.testing.assert_close(module(*pair), module(one, other), rtol=0, atol=1e-6)


def test_tasks_share_the_attention_unless_they_are_told_not_to():
    tasks = [SST2, MNLI]

    def parameters(**options):
        heads = MultiTaskHeads(tasks, WIDTH, pairs="separate", mixed=False, heads=section("biattention", **options))
        return {name.split(".")[0] for name in heads.state_dict()}, sum(p.numel() for p in heads.parameters()), heads

    shared, count, heads = parameters()
    apart, more, _ = parameters(shared=False)
    assert shared == {"shared_biattention", "weight", "bias"} and apart == {"biattention", "weight", "bias"}
    assert more - count == sum(p.numel() for p in heads.shared_biattention.parameters())
    assert heads.shared_biattention.integrator.hidden_size == WIDTH // 2
    assert heads.weight["sst2"].shape == (2, 16 * WIDTH // 2)
    heads(*text_batch(tasks, [1, 1])).outputs.sum().backward()
    assert heads.weight["sst2"].grad is None and heads.shared_biattention.integrator.weight_ih_l0.grad.any()


def test_self_attentive_pooling_by_hand():
    pooling = SelfAttentivePooling(1)
    nn.init.constant_(pooling.score.weight, 2.0)
    pooled = pooling(torch.tensor([[[1.0], [0.0], [50.0]]]), torch.tensor([[True, True, False]]))
    assert pooled.item() == pytest.approx(torch.tensor([2.0, 0.0]).softmax(0)[0].item())
