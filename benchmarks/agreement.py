"""How near the TV-L1 flows are: ours to OpenCV's, OpenCV's to its own, and each to the planted motion."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mer_fast import ops

from .rivals import Array, opencv, opencv_tvl1, skimage_tvl1

PAIRS = 4
NEAR = 0.1  # pixels


def _distance(a: Array, b: Array) -> Array:
    """Endpoint distance of flows (N, 2, H, W)."""
    return np.linalg.norm(a - b, axis=1)


def tvl1_agreement(onset: torch.Tensor, apex: torch.Tensor, truth: torch.Tensor) -> dict[str, Any]:
    """Shares of pixels within 0.1 px, and mean endpoint errors in pixels, over the first pairs of (N, H, W), (N, 2, H, W).

    OpenCV with and without its optimised code is the same algorithm, rounded otherwise: as far as it agrees with itself
    is as far as anyone can agree with it. Raises `MissingRival`.
    """
    onset, apex, truth = onset[:PAIRS], apex[:PAIRS], truth[:PAIRS]
    cv2 = opencv()
    call = opencv_tvl1(onset, apex)
    theirs = np.stack(call()).transpose(0, 3, 1, 2)
    cv2.setUseOptimized(False)
    try:
        again = np.stack(call()).transpose(0, 3, 1, 2)
    finally:
        cv2.setUseOptimized(True)
    flows = {
        "mer_fast": ops.tvl1_flow(onset, apex).numpy(),
        "OpenCV": theirs,
        "scikit-image": np.stack(skimage_tvl1(onset, apex)())[:, ::-1],  # (rows, columns) there
    }
    return {
        "pairs": len(onset),
        "near_opencv": float((_distance(flows["mer_fast"], theirs) <= NEAR).mean()),
        "opencv_near_itself": float((_distance(again, theirs) <= NEAR).mean()),
        "endpoint_error": {name: float(_distance(flow, truth.numpy()).mean()) for name, flow in flows.items()},
        "planted_motion": float(torch.linalg.vector_norm(truth, dim=1).amax(dim=(1, 2)).mean()),
    }
