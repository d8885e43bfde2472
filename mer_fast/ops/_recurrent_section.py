"""The kernels of recurrent_conv2d: a section whose norms are fixed, and one with the batch's statistics, with its gradient.

Only what goes into each norm is kept for the gradient; the states are computed again from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ._composed import section
from ._conv import exact
from ._dispatch import kernel, over_examples, register
from ._recurrent import without_autocast

CHANNEL_PAD = 16  # of the maps that the CPU's kernels keep
MOST_CHANNELS = 512  # on a CPU, where every thread sums a gradient as large as all transformed weights
Tensors = Sequence[torch.Tensor]


def why_not_kernel(
    input: torch.Tensor, recurrent_weights: Tensors, norm: str | None, lists: Sequence[Any], gradient: bool,
    batch_statistics: bool,
) -> str | None:  # fmt: skip
    """Why a kernel cannot serve a section, or None if it can; `lists` are the norms' tensors, each a list or None."""
    maps = recurrent_weights[0].shape[0]
    if any(weight.shape != recurrent_weights[0].shape for weight in recurrent_weights):
        return "for recurrent weights of one shape"
    if any(one is None for tensors in lists if tensors is not None for one in tensors):
        return "for norms that have all tensors or none"
    if norm not in ("batch", None):
        return f"norm={norm!r} has none"
    if norm == "batch" and gradient and not batch_statistics:
        return "it has no gradient through running statistics"
    if input.device.type == "cpu":
        if input.dtype != torch.float32:
            return f"for float32 on a CPU, not {input.dtype}"
        if max(input.shape[1], maps) > MOST_CHANNELS:
            return f"for at most {MOST_CHANNELS} channels on a CPU"
    elif input.dtype == torch.float64:
        return "not for float64 on a GPU"
    return None


def _stacked(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """(steps + 1, K) in float32, or None."""
    given = [one for one in tensors if one is not None]
    return torch.stack(given).float() if given else None


def fixed_section(
    input: torch.Tensor, input_weight: torch.Tensor, recurrent_weights: Tensors, steps: int, injection: str,
    folds: tuple[torch.Tensor, torch.Tensor] | None, pool: Sequence[int] | None,
) -> torch.Tensor:  # fmt: skip
    """(N, C, H, W) -> (N, K, H', W'); `folds` are scale and shift of all norms, (steps + 1, K), None where there is no norm."""
    scale, shift = (None, None) if folds is None else (one.float() for one in folds)
    weights = torch.stack(list(recurrent_weights))
    return kernel("recurrent_conv2d")(input, input_weight, weights, scale, shift, steps, injection, list(pool or (1, 1)), exact())


def trained_section(
    input: torch.Tensor, input_weight: torch.Tensor, recurrent_weights: Tensors, steps: int, injection: str, normalise: bool,
    norm_weights: Sequence[torch.Tensor | None], norm_biases: Sequence[torch.Tensor | None], eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """(N, C, H, W) -> (N, K, H, W), and mean and biased variance of what went into each norm, (steps + 1, 2, K)."""
    out, _, statistics = kernel("recurrent_conv2d_train")(
        input, input_weight, torch.stack(list(recurrent_weights)), _stacked(norm_weights), _stacked(norm_biases), steps,
        injection, normalise, eps, exact(),
    )  # fmt: skip
    return out, statistics


# --- registrations -----------------------------------------------------------------------------------------------------
def _fake(*arguments: Any) -> torch.Tensor:
    input, weight, *_, pool, _ = arguments
    return input.new_empty([input.shape[0], weight.shape[0], *(size // p for size, p in zip(input.shape[2:], pool, strict=True))])


def _fake_train(
    input: torch.Tensor, input_weight: torch.Tensor, recurrent: torch.Tensor, weight: Any, bias: Any, steps: int, injection: str,
    normalise: bool, *_: object,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    maps = input_weight.shape[0]
    kept = (maps + CHANNEL_PAD - 1) // CHANNEL_PAD * CHANNEL_PAD if input.device.type == "cpu" else maps
    return (
        input.new_empty([input.shape[0], maps, *input.shape[2:]]),
        input.new_empty([steps + 1, input.shape[0], *input.shape[2:], kept]),
        input.new_empty([steps + 1 if normalise else 0, 2, maps], dtype=torch.float32),
    )


def _fake_backward(
    grad: torch.Tensor, input: torch.Tensor, input_weight: torch.Tensor, recurrent: torch.Tensor, weight: Any, bias: Any,
    maps: torch.Tensor, statistics: torch.Tensor, steps: int, injection: str, normalise: bool, eps: float, need_input: bool,
    exact: bool,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    shapes = input.shape if need_input else [0], input_weight.shape, recurrent.shape
    norms = [torch.empty([0] if one is None else one.shape, dtype=torch.float32, device=input.device) for one in (weight, bias)]
    return (*(input.new_empty(shape) for shape in shapes), *norms)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    *tensors, steps, injection, normalise, eps, exact = inputs
    ctx.rest = steps, injection, normalise, eps
    ctx.exact = exact
    ctx.set_materialize_grads(False)  # of the maps they would be as large as these
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(*tensors, output[1], output[2])


def _backward(ctx: Any, grad: torch.Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 10
    *tensors, maps, statistics = ctx.saved_tensors
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # to be differentiated again
        return (*_plain_gradients(ctx, tensors, grad), *[None] * 5)
    gradients = kernel("recurrent_conv2d_backward")(
        grad, *tensors, maps, statistics, *ctx.rest, ctx.needs_input_grad[0], ctx.exact
    )
    needed = zip(gradients, ctx.needs_input_grad, tensors, strict=False)
    return (*(g if need and one is not None else None for g, need, one in needed), *[None] * 5)


def _plain_gradients(ctx: Any, tensors: Sequence[torch.Tensor | None], grad: torch.Tensor) -> list[torch.Tensor | None]:
    """The same of the library's convolutions, which have derivatives of every order."""
    input, input_weight, recurrent, weight, bias = tensors
    steps, injection, normalise, eps = ctx.rest
    assert input is not None and input_weight is not None and recurrent is not None

    def activated(z: torch.Tensor, k: int) -> torch.Tensor:
        if normalise:
            of_scale, of_shift = (None if one is None else one[k] for one in (weight, bias))
            z = torch.nn.functional.batch_norm(z, None, None, of_scale, of_shift, True, 0.1, eps)
        return z.relu()

    with without_autocast(input):
        out = section(input, input_weight, recurrent.unbind(0), steps, injection, activated, False, keep_layout=True)
    wanted = [one for one, need in zip(tensors, ctx.needs_input_grad, strict=False) if need and one is not None]
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True, allow_unused=True))
    return [next(found) if need and one is not None else None for one, need in zip(tensors, ctx.needs_input_grad, strict=False)]


register("recurrent_conv2d", fake=_fake, vmap=over_examples("recurrent_conv2d"))
register(
    "recurrent_conv2d_train", fake=_fake_train, setup_context=_setup_context, backward=_backward,
    vmap=over_examples("recurrent_conv2d_train"),
)  # fmt: skip
register("recurrent_conv2d_backward", fake=_fake_backward, vmap=over_examples("recurrent_conv2d_backward"))
