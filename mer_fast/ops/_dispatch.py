"""The operators of torch.ops.mer_fast, and the registrations (fake, autograd, vmap) that an op's file makes for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import _library

Function = Callable[..., Any]


def kernel(name: str) -> Any:
    """The operator torch.ops.mer_fast.<name>."""
    return getattr(torch.ops.mer_fast, name).default


def register(
    name: str,
    *,
    fake: Function,
    setup_context: Function | None = None,
    backward: Function | None = None,
    vmap: Function | None = None,
) -> None:
    """Gives an operator of the compiled library its shape function, gradient and vmap rule; nothing where there is none."""
    if _library.MISSING is not None:
        return
    full = f"mer_fast::{name}"
    torch.library.register_fake(full, fake)
    if backward is not None:
        torch.library.register_autograd(full, backward, setup_context=setup_context)
    if vmap is not None:
        torch.library.register_vmap(full, vmap)


def fold_batch(tensor: torch.Tensor, batch_dim: int | None, size: int) -> torch.Tensor:
    """A vmapped operand (`batch_dim` its vmap dimension, None where it is shared) with that dimension folded into dim 0."""
    moved = tensor.expand(size, *tensor.shape) if batch_dim is None else tensor.movedim(batch_dim, 0)
    return moved.flatten(0, 1)


def over_examples(name: str) -> Function:
    """A vmap rule that calls operator `name` once for each example of the extra batch and stacks the results."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        def one(argument: Any, dim: Any, k: int) -> Any:
            return argument.select(dim, k) if isinstance(argument, torch.Tensor) and dim is not None else argument

        pairs = list(zip(arguments, in_dims, strict=True))
        results = [kernel(name)(*(one(a, d, k) for a, d in pairs)) for k in range(info.batch_size)]
        if isinstance(results[0], torch.Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, tuple(0 for _ in stacked)

    return rule
