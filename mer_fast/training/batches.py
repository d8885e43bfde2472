"""Clips into batches, batches through a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import MerFastError

Inputs = tuple[torch.Tensor, ...]


def collate(values: Sequence[Any]) -> Inputs:
    """Stacks the inputs of several clips: one tensor for each input that the network takes.

    Args:
        values: a tensor or array for each clip, or a tuple (or list) of them for a network of several inputs.

    Raises:
        MerFastError: anything else, or clips of unlike shapes.
    """
    parts = [tuple(value) if isinstance(value, (tuple, list)) else (value,) for value in values]
    if len({len(part) for part in parts}) != 1:
        raise MerFastError(f"clips of one data set have {sorted({len(part) for part in parts})} inputs: all need as many")
    return tuple(_stacked([_tensor(value) for value in column]) for column in zip(*parts, strict=True))


def forward(model: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
    """Logits (N, C) of a batch, moved to the network's device, and floats to its dtype.

    Raises:
        MerFastError: the network gives anything but (N, C) floats.
    """
    weight = next(model.parameters(), None)
    if weight is not None:
        inputs = tuple(x.to(weight.device, weight.dtype if x.is_floating_point() else None, non_blocking=True) for x in inputs)
    logits = model(*inputs)
    fits = isinstance(logits, torch.Tensor) and logits.dim() == 2 and len(logits) == len(inputs[0])
    if not fits or not logits.is_floating_point():
        shown = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise MerFastError(f"{type(model).__name__} must give logits of shape ({len(inputs[0])}, classes), got {shown}")
    return logits


def predict(model: torch.nn.Module, clips: Any, batch_size: int = 64) -> torch.Tensor:
    """Logits (N, C) of all clips, in evaluation mode and full precision, on the CPU; the network is left in that mode.

    Raises:
        MerFastError: logits that are NaN, or of another shape.
    """
    model.eval()
    found = []
    with torch.no_grad():
        for start in range(0, len(clips), batch_size):
            inputs = collate([clips[i][0] for i in range(start, min(start + batch_size, len(clips)))])
            found.append(forward(model, inputs).float().cpu())
    logits = torch.cat(found)
    if bool(logits.isnan().any()):
        clip = int(logits.isnan().any(1).nonzero()[0])
        raise MerFastError(f"{type(model).__name__} gives NaN for clip {clip}: its weights or that clip are not finite")
    return logits


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "uif":
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))  # a copy: it may be a read-only map of a file
    raise MerFastError(f"a clip's input must be a tensor, an array of numbers, or a tuple of them, got {type(value).__name__}")


def _stacked(tensors: list[torch.Tensor]) -> torch.Tensor:
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise MerFastError(
            f"clips of one batch have shapes {', '.join(map(str, shapes))}: bring them to one, ops.tim for their length, or take "
            "batches of one"
        )
    return torch.stack(tensors)
