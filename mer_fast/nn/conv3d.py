"""torch.nn.Conv3d with an activation in the same pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from .. import ops
from ..ops._checks import require
from ..reference.conv3d import ACTIVATIONS


def check_activation(layer: str, activation: str | None) -> None:
    require(activation in ACTIVATIONS, layer, "activation", "must be None, 'relu', 'leaky_relu' or 'gelu', got {!r}", activation)


class Conv3d(torch.nn.Conv3d):
    """`torch.nn.Conv3d` and an activation in one pass over memory.

    Arguments, weights, initialisation and `state_dict` are those of `torch.nn.Conv3d`, so that checkpoints go both ways.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: as in
            `torch.nn.Conv3d`, `padding="same"` and `"valid"` too.
        activation: None, "relu", "leaky_relu" (slope 0.01) or "gelu" (exact).

    Shape: (N, C, T, H, W) or (C, T, H, W) -> (N, O, T', H', W') or (O, T', H', W').

    Raises:
        MerFastError: unknown activation; at a call, an input that does not fit the weights.
    """

    def __init__(self, *args: Any, activation: str | None = None, **kwargs: Any) -> None:
        check_activation(type(self).__name__, activation)
        super().__init__(*args, **kwargs)
        self.activation = activation

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if input.is_meta:  # the shape alone is wanted
            return super()._conv_forward(input, weight, bias)
        batch, padding = self.padded(input)
        out = ops.conv3d(
            batch, weight, bias, stride=self.stride, padding=padding, dilation=self.dilation, groups=self.groups,
            activation=self.activation,
        )  # fmt: skip
        return out if batch.dim() == input.dim() else out.squeeze(0)

    def padded(self, input: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """The input as a batch, padded as far as the op cannot pad it, and the padding (t, h, w) left to the op."""
        batch = input.unsqueeze(0) if input.dim() == 4 else input
        if self.padding_mode != "zeros":
            return F.pad(batch, self._reversed_padding_repeated_twice, mode=self.padding_mode), (0, 0, 0)
        if not isinstance(self.padding, str):
            return batch, self.padding
        if self.padding == "valid":
            return batch, (0, 0, 0)
        around = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]  # "same"
        if all(n % 2 == 0 for n in around):
            return batch, tuple(n // 2 for n in around)
        return F.pad(batch, [side for n in reversed(around) for side in (n // 2, n - n // 2)]), (0, 0, 0)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", activation={self.activation!r}" if self.activation else "")
