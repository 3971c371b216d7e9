"""`train.compile`: a compiled student learns what it would have learned, and is plain again afterwards."""

from __future__ import annotations

import pytest
import torch
from test_loop import Toy, run
from torch import nn

from kdtoolkit.training.compilation import compiled


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_only_while_it_is_trained_a_student_is_compiled(monkeypatch, mode):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: asked.append((type(self), options["mode"])))
    model = nn.Module()
    model.student = Toy()
    with compiled(model, mode):
        assert asked == [(Toy, mode)]
    assert model.student._compiled_call_impl is None
    with compiled(model, "none"):
        assert len(asked) == 1


def test_a_student_is_plain_again_when_training_fails(monkeypatch):
    def compile(self: nn.Module, **options: object) -> None:
        self._compiled_call_impl = lambda: None

    monkeypatch.setattr(nn.Module, "compile", compile)
    model = Toy()
    with pytest.raises(KeyboardInterrupt), compiled(model, "default"):
        raise KeyboardInterrupt
    assert model._compiled_call_impl is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_student_learns_the_same():
    for one, other in zip(run(epochs=6)[0].parameters(), run(epochs=6, compile="default")[0].parameters()):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
