"""Convolution, ReLU, batch norm, max-pool and dropout with weights of several folds, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

WORD = 0xFFFFFFFF  # 32 bits


def kept_by_dropout(dropout_key: torch.Tensor, count: int, dropout: float) -> torch.Tensor:
    """Which of `count` elements of each fold stay, (F, count) bool: those whose hash is at least dropout * 2^32.

    The hash is of a fold's key and of the element's place alone: neither other folds nor threads nor devices change it.
    """
    place = torch.arange(count, device=dropout_key.device) & WORD
    key = dropout_key[:, None]
    x = place ^ (key & WORD)
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & WORD
    x = x ^ (x >> 15)
    x = (x + ((key >> 32) & WORD)) & WORD
    x = (x * 0x846CA68B) & WORD
    x = x ^ (x >> 16)
    return x >= min(int(dropout * 2**32), WORD)


def conv_norm_pool(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    norm_bias: torch.Tensor | None = None,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    *,
    index: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    padding: int = 0,
    pool_kernel: int = 3,
    pool_stride: int | None = None,
    pool_padding: int = 0,
    dropout: float = 0.0,
    dropout_key: torch.Tensor | None = None,
    average: int = 1,
) -> torch.Tensor:
    """See `mer_fast.ops.conv_norm_pool`."""

    def of(tensor: torch.Tensor | None, fold: int) -> torch.Tensor | None:
        return None if tensor is None else tensor[fold]

    stride = pool_kernel if pool_stride is None else pool_stride
    outputs = []
    for fold in range(weight.shape[0]):
        clips = input if input.dim() == 4 else input[fold]
        chosen = torch.arange(len(clips), device=input.device) if index is None else index[fold]
        there = chosen >= 0
        rows = chosen[there] if input.dim() == 4 else there.nonzero()[:, 0]
        maps = F.relu(F.conv2d(clips[rows], weight[fold], of(bias, fold), padding=padding))
        if len(rows):
            statistics = of(running_mean, fold), of(running_var, fold)
            own = training or running_mean is None
            maps = F.batch_norm(maps, *statistics, of(norm_weight, fold), of(norm_bias, fold), own, momentum, eps)
        pooled = F.max_pool2d(maps, pool_kernel, stride, pool_padding)
        outputs.append(pooled.new_zeros(len(chosen), *pooled.shape[1:]).index_copy(0, there.nonzero()[:, 0], pooled))
    out = torch.stack(outputs)
    if dropout and dropout_key is not None:
        stays = kept_by_dropout(dropout_key, out[0].numel(), dropout).view(out.shape)
        out = torch.where(stays, out / (1 - dropout), 0) if dropout < 1 else out * 0
    return F.avg_pool2d(out.flatten(0, 1), average).unflatten(0, out.shape[:2])
