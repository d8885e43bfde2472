"""Temporal interpolation model (TIM)."""

from __future__ import annotations

from typing import Any

import torch

from .. import reference
from ..backends import runs_reference
from ._arrays import takes_arrays
from ._checks import require, require_count, require_float_or_bytes, require_tensor
from ._dispatch import kernel, register


@takes_arrays("clip")
def tim(clip: torch.Tensor, num_frames: int, *, dim: int = -4) -> torch.Tensor:
    """Resamples a clip to `num_frames` frames with the temporal interpolation model, in closed form.

    For linearly independent frames this equals the published route through a singular value decomposition; where that
    route breaks down (repeated frames) this form stays defined. First and last frame are kept exactly, as many frames
    out as in give the clip back, and a little overshoot past the range of the input is normal.

    Args:
        clip: (T, C, H, W) or (N, T, C, H, W), uint8 or any float dtype; with `dim` any shape with frames along `dim`. A
            tensor, a NumPy array or an array with `__dlpack__` (CuPy, JAX); the result is of the same kind.
        num_frames: number of frames to write, at least 1.
        dim: the dimension of the frames.

    Returns:
        The shape of `clip` with `num_frames` along `dim`, its dtype; uint8 is rounded (half to even) and saturated.
        NaN passes through. Differentiable, also twice.

    Raises:
        MerFastError: no frame, a `dim` the clip does not have, another dtype.

    Source: Zhou, Zhao, Pietikainen, "Towards a practical lipreading system", CVPR 2011.
    """
    check(clip, num_frames, dim)
    if runs_reference("tim", clip):
        return reference.tim(clip, num_frames, dim=dim)
    return kernel("tim")(clip, num_frames, dim % clip.dim(), False)


def check(clip: torch.Tensor, num_frames: int, dim: int) -> None:
    """Raises MerFastError on what the op does not take."""
    require_tensor("tim", "clip", clip)
    require_float_or_bytes("tim", "clip", clip)
    require_count("tim", "num_frames", num_frames)
    require_count("tim", "dim", dim, least=-clip.dim())
    require(dim < clip.dim(), "tim", "dim", "{} is not a dimension of a clip of shape {}", dim, clip.shape)
    require(clip.shape[dim] >= 1, "tim", "clip", "has no frame along dim {}, its shape is {}", dim, clip.shape)


def _fake(clip: torch.Tensor, num_frames: int, dim: int, adjoint: bool) -> torch.Tensor:
    return clip.new_empty([*clip.shape[:dim], num_frames, *clip.shape[dim + 1 :]])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    clip, _, ctx.dim, ctx.adjoint = inputs
    ctx.num_frames = clip.shape[ctx.dim]


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
    # The op is linear in the clip: its gradient is the op with the weights transposed.
    return kernel("tim")(grad, ctx.num_frames, ctx.dim, not ctx.adjoint), None, None, None


def _vmap(info: Any, in_dims: tuple[Any, ...], clip: torch.Tensor, num_frames: int, dim: int, adjoint: bool) -> Any:
    return kernel("tim")(clip.movedim(in_dims[0], 0), num_frames, dim + 1, adjoint), 0


register("tim", fake=_fake, setup_context=_setup_context, backward=_backward, vmap=_vmap)
