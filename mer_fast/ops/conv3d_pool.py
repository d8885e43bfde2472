"""3-D convolution, activation and max-pool in one pass."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F

from .. import reference
from ..backends import runs_reference
from ..errors import MerFastError
from ..reference.conv3d import ACTIVATIONS
from ._checks import require
from ._conv import Geometry, Triple, autocast, beyond_kernels, check_operands, exact, geometry, triple, wants_gradient
from ._dispatch import kernel, over_examples, register
from .conv3d import conv3d

LARGEST_WINDOW = 255  # places in a window that one byte can tell apart, and from none
# Measured bounds on a CPU, see _library_wins.
LEAST_WINDOWS, SMALL_PATCH = 32, 256  # windows of a clip; weights of an output channel
MOST_FUSED_TAPS = 1024  # channels times kt


def conv3d_pool(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: Triple = 1,
    padding: Triple = 0,
    dilation: Triple = 1,
    groups: int = 1,
    activation: str | None = "relu",
    pool_kernel: Triple = 3,
    pool_stride: Triple | None = None,
) -> torch.Tensor:
    """Max-pool of an activation of a 3-D convolution; nothing of the size of the convolution's output is ever stored.

    The same as `F.max_pool3d(F.relu(F.conv3d(input, weight, bias, ...)), pool_kernel, pool_stride)`. Positions that the
    pool drops are not computed, and the backward pass works on the winners of the windows only.

    Args:
        input: (N, C, T, H, W), float64, float32, float16 or bfloat16.
        weight: (O, C / groups, kt, kh, kw).
        bias: (O,) or None.
        stride, padding, dilation: of the convolution, a number or (t, h, w); padding is with zeros.
        groups: the convolution's groups.
        activation: None, "relu", "leaky_relu" (slope 0.01) or "gelu" (exact).
        pool_kernel, pool_stride: of the pool, a number or (t, h, w); the stride is the kernel unless given. Windows of more
            than 255 positions are not fused, and neither are, on a CPU, shapes on which the library's convolution wins back
            what the pool costs (many channels, few windows): convolution and pool then run one after the other.

    Returns:
        (N, O, T', H', W') in the dtype of `input`; under autocast in autocast's. Accumulated in float32 (float64 for
        float64). Differentiable once; torch.func and forward-mode derivatives run the plain PyTorch form. NaN goes where
        PyTorch's max-pool sends it. Deterministic. Among equal values of a window the first wins; on a CPU, where 3x3 and
        5x5 kernels run as Winograd convolutions, values that are equal in exact arithmetic may differ in the last bits,
        except under `torch.use_deterministic_algorithms(True)`.

    Raises:
        MerFastError: shapes that do not fit each other, mixed dtypes or devices, a pool larger than the output.

    Source: Reddy, Karri, Dubey, Mukherjee, "Spontaneous facial micro-expression recognition using 3D spatiotemporal
    convolutional neural networks", IJCNN 2019 (the layer of MicroExpSTCNN).
    """
    op = "conv3d_pool"
    shape = geometry(op, stride, padding, dilation, groups, activation)
    window = triple(op, "pool_kernel", pool_kernel, 1)
    step = window if pool_stride is None else triple(op, "pool_stride", pool_stride, 1)
    input, weight, bias = autocast(input, weight, bias)
    size = check_operands(op, input, weight, bias, shape)
    for have, want in zip(size, window, strict=True):
        require(have >= want, op, "pool_kernel", "{} is larger than the convolution's output {}", tuple(window), tuple(size))
    if runs_reference(op, input) or beyond_kernels(input, weight, bias):
        return reference.conv3d_pool(
            input, weight, bias, stride=shape.stride, padding=shape.padding, dilation=shape.dilation, groups=groups,
            activation=activation, pool_kernel=window, pool_stride=step,
        )  # fmt: skip
    gradient = wants_gradient(input, weight, bias)
    if prod(window) > LARGEST_WINDOW or (input.device.type == "cpu" and _library_wins(size, window, step, weight, gradient)):
        full = conv3d(
            input, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups, activation=activation
        )
        return F.max_pool3d(full, window, step)
    out, _ = kernel(op)(input, weight, bias, *shape.arguments(), window, step, gradient, exact())
    # Where the derivative cannot be told from the winner's place, PyTorch applies the activation, to winners alone.
    return ACTIVATIONS[activation](out) if activation in ("leaky_relu", "gelu") else out


def _library_wins(size: list[int], window: list[int], step: list[int], weight: torch.Tensor, gradient: bool) -> bool:
    """Whether the library's convolution and pool are faster on a CPU: many channels, or few windows to each set of weights."""
    if weight.shape[1] * weight.shape[2] > MOST_FUSED_TAPS:
        return True
    windows = prod([(n - k) // s + 1 for n, k, s in zip(size, window, step, strict=True)])
    return gradient and windows < LEAST_WINDOWS and prod(weight.shape[1:]) > SMALL_PATCH


def _fake(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    stride, padding, dilation, groups, activation, window, step, keep_winners, _ = rest
    size = Geometry(stride, padding, dilation, groups, activation).output_size(input.shape[2:], weight.shape[2:])
    pooled = [(n - k) // s + 1 for n, k, s in zip(size, window, step, strict=True)]
    shape = [input.shape[0], weight.shape[0], *pooled]
    return input.new_empty(shape), input.new_empty(shape if keep_winners else [0], dtype=torch.uint8)


def _fake_backward(
    grad: torch.Tensor, winners: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, ...]:
    shapes = input.shape, weight.shape, weight.shape[:1]
    return tuple(input.new_empty(shape if need else [0]) for shape, need in zip(shapes, rest[-3:], strict=True))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    input, weight, bias, stride, padding, dilation, groups, _, window, step, _, _ = inputs
    ctx.rest = stride, padding, dilation, groups, window, step
    ctx.has_bias = bias is not None
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(input, weight, output[1])  # not the output: what follows may change it in place


def _backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[Any, ...]:
    input, weight, winners = ctx.saved_tensors
    if winners.shape != grad.shape:
        raise MerFastError("conv3d_pool: it was traced without gradients, so that there is none; trace it with gradients enabled")
    need = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2]]
    gradients = kernel("conv3d_pool_backward")(grad, winners, input, weight, *ctx.rest, *need)
    return (*(g if n else None for g, n in zip(gradients, need, strict=True)), *[None] * 9)


register("conv3d_pool", fake=_fake, setup_context=_setup_context, backward=_backward, vmap=over_examples("conv3d_pool"))


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise MerFastError(
        'conv3d_pool: its gradient cannot be differentiated again; run it inside `with mer_fast.backend("reference")`'
    )


register(
    "conv3d_pool_backward", fake=_fake_backward, vmap=over_examples("conv3d_pool_backward"),
    setup_context=lambda ctx, inputs, output: None, backward=_no_second_derivative,
)  # fmt: skip
