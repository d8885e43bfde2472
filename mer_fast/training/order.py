"""Which clips a step trains on: a function of the seed and the epoch, so that no state has to be kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..seeds import generator


def epoch_batches(labels: Sequence[int], batch_size: int, seed: int, epoch: int, *, oversample: bool = False) -> list[list[int]]:
    """The batches of one epoch: every clip once, in random order.

    The last batch may be smaller; a single clip that is left over joins the batch before it, since batch norm has no use for
    one clip.

    Args:
        labels: class of each clip.
        batch_size: clips of a batch.
        seed, epoch: what the order follows from.
        oversample: every class fills as many places as the largest one: its clips all equally often, up to one time.
    """
    draw = generator(seed, "order", epoch)
    clips = torch.arange(len(labels))
    if oversample:
        classes = torch.as_tensor(labels)
        most = int(torch.bincount(classes).max())
        clips = torch.cat([_repeated((classes == label).nonzero().flatten(), most, draw) for label in classes.unique().tolist()])
    order = clips[torch.randperm(len(clips), generator=draw)].tolist()
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1 < batch_size:
        last = batches.pop()
        batches[-1] += last
    return batches


def _repeated(clips: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
    """`count` of the clips: all of them as often as possible, the rest drawn among them."""
    rest = torch.randperm(len(clips), generator=draw)[: count % len(clips)]
    return torch.cat([clips.repeat(count // len(clips)), clips[rest]])
