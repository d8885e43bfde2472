"""Small networks of one kind as a chain of blocks, their weights stacked along a dimension of folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .. import ops
from ..errors import MerFastError
from ..models import STSTNet
from ..ops.conv_norm_pool import MOST_CHANNELS
from ..reference import kept_by_dropout

MEND = 'run it with folds="sequential" or folds="processes"'
Layers = list[tuple[str, nn.Module]]
Keys = Callable[[int], torch.Tensor]  # of a layer that drops: int64 (F,)


@dataclass(frozen=True)
class Block:
    """Convolution, ReLU, batch norm, max-pool, dropout and average-pool: `ops.conv_norm_pool`; modules by their names."""

    conv: str
    norm: str
    padding: int
    pool: tuple[int, int, int]  # kernel, stride, padding
    momentum: float
    eps: float
    dropout: float = 0.0
    average: int = 1


@dataclass(frozen=True)
class Dropout:
    share: float


@dataclass(frozen=True)
class Linear:
    name: str


@dataclass(frozen=True)
class Plain:
    """A layer without weights that takes each example alone, on (F * B, ...)."""

    kind: str  # "relu" | "mean" | "flatten"


Stage = Block | Dropout | Linear | Plain


def understood(model: nn.Module) -> tuple[Stage, ...]:
    """The stages of a network.

    It is STSTNet, or a Sequential of blocks (3x3 Conv2d, ReLU, BatchNorm2d, MaxPool2d, then perhaps Dropout and AvgPool2d) and
    behind them AdaptiveAvgPool2d(1), Flatten, Dropout, ReLU and Linear.

    Raises:
        MerFastError: another network; names the layer that does not fit. So does a forward of one's own, a hook or a
            parametrization, which would not run, and weights that two layers share.
    """
    for name, module in model.named_modules():
        _check_plain((name, module))
    if isinstance(model, STSTNet):
        return _of_ststnet(model)
    if not isinstance(model, nn.Sequential):
        raise MerFastError(f"batched folds: {type(model).__name__} is neither STSTNet nor an nn.Sequential of blocks; {MEND}")
    layers = _flat(model, "")
    _check_own_weights(layers)
    stages: list[Stage] = []
    k = 0
    while k < len(layers):
        if isinstance(layers[k][1], nn.Conv2d):
            if any(isinstance(stage, Linear | Plain) for stage in stages):
                _misfit(layers[k], "must stand before Flatten and Linear")
            block, k = _block(layers, k)
            stages.append(block)
        else:
            stages.append(_behind(layers[k]))
            k += 1
    if not any(isinstance(stage, Block) for stage in stages):
        raise MerFastError(f"batched folds: {type(model).__name__} has no convolution; {MEND}")
    if not stages or not isinstance(stages[-1], Linear):
        raise MerFastError(f"batched folds: {type(model).__name__} must end in Linear, which gives the logits; {MEND}")
    return tuple(stages)


def _of_ststnet(model: STSTNet) -> tuple[Stage, ...]:
    layers: Layers = [("conv", model.conv), ("", nn.ReLU()), ("norm", model.norm), ("", nn.MaxPool2d(3, padding=1))]
    block, _ = _block([*layers, ("dropout", model.dropout), ("", nn.AvgPool2d(2))], 0)
    for name, kind in (("dropout", nn.Dropout), ("classifier", nn.Linear)):
        if type(getattr(model, name)) is not kind:
            _misfit((name, getattr(model, name)), f"must be {kind.__name__}, as STSTNet has it")
    return block, Plain("flatten"), Linear("classifier")


def _flat(module: nn.Module, prefix: str) -> Layers:
    """The layers of nested Sequentials in order, without those that do nothing."""
    layers: Layers = []
    for name, child in module._modules.items():  # named_children() leaves out a module that stands there again
        path = f"{prefix}{name}"
        if child is None:
            raise MerFastError(f"batched folds: layer {path} is None, which nn.Sequential cannot run")
        layers += _flat(child, f"{path}.") if isinstance(child, nn.Sequential) else [(path, child)]
    return [layer for layer in layers if type(layer[1]) is not nn.Identity]


def _misfit(layer: tuple[str, nn.Module], why: str) -> NoReturn:
    kind = type(layer[1]).__name__
    called = f"layer {layer[0]} ({kind if [*layer[1].children()] else layer[1]})" if layer[0] else kind
    raise MerFastError(f"batched folds: {called} {why}; {MEND}")


def _check_plain(layer: tuple[str, nn.Module]) -> None:
    """Refuses a module that does more than its kind."""
    module = layer[1]
    for kind in (STSTNet, nn.Sequential):
        if isinstance(module, kind) and type(module).forward is not kind.forward:
            _misfit(layer, f"has a forward of its own, not that of {kind.__name__}, which alone can be batched")
    if "forward" in vars(module):
        _misfit(layer, "has a forward of its own, which cannot be batched")
    if any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)):
        _misfit(layer, "has hooks, which cannot be batched: remove them")
    if is_parametrized(module):
        _misfit(layer, "is parametrized, which cannot be batched: remove its parametrizations")


def _check_own_weights(layers: Layers) -> None:
    seen: dict[nn.Parameter, str] = {}
    for name, module in layers:
        for parameter in module.parameters():
            if parameter in seen:
                _misfit((name, module), f"shares weights with layer {seen[parameter]}, which cannot be batched")
        seen.update(dict.fromkeys(module.parameters(), name))


def _one(layer: tuple[str, nn.Module], value: Any) -> int:
    """A number of one or of two equal ones."""
    several = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(set(several)) != 1 or not isinstance(several[0], int):
        _misfit(layer, "must have the same numbers for height and width")
    return several[0]


def _block(layers: Layers, k: int) -> tuple[Block, int]:
    """The block whose convolution is layer k, and the number of the layer behind it."""
    kinds = (nn.Conv2d, nn.ReLU, nn.BatchNorm2d, nn.MaxPool2d)
    for place, kind in enumerate(kinds):
        if k + place >= len(layers):
            _misfit(layers[k], f"must be followed by ReLU, BatchNorm2d and MaxPool2d: there is no {kind.__name__}")
        if type(layers[k + place][1]) is not kind:
            _misfit(layers[k + place], f"must be {kind.__name__}: a block is Conv2d, ReLU, BatchNorm2d, MaxPool2d")
    conv, norm, pool = layers[k][1], layers[k + 2][1], layers[k + 3][1]
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and isinstance(pool, nn.MaxPool2d)
    padding = _checked_convolution(layers[k])
    if not norm.track_running_stats or norm.momentum is None or not norm.affine:
        _misfit(layers[k + 2], "must have weights, running statistics and a momentum")
    size, stride, around = (_one(layers[k + 3], value) for value in (pool.kernel_size, pool.stride, pool.padding))
    if size not in (2, 3) or _one(layers[k + 3], pool.dilation) != 1 or pool.ceil_mode or pool.return_indices:
        _misfit(layers[k + 3], "must have a kernel of 2 or 3, no dilation and no ceil_mode")
    first, k, dropout, average = k, k + 4, 0.0, 1
    if k < len(layers) and type(layers[k][1]) is nn.Dropout:
        dropout = float(layers[k][1].p)  # type: ignore[arg-type]
        k += 1
    if k < len(layers) and type(layers[k][1]) is nn.AvgPool2d:
        average = _checked_average(layers[k])
        k += 1
    names = layers[first][0], layers[first + 2][0]
    return Block(*names, padding, (size, stride, around), norm.momentum, norm.eps, dropout, average), k


def _checked_convolution(layer: tuple[str, nn.Module]) -> int:
    """Its padding."""
    conv = layer[1]
    assert isinstance(conv, nn.Conv2d)
    if conv.kernel_size != (3, 3) or conv.stride != (1, 1) or conv.dilation != (1, 1) or conv.groups != 1:
        _misfit(layer, "must have a 3x3 kernel, stride 1, no dilation and one group")
    if max(conv.in_channels, conv.out_channels) > MOST_CHANNELS:
        _misfit(layer, f"must have at most {MOST_CHANNELS} channels in and out")
    padding: Any = {"same": 1, "valid": 0}[conv.padding] if isinstance(conv.padding, str) else conv.padding
    if conv.padding_mode != "zeros" or _one(layer, padding) > 2:
        _misfit(layer, "must have a padding of at most 2, of zeros")
    return _one(layer, padding)


def _checked_average(layer: tuple[str, nn.Module]) -> int:
    """Its kernel."""
    pool = layer[1]
    assert isinstance(pool, nn.AvgPool2d)
    size = _one(layer, pool.kernel_size)
    if _one(layer, pool.stride) != size or _one(layer, pool.padding) != 0 or pool.ceil_mode or pool.divisor_override is not None:
        _misfit(layer, "must have a stride as large as its kernel, and no padding, ceil_mode or divisor_override")
    return size


def _behind(layer: tuple[str, nn.Module]) -> Stage:
    """The stage of a layer that is not in a block."""
    name, module = layer
    if type(module) is nn.Linear:
        return Linear(name)
    if type(module) is nn.Dropout:
        return Dropout(module.p)
    if type(module) is nn.ReLU:
        return Plain("relu")
    if type(module) is nn.Flatten and module.start_dim == 1 and module.end_dim == -1:
        return Plain("flatten")
    if type(module) is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1)):
        return Plain("mean")
    _misfit(layer, "cannot be batched: only blocks, Dropout, ReLU, AdaptiveAvgPool2d(1), Flatten and Linear can")


class FoldNetwork(nn.Module):
    """Networks of one kind, one a fold, as one: every parameter and buffer has a first dimension of folds.

    Args:
        models: the folds' networks, alike but for their weights; `write_back` gives these their stacked weights.

    Raises:
        MerFastError: a network that `understood` refuses, or networks that differ.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = list(models)  # a plain list: their own parameters are not this module's
        self.stages = understood(models[0])
        for model in models[1:]:
            if understood(model) != self.stages or _shapes(model) != _shapes(models[0]):
                raise MerFastError(f"batched folds: make_model gives unlike networks, which cannot be stacked; {MEND}")
        self._names: dict[str, str] = {}
        for name, parameter in models[0].named_parameters():
            stacked = nn.Parameter(self._stacked(name), requires_grad=parameter.requires_grad)
            self.register_parameter(self._own(name), stacked)
        for name, _ in models[0].named_buffers():
            self.register_buffer(self._own(name), self._stacked(name))

    def forward(self, clips: torch.Tensor, index: torch.Tensor, keys: Keys | None) -> torch.Tensor:
        """Logits (F, B, classes) in training mode of fold f's clips index[f], (F, B); in empty slots (-1) they mean nothing.

        `keys(k)` are those of dropout k, `ops.conv_norm_pool`'s dropout_key; None: no dropout.
        """
        x, dropouts = clips, 0
        for stage in self.stages:
            key = keys(dropouts) if keys is not None and isinstance(stage, Block | Dropout) else None
            if isinstance(stage, Block):
                x, dropouts = self._run_block(stage, x, index, key), dropouts + 1
            elif isinstance(stage, Dropout):
                x, dropouts = _dropped(x, stage.share, key), dropouts + 1
            elif isinstance(stage, Linear):
                x = self._run_linear(stage, x)
            else:
                x = x.relu() if stage.kind == "relu" else x.mean((-2, -1), keepdim=True) if stage.kind == "mean" else x.flatten(2)
        return x

    @property
    def dropouts(self) -> int:
        """How many layers ask for dropout keys."""
        return sum(isinstance(stage, Block | Dropout) for stage in self.stages)

    def write_back(self) -> None:
        """Gives every network its fold's weights and statistics."""
        with torch.no_grad():
            for fold, model in enumerate(self.models):
                for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                    tensor.copy_(self.of(name)[fold])

    def of(self, name: str) -> torch.Tensor:
        """The stacked tensor of a name."""
        return getattr(self, self._names[name])

    def _run_block(self, block: Block, x: torch.Tensor, index: torch.Tensor, key: torch.Tensor | None) -> torch.Tensor:
        bias = f"{block.conv}.bias"
        self.of(f"{block.norm}.num_batches_tracked").add_(1)
        kernel, stride, padding = block.pool
        return ops.conv_norm_pool(
            x, self.of(f"{block.conv}.weight"), self.of(bias) if bias in self._names else None, self.of(f"{block.norm}.weight"),
            self.of(f"{block.norm}.bias"), self.of(f"{block.norm}.running_mean"), self.of(f"{block.norm}.running_var"),
            index=index, training=True, momentum=block.momentum, eps=block.eps, padding=block.padding, pool_kernel=kernel,
            pool_stride=stride, pool_padding=padding, dropout=block.dropout, dropout_key=key, average=block.average,
        )  # fmt: skip

    def _run_linear(self, linear: Linear, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.of(f"{linear.name}.weight").transpose(1, 2), f"{linear.name}.bias"
        if x.dim() != 3 or x.shape[2] != weight.shape[1]:
            raise MerFastError(
                f"batched folds: layer {linear.name} takes {weight.shape[1]} features, and gets {tuple(x.shape[2:])} of a clip"
            )
        return torch.baddbmm(self.of(bias)[:, None], x, weight) if bias in self._names else torch.bmm(x, weight)

    def _own(self, name: str) -> str:
        self._names[name] = name.replace(".", "__")
        return self._names[name]

    def _stacked(self, name: str) -> torch.Tensor:
        return torch.stack([{**dict(one.named_parameters()), **dict(one.named_buffers())}[name].detach() for one in self.models])


def _shapes(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.shape, tensor.dtype, tensor.device) for name, tensor in model.state_dict().items()}


def _dropped(x: torch.Tensor, share: float, key: torch.Tensor | None) -> torch.Tensor:
    if key is None or share == 0:
        return x
    stays = kept_by_dropout(key, x[0].numel(), share).view(x.shape)
    return torch.where(stays, x / (1 - share), 0) if share < 1 else F.dropout(x, 1.0)
