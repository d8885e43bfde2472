"""The cases of conv3d and conv3d_pool: the published layers, and a table of further shapes for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from mer_fast import ops

from . import rivals
from .rivals import Rival

Triple = tuple[int, int, int]
ONE: Triple = (1, 1, 1)


class Shape(NamedTuple):
    """A layer: input (N, C, T, H, W), output channels, kernel, and what follows."""

    input: tuple[int, int, int, int, int]
    outputs: int
    kernel: Triple
    stride: Triple = ONE
    padding: Triple = (0, 0, 0)
    pool: Triple | None = None  # kernel and stride; None: no pool

    @property
    def name(self) -> str:
        parts = ["x".join(map(str, self.input)), f"{self.outputs} of {'x'.join(map(str, self.kernel))}"]
        if self.stride != ONE:
            parts.append(f"stride {','.join(map(str, self.stride))}")
        if any(self.padding):
            parts.append(f"padding {','.join(map(str, self.padding))}")
        if self.pool is not None:
            parts.append(f"pool {','.join(map(str, self.pool))}")
        return ", ".join(parts)

    def conv_size(self) -> list[int]:
        every = zip(self.input[2:], self.kernel, self.stride, self.padding, strict=True)
        return [(n + 2 * p - k) // s + 1 for n, k, s, p in every]

    def out_size(self) -> list[int]:
        return self.conv_size() if self.pool is None else [n // p for n, p in zip(self.conv_size(), self.pool, strict=True)]

    def flops(self) -> int:
        """Of the formula, for the positions that reach the output."""
        used = self.out_size() if self.pool is None else [n * p for n, p in zip(self.out_size(), self.pool, strict=True)]
        return 2 * self.input[0] * self.outputs * prod(used) * self.input[1] * prod(self.kernel)

    def elements(self) -> int:
        """Of input and output."""
        return prod(self.input) + self.input[0] * self.outputs * prod(self.out_size())


def plain(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, shape: Shape) -> torch.Tensor:
    full = F.relu(F.conv3d(x, w, b, shape.stride, shape.padding))
    return full if shape.pool is None else F.max_pool3d(full, shape.pool)


def ours(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, shape: Shape) -> torch.Tensor:
    if shape.pool is None:
        return ops.conv3d(x, w, b, stride=shape.stride, padding=shape.padding, activation="relu")
    return ops.conv3d_pool(x, w, b, stride=shape.stride, padding=shape.padding, pool_kernel=shape.pool)


def forward(function: Callable[..., Any], x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, *_: torch.Tensor) -> Any:
    with torch.no_grad():
        return function(x, w, b)


def forward_backward(
    function: Callable[..., Any], x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    wanted = (w, b, x) if x.requires_grad else (w, b)
    return torch.autograd.grad(function(x, w, b), wanted, grad)


def channels_last(step: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., rivals.Call]:
    """Input and weight in channels-last-3d beforehand, as a network kept in that layout has them."""

    def make(*inputs: torch.Tensor) -> rivals.Call:
        def moved(t: torch.Tensor) -> torch.Tensor:
            return t.detach().to(memory_format=torch.channels_last_3d).requires_grad_(t.requires_grad) if t.dim() == 5 else t

        x, w, *rest = (moved(t) for t in inputs)
        return lambda: step(function, x, w, *rest)

    return make


def conv_inputs(shape: Shape, *, backward: bool) -> Callable[[str], tuple[torch.Tensor, ...]]:
    """Input, weight, bias and, for a backward pass, the output's gradient; the first layer's input needs no gradient."""

    def inputs(device: str) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        w_shape = (shape.outputs, shape.input[1], *shape.kernel)
        x = torch.randn(shape.input, generator=generator)
        w = torch.randn(w_shape, generator=generator) / prod(w_shape[1:]) ** 0.5
        b = torch.randn(shape.outputs, generator=generator)
        if not backward:
            return tuple(t.to(device) for t in (x, w, b))
        grad = torch.randn(shape.input[0], shape.outputs, *shape.out_size(), generator=generator)
        leaves = (t.to(device).requires_grad_(t is not x or shape.input[1] > 1) for t in (x, w, b))
        return (*leaves, grad.to(device))

    return inputs


def conv_fields(shape: Shape, *, backward: bool) -> dict[str, Any]:
    """What a `Case` says of a shape: everything but the op and the group."""
    step, function, both = forward_backward if backward else forward, partial(plain, shape=shape), ("cpu", "cuda")
    # Backward: dense gradients take the forward's operations once more for the weight, and once for the input.
    passes = 1 + (1 + (shape.input[1] > 1) if backward else 0)
    return {
        "shape": shape.name + (", with gradient" if backward else ""),
        "inputs": conv_inputs(shape, backward=backward),
        "call": partial(step, partial(ours, shape=shape)),
        "rivals": (
            Rival("PyTorch", rivals.eager(partial(step, function)), both),
            Rival("PyTorch, torch.compile", rivals.compiled(step, function), both),
            Rival("PyTorch, channels last", channels_last(step, function), both),
        ),
        "bytes_moved": 4 * shape.elements() * (1 + backward),
        "flops": shape.flops() * passes if shape.pool is None or not backward else None,
    }


# --- the shapes --------------------------------------------------------------------------------------------------------
THREE, TWO = (3, 3, 3), (2, 2, 2)
POOLED = (
    Shape((8, 1, 96, 64, 64), 32, (15, 3, 3), pool=THREE),  # MicroExpSTCNN, CAS(ME)^2
    Shape((8, 1, 18, 64, 64), 32, (15, 3, 3), pool=THREE),  # MicroExpSTCNN, SMIC
    Shape((4, 16, 16, 56, 56), 32, THREE, (2, 1, 1), pool=TWO),
)
POOLED_FURTHER = (
    Shape((8, 1, 96, 32, 32), 32, (15, 3, 3), pool=THREE),  # MicroExpFuseNet
    Shape((8, 1, 96, 64, 64), 32, THREE, pool=THREE),  # the kernel ablation of Reddy et al.
    Shape((8, 1, 96, 64, 64), 32, (7, 3, 3), pool=THREE),
    Shape((8, 1, 96, 64, 64), 32, (19, 3, 3), pool=THREE),
    Shape((4, 3, 16, 112, 112), 64, THREE, padding=ONE, pool=(1, 2, 2)),  # C3D's first layer
    Shape((4, 64, 16, 28, 28), 128, THREE, padding=ONE, pool=TWO),  # and its second, smaller
    Shape((4, 3, 16, 112, 112), 32, (3, 7, 7), (1, 2, 2), (1, 3, 3), (1, 2, 2)),
    Shape((8, 2, 30, 48, 48), 16, (5, 5, 5), (1, 2, 2), pool=TWO),
    Shape((4, 8, 24, 40, 40), 24, THREE, (3, 1, 1), ONE, TWO),
    Shape((4, 16, 16, 28, 28), 32, (1, 3, 3), pool=(1, 2, 2)),
    Shape((4, 16, 32, 28, 28), 16, (5, 1, 1), pool=(4, 2, 2)),
    Shape((2, 32, 12, 28, 28), 48, (3, 5, 5), padding=(1, 2, 2), pool=TWO),
)
PLAIN = (
    Shape((8, 1, 96, 64, 64), 32, (15, 3, 3), (4, 1, 1)),
    Shape((4, 16, 16, 56, 56), 32, THREE, (2, 1, 1), ONE),
)
PLAIN_FURTHER = (
    Shape((8, 1, 18, 64, 64), 32, (15, 3, 3)),
    Shape((8, 1, 32, 112, 112), 16, (5, 3, 3), (2, 1, 1), (2, 1, 1)),
    Shape((4, 3, 16, 112, 112), 32, (3, 7, 7), (1, 2, 2), (1, 3, 3)),
    Shape((4, 3, 16, 64, 64), 32, THREE, (2, 1, 1), ONE),
    Shape((4, 32, 16, 28, 28), 64, THREE, (3, 1, 1), ONE),
    Shape((4, 64, 8, 28, 28), 64, THREE, ONE, ONE),
    Shape((4, 32, 16, 28, 28), 64, THREE, TWO, ONE),
    Shape((4, 32, 32, 28, 28), 32, (3, 1, 1), (2, 1, 1), (1, 0, 0)),
    Shape((4, 32, 32, 28, 28), 32, (5, 1, 1), (4, 1, 1), (2, 0, 0)),
    Shape((4, 32, 16, 28, 28), 64, (1, 3, 3), ONE, (0, 1, 1)),
    Shape((4, 64, 16, 28, 28), 64, ONE, (2, 1, 1)),
    Shape((4, 16, 16, 56, 56), 16, TWO, TWO),
    Shape((4, 16, 16, 56, 56), 32, THREE, (4, 1, 1), ONE),
    Shape((4, 64, 8, 14, 14), 128, THREE, ONE, ONE),
)
