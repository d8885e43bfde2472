"""3-D convolution with temporal stride, its bias and activation in the same pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from .. import reference
from ..backends import runs_reference
from ._conv import Geometry, Triple, autocast, check_operands, exact, geometry
from ._dispatch import kernel, register


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
        (N, O, T', H', W') in the dtype of `input`; under autocast in autocast's. Differentiable.

    Raises:
        MerFastError: shapes that do not fit each other, mixed dtypes or devices.
    """
    shape = geometry("conv3d", stride, padding, dilation, groups, activation)
    check_operands("conv3d", input, weight, bias, shape)
    input, weight, bias = autocast(input, weight, bias)  # type: ignore[assignment]
    if runs_reference("conv3d", input):
        return reference.conv3d(
            input, weight, bias, stride=shape.stride, padding=shape.padding, dilation=shape.dilation, groups=groups,
            activation=activation,
        )  # fmt: skip
    return kernel("conv3d")(input, weight, bias, *shape.arguments(), exact())
