"""TV-L1 optical flow (Zach, Pock, Bischof 2007) in plain PyTorch, step by step as OpenCV's DualTVL1OpticalFlow."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..errors import MerFastError

MIN_SIDE = 16


def _between(size_out: int, size_in: int, scale: float, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each output position: the input position before it, the one after, and the weight of the latter."""
    at = (torch.arange(size_out, dtype=torch.float64, device=like.device) + 0.5) * scale - 0.5
    low = at.floor().clamp(0, size_in - 1)
    weight = torch.where((at < 0) | (low >= size_in - 1), 0, at - low)
    low = low.long()
    return low, (low + 1).clamp(max=size_in - 1), weight.to(like.dtype)


def _resize(x: torch.Tensor, height: int, width: int, scale_y: float, scale_x: float) -> torch.Tensor:
    """Bilinear, x (N, C, h, w) -> (N, C, height, width)."""
    low, high, weight = _between(height, x.shape[-2], scale_y, x)
    x = torch.lerp(x[..., low, :], x[..., high, :], weight[:, None])
    low, high, weight = _between(width, x.shape[-1], scale_x, x)
    return torch.lerp(x[..., low], x[..., high], weight)


def _gradient(image: torch.Tensor) -> torch.Tensor:
    """(N, 1, H, W) -> (N, 2, H, W): central differences, replicated border."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    return torch.cat([padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2], padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]], 1) / 2


def _cubic(t: torch.Tensor) -> list[torch.Tensor]:
    """Bicubic weights (a = -0.75) of the four taps around a position with fraction t."""
    return [
        ((-0.75 * t + 1.5) * t - 0.75) * t,
        (1.25 * t - 2.25) * t * t + 1,
        ((-1.25 * t + 1.5) * t + 0.75) * t,
        (0.75 * t - 0.75) * t * t,
    ]


def _warp(channels: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """channels (N, C, H, W) at x + flow (N, 2, H, W), bicubic, zero outside the image."""
    n, c, height, width = channels.shape
    x = flow[:, 0] + torch.arange(width, dtype=flow.dtype, device=flow.device)
    y = flow[:, 1] + torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    x0, y0 = x.floor(), y.floor()
    weights_x, weights_y = _cubic(x - x0), _cubic(y - y0)
    flat = channels.flatten(2)
    out = torch.zeros_like(channels)
    for j in range(4):
        for i in range(4):
            xi, yi = x0 + (i - 1), y0 + (j - 1)
            inside = (xi >= 0) & (xi < width) & (yi >= 0) & (yi < height)
            index = (yi.clamp(0, height - 1) * width + xi.clamp(0, width - 1)).long().flatten(1)[:, None]  # (N, 1, H W)
            taps = flat.gather(2, index.expand(-1, c, -1)).reshape(n, c, height, width)
            out += taps * (weights_x[i] * weights_y[j] * inside)[:, None]
    return out


def _median(x: torch.Tensor, size: int) -> torch.Tensor:
    """size x size median of each channel, replicated border; x (N, C, H, W)."""
    radius = size // 2
    windows = F.pad(x, (radius,) * 4, mode="replicate").unfold(2, size, 1).unfold(3, size, 1)
    return windows.flatten(-2).median(-1).values


def _divergence(p: torch.Tensor) -> torch.Tensor:
    """p (N, 2, 2, H, W): component, direction. Backward differences, zero before the first row and column."""
    along_x = p[:, :, 0] - F.pad(p[:, :, 0, :, :-1], (1, 0))
    along_y = p[:, :, 1] - F.pad(p[:, :, 1, :-1], (0, 0, 1, 0))
    return along_x + along_y


def _forward_gradient(flow: torch.Tensor) -> torch.Tensor:
    """(N, 2, H, W) -> (N, 2, 2, H, W): component, direction. Forward differences, zero at the last row and column."""
    along_x = F.pad(flow[..., 1:] - flow[..., :-1], (0, 1))
    along_y = F.pad(flow[..., 1:, :] - flow[..., :-1, :], (0, 0, 0, 1))
    return torch.stack([along_x, along_y], 2)


def _threshold(rho: torch.Tensor, gradient: torch.Tensor, bound: float) -> torch.Tensor:
    """The step that minimises the data term: (N, 2, H, W) from the residual rho (N, 1, H, W) and the image gradient."""
    square = gradient.square().sum(1, keepdim=True)
    step = torch.where(square > torch.finfo(torch.float32).eps, -rho / square.clamp(min=1e-30), 0)
    step = torch.where(rho < -bound * square, bound, torch.where(rho > bound * square, -bound, step))
    return step * gradient


def _solve_warp(
    frame0: torch.Tensor, warped: torch.Tensor, flow: torch.Tensor, dual: torch.Tensor, given: dict[str, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The iterations after one warp. warped (N, 3, H, W): the second frame and its gradient at x + flow."""
    tau, lam, theta = given["tau"], given["lam"], given["theta"]
    gradient = warped[:, 1:]
    constant = warped[:, :1] - (gradient * flow).sum(1, keepdim=True) - frame0
    threshold = given["epsilon"] ** 2 * flow.shape[-2] * flow.shape[-1]
    running = torch.ones(flow.shape[0], 1, 1, 1, dtype=torch.bool, device=flow.device)  # pairs that have not stopped
    for _ in range(int(given["outer_iterations"])):
        if not running.any():
            break
        if given["median"] > 1:
            flow = torch.where(running, _median(flow, int(given["median"])), flow)
        for _ in range(int(given["inner_iterations"])):
            if not running.any():
                break
            rho = constant + (gradient * flow).sum(1, keepdim=True)
            new = flow + _threshold(rho, gradient, lam * theta) + theta * _divergence(dual)
            error = (new - flow).square().sum((1, 2, 3), keepdim=True)
            slope = _forward_gradient(new)
            length = torch.hypot(slope[:, :, :1], slope[:, :, 1:])
            new_dual = (dual + tau / theta * slope) / (1 + tau / theta * length)
            flow = torch.where(running, new, flow)
            dual = torch.where(running[..., None], new_dual, dual)
            running = running & (error > threshold)
    return flow, dual


def _pyramid(x: torch.Tensor, scales: int, step: float, factor: float = 1.0) -> list[torch.Tensor]:
    """x (N, C, H, W) and its reductions, full size first; values are multiplied by `factor` a level."""
    levels = [x]
    while len(levels) < scales:
        height, width = (round(s * step) for s in levels[-1].shape[-2:])  # half to even, as OpenCV
        if height < MIN_SIDE or width < MIN_SIDE:
            break
        last = levels[-1]
        same = last.shape[-2:] == (height, width)  # then OpenCV copies
        levels.append(factor * (last if same else _resize(last, height, width, 1 / step, 1 / step)))
    return levels


def _prepare(name: str, frame: torch.Tensor, compute: torch.dtype) -> torch.Tensor:
    """Frames in any of the op's shapes as (N, 1, H, W), 0..255."""
    frame = frame[None, None] if frame.dim() == 2 else frame[:, None] if frame.dim() == 3 else frame
    if frame.dtype == torch.uint8:
        return frame.to(compute)
    if frame.isnan().any():
        raise MerFastError(f"tvl1_flow: {name} has NaN; fill or drop those pixels first")
    if frame.numel() and (frame.min() < -1 or frame.max() > 2):
        raise MerFastError(f"tvl1_flow: {name} has values outside [-1, 2]; divide 0..255 data by 255 or pass uint8")
    return frame.to(compute) * 255


@torch.no_grad()
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
    """See `mer_fast.ops.tvl1_flow`. float64 frames are computed in float64, all others in float32."""
    given = dict(
        tau=tau, lam=lam, theta=theta, epsilon=epsilon, median=median, inner_iterations=inner_iterations,
        outer_iterations=outer_iterations,
    )  # fmt: skip
    compute = torch.float64 if frame0.dtype == torch.float64 else torch.float32
    images0 = _pyramid(_prepare("frame0", frame0, compute), scales, scale_step)
    images1 = _pyramid(_prepare("frame1", frame1, compute), scales, scale_step)
    flow = torch.zeros_like(images0[-1]).repeat(1, 2, 1, 1)
    if initial_flow is not None:
        if not initial_flow.isfinite().all():
            raise MerFastError("tvl1_flow: initial_flow has NaN or infinite values; start those pixels from 0")
        start = initial_flow.to(compute).reshape(images0[0].shape[0], 2, *frame0.shape[-2:])
        flow = _pyramid(start, len(images0), scale_step, scale_step)[-1]
    for level, (image0, image1) in enumerate(zip(reversed(images0), reversed(images1), strict=True)):
        height, width = image0.shape[-2:]
        if level > 0:
            flow = _resize(flow, height, width, flow.shape[-2] / height, flow.shape[-1] / width) / scale_step
        channels = torch.cat([image1, _gradient(image1)], 1)  # (N, 3, H, W)
        dual = flow.new_zeros(flow.shape[0], 2, 2, height, width)
        for _ in range(warps):
            flow, dual = _solve_warp(image0, _warp(channels, flow), flow, dual, given)
    flow = flow[0] if frame0.dim() == 2 else flow
    return flow.to(frame0.dtype) if frame0.is_floating_point() else flow
