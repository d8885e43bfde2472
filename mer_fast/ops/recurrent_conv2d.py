"""A section of recurrent convolutions with one input: convolution, injection, norm and ReLU, step after step, and a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .. import reference
from ..reference.recurrent_conv2d import response_norm
from ._checks import require, require_count, require_float, require_number
from ._composed import folded_section, precise, section
from ._conv import wants_gradient
from ._recurrent import cast, chosen, require_kernel, require_operands, require_shape, without_autocast
from ._recurrent_section import fixed_section, trained_section, why_not_kernel

OP = "recurrent_conv2d"
NORMS = ("batch", "group", "lrn", None)
INJECTIONS = ("feedforward", "input")
Tensors = Sequence[torch.Tensor]


def recurrent_conv2d(
    input: torch.Tensor,
    input_weight: torch.Tensor,
    recurrent_weights: Tensors,
    *,
    steps: int,
    injection: str = "feedforward",
    norm: str | None = None,
    norm_weights: Tensors | None = None,
    norm_biases: Tensors | None = None,
    running_means: Tensors | None = None,
    running_vars: Tensors | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    groups: int = 1,
    pool: int | Sequence[int] | None = None,
) -> torch.Tensor:
    """A recurrent convolutional section, the heart of STRCN. With A_k the norm of state k and then ReLU:

    - `injection="feedforward"` (Liang & Hu): `u = W_f * x`, `y_0 = A_0(u)`, `y_k = A_k(W_k * y_{k-1} + u)`;
    - `injection="input"` (STRCN-G): `y_0 = A_0(W_f * x)`, `y_k = A_k(W_k * (y_{k-1} + x))`;

    k = 1..steps, then the max-pool. Convolutions keep height and width and have no bias.

    Args:
        input: x, (N, C, H, W), float64, float32, float16 or bfloat16.
        input_weight: W_f, (K, C, kh, kw), kernel sizes odd; with "input" C must be K.
        recurrent_weights: W_1 .. W_steps, each (K, K, kh, kw), or one that all steps share.
        steps: recurrent steps after the first state, at least 1.
        injection: "feedforward" or "input".
        norm: "batch", "group", "lrn" (ReLU first, then local response normalisation over K // 8 + 1 maps) or None.
        norm_weights, norm_biases: of "batch" and "group", steps + 1 of (K,), or None; float32 or the dtype of `input`.
        running_means, running_vars: of "batch", steps + 1 of (K,); updated in place while `training`. None: the batch's
            statistics always.
        training: "batch" uses the batch's statistics; otherwise the running ones, which go into the weights at every call.
        momentum, eps: as in `torch.nn.BatchNorm2d`; eps also of "group".
        groups: of "group", a divisor of K.
        pool: kernel and stride of a closing max-pool, a number or (h, w); None for none. Without gradient the kernel takes it
            in on a CPU, where a tile of outputs holds whole windows (2 and 4 behind 3x3 kernels, 2 behind 5x5).

    Returns:
        (N, K, H', W') in the dtype of `input`, contiguous; under autocast in autocast's. Differentiable, also twice. With
        norm "batch" or None one kernel runs the section: on a CPU in float32 with at most 512 channels (3x3 and 5x5 kernels
        as Winograd convolutions, except under `torch.use_deterministic_algorithms(True)`), on a GPU in 32 and 16 bits. The
        rest, gradients through running statistics and torch.func's derivatives run the library's convolutions.

    Raises:
        MerFastError: zero steps, operands that do not fit each other, even kernels, mixed dtypes or devices, an unknown
            norm or injection, a pool larger than the input, one value a channel in training.

    Sources: Liang, Hu, "Recurrent convolutional neural network for object recognition", CVPR 2015; Xia, Hong, Gao, Feng,
    Zhao, "Spatiotemporal recurrent convolutional networks for recognizing spontaneous micro-expressions", IEEE TMM 2020.
    """
    require_count(OP, "steps", steps)
    require(isinstance(recurrent_weights, (list, tuple)) and len(recurrent_weights) in (1, steps), OP, "recurrent_weights",
            "must be a list of {} tensors, or of one that all steps share", steps)  # fmt: skip
    input, input_weight, *recurrent_weights = cast(input, input_weight, *recurrent_weights)
    lists: dict[str, Tensors | None] = {
        "norm_weights": norm_weights, "norm_biases": norm_biases, "running_means": running_means, "running_vars": running_vars
    }  # fmt: skip
    batch_statistics = norm == "batch" and (training or running_means is None)
    _check_operands(input, input_weight, recurrent_weights, injection)
    _check_norm(input, input_weight.shape[0], steps, norm, lists, momentum, eps, groups)
    if batch_statistics:
        values = input.shape[0] * input.shape[2] * input.shape[3]
        require(values != 1, OP, "input", "must have more than one value a channel in training, got {}", input.shape)
    window = _window(pool, input)
    affine = [one for name in ("norm_weights", "norm_biases") for one in lists[name] or ()]
    operands = [input, input_weight, *recurrent_weights, *affine]
    gradient = wants_gradient(*operands)
    reason = why_not_kernel(input, recurrent_weights, norm, list(lists.values()), gradient, batch_statistics)
    with without_autocast(input):
        how = chosen(OP, input, operands, reason)
        if how == "reference":
            return reference.recurrent_conv2d(
                input, input_weight, recurrent_weights, steps=steps, injection=injection, norm=norm, norm_weights=norm_weights,
                norm_biases=norm_biases, running_means=running_means, running_vars=running_vars, training=batch_statistics,
                momentum=momentum, eps=eps, groups=groups, pool=window,
            )  # fmt: skip
        each: dict[str, Any] = {name: [None] * (steps + 1) if one is None else list(one) for name, one in lists.items()}
        norms = Norms(norm, **each, batch_statistics=batch_statistics, momentum=momentum, eps=eps, groups=groups)
        run = _fused if how == "kernel" else _composed
        return run(input, input_weight, recurrent_weights, steps, injection, norms, gradient, window)


@dataclass(frozen=True)
class Norms:
    """The norms of a section; of each kind of tensor one a state, or None."""

    kind: str | None
    norm_weights: list[torch.Tensor | None]
    norm_biases: list[torch.Tensor | None]
    running_means: list[torch.Tensor | None]
    running_vars: list[torch.Tensor | None]
    batch_statistics: bool
    momentum: float
    eps: float
    groups: int

    def folds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift of every batch norm with its running statistics, (states, K), at least in float32."""
        lists = self.running_means, self.running_vars, self.norm_weights, self.norm_biases
        mean, var, weight, bias = (None if one[0] is None else torch.stack(one) for one in lists)  # type: ignore[arg-type]
        assert mean is not None and var is not None
        scale = (var.to(precise(var)) + self.eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale
        return scale, shift if bias is None else shift + bias

    def keep(self, statistics: torch.Tensor, values: int) -> None:
        """Moves the running statistics towards a batch's means and biased variances, (states, 2, K), of so many values."""
        if values == 0:
            return
        for mean, var, (new_mean, new_var) in zip(self.running_means, self.running_vars, statistics.detach(), strict=True):
            if mean is not None and var is not None:
                mean.lerp_(new_mean.to(mean.dtype), self.momentum)
                var.lerp_((new_var * (values / max(1, values - 1))).to(var.dtype), self.momentum)

    def activated(self, z: torch.Tensor, k: int, in_place: bool) -> torch.Tensor:
        """What goes into state k, normalised and rectified."""
        relu = F.relu_ if in_place else F.relu
        weight, bias = self.norm_weights[k], self.norm_biases[k]
        if self.kind == "batch":
            statistics = self.running_means[k], self.running_vars[k]
            return F.relu_(F.batch_norm(z, *statistics, weight, bias, True, self.momentum, self.eps))
        if self.kind == "group":
            # The library takes one dtype for all.
            weight, bias = (None if one is None else one.to(precise(z)) for one in (weight, bias))
            return F.relu_(F.group_norm(z.to(precise(z)), self.groups, weight, bias, self.eps)).to(z.dtype)
        return response_norm(relu(z)) if self.kind == "lrn" else relu(z)


def _fused(
    input: torch.Tensor, input_weight: torch.Tensor, recurrent_weights: Tensors, steps: int, injection: str, norms: Norms,
    gradient: bool, pool: list[int] | None,
) -> torch.Tensor:  # fmt: skip
    rest = input, input_weight, recurrent_weights, steps, injection
    if not norms.batch_statistics and not gradient:
        return fixed_section(*rest, None if norms.kind is None else norms.folds(), pool)
    y, statistics = trained_section(*rest, norms.batch_statistics, norms.norm_weights, norms.norm_biases, norms.eps)
    if norms.batch_statistics:
        norms.keep(statistics, input.numel() // max(1, input.shape[1]))
    return y if pool is None else F.max_pool2d(y, pool)


def _composed(
    input: torch.Tensor, input_weight: torch.Tensor, recurrent_weights: Tensors, steps: int, injection: str, norms: Norms,
    gradient: bool, pool: list[int] | None,
) -> torch.Tensor:  # fmt: skip
    in_place = not gradient
    rest = input, input_weight, recurrent_weights, steps, injection
    if norms.kind == "batch" and not norms.batch_statistics:
        y = folded_section(*rest, norms.folds(), in_place)
    else:
        # The library's group norm has no vmap rule for channels-last memory.
        y = section(*rest, lambda z, k: norms.activated(z, k, in_place), in_place, keep_layout=norms.kind == "group")
    # Code behind the layer may take a view of it.
    return (y if pool is None else F.max_pool2d(y, pool)).contiguous()


def _check_operands(input: torch.Tensor, input_weight: torch.Tensor, recurrent_weights: Tensors, injection: str) -> None:
    require(injection in INJECTIONS, OP, "injection", "must be 'feedforward' or 'input', got {!r}", injection)
    require_float(OP, "input", input)
    require(input.dim() == 4, OP, "input", "must have shape (N, C, H, W), got {}", input.shape)
    named = {f"recurrent_weights[{k}]": weight for k, weight in enumerate(recurrent_weights)}
    require_operands(OP, input, {"input_weight": input_weight, **named})
    require_kernel(OP, "input_weight", input_weight, "(K, C, kh, kw)")
    maps, channels = input_weight.shape[:2]
    require(input.shape[1] == channels, OP, "input", "must have {} channels for input_weight {}, got {}",
            channels, input_weight.shape, input.shape)  # fmt: skip
    for name, weight in named.items():
        require_kernel(OP, name, weight, f"({maps}, {maps}, kh, kw)")
        require(weight.shape[:2] == (maps, maps), OP, name, "must have {} maps in and out, got {}", maps, weight.shape)
    require(injection != "input" or maps == channels, OP, "input_weight",
            "must have as many outputs as inputs with injection='input', got {}", input_weight.shape)  # fmt: skip


def _check_norm(
    input: torch.Tensor, maps: int, steps: int, norm: str | None, lists: dict[str, Tensors | None],
    momentum: float, eps: float, groups: int,
) -> None:  # fmt: skip
    require(norm in NORMS, OP, "norm", "must be 'batch', 'group', 'lrn' or None, got {!r}", norm)
    allowed = {"batch": 4, "group": 2}.get(norm or "", 0)
    for name, tensors in list(lists.items())[allowed:]:
        require(tensors is None, OP, name, "must be None with norm={!r}", norm)
    for name, tensors in lists.items():
        if tensors is not None:
            require(isinstance(tensors, (list, tuple)) and len(tensors) == steps + 1, OP, name,
                    "must be a list of {} tensors, one a state", steps + 1)  # fmt: skip
            if all(_fits(tensor, input, (maps,)) for tensor in tensors):
                continue
            named = {f"{name}[{k}]": tensor for k, tensor in enumerate(tensors)}
            require_operands(OP, input, dict(named), (precise(input),))
            for one, tensor in named.items():
                require_shape(OP, one, tensor, (maps,))
    means, variances = lists["running_means"], lists["running_vars"]
    require((means is None) == (variances is None), OP, "running_means and running_vars", "must both be given, or neither")
    for name in ("running_means", "running_vars"):
        require(all(one is not None for one in lists[name] or ()), OP, name, "must have no None")
    require_number(OP, "eps", eps, -1e-45)
    require_number(OP, "momentum", momentum, -1e-9, 1 + 1e-9)
    if norm == "group":
        require_count(OP, "groups", groups)
        require(maps % groups == 0, OP, "groups", "must divide {} maps, got {}", maps, groups)


def _fits(tensor: Any, input: torch.Tensor, shape: tuple[int, ...]) -> bool:
    """Whether there is nothing to tell about a tensor; quicker than to look at each thing by its name."""
    like = isinstance(tensor, torch.Tensor) and tensor.device == input.device and tensor.shape == shape
    return like and tensor.dtype in (input.dtype, torch.float32) and precise(input) != torch.float64


def _window(pool: int | Sequence[int] | None, input: torch.Tensor) -> list[int] | None:
    if pool is None:
        return None
    window: list[Any] = list(pool) if isinstance(pool, (list, tuple)) else [pool, pool]
    require(len(window) == 2, OP, "pool", "must be a whole number or two (h, w), got {}", pool)
    for size, have in zip(window, input.shape[2:], strict=True):
        require_count(OP, "pool", size)
        require(size <= have, OP, "pool", "{} is larger than the input {}", tuple(window), input.shape)
    return window


