"""The cases of conv_norm_pool: the block of STSTNet with weights of many folds, and a wider block that stands on another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from mer_fast import ops

from . import rivals
from .rivals import Call, Rival

Tensors = tuple[torch.Tensor, ...]
Block = Callable[..., torch.Tensor]  # (clips of a fold, weight, bias, scale, shift) -> pooled


class Folds(NamedTuple):
    """Blocks of 3x3 convolution, ReLU, batch norm and max-pool 3 (padding 1), each fold with weights and a batch of its own."""

    folds: int
    batch: int
    clips: int  # that all folds share; 0: an input of its own for each fold
    channels: int
    size: int
    outputs: int
    padding: int
    streams: tuple[int, ...] = ()  # how many outputs each of parallel convolutions has, as the network is published

    @property
    def map_size(self) -> int:
        return self.size + 2 * self.padding - 2

    @property
    def pooled(self) -> tuple[int, ...]:
        side = (self.map_size - 1) // 3 + 1
        return (self.folds, self.batch, self.outputs, side, side)

    @property
    def name(self) -> str:
        return (
            f"{self.folds} folds of {self.batch} clips, {self.channels}x{self.size}x{self.size} to {self.outputs} maps"
        )

    def flops(self) -> int:
        """Of the convolutions."""
        return 2 * self.folds * self.batch * self.outputs * self.map_size**2 * self.channels * 9


STSTNET = Folds(34, 64, 442, 3, 28, 16, 2, (3, 5, 8))
WIDER = Folds(8, 32, 0, 16, 16, 32, 1)
FOLDS = (STSTNET, WIDER)


# --- plain PyTorch -------------------------------------------------------------------------------------------------------
def merged(folds: Folds) -> Block:
    """One convolution for all streams."""

    def block(x: torch.Tensor, *operands: torch.Tensor) -> torch.Tensor:
        weight, bias, scale, shift = operands
        maps = F.relu(F.conv2d(x, weight, bias, padding=folds.padding))
        return F.max_pool2d(F.batch_norm(maps, None, None, scale, shift, True), 3, padding=1)

    return block


def published(folds: Folds) -> Block:
    """A convolution, norm and pool a stream."""

    def block(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        parts = zip(*(t.split(list(folds.streams or (folds.outputs,))) for t in rest), strict=True)
        return torch.cat([merged(folds)(x, *part) for part in parts], 1)

    return block


def loop(block: Block, x: torch.Tensor, index: torch.Tensor, *rest: torch.Tensor, backward: bool) -> Any:
    """Fold after fold: outputs, or gradients of the four operands."""
    *operands, grad = rest
    found = []
    for fold in range(len(index)):
        clips = x[index[fold]] if x.dim() == 4 else x[fold]
        if not backward:
            with torch.no_grad():
                found.append(block(clips, *(t[fold] for t in operands)))
            continue
        leaves = [t[fold].detach().requires_grad_() for t in operands]
        found.append(torch.autograd.grad(block(clips, *leaves), leaves, grad[fold]))
    return [torch.stack(parts) for parts in zip(*found, strict=True)] if backward else torch.stack(found)


def vmapped(block: Block, x: torch.Tensor, index: torch.Tensor, *rest: torch.Tensor, backward: bool) -> Any:
    *operands, grad = rest
    clips = x[index] if x.dim() == 4 else x
    if not backward:
        with torch.no_grad():
            return torch.vmap(block)(clips, *operands)

    def gradients(clips: torch.Tensor, grad: torch.Tensor, *operands: torch.Tensor) -> Any:
        return torch.func.vjp(partial(block, clips), *operands)[1](grad)

    return torch.vmap(gradients)(clips, grad, *(t.detach() for t in operands))


def channels_last(make: Callable[..., Call]) -> Callable[..., Call]:
    """Clips and weights in channels-last beforehand, as a network kept in that layout has them."""

    def moved(t: torch.Tensor) -> torch.Tensor:
        if t.dim() < 4:
            return t
        flat = t.detach().flatten(0, -4).to(memory_format=torch.channels_last)
        return flat.unflatten(0, t.shape[:-3]) if t.dim() == 5 else flat

    return lambda *inputs: make(*(t if t.dtype == torch.int64 else moved(t) for t in inputs))


# --- ours ----------------------------------------------------------------------------------------------------------------
def ours(folds: Folds, x: torch.Tensor, index: torch.Tensor, *rest: torch.Tensor, backward: bool) -> Any:
    *operands, grad = rest

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        return ops.conv_norm_pool(x, *tensors, index=index, training=True, padding=folds.padding, pool_padding=1)

    if not backward:
        with torch.no_grad():
            return run(*operands)
    leaves = [t.detach().requires_grad_() for t in operands]
    return torch.autograd.grad(run(*leaves), leaves, grad)


def fold_inputs(folds: Folds) -> Callable[[str], Tensors]:
    """Clips, index, weight, bias, scale, shift, and the output's gradient."""

    def inputs(device: str) -> Tensors:
        draw = torch.Generator().manual_seed(0)
        shape = (folds.channels, folds.size, folds.size)
        x = torch.randn(*((folds.clips,) if folds.clips else (folds.folds, folds.batch)), *shape, generator=draw)
        choices = [torch.randperm(folds.clips or folds.batch, generator=draw) for _ in range(folds.folds)]
        index = torch.stack([choice[: folds.batch] for choice in choices])
        weight = torch.randn(folds.folds, folds.outputs, folds.channels, 3, 3, generator=draw) / (9 * folds.channels) ** 0.5
        bias, shift = (0.1 * torch.randn(folds.folds, folds.outputs, generator=draw) for _ in range(2))
        scale = 0.5 + torch.rand(folds.folds, folds.outputs, generator=draw)
        grad = torch.randn(folds.pooled, generator=draw)
        return tuple(t.to(device) for t in (x, index, weight, bias, scale, shift, grad))

    return inputs


def fold_fields(folds: Folds, *, backward: bool) -> dict[str, Any]:
    """What a `Case` says of a block: everything but the op."""
    both = ("cpu", "cuda")
    step = partial(loop, backward=backward)
    one = merged(folds)
    against = [
        Rival("PyTorch, fold after fold", rivals.eager(partial(step, published(folds))), both),
        Rival("PyTorch, fold after fold, streams merged, channels last", channels_last(rivals.eager(partial(step, one))), both),
        Rival("PyTorch, fold after fold, streams merged, torch.compile", rivals.compiled(step, one), both),
        Rival("PyTorch, vmap", rivals.eager(partial(vmapped, one, backward=backward)), both),
    ]
    clips = (folds.clips or folds.folds * folds.batch) * folds.channels * folds.size**2
    pooled = folds.folds * folds.batch * folds.outputs * folds.pooled[-1] ** 2
    return {
        "shape": folds.name + (", training step" if backward else ""),
        "inputs": fold_inputs(folds),
        "call": partial(ours, folds, backward=backward),
        "rivals": tuple(against),
        "bytes_moved": 4 * (clips + pooled) * (1 + backward),
        "flops": folds.flops() * (2 if backward else 1),  # no gradient of the clips
    }
