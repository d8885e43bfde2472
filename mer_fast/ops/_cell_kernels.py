"""What the kernels of conv_lstm and conv_gru share: when they serve, what is kept for the gradient, shapes, gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import _library
from ._dispatch import kernel, over_examples, register
from ._recurrent import without_autocast
from ._recurrent_section import CHANNEL_PAD

# States are kept at every SEGMENT-th step, a number that no call changes: traced code serves every length.
SEGMENT = 8
MOST_WEIGHTS = 2**19  # of a kernel's tap, on a CPU, where every thread sums a gradient as large as all transformed weights

Tensors = Sequence[torch.Tensor | None]


def why_not_kernel(input: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor, gradient: bool) -> str | None:
    """Why a kernel cannot serve a cell, or None if it can."""
    if input.device.type != "cpu":
        return None
    if input.dtype == torch.bfloat16:
        if gradient or not _library.MATRIX_UNITS:
            return "for bfloat16 on a CPU only with matrix units (AMX) and without gradient"
    elif input.dtype != torch.float32:
        return f"for float32 and bfloat16 on a CPU, not {input.dtype}"
    if weight_ih.shape[2:] != weight_hh.shape[2:]:
        return "for kernels of one size on a CPU"
    if weight_hh.shape[0] * (weight_ih.shape[1] + weight_hh.shape[1]) > MOST_WEIGHTS:
        return f"for at most {MOST_WEIGHTS} weights a tap on a CPU"
    return None


def run(
    op: str, tensors: Tensors, lengths: torch.Tensor | None, reverse: bool, gradient: bool, checkpoint: bool, exact: bool
) -> tuple[torch.Tensor, ...]:
    """Output and last states; `tensors` are the operator's up to the first states."""
    if lengths is not None:
        lengths = lengths.to(torch.int64)
    segment = SEGMENT if gradient else 0
    return kernel(op)(*tensors, lengths, reverse, segment, gradient and not checkpoint, exact)


def register_cell(
    op: str, states: int, gates: int, operands: int, plain: Callable[..., tuple[torch.Tensor, ...]]
) -> None:
    """Shapes, gradient and vmap rules of a cell's operators.

    Args:
        states: of the cell, h and perhaps c.
        gates: of which weights have rows.
        operands: tensors before `lengths`.
        plain: the op of the library's convolutions, (operands, lengths, reverse) -> (output, states), for second derivatives.
    """

    def fake(*arguments: Any) -> tuple[torch.Tensor, ...]:
        input, weight_ih = arguments[0], arguments[1]
        _, _, segment, keep_gates, _ = arguments[operands:]
        steps, batch, _, height, width = input.shape
        hidden = weight_ih.shape[0] // gates
        on_cpu = input.device.type == "cpu"
        kept = (hidden + CHANNEL_PAD - 1) // CHANNEL_PAD * CHANNEL_PAD if on_cpu else hidden
        output = input.new_empty([steps, batch, hidden, height, width])
        last = [input.new_empty([batch, hidden, height, width]) for _ in range(states)]
        segments = (steps + segment - 1) // segment if segment else 0
        if segment and on_cpu:  # never 1, which traced code would take for a constant
            segments = torch.sym_max(2, segments)
        shape = [segments, 2, batch, height, width, kept] if states == 2 else [segments, batch, height, width, kept]
        gate_shape = [steps if segment and keep_gates else 0, batch, height, width, 4 * kept]
        if not on_cpu:
            shape, gate_shape = (shape if segment else [0]), (gate_shape if segment and keep_gates else [0])
        wide = torch.float64 if input.dtype == torch.float64 else torch.float32
        return output, *last, input.new_empty(gate_shape), input.new_empty(shape, dtype=wide)

    def fake_backward(*arguments: Any) -> tuple[torch.Tensor, ...]:
        given = arguments[states + 1 : states + 1 + operands]
        need_input = arguments[-2]
        shapes = [[0] if one is None or (k == 0 and not need_input) else one.shape for k, one in enumerate(given)]
        return tuple(given[0].new_empty(shape) for shape in shapes)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)  # of the gates they would be as large as these
        ctx.reverse, ctx.segment, _, ctx.exact = inputs[operands + 1 :]
        ctx.mark_non_differentiable(*output[-2:])
        ctx.save_for_backward(*inputs[: operands + 1], *output[-2:])
        ctx.shapes = [one.shape for one in output[: states + 1]]

    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        *given, lengths, kept_gates, kept_states = ctx.saved_tensors
        results = [
            given[0].new_zeros(()).expand(shape) if one is None else one
            for one, shape in zip(grads[: states + 1], ctx.shapes, strict=True)
        ]
        if ctx.segment == 0:
            raise RuntimeError(f"{op}: it was traced without gradients, so that there is none; trace it with gradients enabled")
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # to be differentiated again
            with without_autocast(given[0]):
                out = plain(given, lengths, ctx.reverse)
            needed = [k for k, one in enumerate(given) if one is not None and ctx.needs_input_grad[k]]
            found = torch.autograd.grad(out, [given[k] for k in needed], results, create_graph=True, allow_unused=True)
            pairs = dict(zip(needed, found, strict=True))
            return (*(pairs.get(k) for k in range(operands)), *[None] * 5)
        gradients = kernel(f"{op}_backward")(
            *results, *given, lengths, kept_gates, kept_states, ctx.reverse, ctx.segment, ctx.needs_input_grad[0], ctx.exact
        )
        needed_ones = zip(gradients, given, ctx.needs_input_grad, strict=False)
        return (*(g if one is not None and need else None for g, one, need in needed_ones), *[None] * 5)

    register(op, fake=fake, setup_context=setup_context, backward=backward, vmap=over_examples(op))
    register(f"{op}_backward", fake=fake_backward, vmap=over_examples(f"{op}_backward"))
