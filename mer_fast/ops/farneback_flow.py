"""Farneback's optical flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import reference
from ..backends import runs_reference
from ._arrays import takes_arrays
from ._checks import require, require_count, require_number
from ._dispatch import register
from ._flow import check_frames, flow_fake, flow_vmap, run_pairs

MOST_WINDOW, MOST_POLYNOMIAL = 1023, 63
LEAST_SIGMA, MOST_SIGMA = 0.1, 1e6  # below, the fit's weights would vanish in float32


@takes_arrays("frame0", "frame1", "initial_flow")
def farneback_flow(
    frame0: torch.Tensor,
    frame1: torch.Tensor,
    *,
    pyr_scale: float = 0.5,
    levels: int = 3,
    winsize: int = 15,
    iterations: int = 3,
    poly_n: int = 5,
    poly_sigma: float = 1.2,
    gaussian: bool = False,
    initial_flow: torch.Tensor | None = None,
) -> torch.Tensor:
    """Farneback's optical flow from `frame0` to `frame1`, with the semantics of OpenCV's calcOpticalFlowFarneback.

    The flow of a pair does not depend on the batch, nor on the number of threads.

    Args:
        frame0, frame1: gray frames (H, W), (N, H, W) or (N, 1, H, W), alike in shape, dtype and device; uint8 0..255 or
            float nominally 0..1. Tensors, NumPy arrays or arrays with `__dlpack__` (CuPy, JAX), all of one kind; the result
            is of that kind.
        pyr_scale: ratio of one level's size to the next finer one's, in (0, 1).
        levels: coarser levels beside the full size, at most; none has a side below 32 pixels.
        winsize: side of the window over which a flow is solved, 2..1023; an even one counts as the odd one above it.
        iterations: solutions per level.
        poly_n: radius of the neighbourhood that a polynomial is fitted to, 1..63.
        poly_sigma: standard deviation of the fit's Gaussian weights, in pixels, at least 0.1; 0 for 0.3 `poly_n`.
        gaussian: a Gaussian window, of standard deviation 0.3 radii, in place of a box (OpenCV's
            OPTFLOW_FARNEBACK_GAUSSIAN).
        initial_flow: flow to start from, in the shape of the result (OpenCV's OPTFLOW_USE_INITIAL_FLOW).

    Returns:
        Flow (2, H, W) or (N, 2, H, W), u right and v down in pixels: float32 for uint8 frames, else the frames' dtype
        (computed in float32).

    Raises:
        MerFastError: frames that differ, NaN or outside [-1, 2] (on a CPU; on a GPU, where no op waits for the host, such
            a pair's flow is NaN), parameters out of range, or a gradient asked for: this op has none.

    Source: Farneback, "Two-frame motion estimation based on polynomial expansion", SCIA 2003.
    """
    given: dict[str, Any] = dict(
        pyr_scale=pyr_scale, levels=levels, winsize=winsize, iterations=iterations, poly_n=poly_n, poly_sigma=poly_sigma,
        gaussian=gaussian,
    )  # fmt: skip
    check_frames("farneback_flow", frame0, frame1, initial_flow, min_side=1)
    check_parameters(given)
    given["gaussian"] = bool(gaussian)
    if runs_reference("farneback_flow", frame0):
        return reference.farneback_flow(frame0, frame1, initial_flow=initial_flow, **given)
    return run_pairs("farneback_flow", frame0, frame1, initial_flow, given)


def check_parameters(given: dict[str, Any]) -> None:
    op = "farneback_flow"
    require_number(op, "pyr_scale", given["pyr_scale"], 0, 1)
    require_count(op, "levels", given["levels"], 0)
    require_count(op, "iterations", given["iterations"])
    for name, least, most in (("winsize", 2, MOST_WINDOW), ("poly_n", 1, MOST_POLYNOMIAL)):
        require_count(op, name, given[name], least)
        require(given[name] <= most, op, name, "must be at most {}, got {}", most, given[name])
    require_number(op, "poly_sigma", given["poly_sigma"], -1)
    sigma = given["poly_sigma"]
    fits = sigma == 0 or LEAST_SIGMA <= sigma <= MOST_SIGMA
    fault = "must be at least {} (at most {:g}), or 0 for 0.3 poly_n, got {}"
    require(fits, op, "poly_sigma", fault, LEAST_SIGMA, MOST_SIGMA, sigma)
    require(isinstance(given["gaussian"], (bool, np.bool_)), op, "gaussian", "must be True or False, got {}", given["gaussian"])


register("farneback_flow", fake=flow_fake, vmap=flow_vmap("farneback_flow"))
