"""A linear layer and the fused loss of its output, for layers as wide as a vocabulary.

The logits of many rows are never in memory at once: `linear_chunks.py` makes them by chunks. Here are the public
function, the checks of the layers, and the part in autograd. It has two plans, as the loss alone has (`function.py`).
"Gradient in forward": forward does all three products of a training step and keeps the gradients; backward multiplies
them by what comes in. "Gradient in backward" (float16, and a loss per row): forward computes the loss, and backward
makes the logits again.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import function
from .arguments import Arguments, Number, check_arguments, described
from .backend import Implementation
from .call import Results
from .linear_chunks import Layer, Work, autocast_dtype, each_chunk, planned
from .sparse import FLOATS, SparseTeacher
from .values import check_values


def linear_soft_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    teacher_logits: Tensor | Sequence[Tensor] | SparseTeacher | None = None,
    labels: Tensor | None = None,
    *,
    teacher_hidden: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    chunk_rows: int | None = None,
    kind: str | Tensor = "ce",
    temperature: Number = 1.0,
    scale_T2: bool = True,
    alpha: Number = 0.0,
    beta: Number = 0.5,
    row_weight: Number | None = None,
    ignore_index: int = -100,
    ignore: str = "row",
    reduction: str = "mean",
    normalizer: Number | None = None,
    teacher_weights: Sequence[float] | Tensor | None = None,
    return_parts: bool = False,
) -> Any:
    """`soft_cross_entropy` of the logits hidden @ weight.T + bias, which are made by chunks of rows.

    "Rows" are the leading dimensions of `hidden`, in any number. All tensors are on one device.

    hidden: (rows, width) float32, float64, float16 or bfloat16. weight: (classes, width). bias: (classes,), where -inf
        masks a class. All of one dtype, or under autocast cast to its dtype, as torch's linear does it.
    teacher_logits: as in `soft_cross_entropy`. Instead of them
    teacher_hidden, teacher_weight, teacher_bias: (rows, teacher width), (classes, teacher width) and (classes,) of one
        dtype, whose logits are made by chunks too. Neither form of the teacher may require grad.
    chunk_rows: rows whose logits are in memory at a time. None: at least 16, and as many as fill 24 MiB on a CPU and
        64 MiB elsewhere, or a fifth of the size of a large weight, together with the logits of a teacher that are made
        too; all, if they take less than the sums in float32 named below. The results do not depend on it, but for the
        order of sums.
    row_weight: what `soft_cross_entropy` calls weight: >= 0, a number or (rows,), or a bool mask (rows,). The hidden
        states of a row that does not count (weight 0, or an ignored label) may be NaN; its gradient is 0.
    All other arguments are those of `soft_cross_entropy`. There are no `columns`: a row has all classes.

    Returns the loss, or (loss, soft part, hard part), as `soft_cross_entropy` does. Gradients are computed for those of
        hidden, weight and bias that require them. Those of weight and bias are added up over chunks in float32 (float64
        for float64) and have the dtype of weight and bias.
    Memory beyond these gradients: a chunk of logits, the student's and those of a teacher that are made; if there are
        several chunks and weight is float16 or bfloat16, also its gradient in float32 and a block of that no larger
        than a chunk. The reference backend (KDTOOLKIT_OP_BACKEND=reference) needs several times a chunk.
    Raises ValueError, saying expected and received, for whatever `soft_cross_entropy` refuses, and for shapes, dtypes
        and devices of the layers that do not fit. RuntimeError where the gradient is to be differentiated again, inside
        torch.func transforms and forward-mode differentiation, and where torch.compile(fullgraph=True) or torch.export
        traces it, for a traced program would keep all chunks. torch.compile without fullgraph leaves its graph for this
        call.
    Source: chunks with the gradient in forward: Liger Kernel (arXiv:2410.10989); the loss: see
        `soft_cross_entropy`.
    """
    if torch.compiler.is_compiling():
        raise RuntimeError(
            "linear_soft_cross_entropy: cannot be traced by torch.compile(fullgraph=True) or torch.export; use "
            "torch.compile without fullgraph, or torch.nn.functional.linear and kdtoolkit.ops.soft_cross_entropy"
        )
    student, teacher = Layer(hidden, weight, bias), None
    if any(value is not None for value in (teacher_hidden, teacher_weight, teacher_bias)):
        teacher = Layer(teacher_hidden, teacher_weight, teacher_bias)  # type: ignore[arg-type]
    options: dict[str, Any] = {
        "kind": kind, "temperature": temperature, "scale_T2": scale_T2, "alpha": alpha, "beta": beta,
        "weight": row_weight, "ignore_index": ignore_index, "ignore": ignore, "reduction": reduction,
        "normalizer": normalizer, "teacher_weights": teacher_weights, "return_parts": return_parts,
    }  # fmt: skip
    given = student, teacher, teacher_logits, labels, chunk_rows, options
    with own_name():
        # torch.compile, which has left its graph to come here, would go on with each function that this one calls.
        results = uncompiled()(*given) if "torch._dynamo" in sys.modules else evaluate(*given)
    return results if return_parts else results[0]


def evaluate(
    student: Layer,
    teacher: Layer | None,
    teacher_logits: Any,
    labels: Tensor | None,
    chunk_rows: int | None,
    options: dict[str, Any],
) -> Results:
    """(loss, soft part, hard part) of a call as it was given. options: those of `soft_cross_entropy`, by its names."""
    function.refuse_transforms()
    refuse_forward_mode(*student)
    check_layer(student, "", None)
    if teacher is not None:
        if teacher_logits is not None:
            raise refused("teacher_logits", "None beside a teacher's hidden states", described(teacher_logits))
        check_layer(teacher, "teacher_", student)
        teacher_logits = teacher.stand_in()
    call = check_arguments(student.stand_in(), teacher_logits, labels, **options)
    check_values(call)  # of all rows: a chunk would count from its own first one
    results = computed(student.flat(), planned(call, student, teacher, check_chunk_rows(chunk_rows)))
    if call.reduction != "none":
        return results
    loss, soft, hard = (result if result is None else result.reshape(call.shape) for result in results)
    return loss, soft, hard


@functools.cache
def uncompiled() -> Callable[..., Results]:
    """`evaluate`, left alone by torch.compile along with all it calls."""
    return torch.compiler.disable(evaluate)


class GradientInForward(torch.autograd.Function):
    """Computes the loss and all gradients at once, and keeps the gradients alone."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: Work, wanted: Sequence[bool]
    ) -> Results:
        results, gradients = each_chunk(Layer(hidden, weight, bias), work, wanted)
        ctx.save_for_backward(*gradients)
        ctx.compiled = work.compiled
        function.finish(ctx, results)
        return results

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *of_parts: None) -> Any:
        with own_name():
            function.refuse_second_order(grad_output)
        if grad_output is None:
            return (None,) * 5
        # While the graph is kept another pass may come, and results of this one are in other hands.
        in_place = not function._keep_graph()
        scaled = [
            gradient if gradient is None else times(gradient, grad_output, in_place, ctx.compiled)
            for gradient in ctx.saved_tensors
        ]
        return *scaled, None, None


class GradientInBackward(torch.autograd.Function):
    """Computes the loss, and everything again when the gradients are wanted.

    Its further inputs are the teacher's layer and the fields of Arguments behind the student's logits, so that a change
    of any of their tensors before backward is an error, as torch raises it.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: Work, wanted: Sequence[bool],
        *others: Any,
    ) -> Results:  # fmt: skip
        results, _ = each_chunk(Layer(hidden, weight, bias), work, (False, False, False))
        tensors = [value if isinstance(value, Tensor) else None for value in others]
        ctx.save_for_backward(hidden, weight, bias, *tensors)
        ctx.numbers = [None if isinstance(value, Tensor) else value for value in others]
        ctx.work, ctx.wanted = with_others(work, [None] * len(others)), wanted
        function.finish(ctx, results)
        return results

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *of_parts: None) -> Any:
        with own_name():
            function.refuse_second_order(grad_output)
        nothing = [None] * (2 + len(ctx.numbers))
        if grad_output is None:
            return None, None, None, *nothing
        hidden, weight, bias, *tensors = ctx.saved_tensors
        others = [number if tensor is None else tensor for number, tensor in zip(ctx.numbers, tensors)]
        work = with_others(ctx.work, others)
        _, gradients = each_chunk(Layer(hidden, weight, bias), work, ctx.wanted, grad_output, want_loss=False)
        return *gradients, *nothing


def computed(student: Layer, work: Work) -> Results:
    """(loss, soft part, hard part), the loss with its gradients, the parts detached."""
    graph = torch.is_grad_enabled()
    wanted = [graph and value is not None and value.requires_grad for value in student]
    if not any(wanted):
        with torch.no_grad():
            return each_chunk(student, work, wanted)[0]
    if function.gradient_in_forward(work.call):
        return GradientInForward.apply(*student, work, wanted)
    return GradientInBackward.apply(*student, work, wanted, *others_of(work))


def others_of(work: Work) -> list[Any]:
    """What the work holds in tensors of others: of the teacher's layer, and of the call."""
    return [*(work.teacher or (None, None, None)), *work.call[1 : function.TENSORS]]


def with_others(work: Work, others: Sequence[Any]) -> Work:
    """The work with other such tensors, or without."""
    teacher = None if others[0] is None else Layer(*others[:3])
    names = Arguments._fields[1 : function.TENSORS]
    return work._replace(teacher=teacher, call=work.call._replace(**dict(zip(names, others[3:]))))


def times(gradient: Tensor, grad_output: Tensor, in_place: bool, compiled: Implementation | None) -> Tensor:
    """gradient * grad_output, a number; `in_place`: over the gradient."""
    if compiled is not None:
        return compiled.scale(gradient, grad_output, in_place)
    return gradient.mul_(grad_output) if in_place else gradient * grad_output


def check_layer(layer: Layer, name: str, of_student: Layer | None) -> Layer:
    """Shapes, dtypes and devices of a linear layer, the student's or the teacher's. name: how its arguments begin.

    Raises ValueError that says what was expected and received.
    """
    hidden, weight, bias = layer
    classes = None if of_student is None else of_student.weight.shape[0]
    for suffix, value in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if suffix == "bias" and value is None:
            continue
        if not isinstance(value, Tensor) or value.dtype not in FLOATS:
            raise refused(name + suffix, "a tensor of float32, float64, float16 or bfloat16", described(value))
        if of_student is not None and value.requires_grad:
            raise refused(name + suffix, "a teacher without gradient (use .detach())", "one that requires grad")
        device = (of_student or layer).hidden.device
        if value.device != device:
            raise refused(name + suffix, f"device {device}, of hidden", f"device {value.device}")
    if hidden.dim() == 0 or (of_student and hidden.shape[:-1] != of_student.hidden.shape[:-1]):
        rows = "..." if of_student is None else ", ".join(map(str, of_student.hidden.shape[:-1]))
        raise refused(name + "hidden", f"shape ({rows}, width)", f"shape {tuple(hidden.shape)}")
    width = hidden.shape[-1]
    if (
        weight.dim() != 2
        or weight.shape[1] != width
        or weight.shape[0] == 0
        or weight.shape[0] != (classes or weight.shape[0])
    ):
        expected = f"shape ({classes or 'classes'}, {width}) for {name}hidden of shape {tuple(hidden.shape)}"
        raise refused(name + "weight", expected, f"shape {tuple(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        expected = f"shape ({weight.shape[0]},) for {name}weight of shape {tuple(weight.shape)}"
        raise refused(name + "bias", expected, f"shape {tuple(bias.shape)}")
    dtypes = [value.dtype for value in layer if value is not None]
    doubles = dtypes.count(torch.float64)
    if len(set(dtypes)) > 1 and (doubles or autocast_dtype(hidden.device.type) is None):
        names = ", ".join(name + suffix for suffix in ("hidden", "weight", "bias")[: len(dtypes)])
        raise refused(names, "one dtype", ", ".join(map(str, dtypes)))
    return layer


def check_chunk_rows(chunk_rows: Any) -> int | None:
    """A number of rows, or None."""
    if chunk_rows is None:
        return None
    if isinstance(chunk_rows, bool) or not isinstance(chunk_rows, int) or chunk_rows < 1:
        raise refused("chunk_rows", "a whole number of at least 1, or None", described(chunk_rows))
    return chunk_rows


def refuse_forward_mode(*values: Any) -> None:
    """Raises RuntimeError for tensors that carry tangents."""
    if getattr(forward_ad, "_current_level", -1) < 0:
        return
    for value in values:
        if isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None:
            message = f"forward-mode differentiation is not supported; {function.USE_REFERENCE}"
            raise RuntimeError(f"linear_soft_cross_entropy: {message}")


def refused(name: str, expected: str, received: str) -> ValueError:
    """The error of an argument."""
    return ValueError(f"linear_soft_cross_entropy: {name}: expected {expected}, received {received}")


@contextmanager
def own_name() -> Iterator[None]:
    """Errors of the loss name this function, and its argument `row_weight`."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        name, found, rest = str(error).partition(": ")
        if name != "soft_cross_entropy" or not found:
            raise
        rest = "row_" + rest if rest.startswith("weight:") else rest
        raise type(error)(f"linear_soft_cross_entropy: {rest}") from None
