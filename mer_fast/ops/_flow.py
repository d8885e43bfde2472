"""What the flow ops share: the checks of a pair of frames, the shapes that they come in, and the rule for an extra batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ._checks import require, require_alike, require_float_or_bytes, require_tensor
from ._dispatch import fold_batch, kernel


def check_frames(op: str, frame0: torch.Tensor, frame1: torch.Tensor, initial_flow: torch.Tensor | None, min_side: int) -> None:
    require_tensor(op, "frame0", frame0)
    require_tensor(op, "frame1", frame1)
    require_alike(op, "frame0", frame0, "frame1", frame1)
    shape = frame0.shape
    gray = frame0.dim() in (2, 3) or (frame0.dim() == 4 and shape[1] == 1)
    require(gray, op, "frame0", "must have shape (H, W), (N, H, W) or (N, 1, H, W), got {}; convert colour to gray first", shape)
    require_float_or_bytes(op, "frame0", frame0)
    large = shape[-2] >= min_side and shape[-1] >= min_side
    require(large, op, "frame0", "must be at least {} pixels a side, got {}x{}", min_side, shape[-2], shape[-1])
    differentiable = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (frame0, frame1, initial_flow)
    )
    require(not differentiable, op, "frame0", "asks for a gradient, and this flow has none; pass frame.detach()")
    if initial_flow is not None:
        require_tensor(op, "initial_flow", initial_flow)
        wanted = (2, *shape) if frame0.dim() == 2 else (shape[0], 2, *shape[-2:])
        right = tuple(initial_flow.shape) == wanted and initial_flow.is_floating_point()
        require(right, op, "initial_flow", "must be a float tensor of shape {}, got {}", wanted, initial_flow.shape)
        same = initial_flow.device == frame0.device
        require(same, op, "initial_flow", "must be on {}, got {}", frame0.device, initial_flow.device)


def run_pairs(
    op: str, frame0: torch.Tensor, frame1: torch.Tensor, initial_flow: torch.Tensor | None, parameters: dict[str, Any]
) -> torch.Tensor:
    """The kernel of a flow op on frames in any of their shapes and dtypes."""
    pair = [f.float() if f.is_floating_point() else f for f in (frame0, frame1)]
    pair = [f[None] if f.dim() == 2 else f.squeeze(1) if f.dim() == 4 else f for f in pair]  # (N, H, W)
    start = None if initial_flow is None else initial_flow.float()[None] if frame0.dim() == 2 else initial_flow.float()
    flow = kernel(op)(*pair, start, *parameters.values())  # (N, 2, H, W)
    flow = flow[0] if frame0.dim() == 2 else flow
    return flow.to(frame0.dtype) if frame0.is_floating_point() else flow


def flow_fake(frame0: torch.Tensor, frame1: torch.Tensor, initial_flow: torch.Tensor | None, *parameters: Any) -> torch.Tensor:
    """The shape of a flow."""
    return frame0.new_empty([frame0.shape[0], 2, *frame0.shape[1:]], dtype=torch.float32)


def flow_vmap(op: str) -> Callable[..., Any]:
    """The extra batch becomes part of the batch."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        tensors = [
            None if x is None else fold_batch(x, d, info.batch_size) for x, d in zip(arguments[:3], in_dims[:3], strict=True)
        ]
        flow = kernel(op)(*tensors, *arguments[3:])
        return flow.unflatten(0, (info.batch_size, flow.shape[0] // info.batch_size)), 0

    return rule
