"""What the launchers of the convolutions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .. import _library
from . import _config

Ints = Sequence[int]
NOBODY = 255  # the winner of a window in which ReLU is off: nothing flows back through it
# Below it 32 bits hold every offset, a block's overhang included.
NARROW = 2**31 - 2**20

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
}


def serves_cuda(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a function torch.ops.mer_fast.<name> of CUDA tensors."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if _library.MISSING is None:
            torch.library.impl(f"mer_fast::{name}", "CUDA")(function)
        return function

    return decorate


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Convolution:
    """A convolution's arguments, three of each."""

    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int

    def output_size(self, size: Ints, kernel: Ints) -> tuple[int, ...]:
        every = zip(size, kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in every)

    def constants(self, weight: torch.Tensor) -> dict[str, Any]:
        """What the kernels take of these at compile time."""
        return {
            "CHANNELS": weight.shape[1],
            "KERNEL": tuple(weight.shape[2:]),
            "STRIDE": tuple(self.stride),
            "PADDING": tuple(self.padding),
            "DILATION": tuple(self.dilation),
        }


def tile(kernel: str, columns: int, input: torch.Tensor, names: tuple[str, str, str]) -> tuple[_config.Config, dict[str, Any]]:
    """The launch parameters for this input, and as the kernel's arguments, its blocks under those names."""
    precision = _config.precision_of(input.dtype)
    config = _config.choose(kernel, precision, columns, input.device)
    return config, {
        **dict(zip(names, (config.rows, config.columns, config.reduction), strict=True)),
        "PRECISION": "tf32" if precision == "tf32" else "ieee",
        "num_warps": config.warps,
        "num_stages": config.stages,
    }


def gathered(input: torch.Tensor, channels: int) -> torch.Tensor:
    """The input in the layout that the gather reads fastest.

    With many channels a tap's channels are read in vectors, which pays for one conversion to channels-last (none if the
    input has that layout already). With few, neighbouring threads read neighbouring positions, in any layout.
    """
    return input.contiguous(memory_format=torch.channels_last_3d) if channels % 8 == 0 else input


def packed(weight: torch.Tensor) -> torch.Tensor:
    """(O, K): weights in the order (kt, kh, kw, c), that of a channels-last patch."""
    return weight.permute(0, 2, 3, 4, 1).reshape(weight.shape[0], -1).contiguous()


def unpacked(flat: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(O, C / groups, kt, kh, kw), contiguous, in the dtype of `weight`."""
    outputs, channels, *kernel = weight.shape
    return flat.view(outputs, *kernel, channels).permute(0, 4, 1, 2, 3).to(weight.dtype).contiguous()


def is_wide(*tensors: torch.Tensor) -> bool:
    """Whether an offset into one of them needs 64 bits."""
    return any(1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) >= NARROW for x in tensors)
