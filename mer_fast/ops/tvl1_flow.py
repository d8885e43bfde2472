"""TV-L1 optical flow."""

from __future__ import annotations

import math
from typing import Any

import torch

from .. import reference
from ..backends import runs_reference
from ._arrays import takes_arrays
from ._checks import require, require_count, require_number
from ._dispatch import register
from ._flow import check_frames, flow_fake, flow_vmap, run_pairs

TVL1_PRESETS: dict[str, dict[str, Any]] = {
    # OpenCV's DualTVL1OpticalFlow.
    "opencv": {
        "tau": 0.25, "lam": 0.15, "theta": 0.3, "scales": 5, "scale_step": 0.8, "warps": 5, "epsilon": 0.01,
        "inner_iterations": 30, "outer_iterations": 10, "median": 5,
    },
    # Sanchez, Meinhardt-Llopis, Facciolo, "TV-L1 optical flow estimation", IPOL 2013: the parameters of that article.
    "ipol": {
        "tau": 0.25, "lam": 0.15, "theta": 0.3, "scales": 100, "scale_step": 0.5, "warps": 5, "epsilon": 0.01,
        "inner_iterations": 300, "outer_iterations": 1, "median": 1,
    },
}  # fmt: skip

MIN_SIDE = 16
_LEAST = torch.finfo(torch.float32).tiny  # the kernels divide by these parameters, in float32


@takes_arrays("frame0", "frame1", "initial_flow")
def tvl1_flow(
    frame0: torch.Tensor,
    frame1: torch.Tensor,
    *,
    tau: float = 0.25,
    lam: float = 0.15,
    theta: float = 0.3,
    scales: int = 5,
    scale_step: float = 0.8,
    warps: int = 5,
    epsilon: float = 0.01,
    inner_iterations: int = 30,
    outer_iterations: int = 10,
    median: int = 5,
    initial_flow: torch.Tensor | None = None,
) -> torch.Tensor:
    """TV-L1 optical flow from `frame0` to `frame1`, with the semantics of OpenCV's DualTVL1OpticalFlow.

    Each pair stops by its own test, so the flow of a pair does not depend on the batch, nor on the number of threads.
    On a GPU too it is the same to the bit in every run; another kind of GPU may sum the stop test's error in another order.
    There nothing waits for the host, a CUDA graph can capture the call, and the launches do not grow with the batch.

    Args:
        frame0, frame1: gray frames (H, W), (N, H, W) or (N, 1, H, W), alike in shape, dtype and device, at least 16
            pixels a side; uint8 0..255 or float nominally 0..1. Tensors, NumPy arrays or arrays with `__dlpack__` (CuPy,
            JAX), all of one kind; the result is of that kind.
        tau: time step of the dual iteration.
        lam: weight of the data term; smaller gives a smoother flow.
        theta: tightness of the coupling between data and smoothness term.
        scales: levels of the pyramid at most; it ends before a side falls below 16 pixels.
        scale_step: ratio of one level's size to the next finer one's, in (0, 1).
        warps: warps of `frame1` per level.
        epsilon: iterations stop when the mean squared change of the flow falls to epsilon^2 (pixels).
        inner_iterations, outer_iterations: iterations between median filters, and how often these are run, per warp.
        median: side of the median filter, 3 or 5; 0 or 1 for none.
        initial_flow: flow to start from, in the shape of the result.

    Returns:
        Flow (2, H, W) or (N, 2, H, W), u right and v down in pixels: float32 for uint8 frames, else the frames' dtype
        (computed in float32).

    Raises:
        MerFastError: frames that differ, too small, NaN or outside [-1, 2] (on a CPU; on a GPU, where no op waits for
            the host, such a pair's flow is NaN), parameters out of range, or a gradient asked for: this op has none.

    Source: Zach, Pock, Bischof, "A duality based approach for realtime TV-L1 optical flow", DAGM 2007.
    """
    given: dict[str, Any] = dict(
        tau=tau, lam=lam, theta=theta, scales=scales, scale_step=scale_step, warps=warps, epsilon=epsilon,
        inner_iterations=inner_iterations, outer_iterations=outer_iterations, median=median,
    )  # fmt: skip
    check_frames("tvl1_flow", frame0, frame1, initial_flow, MIN_SIDE)
    check_parameters(given)
    if runs_reference("tvl1_flow", frame0):
        return reference.tvl1_flow(frame0, frame1, initial_flow=initial_flow, **given)
    return run_pairs("tvl1_flow", frame0, frame1, initial_flow, given)


def check_parameters(given: dict[str, Any]) -> None:
    op = "tvl1_flow"
    for name in ("tau", "lam", "theta"):
        require_number(op, name, given[name], 0)
        require(given[name] >= _LEAST, op, name, "must be at least {:.4g}, a normal float32, got {}", _LEAST, given[name])
    require_number(op, "scale_step", given["scale_step"], 0, 1)
    require_number(op, "epsilon", given["epsilon"], -math.inf)
    require(given["epsilon"] >= 0, op, "epsilon", "must not be negative, got {}", given["epsilon"])
    for name in ("scales", "warps", "inner_iterations", "outer_iterations"):
        require_count(op, name, given[name])
    require_count(op, "median", given["median"], 0)
    require(given["median"] in (0, 1, 3, 5), op, "median", "must be 3 or 5, or 0 or 1 for none, got {}", given["median"])


register("tvl1_flow", fake=flow_fake, vmap=flow_vmap("tvl1_flow"))
