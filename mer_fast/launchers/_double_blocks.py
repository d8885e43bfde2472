"""float64 on a GPU, where it serves checks and not work: conv_norm_pool by the library's operations, all folds at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..reference import kept_by_dropout

if TYPE_CHECKING:
    from .conv_norm_pool import FoldBlocks, Given


def _patches(s: FoldBlocks) -> tuple[torch.Tensor, torch.Tensor]:
    """(F, B, K, places) of the examples, 0 in empty slots and NaN where there is no such clip; (F, B) which slots are taken."""
    all_taken = torch.ones((s.folds, s.slots), dtype=torch.bool, device=s.input.device)
    there = all_taken if s.index is None else s.index >= 0
    x = s.input
    if s.shared and s.index is not None:
        x = torch.where((s.index < len(x))[:, :, None, None, None], x[s.index.clamp(0, len(x) - 1)], torch.nan)
    x = torch.where(there[:, :, None, None, None], x, 0)
    return F.unfold(x.flatten(0, 1), 3, padding=s.padding).unflatten(0, (s.folds, s.slots)), there


def _maps(s: FoldBlocks, patches: torch.Tensor, bias: Given) -> torch.Tensor:
    """(F, B, O, places), behind ReLU."""
    maps = s.weight.flatten(2)[:, None] @ patches
    return F.relu(maps if bias is None else maps + bias[:, None, :, None])


def _statistics(maps: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """(F, 3, O): the mean's low part, which double has no need of, biased variance, mean."""
    count = (there.sum(1) * maps.shape[3]).clamp(min=1)[:, None]
    taken = there[:, :, None, None]
    mean = torch.where(taken, maps, 0).sum((1, 3)) / count
    variance = torch.where(taken, maps - mean[:, None, :, None], 0).square().sum((1, 3)) / count
    return torch.stack((torch.zeros_like(mean), variance, mean), 1)


def _winners(s: FoldBlocks, maps: torch.Tensor, scale: Given) -> torch.Tensor:
    """(2, F, B, O, windows): values and places."""
    sign = torch.ones((), dtype=maps.dtype, device=maps.device) if scale is None else scale.sign()[:, None, :, None]
    signed = (maps * sign).unflatten(3, s.map_size).flatten(0, 1)
    kernel, stride, around = s.pool
    _, flat = F.max_pool2d(signed, kernel, stride, around, return_indices=True)
    height, width = (torch.arange(n, device=maps.device) * stride - around for n in flat.shape[2:])
    places = (flat // s.map_size[1] - height[:, None]) * kernel + flat % s.map_size[1] - width
    values = maps.gather(3, flat.unflatten(0, maps.shape[:2]).flatten(3))
    return torch.stack((values, places.unflatten(0, maps.shape[:2]).flatten(3).to(maps.dtype)))


def _dropped(s: FoldBlocks, windows: torch.Tensor) -> torch.Tensor:
    """(F, B, O, windows) behind dropout."""
    key, _, stretch = s.dropouts()
    if key is None:
        return windows
    return torch.where(kept_by_dropout(key, windows[0].numel(), s.dropout).view(windows.shape), windows * stretch, 0)


def forward(
    s: FoldBlocks, bias: Given, scale: Given, shift: Given, running: Given
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(output, winners, statistics) of torch.ops.mer_fast.conv_norm_pool."""
    patches, there = _patches(s)
    maps = _maps(s, patches, bias)
    statistics = _statistics(maps, there) if running is None else running
    winners = _winners(s, maps, scale)
    _, variance, mean = statistics[:, :, None, :, None].unbind(1)
    normed = (winners[0] - mean) * (variance + s.eps).rsqrt()
    for factor, join in ((scale, torch.mul), (shift, torch.add)):
        normed = normed if factor is None else join(normed, factor[:, None, :, None])
    pooled = torch.where(there[:, :, None, None], _dropped(s, normed), 0).unflatten(3, s.pooled)
    return F.avg_pool2d(pooled.flatten(0, 1), s.average).unflatten(0, pooled.shape[:2]), winners, statistics


def _credited(s: FoldBlocks, places: torch.Tensor, pulled: torch.Tensor) -> torch.Tensor:
    """(F, B, O, places): each window's gradient at the place that wins it."""
    kernel, stride, around = s.pool
    size = [max(stride * (n - 1) + kernel, m + around) for n, m in zip(s.pooled, s.map_size, strict=True)]
    full = pulled.new_zeros((*pulled.shape[:3], *size))
    for place in range(kernel * kernel):  # windows overlap, the same place of them never does
        rows, columns = (
            slice(first, first + stride * (n - 1) + 1, stride)
            for first, n in zip(divmod(place, kernel), s.pooled, strict=True)
        )
        full[..., rows, columns] += torch.where(places == place, pulled, 0).unflatten(3, s.pooled)
    height, width = s.map_size
    return full[..., around : around + height, around : around + width].flatten(3)


def backward(
    s: FoldBlocks, grad: torch.Tensor, bias: Given, scale: Given, winners: torch.Tensor, statistics: torch.Tensor,
    batch_statistics: bool, need_input: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of the examples (empty unless `need_input`), weight, bias, norm_weight and norm_bias."""
    patches, there = _patches(s)
    taken = there[:, :, None, None]
    share = grad / s.average**2
    opened = share.repeat_interleave(s.average, 3).repeat_interleave(s.average, 4)
    edges = [n - m for n, m in zip(s.pooled, opened.shape[3:], strict=True)]  # windows that are in no average
    pulled = torch.where(taken, _dropped(s, F.pad(opened, [0, edges[1], 0, edges[0]]).flatten(3)), 0)
    _, variance, mean = statistics.unbind(1)
    inverse = (variance + s.eps).rsqrt()
    of_shift = pulled.sum((1, 3))
    of_scale = torch.where(taken, pulled * (winners[0] - mean[:, None, :, None]), 0).sum((1, 3)) * inverse
    factor = inverse if scale is None else inverse * scale
    maps = _maps(s, patches, bias)
    through = _credited(s, winners[1], pulled) * factor[:, None, :, None]
    if batch_statistics:
        values = (there.sum(1) * maps.shape[3]).clamp(min=1)[:, None]
        slope = inverse * of_scale
        off = maps - mean[:, None, :, None]
        through = through - (factor / values)[:, None, :, None] * (of_shift[:, None, :, None] + slope[:, None, :, None] * off)
    through = torch.where(taken & (maps != 0), through, 0)
    of_weight = (through @ patches.transpose(2, 3)).sum(1).view(s.weight.shape)
    of_input = grad.new_empty(0)
    if need_input:
        columns = (s.weight.flatten(2).transpose(1, 2)[:, None] @ through).flatten(0, 1)
        of_input = F.fold(columns, (s.input.shape[-2], s.input.shape[-1]), 3, padding=s.padding).unflatten(0, (s.folds, s.slots))
    return of_input, of_weight, through.sum((1, 3)), of_scale, of_shift
