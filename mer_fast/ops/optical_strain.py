"""Optical strain of a flow field."""

from __future__ import annotations

from typing import Any

import torch

from .. import reference
from ..backends import runs_reference
from ._arrays import takes_arrays
from ._checks import require, require_float
from ._dispatch import fold_batch, kernel, register

DERIVATIVES = ("central", "forward", "sobel")


@takes_arrays("flow")
def optical_strain(flow: torch.Tensor, *, derivative: str = "central", shear: float = 0.5) -> torch.Tensor:
    """Magnitude of optical strain, sqrt(u_x^2 + v_y^2 + shear (u_y + v_x)^2).

    Args:
        flow: (N, 2, H, W), u right and v down in pixels, any float dtype. A tensor, a NumPy array or an array with
            `__dlpack__` (CuPy, JAX); the result is of the same kind.
        derivative: "central" (numpy.gradient, borders too), "forward" (0 at the last row and column) or "sobel" (3x3,
            divided by 8, replicated border). A side of one pixel has derivative 0.
        shear: factor of the squared shear term; published code uses 0.5 (the default) and 1.

    Returns:
        (N, 1, H, W), the dtype of `flow`, per pixel (no unit). Differentiable; the gradient is 0 where the strain is 0.
        NaN passes through to the pixels whose derivatives touch it.

    Raises:
        MerFastError: wrong shape or dtype, unknown derivative, negative shear.

    Source: Shreve, Godavarthy, Manohar, Goldgof, Sarkar, "Towards macro- and micro-expression spotting in video using
    strain patterns", WACV 2009.
    """
    check(flow, derivative, shear)
    if runs_reference("optical_strain", flow):
        return reference.optical_strain(flow, derivative=derivative, shear=shear)
    return kernel("optical_strain")(flow, derivative, shear)


def check(flow: torch.Tensor, derivative: str, shear: float) -> None:
    """Raises MerFastError on what the op does not take."""
    require_float("optical_strain", "flow", flow)
    require(
        flow.dim() == 4 and flow.shape[1] == 2, "optical_strain", "flow", "must have shape (N, 2, H, W), got {}", flow.shape
    )
    require(derivative in DERIVATIVES, "optical_strain", "derivative", "must be one of {}, got {}", DERIVATIVES, derivative)
    require(shear >= 0, "optical_strain", "shear", "must not be negative, got {}", shear)


def _fake(flow: torch.Tensor, derivative: str, shear: float) -> torch.Tensor:
    return flow.new_empty([flow.shape[0], 1, flow.shape[2], flow.shape[3]])


def _fake_backward(grad: torch.Tensor, flow: torch.Tensor, derivative: str, shear: float) -> torch.Tensor:
    return flow.new_empty(flow.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    flow, ctx.derivative, ctx.shear = inputs
    ctx.save_for_backward(flow)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    (flow,) = ctx.saved_tensors
    return kernel("optical_strain_backward")(grad, flow, ctx.derivative, ctx.shear), None, None


def _vmap(info: Any, in_dims: tuple[Any, ...], flow: torch.Tensor, derivative: str, shear: float) -> Any:
    out = kernel("optical_strain")(fold_batch(flow, in_dims[0], info.batch_size), derivative, shear)
    return out.unflatten(0, (info.batch_size, out.shape[0] // info.batch_size)), 0


def _vmap_backward(
    info: Any, in_dims: tuple[Any, ...], grad: torch.Tensor, flow: torch.Tensor, derivative: str, shear: float
) -> Any:
    folded = (fold_batch(x, d, info.batch_size) for x, d in zip((grad, flow), in_dims[:2], strict=True))
    out = kernel("optical_strain_backward")(*folded, derivative, shear)
    return out.unflatten(0, (info.batch_size, out.shape[0] // info.batch_size)), 0


register("optical_strain", fake=_fake, setup_context=_setup_context, backward=_backward, vmap=_vmap)
register("optical_strain_backward", fake=_fake_backward, vmap=_vmap_backward)
