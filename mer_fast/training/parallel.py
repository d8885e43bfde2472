"""One training by several processes (`torchrun`): each takes a part of every batch, and a step is the step that one would take.

Gradients are summed here rather than by DistributedDataParallel, which averages over processes: of parts of unlike sizes that
is not the batch's mean. Batch norm takes its statistics over the parts of all, as torch.nn.SyncBatchNorm does on a GPU only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.data import Subset

from ..backends import backend
from ..errors import MerFastError
from ..nn import RecurrentConv2d
from .batches import predict


@dataclass(frozen=True)
class Ranks:
    """This process, among those of the default process group; alone where there is none."""

    rank: int = 0
    world: int = 1

    @classmethod
    def now(cls) -> Ranks:
        there = dist.is_available() and dist.is_initialized()
        return cls(dist.get_rank(), dist.get_world_size()) if there else cls()

    @property
    def alone(self) -> bool:
        return self.world == 1

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def part(self, items: Sequence[int]) -> list[int]:
        """Every `world`th, from this process's own on."""
        return list(items)[self.rank :: self.world]

    def check(self, batches: Sequence[Sequence[int]]) -> None:
        """Raises MerFastError where a batch has no clip for some process."""
        least = min(len(batch) for batch in batches)
        if least < self.world:
            raise MerFastError(
                f"training in {self.world} processes: a batch has {least} clip{'s' if least > 1 else ''}, and each process needs "
                "one: take fewer processes, or another batch_size"
            )

    def wait(self) -> None:
        """Until all processes are here."""
        if not self.alone:
            dist.barrier()

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        if self.alone:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value

    def sum_gradients(self, model: torch.nn.Module) -> None:
        """Puts the sum over all processes in place of every gradient."""
        by_type: dict[torch.dtype, list[torch.Tensor]] = {}
        for weight in model.parameters() if not self.alone else ():
            if weight.grad is not None:
                by_type.setdefault(weight.grad.dtype, []).append(weight.grad)
        for gradients in by_type.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            for gradient, summed in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def same_start(self, model: torch.nn.Module) -> None:
        """Gives all processes the weights of the first."""
        for tensor in model.state_dict().values() if not self.alone else ():
            # Not every backend sends bool, and none a strided tensor.
            plain = tensor.to(torch.uint8, copy=True) if tensor.dtype == torch.bool else tensor.clone().contiguous()
            dist.broadcast(plain, 0)
            tensor.copy_(plain)

    def pooled_norms(self, model: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
        """While it lasts, batch norm in training takes its statistics over the clips of all processes."""
        return contextlib.nullcontext() if self.alone else _pooled_norms(model)


def predict_together(model: torch.nn.Module, clips: Any) -> torch.Tensor:
    """`predict`, the clips parted among the processes: every one gets the logits (N, C) of all, each clip's once, in order.

    Raises:
        MerFastError: what `predict` raises.
    """
    ranks = Ranks.now()
    if ranks.alone:
        return predict(model, clips)
    own = ranks.part(range(len(clips)))
    found: list[Any] = [None] * ranks.world
    dist.all_gather_object(found, predict(model, Subset(clips, own)) if own else None)
    parts = [part for part in found if part is not None]
    logits = parts[0].new_empty(len(clips), parts[0].shape[1])
    for rank, part in enumerate(parts):
        logits[rank :: ranks.world] = part
    return logits


@contextlib.contextmanager
def _pooled_norms(model: torch.nn.Module) -> Iterator[None]:
    norms = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules())
    # The fused section has its batch norm within; its plain form calls PyTorch's.
    fused = any(isinstance(module, RecurrentConv2d) and module.norm == "batch" for module in model.modules())
    with contextlib.ExitStack() as stack:
        if fused:
            stack.enter_context(backend("reference"))
        if norms:
            stack.enter_context(_PooledNorms())
        yield


class _PooledNorms(TorchFunctionMode):
    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """torch.nn.functional.batch_norm of the clips of all processes together."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    wide = input.to(torch.promote_types(input.dtype, torch.float32))
    others = [dim for dim in range(input.dim()) if dim != 1]
    shape = [1, -1, *[1] * (input.dim() - 2)]
    count = _sum(torch.tensor(float(input.numel() // input.shape[1]), device=input.device))
    mean = _sum(wide.sum(others)) / count
    centred = wide - mean.view(shape)
    variance = _sum(centred.square().sum(others)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
    out = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        out = out * weight.view(shape)
    if bias is not None:
        out = out + bias.view(shape)
    return out.to(input.dtype)


def _sum(value: torch.Tensor) -> torch.Tensor:
    summed: torch.Tensor = _Sum.apply(value)
    return summed


class _Sum(torch.autograd.Function):
    """The sum over all processes. What each makes of it depends on every part, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return _reduced(value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return _reduced(gradients[0])


def _reduced(value: torch.Tensor) -> torch.Tensor:
    value = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(value)
    return value
