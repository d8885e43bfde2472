"""Losses for classes of unequal size."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .ops._checks import require, require_number

_NAME = "BalancedFocalLoss"


class BalancedFocalLoss(torch.nn.Module):
    """The class-balanced focal loss, the mean over samples of `-alpha_y (1 - p_y)^gamma log p_y`.

    With n_c samples of class c, N in all, and C classes of which there is one:

    - alpha "inverse": `alpha_c = N / (C n_c)`, one over the class's frequency, of mean 1 over samples;
    - alpha "effective": `alpha_c` in proportion to `(1 - beta) / (1 - beta^n_c)`, one over the effective number of samples, of
      mean 1 over classes;
    - alpha a tensor (C,): as given.

    The n_c are `counts`, those of the training labels (`torch.bincount(labels, minlength=C)`), where they are given, and else
    those of each batch.

    Args:
        alpha: "inverse", "effective", or (C,) numbers from 0 on.
        gamma: how much less samples count that are already right; 0 is the weighted cross entropy.
        counts: samples of each class in the training set, (C,), for "inverse" and "effective". A class that has none there
            counts as if it had one.
        beta: of "effective", from 0 to below 1.

    Shape: logits (N, C), target (N,) class indices -> a scalar in the dtype of the logits, computed in float32 at least.

    Raises:
        MerFastError: an unknown alpha, counts beside a given alpha, negative numbers; at a call, shapes that do not fit.

    Sources: Lin, Goyal, Girshick, He, Dollar, "Focal loss for dense object detection", ICCV 2017; Cui, Jia, Lin, Song,
    Belongie, "Class-balanced loss based on effective number of samples", CVPR 2019; Xia et al., IEEE TMM 2020.
    """

    alpha: torch.Tensor | None

    def __init__(
        self,
        alpha: str | torch.Tensor | Sequence[float] = "inverse",
        gamma: float = 2.0,
        *,
        counts: torch.Tensor | Sequence[int] | None = None,
        beta: float = 0.999,
    ) -> None:
        super().__init__()
        require_number(_NAME, "gamma", gamma, -1e-12)
        require_number(_NAME, "beta", beta, -1e-12, 1)
        self.gamma, self.beta = float(gamma), float(beta)
        self.kind = alpha if isinstance(alpha, str) else None
        require(self.kind in (None, "inverse", "effective"), _NAME, "alpha",
                "must be 'inverse', 'effective' or a tensor (C,), got {!r}", alpha)  # fmt: skip
        weights = None
        if self.kind is None:
            require(counts is None, _NAME, "counts", "are of no use with alpha given by hand: leave one of them out")
            weights = _numbers("alpha", alpha)
        elif counts is not None:
            weights = self._weights(_numbers("counts", counts))
        self.register_buffer("alpha", weights)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        require(logits.dim() == 2 and logits.is_floating_point(), _NAME, "logits", "must be floats of shape (N, C), got {}",
                logits.shape)  # fmt: skip
        require(target.shape == logits.shape[:1] and not target.is_floating_point(), _NAME, "target",
                "must be class indices of shape {}, got {} {}", logits.shape[:1], target.dtype, target.shape)  # fmt: skip
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        classes = torch.arange(logits.shape[1], device=logits.device)
        alpha = self.alpha
        if alpha is None:
            alpha = self._weights((target[:, None] == classes).sum(0).to(wide.dtype))
        require(alpha.shape == classes.shape, _NAME, "logits", "must have {} classes as alpha or counts, got {}",
                alpha.shape[0], logits.shape)  # fmt: skip
        log_p = wide.log_softmax(1).gather(1, target.long()[:, None])[:, 0]
        # Away from 0, where a power below 1 has no slope.
        missing = (-torch.expm1(log_p)).clamp_min(torch.finfo(wide.dtype).tiny)
        focal = log_p if self.gamma == 0 else missing.pow(self.gamma) * log_p
        return -(alpha.to(wide.dtype)[target.long()] * focal).mean().to(logits.dtype)

    def _weights(self, counts: torch.Tensor) -> torch.Tensor:
        present, least = counts > 0, counts.clamp_min(1)
        classes = present.sum()
        if self.kind == "inverse":
            return counts.sum() / (classes * least)
        weights = (1 - self.beta) / (1 - self.beta**least)
        return weights * classes / (weights * present).sum()

    def extra_repr(self) -> str:
        alpha = repr(self.kind) if self.kind else f"{self.alpha.tolist()}" if self.alpha is not None else "None"
        return f"alpha={alpha}, gamma={self.gamma}"


def _numbers(argument: str, values: object) -> torch.Tensor:
    try:
        numbers = torch.as_tensor(values).detach().clone().to(torch.get_default_dtype())
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.empty(0)
    fine = numbers.dim() == 1 and numbers.numel() > 0 and bool((numbers >= 0).all()) and bool(numbers.isfinite().all())
    require(fine and bool(numbers.any()), _NAME, argument, "must be numbers from 0 on, one a class, not all 0, got {}", values)
    return numbers
