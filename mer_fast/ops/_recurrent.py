"""What recurrent_conv2d, conv_lstm and conv_gru share: the choice of implementation, autocast, checks of operands and states."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ..backends import current_backend, runs_reference, why_not
from ..errors import BackendError
from ._checks import require, require_count, require_float
from ._conv import autocast, beyond_kernels

Lengths = torch.Tensor | Sequence[int]
Named = dict[str, torch.Tensor | None]


def chosen(op: str, input: torch.Tensor, operands: Sequence[torch.Tensor | None], reason: str | None) -> str:
    """How an op runs: "reference", "kernel", or "composed" of the library's convolutions where no kernel serves it.

    Args:
        reason: why no kernel serves these arguments on this device, or None.

    Raises:
        BackendError: a kernel was asked for by name, and does not serve them.
    """
    if reason is None and beyond_kernels(*operands):
        reason = "it has no derivatives of torch.func and forward mode"
    wanted = current_backend()
    if reason is None or wanted == "reference":
        return "reference" if runs_reference(op, input) else "kernel"
    if wanted == "auto":
        return "composed"
    reason = why_not(op, wanted, input.device.type) or reason
    raise BackendError(f'{op}: no {wanted} kernel ({reason}); leave the backend at "auto", or take "reference"')


def cast(input: torch.Tensor, *operands: torch.Tensor | None) -> tuple[Any, ...]:
    """Input and operands in the dtype that autocast wants of a convolution; as they are outside of autocast."""
    return (autocast(input, input, None)[0], *(autocast(input, operand, None)[1] for operand in operands))  # type: ignore[arg-type]


def without_autocast(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """For calls on operands that have been cast already."""
    kind = tensor.device.type
    on = kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


def require_operands(op: str, input: torch.Tensor, operands: Named, dtypes: tuple[torch.dtype, ...] = ()) -> None:
    """Float tensors on the device of `input`, in its dtype or one of `dtypes`."""
    for name, operand in operands.items():
        if operand is None:
            continue
        require_float(op, name, operand)
        both = f"input and {name}"
        require(operand.dtype in (input.dtype, *dtypes), op, both,
                "must have one dtype, got {} and {}; convert one with .to()", input.dtype, operand.dtype)  # fmt: skip
        require(operand.device == input.device, op, both, "must be on one device, got {} and {}; move one with .to()",
                input.device, operand.device)  # fmt: skip


def require_shape(op: str, argument: str, tensor: torch.Tensor | None, *shapes: Sequence[int]) -> None:
    """One of the shapes, where there is a tensor."""
    if tensor is not None:
        told = " or ".join(str(tuple(shape)) for shape in shapes) if tensor.shape not in map(tuple, shapes) else ""
        require(not told, op, argument, "must have shape {}, got {}", told, tensor.shape)


def require_kernel(op: str, argument: str, weight: torch.Tensor, shape: str) -> None:
    """A convolution's weight with an odd kernel."""
    require(weight.dim() == 4 and min(weight.shape) >= 1, op, argument, "must have shape {}, got {}", shape, weight.shape)
    odd = all(size % 2 for size in weight.shape[2:])
    require(odd, op, argument, "must have odd kernel sizes, which keep height and width, got {}", weight.shape)


def check_cell(
    op: str, gates: int, input: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor, biases: Named, states: Named
) -> None:
    """The operands that a convolutional LSTM and a GRU share: shapes, channels, dtypes, devices."""
    require_float(op, "input", input)
    require(input.dim() == 5, op, "input", "must have shape (T, N, C, H, W), got {}", input.shape)
    require(input.shape[0] >= 1, op, "input", "must have at least one step, got {}", input.shape)
    require_operands(op, input, {"weight_ih": weight_ih, "weight_hh": weight_hh, **biases, **states})
    require_kernel(op, "weight_ih", weight_ih, f"({gates} * hidden, C, kh, kw)")
    require_kernel(op, "weight_hh", weight_hh, f"({gates} * hidden, hidden, kh, kw)")
    outputs, hidden = weight_hh.shape[:2]
    require(outputs == gates * hidden, op, "weight_hh", "must have shape ({} * hidden, hidden, kh, kw), got {}",
            gates, weight_hh.shape)  # fmt: skip
    require(weight_ih.shape[0] == outputs, op, "weight_ih", "must have {} outputs as weight_hh, got {}", outputs, weight_ih.shape)
    require(input.shape[2] == weight_ih.shape[1], op, "input", "must have {} channels for weight_ih {}, got {}",
            weight_ih.shape[1], weight_ih.shape, input.shape)  # fmt: skip
    for name, bias in biases.items():
        require_shape(op, name, bias, (outputs,))
    for name, state in states.items():
        require_shape(op, name, state, (input.shape[1], hidden, *input.shape[3:]))


def check_lengths(op: str, input: torch.Tensor, lengths: Lengths | None) -> torch.Tensor | None:
    """Lengths as a tensor on the device of `input`. On a GPU, and in compiled code, their values are not looked at."""
    if lengths is None:
        return None
    steps, batch = input.shape[:2]
    if isinstance(lengths, torch.Tensor):
        whole = not lengths.is_floating_point() and not lengths.is_complex() and lengths.dtype != torch.bool
        require(whole, op, "lengths", "must be whole numbers, got {}", lengths.dtype)
        require(lengths.shape == (batch,), op, "lengths", "must have one length a sequence, {}, got {}", batch, lengths.shape)
        if lengths.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_values(op, lengths.tolist(), steps)
        return lengths.to(input.device)
    require(isinstance(lengths, (list, tuple)), op, "lengths", "must be a tensor or a list, got {}", type(lengths).__name__)
    require(len(lengths) == batch, op, "lengths", "must have one length a sequence, {}, got {}", batch, len(lengths))
    _check_values(op, lengths, steps)
    return torch.tensor(lengths, device=input.device)


def _check_values(op: str, lengths: Sequence[int], steps: int) -> None:
    for length in lengths:
        require_count(op, "lengths", length, least=0)
        require(length <= steps, op, "lengths", "must be at most the input's {} steps, got {}", steps, length)


def odd_kernel(layer: str, kernel_size: int | Sequence[int]) -> tuple[int, int]:
    """(h, w) of a number or two, both odd."""
    sizes: list[Any] = list(kernel_size) if isinstance(kernel_size, (list, tuple)) else [kernel_size] * 2
    require(len(sizes) == 2, layer, "kernel_size", "must be a whole number or two (h, w), got {}", kernel_size)
    for size in sizes:
        require_count(layer, "kernel_size", size)
        require(size % 2 == 1, layer, "kernel_size", "must be odd, which keeps height and width, got {}", kernel_size)
    return sizes[0], sizes[1]
