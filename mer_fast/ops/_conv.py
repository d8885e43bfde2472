"""What conv3d and conv3d_pool share: their arguments, checked and spelled out, and autocast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._C import _functorch as functorch
from torch.autograd import forward_ad

from ..reference.conv3d import ACTIVATIONS
from ._checks import require, require_count, require_float

Triple = int | Sequence[int]


def triple(op: str, argument: str, value: Any, least: int) -> list[int]:
    """[t, h, w] of a number or three."""
    values = list(value) if isinstance(value, (tuple, list, torch.Size)) else [value] * 3
    require(len(values) == 3, op, argument, "must be a whole number or three (t, h, w), got {}", value)
    for one in values:
        require_count(op, argument, one, least)
    return values


@dataclass(frozen=True)
class Geometry:
    """The arguments of a 3-D convolution, three of each, as the operators take them."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    activation: str | None

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> list[int]:
        """(T, H, W) of the convolution of an input of that (T, H, W)."""
        every = zip(size, kernel, self.stride, self.padding, self.dilation, strict=True)
        return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in every]

    def arguments(self) -> tuple[list[int], list[int], list[int], int, str]:
        return self.stride, self.padding, self.dilation, self.groups, self.activation or "none"


def geometry(
    op: str, stride: Triple, padding: Triple, dilation: Triple, groups: int, activation: str | None
) -> Geometry:
    require_count(op, "groups", groups)
    require(
        activation in ACTIVATIONS, op, "activation", "must be None, 'relu', 'leaky_relu' or 'gelu', got {!r}", activation
    )
    named = (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1))
    strides, paddings, dilations = (triple(op, name, value, least) for name, value, least in named)
    return Geometry(strides, paddings, dilations, groups, activation)


def check_operands(
    op: str, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, shape: Geometry
) -> list[int]:
    """Ranks, channels, dtypes and devices agree, and the kernel fits into the padded input; (T, H, W) of the output."""
    for name, operand, rank in (("input", input, "(N, C, T, H, W)"), ("weight", weight, "(O, C / groups, kt, kh, kw)")):
        require_float(op, name, operand)
        require(operand.dim() == 5, op, name, "must have shape {}, got {}", rank, operand.shape)
    outputs, channels, groups = weight.shape[0], weight.shape[1] * shape.groups, shape.groups
    require(
        input.shape[1] == channels,
        op, "input", "must have {} channels for weight {} in {} group(s), got {}", channels, weight.shape, groups, input.shape,
    )  # fmt: skip
    require(outputs % groups == 0, op, "weight", "must have outputs divisible by {} groups, got {}", groups, weight.shape)
    require(min(weight.shape[1:]) >= 1, op, "weight", "must not be empty, got {}", weight.shape)
    operands = [("weight", weight)]
    if bias is not None:
        require_float(op, "bias", bias)
        require(bias.shape == (outputs,), op, "bias", "must have shape ({},), got {}", outputs, bias.shape)
        operands.append(("bias", bias))
    for name, other in operands:
        both = f"input and {name}"
        require(other.dtype == input.dtype, op, both, "must have one dtype, got {} and {}; convert one with .to()",
                input.dtype, other.dtype)  # fmt: skip
        require(other.device == input.device, op, both, "must be on one device, got {} and {}; move one with .to()",
                input.device, other.device)  # fmt: skip
    size = shape.output_size(input.shape[2:], weight.shape[2:])
    require(
        min(size) >= 1, op, "weight", "of size {} does not fit into input {} with padding {} and dilation {}",
        weight.shape[2:], input.shape, shape.padding, shape.dilation,
    )  # fmt: skip
    return size


def autocast(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The operands in the dtype that autocast wants of a convolution; as they are outside of autocast."""
    operands = input, weight, bias
    kind = input.device.type if isinstance(input, torch.Tensor) else "cpu"
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):
        return operands
    dtype = torch.get_autocast_dtype(kind)
    kept = (torch.float64, dtype)
    wanted = [isinstance(t, torch.Tensor) and t.is_floating_point() and t.dtype not in kept for t in operands]
    return tuple(t.to(dtype) if cast else t for t, cast in zip(operands, wanted, strict=True))  # type: ignore[union-attr,return-value]


def exact() -> bool:
    """Whether sums must be taken in the order of the formula: under torch.use_deterministic_algorithms(True)."""
    return torch.are_deterministic_algorithms_enabled()


def wants_gradient(*operands: torch.Tensor | None) -> bool:
    if not torch.is_grad_enabled():
        return False
    traced = torch.compiler.is_compiling() and _traced_derivative()
    return traced or any(t is not None and t.requires_grad for t in operands)


def beyond_kernels(*operands: torch.Tensor | None) -> bool:
    """Whether a derivative is taken that the kernels do not have, so that plain PyTorch has to run.

    Those are torch.func's (grad, jvp, vmap of anything that wants a gradient) and forward-mode derivatives.
    """
    if torch.compiler.is_compiling():
        return _traced_derivative()
    tensors = [t for t in operands if t is not None]
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        return True
    stack = functorch.get_interpreter_stack()
    if not stack:
        return False
    if any(level.key() != functorch.TransformType.Vmap for level in stack):
        return True
    return torch.is_grad_enabled() and any(_innermost(t).requires_grad for t in tensors)


def _traced_derivative() -> bool:
    """Whether code is traced inside of a derivative of torch.func; those of autograd are taken of what has been traced."""
    if forward_ad._current_level >= 0:
        return True
    return any(level.key() != functorch.TransformType.Vmap for level in functorch.get_interpreter_stack() or ())


# What torch.compiler.assume_constant_result does, without the compiler, whose import takes longer than that of all the rest.
_traced_derivative._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _innermost(tensor: torch.Tensor) -> torch.Tensor:
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor
