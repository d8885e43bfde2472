"""A recurrent convolutional section as one layer."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import torch

from .. import ops
from ..ops._checks import require, require_count
from ..ops._recurrent import odd_kernel
from ..ops.recurrent_conv2d import INJECTIONS, NORMS

GROUPS = 32  # of GroupNorm, as Wu & He give them, or as many as divide the maps


class RecurrentConv2d(torch.nn.Module):
    """A recurrent convolutional section, the heart of STRCN. With A_k the norm of state k and then ReLU:

    - `injection="feedforward"` (Liang & Hu): `u = W_f * x`, `y_0 = A_0(u)`, `y_k = A_k(W_k * y_{k-1} + u)`;
    - `injection="input"` (STRCN-G, W_f of size 1x1): `y_0 = A_0(W_f * x)`, `y_k = A_k(W_k * (y_{k-1} + x))`;

    k = 1..steps, then a max-pool if there is one. Weights are `input_conv.weight`, `recurrent_convs.{k}.weight` (k from 0, one
    when shared) and `norms.{k}`, PyTorch's BatchNorm2d or GroupNorm, one a state with statistics of its own: checkpoints go
    both ways between this layer and a network of `torch.nn` with these names. Initial values are those of `torch.nn.Conv2d`.

    Args:
        in_channels, out_channels: channels in, and maps K of every state; equal with injection "input".
        kernel_size: odd, a number or (h, w); height and width stay.
        steps: recurrent steps after the first state.
        injection: "feedforward" or "input".
        share_weights: one W for all steps.
        norm: "batch", "group" (32 groups, or their largest common divisor with K), "lrn" (ReLU, then local response
            normalisation over K // 8 + 1 maps, as Liang & Hu) or None.
        pool: kernel and stride of the closing max-pool, a number or (h, w); None for none.

    Shape: (N, C, H, W) -> (N, K, H', W').

    Raises:
        MerFastError: zero steps, an even kernel, unknown injection or norm; at a call, an input that does not fit.

    Sources: Liang, Hu, "Recurrent convolutional neural network for object recognition", CVPR 2015; Xia, Hong, Gao, Feng,
    Zhao, "Spatiotemporal recurrent convolutional networks for recognizing spontaneous micro-expressions", IEEE TMM 2020.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        steps: int = 3,
        *,
        injection: str = "feedforward",
        share_weights: bool = True,
        norm: str | None = "batch",
        pool: int | Sequence[int] | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        layer = "RecurrentConv2d"
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("steps", steps)):
            require_count(layer, name, value)
        require(injection in INJECTIONS, layer, "injection", "must be 'feedforward' or 'input', got {!r}", injection)
        require(norm in NORMS, layer, "norm", "must be 'batch', 'group', 'lrn' or None, got {!r}", norm)
        require(injection != "input" or in_channels == out_channels, layer, "in_channels",
                "must be out_channels with injection='input', got {} and {}", in_channels, out_channels)  # fmt: skip
        size = odd_kernel(layer, kernel_size)
        self.in_channels, self.out_channels, self.kernel_size, self.steps = in_channels, out_channels, size, steps
        self.injection, self.share_weights, self.norm, self.pool = injection, share_weights, norm, pool
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        first = (1, 1) if injection == "input" else size
        # Modules for their names and initial values; the op runs on their weights.
        self.input_conv = torch.nn.Conv2d(in_channels, out_channels, first, bias=False, padding="same", **made)
        self.recurrent_convs = torch.nn.ModuleList(
            torch.nn.Conv2d(out_channels, out_channels, size, bias=False, padding="same", **made)
            for _ in range(1 if share_weights else steps)
        )
        self.norms = torch.nn.ModuleList()
        for _ in range(steps + 1 if norm in ("batch", "group") else 0):
            groups = gcd(out_channels, GROUPS)
            group = torch.nn.GroupNorm(groups, out_channels, **made) if norm == "group" else None
            self.norms.append(group or torch.nn.BatchNorm2d(out_channels, **made))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        convs: list[Any] = list(self.recurrent_convs)
        out = ops.recurrent_conv2d(
            input, self.input_conv.weight, [conv.weight for conv in convs], steps=self.steps,
            injection=self.injection, norm=self.norm, pool=self.pool, **self._norms(),
        )  # fmt: skip
        if self.norm == "batch":
            norms: list[Any] = list(self.norms)
            for norm in norms:
                if norm.training and norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.add_(1)
        return out

    def _norms(self) -> dict[str, Any]:
        """The op's arguments about the norms."""
        if not len(self.norms):
            return {}
        norms: list[Any] = list(self.norms)
        first = norms[0]
        arguments: dict[str, Any] = {"eps": first.eps}
        if first.affine:
            arguments |= {"norm_weights": [norm.weight for norm in norms], "norm_biases": [norm.bias for norm in norms]}
        if self.norm == "group":
            return arguments | {"groups": first.num_groups}
        for k, norm in enumerate(norms):
            alike = type(norm) is torch.nn.BatchNorm2d and all(
                getattr(norm, name) == getattr(first, name) for name in ("training", "eps", "momentum", "affine")
            )
            require(alike and norm.momentum is not None, "RecurrentConv2d", f"norms.{k}",
                    "must be a torch.nn.BatchNorm2d with a momentum, in the mode and with the settings of norms.0, got {}; "
                    "statistics over several processes are not supported", norm)  # fmt: skip
        if first.running_mean is None:
            return arguments | {"training": True}
        statistics = {"running_means": [n.running_mean for n in norms], "running_vars": [n.running_var for n in norms]}
        return arguments | statistics | {"training": first.training, "momentum": first.momentum}

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, steps={self.steps}, "
            f"injection={self.injection!r}, share_weights={self.share_weights}, norm={self.norm!r}, pool={self.pool}"
        )
