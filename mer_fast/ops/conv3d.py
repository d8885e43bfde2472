"""3-D convolution with temporal stride, its bias and activation in the same pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from .. import reference
from ..backends import runs_reference
from ..reference.conv3d import ACTIVATIONS
from ._conv import Geometry, Triple, autocast, beyond_kernels, check_operands, exact, geometry, wants_gradient
from ._conv3d_path import chosen
from ._dispatch import kernel, over_examples, register

IN_PLACE: dict[str | None, Callable[[torch.Tensor], torch.Tensor]] = {
    None: lambda x: x,
    "relu": F.relu_,
    "leaky_relu": F.leaky_relu_,
    "gelu": F.gelu,
}


def conv3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: Triple = 1,
    padding: Triple = 0,
    dilation: Triple = 1,
    groups: int = 1,
    activation: str | None = None,
) -> torch.Tensor:
    """A 3-D convolution, its bias and an activation in one pass.

    Args:
        input: (N, C, T, H, W), float64, float32, float16 or bfloat16.
        weight: (O, C / groups, kt, kh, kw).
        bias: (O,) or None.
        stride, padding, dilation: a number or (t, h, w); padding is with zeros.
        groups: groups of channels.
        activation: None, "relu", "leaky_relu" (slope 0.01) or "gelu" (exact).

    Returns:
        (N, O, T', H', W') in the dtype of `input`; under autocast in autocast's. Differentiable. Where the library (oneDNN)
        is faster for a shape on a CPU, the op calls it; the debug log of "mer_fast" says which path a shape takes and why.

    Raises:
        MerFastError: shapes that do not fit each other, mixed dtypes or devices.
    """
    shape = geometry("conv3d", stride, padding, dilation, groups, activation)
    input, weight, bias = autocast(input, weight, bias)
    check_operands("conv3d", input, weight, bias, shape)
    if runs_reference("conv3d", input) or beyond_kernels(input, weight, bias):
        return reference.conv3d(
            input, weight, bias, stride=shape.stride, padding=shape.padding, dilation=shape.dilation, groups=groups,
            activation=activation,
        )  # fmt: skip
    gradient = wants_gradient(input, weight, bias)
    if input.device.type == "cpu" and not chosen(input, weight, shape):
        out = F.conv3d(input, weight, bias, shape.stride, shape.padding, shape.dilation, groups)
        return (ACTIVATIONS if gradient else IN_PLACE)[activation](out)
    if activation in ("leaky_relu", "gelu") and gradient:  # which needs what goes into the activation
        plain = Geometry(shape.stride, shape.padding, shape.dilation, groups, None)
        return ACTIVATIONS[activation](kernel("conv3d")(input, weight, bias, *plain.arguments(), exact()))
    return kernel("conv3d")(input, weight, bias, *shape.arguments(), exact())


def _fake(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *rest: Any) -> torch.Tensor:
    stride, padding, dilation, groups, activation, _ = rest
    size = Geometry(stride, padding, dilation, groups, activation).output_size(input.shape[2:], weight.shape[2:])
    return input.new_empty([input.shape[0], weight.shape[0], *size])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    input, weight, bias, ctx.stride, ctx.padding, ctx.dilation, ctx.groups, activation, _ = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(input, weight, *([output] if activation == "relu" else []))


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    input, weight, *output = ctx.saved_tensors
    if output:
        grad = torch.ops.aten.threshold_backward(grad, output[0], 0)
    need = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2]]
    # The library's: for dense gradients it is at the arithmetic's limit, on a CPU only with channels last.
    if grad.device.type == "cpu" and weight.shape[1] > 1:
        input, weight = (t.contiguous(memory_format=torch.channels_last_3d) for t in (input, weight))
    gradients = torch.ops.aten.convolution_backward(
        grad, input, weight, [weight.shape[0]], ctx.stride, ctx.padding, ctx.dilation, False, [0, 0, 0], ctx.groups, need
    )
    return (*gradients, *[None] * 6)


register("conv3d", fake=_fake, setup_context=_setup_context, backward=_backward, vmap=over_examples("conv3d"))
