"""Farneback's optical flow (SCIA 2003) in plain PyTorch, step by step as OpenCV's calcOpticalFlowFarneback."""

from __future__ import annotations

import torch

from ..errors import MerFastError

MIN_SIDE = 32  # of a level other than the first
BORDER = (0.14, 0.14, 0.4472, 0.4472, 0.4472)  # weights of the pixels nearest to the border of the image
REGULARIZER = 1e-3  # added to the determinant


def _gaussian(radius: int, sigma: float, like: torch.Tensor) -> torch.Tensor:
    """2 radius + 1 taps of sum 1."""
    at = torch.arange(-radius, radius + 1, dtype=torch.float64, device=like.device)
    taps = torch.exp(-at.square() / (2 * sigma**2)) if radius else torch.ones_like(at)
    return (taps / taps.sum()).to(like.dtype)


def _reflected(index: torch.Tensor, size: int) -> torch.Tensor:
    """Mirrored without repeating the edge."""
    if size == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * size - 2)
    return torch.where(index < size, index, 2 * size - 2 - index)


def _filter(x: torch.Tensor, taps: torch.Tensor, dim: int, *, mirror: bool = False) -> torch.Tensor:
    """Correlation of x (..., H, W) along one dimension, its border replicated or mirrored."""
    size, radius = x.shape[dim], len(taps) // 2
    out = torch.zeros_like(x)
    for k, tap in enumerate(taps):
        index = torch.arange(size, device=x.device) + (k - radius)
        index = _reflected(index, size) if mirror else index.clamp(0, size - 1)
        out += tap * x.index_select(dim, index)
    return out


def _resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear, pixel centres aligned; x (..., h, w)."""
    for dim, wanted in zip((-2, -1), size, strict=True):
        given = x.shape[dim]
        at = (torch.arange(wanted, dtype=torch.float64, device=x.device) + 0.5) * (given / wanted) - 0.5
        low = at.floor().clamp(0, given - 1)
        weight = torch.where((at < 0) | (low >= given - 1), 0, at - low).to(x.dtype)
        low = low.long()
        first, second = x.index_select(dim, low), x.index_select(dim, (low + 1).clamp(max=given - 1))
        x = torch.lerp(first, second, weight[:, None] if dim == -2 else weight)
    return x


def _area(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """x (..., h, w) averaged over the area that each pixel of the smaller size covers."""
    for dim, wanted in zip((-2, -1), size, strict=True):
        given = x.shape[dim]
        side = given / wanted
        start = torch.arange(wanted, dtype=torch.float64, device=x.device)[:, None] * side
        pixel = torch.arange(given, dtype=torch.float64, device=x.device)
        share = (torch.minimum(start + side, pixel + 1) - torch.maximum(start, pixel)).clamp(min=0) / side
        x = torch.tensordot(x, share.to(x.dtype), dims=([dim], [1])).movedim(-1, dim)
    return x


def _expand(image: torch.Tensor, radius: int, sigma: float) -> torch.Tensor:
    """The quadratic polynomial around every pixel: (N, H, W) -> (N, 5, H, W), coefficients of y, x, y^2, x^2, xy.

    The fit is weighted by a Gaussian g; under it 1, x, y, xy, x^2 - m2 and y^2 - m2 are orthogonal.
    """
    smooth = _gaussian(radius, sigma or 0.3 * radius, image)
    at = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    m2, m4 = (smooth * at**2).sum(), (smooth * at**4).sum()
    slope, curve = smooth * at / m2, smooth * (at**2 - m2) / (m4 - m2**2)
    rows = [_filter(image, taps, -2) for taps in (smooth, slope, curve)]
    return torch.stack(
        [
            _filter(rows[1], smooth, -1),
            _filter(rows[0], slope, -1),
            _filter(rows[2], smooth, -1),
            _filter(rows[0], curve, -1),
            _filter(rows[1], slope, -1),
        ],
        1,
    )


def _border_weights(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """(H, W): 1 but for the five rows and columns at each border, which the fit has no full neighbourhood for."""

    def along(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        table = torch.tensor((*BORDER, 1.0), dtype=like.dtype, device=like.device)
        at = torch.arange(size, device=like.device)
        weight = table[at.clamp(max=5)] * table[(size - 1 - at).clamp(max=5)]
        # Below ten pixels OpenCV's test whether a pixel is near a border wraps around, and spares some that are.
        near = (at < 5) | (at >= size - 5) if size >= 10 else (at < 5) & (at >= size - 5)
        return weight, near

    tall, near_y = along(height)
    wide, near_x = along(width)
    return torch.where(near_y[:, None] | near_x, tall[:, None] * wide, 1)


def _displaced(channels: torch.Tensor, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """channels (N, C, H, W) at x + flow (N, 2, H, W), bilinear; and where all four taps lie inside, (N, 1, H, W)."""
    c, height, width = channels.shape[1:]
    x = flow[:, :1] + torch.arange(width, dtype=flow.dtype, device=flow.device)
    y = flow[:, 1:] + torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    x0, y0 = x.floor(), y.floor()
    inside = (x0 >= 0) & (x0 < width - 1) & (y0 >= 0) & (y0 < height - 1)
    flat = channels.flatten(2)

    def tap(right: int, down: int) -> torch.Tensor:
        index = (y0 + down).clamp(0, height - 1) * width + (x0 + right).clamp(0, width - 1)
        index = index.nan_to_num(0).long().flatten(1)[:, None].expand(-1, c, -1)
        return flat.gather(2, index).view_as(channels)

    upper = torch.lerp(tap(0, 0), tap(1, 0), x - x0)
    lower = torch.lerp(tap(0, 1), tap(1, 1), x - x0)
    return torch.lerp(upper, lower, y - y0), inside


def _matrices(own: torch.Tensor, other: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """The normal equations of each pixel, (N, 5, H, W): matrix xx, xy, yy and right side x, y."""
    u, v = flow[:, 0], flow[:, 1]
    there, inside = _displaced(other, flow)
    # Outside the other frame the own curvature stands for both, and the other slope is zero.
    there = torch.where(inside, there, torch.cat([torch.zeros_like(own[:, :2]), own[:, 2:]], 1))
    yy, xx, xy = ((own[:, k] + there[:, k]) / 2 for k in (2, 3, 4))
    xy = xy / 2
    right_y = (own[:, 0] - there[:, 0]) / 2 + yy * v + xy * u
    right_x = (own[:, 1] - there[:, 1]) / 2 + xy * v + xx * u
    weight = _border_weights(own.shape[-2], own.shape[-1], own)
    yy, xx, xy, right_y, right_x = (weight * a for a in (yy, xx, xy, right_y, right_x))
    return torch.stack(
        [xx * xx + xy * xy, (xx + yy) * xy, yy * yy + xy * xy, xx * right_x + xy * right_y, xy * right_x + yy * right_y], 1
    )


def _solve(matrices: torch.Tensor, winsize: int, gaussian: bool) -> torch.Tensor:
    """The flow that solves the equations summed over the window around each pixel."""
    radius = winsize // 2
    box = torch.full((2 * radius + 1,), 1 / winsize, dtype=matrices.dtype, device=matrices.device)
    taps = _gaussian(radius, 0.3 * radius, matrices) if gaussian else box
    xx, xy, yy, x, y = _filter(_filter(matrices, taps, -2), taps, -1).unbind(1)
    determinant = (xx * yy - xy * xy).clamp(min=0) + REGULARIZER  # negative by rounding only
    return torch.stack([yy * x - xy * y, xx * y - xy * x], 1) / determinant[:, None]


def _scales(height: int, width: int, pyr_scale: float, levels: int) -> list[float]:
    """The scale of each level, full size first."""
    scales = [1.0]
    while len(scales) <= levels and min(height, width) * scales[-1] * pyr_scale >= MIN_SIDE:
        scales.append(scales[-1] * pyr_scale)
    return scales


def _image(frame: torch.Tensor, scale: float, size: tuple[int, int]) -> torch.Tensor:
    """A level's image: the full-size frame (N, H, W) blurred against aliasing, and sampled."""
    sigma = (1 / scale - 1) / 2
    taps = _gaussian(max(round(sigma * 5) | 1, 3) // 2, sigma, frame) if sigma > 0 else frame.new_tensor([0.25, 0.5, 0.25])
    return _resize(_filter(_filter(frame, taps, -2, mirror=True), taps, -1, mirror=True), size)


def _prepare(name: str, frame: torch.Tensor, compute: torch.dtype) -> torch.Tensor:
    """Frames in any of the op's shapes as (N, H, W), 0..255."""
    frame = frame[None] if frame.dim() == 2 else frame[:, 0] if frame.dim() == 4 else frame
    if frame.dtype == torch.uint8:
        return frame.to(compute)
    if frame.isnan().any():
        raise MerFastError(f"farneback_flow: {name} has NaN; fill or drop those pixels first")
    if frame.numel() and (frame.min() < -1 or frame.max() > 2):
        raise MerFastError(f"farneback_flow: {name} has values outside [-1, 2]; divide 0..255 data by 255 or pass uint8")
    return frame.to(compute) * 255


@torch.no_grad()
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
    """See `mer_fast.ops.farneback_flow`. float64 frames are computed in float64, all others in float32."""
    compute = torch.float64 if frame0.dtype == torch.float64 else torch.float32
    pair = [_prepare(name, frame, compute) for name, frame in (("frame0", frame0), ("frame1", frame1))]
    height, width = frame0.shape[-2:]
    flow: torch.Tensor | None = None
    for scale in reversed(_scales(height, width, pyr_scale, levels)):
        size = round(height * scale), round(width * scale)  # half to even, as OpenCV
        if flow is not None:
            flow = _resize(flow, size) / pyr_scale
        elif initial_flow is not None:
            if not initial_flow.isfinite().all():
                raise MerFastError("farneback_flow: initial_flow has NaN or infinite values; start those pixels from 0")
            flow = _area(initial_flow.to(compute).reshape(pair[0].shape[0], 2, height, width), size) * scale
        else:
            flow = pair[0].new_zeros(pair[0].shape[0], 2, *size)
        own, other = (_expand(_image(frame, scale, size), poly_n, poly_sigma) for frame in pair)
        for _ in range(iterations):
            flow = _solve(_matrices(own, other, flow), winsize, gaussian)
    assert flow is not None
    flow = flow[0] if frame0.dim() == 2 else flow
    return flow.to(frame0.dtype) if frame0.is_floating_point() else flow
