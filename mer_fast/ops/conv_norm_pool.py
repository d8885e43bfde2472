"""Convolution, ReLU, batch norm and max-pool, the block of small networks, with the weights of many folds at once."""

from __future__ import annotations

from typing import Any

import torch

from .. import reference
from ..errors import MerFastError
from ._checks import require, require_count, require_float, require_number
from ._composed import precise
from ._dispatch import kernel, over_examples, register
from ._recurrent import chosen, require_operands, require_shape, without_autocast

OP = "conv_norm_pool"
CHANNEL_PAD = 16  # of the winners that the CPU's kernel keeps
MOST_CHANNELS = 64


def conv_norm_pool(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    norm_bias: torch.Tensor | None = None,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    *,
    index: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    padding: int = 0,
    pool_kernel: int = 3,
    pool_stride: int | None = None,
    pool_padding: int = 0,
    dropout: float = 0.0,
    dropout_key: torch.Tensor | None = None,
    average: int = 1,
) -> torch.Tensor:
    """A block of F networks: `max_pool2d(batch_norm(relu(conv2d(x_f, weight[f], bias[f]))))`, dropout and average-pool.

    x_f are the clips that fold f trains on, `input[index[f]]`: what is held out is never computed. Each fold has batch
    statistics of its own. Nothing of the size of the convolution's output is ever stored (on a GPU one thing is, in the gradient
    of more than 3 channels, of more than 16 outputs and of the input), and nothing that a fold gets depends on the other folds,
    on how many run at once, or on the number of threads.

    Args:
        input: (M, C, H, W), clips that all folds share, or (F, B, C, H, W), such as the output of another block.
        weight: (F, O, C, kh, kw).
        bias, norm_weight, norm_bias: (F, O) or None.
        running_mean, running_var: (F, O), updated in place while `training`. None: the batch's statistics always.
        index: (F, B) int64, which clip is in each slot of a fold's batch; -1 is an empty slot, whose output is 0. Needed with
            shared clips; with an input a fold only its sign counts, and None is no empty slot.
        training: the statistics are the batch's; otherwise the running ones.
        momentum, eps: as in `torch.nn.BatchNorm2d`.
        padding: of the convolution, on all sides.
        pool_kernel, pool_stride, pool_padding: of the max-pool, as in `torch.nn.MaxPool2d`.
        dropout: probability with which an element of the output becomes 0; the others are divided by 1 - dropout.
        dropout_key: (F,) int64, one a fold: an element is dropped or not by a hash of its fold's key and its place, so that the
            same key gives the same mask. None: no dropout.
        average: kernel and stride of a closing average-pool, 1 for none.

    Returns:
        (F, B, O, H', W') in the dtype of `input`, contiguous. float16 and bfloat16 are computed in float32. Differentiable once;
        torch.func and forward-mode derivatives run the plain PyTorch form. A kernel runs 3x3 convolutions with padding 0..2, at
        most 64 channels in and out, and pools of 2 or 3; the rest runs in plain PyTorch, fold after fold. Deterministic. On a GPU
        the launches are as many for any number of folds, products are TF32 where PyTorch's convolutions are, and nothing waits
        to look at indices: a clip out of range makes its fold's output NaN.

    Raises:
        MerFastError: operands that do not fit each other, clips without index, an index out of range, mixed dtypes or devices,
            one value a channel in training.

    Sources: the block of STSTNet (Liong et al., FG 2019) and of networks like it; the norm is that of Ioffe,
    Szegedy, "Batch normalization", ICML 2015.
    """
    stride = pool_kernel if pool_stride is None else pool_stride
    block = {"padding": padding, "pool_kernel": pool_kernel, "pool_stride": stride, "pool_padding": pool_padding}
    named = {
        "bias": bias, "norm_weight": norm_weight, "norm_bias": norm_bias, "running_mean": running_mean, "running_var": running_var
    }  # fmt: skip
    _check_operands(input, weight, named, index)
    size = _check_numbers(input, weight, block, momentum, eps, dropout, dropout_key, average)
    own = training or running_mean is None
    slots = input.shape[1] if index is None else index.shape[1]
    require(not own or slots * size[0] * size[1] != 1, OP, "input", "must have more than one value a channel in training, got {}",
            input.shape)  # fmt: skip
    operands = [input, weight, bias, norm_weight, norm_bias]
    dropout_key = dropout_key if dropout else None
    with without_autocast(input):
        if chosen(OP, input, operands, _why_not_kernel(input, weight, block)) != "kernel":
            return reference.conv_norm_pool(
                input, weight, bias, norm_weight, norm_bias, running_mean, running_var, index=index, training=own,
                momentum=momentum, eps=eps, padding=padding, pool_kernel=pool_kernel, pool_stride=stride,
                pool_padding=pool_padding, dropout=dropout, dropout_key=dropout_key, average=average,
            )  # fmt: skip
        wide = [None if one is None else one.to(precise(input)) for one in (*operands, running_mean, running_var)]
        x, w, *rest, mean, var = wide
        out, _, statistics = kernel(OP)(
            x, index, w, *rest, None if own else mean, None if own else var, eps, padding, [pool_kernel, stride, pool_padding],
            float(dropout if dropout_key is not None else 0), dropout_key, average,
        )  # fmt: skip
        if own and running_mean is not None and running_var is not None:
            there = torch.full([weight.shape[0]], slots, device=input.device) if index is None else (index >= 0).sum(1)
            _keep(running_mean, running_var, statistics.detach(), there * size[0] * size[1], momentum)
        return out.to(input.dtype)


def _keep(
    running_mean: torch.Tensor, running_var: torch.Tensor, statistics: torch.Tensor, values: torch.Tensor, momentum: float
) -> None:
    """Moves running statistics towards those of so many values a fold; a fold without any stays."""
    count = values[:, None].to(statistics.dtype)
    share = momentum * (count > 0).to(count.dtype)
    mean, var = statistics[:, 0] + statistics[:, 2], statistics[:, 1] * (count / (count - 1).clamp(min=1))
    for running, new in ((running_mean, mean), (running_var, var)):
        running.copy_(torch.lerp(running.to(new.dtype), new, share))


def _why_not_kernel(input: torch.Tensor, weight: torch.Tensor, block: dict[str, int]) -> str | None:
    """Why the kernel cannot serve a block, or None if it can."""
    if tuple(weight.shape[3:]) != (3, 3):
        return f"for 3x3 kernels, not {tuple(weight.shape[3:])}"
    if max(weight.shape[1], weight.shape[2]) > MOST_CHANNELS:
        return f"for at most {MOST_CHANNELS} channels"
    if block["padding"] > 2:
        return "for a padding of at most 2"
    if block["pool_kernel"] not in (2, 3):
        return "for pools of 2 or 3"
    return None


def _check_operands(input: torch.Tensor, weight: torch.Tensor, named: dict[str, Any], index: torch.Tensor | None) -> None:
    for name, operand, ranks, shape in (
        ("input", input, (4, 5), "(M, C, H, W) or (F, B, C, H, W)"), ("weight", weight, (5,), "(F, O, C, kh, kw)")
    ):  # fmt: skip
        require_float(OP, name, operand)
        require(operand.dim() in ranks, OP, name, "must have shape {}, got {}", shape, operand.shape)
    folds, outputs, channels = weight.shape[:3]
    require(min(weight.shape[1:]) >= 1, OP, "weight", "must not be empty, got {}", weight.shape)
    require(input.shape[-3] == channels, OP, "input", "must have {} channels for weight {}, got {}",
            channels, weight.shape, input.shape)  # fmt: skip
    require(input.dim() == 4 or input.shape[0] == folds, OP, "input", "must have {} folds as weight, got {}", folds, input.shape)
    require_operands(OP, input, {"weight": weight})
    require_operands(OP, input, named, (precise(input),))
    for name, operand in named.items():
        require_shape(OP, name, operand, (folds, outputs))
    both = (named["running_mean"] is None) == (named["running_var"] is None)
    require(both, OP, "running_mean and running_var", "must both be given, or neither")
    require(index is not None or input.dim() == 5, OP, "index", "must be given with clips of shape (M, C, H, W)")
    if index is None:
        return
    fits = isinstance(index, torch.Tensor) and index.dtype == torch.int64 and index.dim() == 2 and index.shape[0] == folds
    require(fits and (input.dim() == 4 or index.shape[1] == input.shape[1]), OP, "index",
            "must be int64 of shape (F, B) for {} folds, -1 where a slot is empty, got {}", folds,
            getattr(index, "shape", type(index).__name__))  # fmt: skip
    require(index.device == input.device, OP, "input and index", "must be on one device, got {} and {}; move one with .to()",
            input.device, index.device)  # fmt: skip
    if input.dim() == 4 and index.numel() and index.device.type == "cpu" and not torch.compiler.is_compiling():
        require(int(index.min()) >= -1 and int(index.max()) < len(input), OP, "index",
                "must lie in -1..{} for input {}", len(input) - 1, input.shape)  # fmt: skip


def _check_numbers(
    input: torch.Tensor, weight: torch.Tensor, block: dict[str, int], momentum: float, eps: float, dropout: float, key: Any,
    average: int,
) -> list[int]:  # fmt: skip
    """(H, W) of the convolution."""
    for name, least in (("padding", 0), ("pool_kernel", 1), ("pool_stride", 1), ("pool_padding", 0)):
        require_count(OP, name, block[name], least)
    require_number(OP, "eps", eps, -1e-45)
    require_number(OP, "momentum", momentum, -1e-9, 1 + 1e-9)
    require_number(OP, "dropout", dropout, -1e-9, 1 + 1e-9)
    size = [n + 2 * block["padding"] - k + 1 for n, k in zip(input.shape[-2:], weight.shape[3:], strict=True)]
    require(min(size) >= 1, OP, "weight", "of size {} does not fit into input {} with padding {}",
            weight.shape[3:], input.shape, block["padding"])  # fmt: skip
    pool, around = block["pool_kernel"], block["pool_padding"]
    require(2 * around <= pool, OP, "pool_padding", "must be at most half of pool_kernel {}, got {}", pool, around)
    require(min(size) + 2 * around >= pool, OP, "pool_kernel", "{} is larger than the convolution's output {}", pool, tuple(size))
    require_count(OP, "average", average)
    pooled = [(n + 2 * around - pool) // block["pool_stride"] + 1 for n in size]
    require(average <= min(pooled), OP, "average", "{} is larger than the pool's output {}", average, tuple(pooled))
    if key is not None:
        fits = isinstance(key, torch.Tensor) and key.dtype == torch.int64 and key.shape == weight.shape[:1]
        require(fits and key.device == input.device, OP, "dropout_key", "must be int64 of shape ({},) on the device of input",
                weight.shape[0])  # fmt: skip
    return size


# --- registrations -----------------------------------------------------------------------------------------------------
def _pooled(size: int, padding: int, pool: list[int]) -> int:
    return (size + 2 * padding - 2 + 2 * pool[2] - pool[0]) // pool[1] + 1


def _fake(
    input: torch.Tensor, index: torch.Tensor | None, weight: torch.Tensor, bias: Any, norm_weight: Any, norm_bias: Any,
    running_mean: Any, running_var: Any, eps: float, padding: int, pool: list[int], dropout: float, key: Any, average: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    folds, outputs = weight.shape[:2]
    slots = input.shape[1] if index is None else index.shape[1]
    height, width = (_pooled(size, padding, pool) for size in input.shape[-2:])
    if input.device.type == "cpu":
        winners = [folds, slots, height * width, (outputs + CHANNEL_PAD - 1) // CHANNEL_PAD * CHANNEL_PAD]
    else:  # values and places
        winners = [2, folds, slots, outputs, height * width]
    return (
        input.new_empty([folds, slots, outputs, height // average, width // average]),
        input.new_empty(winners),
        input.new_empty([folds, 3, outputs]),
    )


def _fake_backward(
    grad: torch.Tensor, input: torch.Tensor, index: Any, weight: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    examples = [*grad.shape[:2], *input.shape[-3:]] if rest[-1] else [0]
    return (input.new_empty(examples), input.new_empty(weight.shape), *(input.new_empty(weight.shape[:2]) for _ in range(3)))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    input, index, weight, bias, norm_weight, norm_bias, running_mean, _, *ctx.rest, dropout_key, ctx.average = inputs
    ctx.batch_statistics = running_mean is None
    ctx.present = bias is not None, norm_weight is not None, norm_bias is not None
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(input, index, weight, bias, norm_weight, output[1], output[2], dropout_key)


def _backward(ctx: Any, grad: torch.Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 14
    input, index, weight, bias, norm_weight, winners, statistics, key = ctx.saved_tensors
    of_input, of_weight, *others = kernel(f"{OP}_backward")(
        grad, input, index, weight, bias, norm_weight, winners, statistics, ctx.batch_statistics, *ctx.rest, key,
        ctx.average, ctx.needs_input_grad[0],
    )  # fmt: skip
    if ctx.needs_input_grad[0] and input.dim() == 4:  # of empty slots it is 0, wherever that goes
        of_input = input.new_zeros(input.shape).index_add(0, index.clamp(min=0).flatten(), of_input.flatten(0, 1))
    others = [one if there else None for one, there in zip(others, ctx.present, strict=True)]
    return (of_input if ctx.needs_input_grad[0] else None, None, of_weight, *others, *[None] * 8)


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise MerFastError(
        'conv_norm_pool: its gradient cannot be differentiated again; run it inside `with mer_fast.backend("reference")`'
    )


register(OP, fake=_fake, setup_context=_setup_context, backward=_backward, vmap=over_examples(OP))
register(
    f"{OP}_backward", fake=_fake_backward, vmap=over_examples(f"{OP}_backward"),
    setup_context=lambda ctx, inputs, output: None, backward=_no_second_derivative,
)  # fmt: skip
