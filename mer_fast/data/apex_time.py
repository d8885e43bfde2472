"""The temporal feature of ATNet: the motion around the apex on a coarse grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mer_fast.ops._checks import require, require_count, require_float

ROWS = 64
APEX_ROW = 32
GRID = 8


def apex_time_sequence(flow: torch.Tensor, apex: int) -> torch.Tensor:
    """Angle and magnitude of a clip's frame-to-frame flow on an 8x8 grid, in 64 rows with the apex at row 32.

    A cell of the grid is the mean flow (u, v) of its pixels; the angle is atan2(v, u) in radians, -pi to pi, and the magnitude in
    pixels. A row is a frame: the flow from the frame before, the cells row by row, angle and magnitude interleaved. Rows
    that the clip does not reach are zero, and frames that 64 rows cannot hold are left out.

    Args:
        flow: (T - 1, 2, H, W), from each frame of a clip to the next, any float dtype.
        apex: the index of the apex frame in the clip, 0..T-1.

    Returns:
        (64, 128), the dtype of `flow`. With `models.ATNet` as its second input.

    Raises:
        MerFastError: another shape, a flow smaller than the grid, or an apex outside the clip.

    Source: Peng, Wang, Bi, Chen, Zhou, Shi, "A novel apex-time network for cross-dataset micro-expression recognition", ACII
    2019, arXiv 1904.03699; what it leaves open (the mean of a cell, the angle's unit) is as said here.
    """
    name = "apex_time_sequence"
    require_float(name, "flow", flow)
    fits = flow.dim() == 4 and flow.shape[1] == 2 and min(flow.shape[2:]) >= GRID
    require(fits, name, "flow", "must have shape (T - 1, 2, H, W), H and W at least {}, got {}", GRID, flow.shape)
    require_count(name, "apex", apex, least=0)
    require(apex <= len(flow), name, "apex", "must be a frame of the clip, 0 to {}, got {}", len(flow), apex)
    u, v = F.adaptive_avg_pool2d(flow, GRID).flatten(2).unbind(1)  # (T - 1, 64) each
    rows = torch.stack([torch.atan2(v, u), torch.hypot(u, v)], 2).flatten(1)  # (T - 1, 128)
    out = rows.new_zeros(ROWS, rows.shape[1])
    first = APEX_ROW - apex + 1  # the row of frame 1, to which the first flow leads
    begin, end = max(0, first), min(ROWS, first + len(rows))
    out[begin:end] = rows[begin - first : end - first]
    return out


def mirrored(sequences: torch.Tensor) -> torch.Tensor:
    """The features (N, 64, 128) of the same clips left to right: columns of the grid reversed, u with the other sign."""
    cells = sequences.unflatten(-1, (GRID, GRID, 2)).flip(-2)
    angle, magnitude = cells.unbind(-1)
    turned = torch.where(angle > 0, torch.pi - angle, -torch.pi - angle)
    # Where nothing moves there is no angle: it is 0 on either side.
    turned = torch.where(magnitude > 0, torch.where(angle == 0, torch.pi, turned), angle)
    return torch.stack([turned, magnitude], -1).flatten(-3)
