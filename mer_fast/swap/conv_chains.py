"""Convolution -> batch norm -> activation -> max-pool: which of these chains of a model run as one, and why others do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

import torch
from torch import fx

from ..nn import Conv3d, ConvPool3d
from ..ops._checks import FLOATS
from ..ops._conv import triple
from ..ops.conv3d_pool import LARGEST_WINDOW
from .folding import STAGES, Chain, FoldedConvPool3d, Stage
from .report import Left, Swapped, SwapReport, shown
from .trace import HOOKS, Understanding, View, only_called

ACTIVATIONS = {torch.nn.ReLU: "relu", torch.nn.LeakyReLU: "leaky_relu", torch.nn.GELU: "gelu"}
# The order of the stages behind a convolution; each may be absent.
NORM, ACTIVATION, POOL = 1, 2, 3
RANK = {torch.nn.BatchNorm3d: NORM, **dict.fromkeys(ACTIVATIONS, ACTIVATION), torch.nn.MaxPool3d: POOL}
FUNCTIONS = {"relu", "relu_", "leaky_relu", "leaky_relu_", "gelu", "max_pool3d", "batch_norm"}


@dataclass
class Stages:
    """What follows a convolution in one view: module names by rank, and what stopped the search."""

    names: dict[int, str] = field(default_factory=dict)
    obstacle: Left | None = None


def swap_conv_chains(model: torch.nn.Module, understanding: Understanding, report: SwapReport) -> None:
    """Swaps every 3-D convolution of `model` that can be swapped, with what can be fused behind it."""
    search = _Search(model, understanding)
    left: dict[str, Left] = {}
    fused: set[str] = set()
    plans = []
    for name, module in search.modules.items():
        if not _is_convolution(module):
            continue
        reason = search.why_not_convolution(name)
        if reason:
            left.setdefault(name, Left(name, reason))
            continue
        stages = search.stages(name)
        plans.append((name, stages))
        fused.update(stages.names.values())
        if stages.obstacle:
            left.setdefault(stages.obstacle.name, stages.obstacle)
    for name, module in search.modules.items():
        if isinstance(module, torch.nn.MaxPool3d) and not isinstance(module, Stage) and name not in fused:
            left.setdefault(name, Left(name, search.why_not_pool(name)))
    for name, stages in plans:  # last, so that the search sees the model as it was
        swapped = _swap(model, name, stages.names)
        if swapped:
            report.swapped.append(swapped)
    report.left.extend(left.values())


class _Search:
    def __init__(self, model: torch.nn.Module, understanding: Understanding) -> None:
        self.views = understanding.views
        self.opaque = understanding.opaque
        self.modules = dict(model.named_modules())
        self.registered: dict[torch.nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self.registered.setdefault(module, []).append(name)

    # --- why a module has to stay as it is -------------------------------------------------------------------------
    def why_not(self, name: str) -> str | None:
        """What keeps any kind of module from being swapped."""
        module = self.modules[name]
        if len(self.registered[module]) > 1:
            return f"shared: it is registered as {' and '.join(self.registered[module])}"
        if max((len(view.calls.get(name, ())) for view in self.views), default=0) > 1:
            return "shared: it is called more than once"
        if _hooked(module):
            return "it has hooks, which have to see what it takes and gives"
        if "forward" in vars(module):
            return "its forward was replaced"
        return None

    def why_not_convolution(self, name: str) -> str | None:
        module = self.modules[name]
        kind = type(module)
        if torch.nn.utils.parametrize.is_parametrized(module):
            return "its weights are parametrized: remove the parametrization, then swap"
        if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin):
            return "it is lazy: run the model once, then swap"
        if kind.__module__.startswith("torch.ao.") and not isinstance(module, torch.nn.Conv3d):
            return "it is quantized"
        if kind not in (torch.nn.Conv3d, Conv3d):
            return f"its class {kind.__module__}.{kind.__qualname__} may do more than torch.nn.Conv3d"
        if module.padding_mode != "zeros":
            return f"padding_mode={module.padding_mode!r}: only padding with zeros is fused"
        if module.weight.dtype not in FLOATS:
            return f"its weights are {module.weight.dtype}, not floats"
        return self.why_not(name)

    def why_not_stage(self, name: str) -> str | None:
        """What keeps a norm, an activation or a pool from being fused."""
        module = self.modules[name]
        if isinstance(module, torch.nn.BatchNorm3d) and module.running_mean is None:
            return "it has no running statistics, so that it never folds"
        if isinstance(module, torch.nn.LeakyReLU) and module.negative_slope != 0.01:
            return f"negative_slope={module.negative_slope}: only 0.01 is fused"
        if isinstance(module, torch.nn.GELU) and module.approximate != "none":
            return f"approximate={module.approximate!r}: only the exact GELU is fused"
        return (_why_not_pool(module) if isinstance(module, torch.nn.MaxPool3d) else None) or self.why_not(name)

    def why_not_pool(self, name: str) -> str:
        """Why a pool that follows no chain was left."""
        module = self.modules[name]
        if type(module) is not torch.nn.MaxPool3d:
            return f"its class {type(module).__qualname__} may do more than torch.nn.MaxPool3d"
        reason = self.why_not_stage(name)
        if reason:
            return reason
        for view in self.views:
            for node in view.calls.get(name, ()):
                for source in node.all_input_nodes:
                    return f"it runs behind {_told(view, source)}, not behind a convolution's chain"
        return "no convolution was seen to run right before it"

    # --- what follows a convolution --------------------------------------------------------------------------------
    def stages(self, name: str) -> Stages:
        """What can be fused behind a convolution on every way through the model."""
        found = [self._follow(view, view.calls[name][0]) for view in self.views if name in view.calls]
        if not found:
            return Stages()
        first = found[0]
        for view in self.views:
            reason = self._taken_apart(view.prefix.removesuffix(".")) if name in view.calls and first.names else None
            if reason:
                return Stages({}, Left(name, reason))
        if any(stages.names != first.names for stages in found):
            return Stages({}, Left(name, "what follows it depends on training or on an optional argument of forward"))
        for stage in first.names.values():
            if any(stage in view.calls and name not in view.calls for view in self.views):
                return Stages({}, Left(stage, f"it also runs without {shown(name)} before it"))
        return first

    def _taken_apart(self, part: str) -> str | None:
        """Why a container that was traced by itself may not be called as a whole by the code around it, which was not."""
        if not part or not type(self.modules[part]).__module__.startswith("torch.nn.modules.container"):
            return None
        owner = next(name for name in _containers(part) if name in self.opaque)
        child = part.removeprefix(f"{owner}." if owner else "").partition(".")[0]
        if only_called(self.modules[owner], child):
            return None
        return f"{shown(owner)} cannot be traced and may call what is in {shown(child)} one by one: nothing is fused there"

    def _follow(self, view: View, node: fx.Node) -> Stages:
        stages = Stages()
        convolution = view.name_of(node)
        last = ACTIVATION if getattr(self.modules[convolution], "activation", None) else 0
        while POOL not in stages.names:
            user = self._only_user(view, node, stages)
            if user is None:
                break
            name = view.name_of(user)
            rank = RANK.get(type(self.modules[name]), 0)
            transparent = type(self.modules[name]) is torch.nn.Identity
            if user.args != (node,) or user.kwargs or not (transparent or rank > last):
                break
            reason = self.why_not_stage(name) or self._watched(convolution, name)
            if reason:
                stages.obstacle = Left(name, reason)
                break
            if not transparent:
                stages.names[rank] = name
                last = rank
            node = user
        if POOL not in stages.names and NORM in stages.names:
            stages.names.clear()
        return stages

    def _only_user(self, view: View, node: fx.Node, stages: Stages) -> fx.Node | None:
        """The module call that alone takes what `node` gives; None, and perhaps an obstacle, where there is no such."""
        users = list(node.users)
        if len(users) == 1 and users[0].op == "call_module":
            return users[0]
        fusible = [user for user in users if _function(user) in FUNCTIONS or self._rank(view, user)]
        name = view.name_of(node)
        if fusible and len(users) > 1:
            stages.obstacle = Left(name, f"its output is used {len(users)} times, so that nothing behind it is fused")
        elif fusible:
            stages.obstacle = Left(name, f"{_function(fusible[0])} behind it is a function call: only modules are fused")
        return None

    def _rank(self, view: View, node: fx.Node) -> int:
        return RANK.get(type(self.modules[view.name_of(node)]), 0) if node.op == "call_module" else 0

    def _watched(self, first: str, last: str) -> str | None:
        """Whether a container that holds one end of a chain, and not the other, has hooks on what passes between."""
        for container in sorted(set(_containers(first)) ^ set(_containers(last))):
            if _hooked(self.modules[container]):
                return f"{shown(container)} has hooks, which have to see what passes between {shown(first)} and it"
        return None


def _is_convolution(module: torch.nn.Module) -> bool:
    if isinstance(module, ConvPool3d):
        return False
    kind = type(module)
    return isinstance(module, torch.nn.Conv3d) or (kind.__module__.startswith("torch.ao.") and "Conv" in kind.__name__
                                                   and "3d" in kind.__name__)  # fmt: skip


def _why_not_pool(pool: torch.nn.MaxPool3d) -> str | None:
    if any(triple("MaxPool3d", "padding", pool.padding, 0)):
        return f"padding={pool.padding}: only a pool without padding is fused"
    if triple("MaxPool3d", "dilation", pool.dilation, 1) != [1, 1, 1]:
        return f"dilation={pool.dilation}: only a pool without dilation is fused"
    if pool.ceil_mode:
        return "ceil_mode=True: only whole windows are fused"
    if pool.return_indices:
        return "return_indices=True: the fused layer gives none"
    positions = prod(triple("MaxPool3d", "kernel_size", pool.kernel_size, 1))
    if positions > LARGEST_WINDOW:
        return f"its window has {positions} positions: at most {LARGEST_WINDOW} are fused"
    return None


def _hooked(module: torch.nn.Module) -> bool:
    return any(getattr(module, hooks, None) for hooks in HOOKS)


def _containers(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


def _function(node: fx.Node) -> str:
    """The name of a called function or method, "" for anything else."""
    if node.op == "call_method":
        return str(node.target)
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""


def _told(view: View, node: fx.Node) -> str:
    if node.op == "call_module":
        return view.name_of(node)
    return f"the function call {_function(node)}" if _function(node) else "an input of forward"


# --- the swap itself -------------------------------------------------------------------------------------------------
def _swap(model: torch.nn.Module, name: str, names: dict[int, str]) -> Swapped | None:
    """Changes the classes of a chain's modules: parameters, buffers, mode and every reference to them stay."""
    convolution = model.get_submodule(name)
    stages = {rank: model.get_submodule(stage) for rank, stage in names.items()}
    activation = getattr(convolution, "activation", None)
    if ACTIVATION in stages:
        activation = ACTIVATIONS[type(stages[ACTIVATION])]
    told = (name, *(names[rank] for rank in sorted(names)))
    if POOL not in stages:
        if type(convolution) is Conv3d and not stages:
            return None
        _become(convolution, Conv3d, activation=activation)
        _pass_through(stages)
        return Swapped(told, f"mer_fast.nn.Conv3d, activation={activation!r}" if activation else "mer_fast.nn.Conv3d")
    pool = stages[POOL]
    step = pool.kernel_size if pool.stride is None else pool.stride
    fused = {
        "activation": activation,
        "pool_kernel": tuple(triple("MaxPool3d", "kernel_size", pool.kernel_size, 1)),
        "pool_stride": tuple(triple("MaxPool3d", "stride", step, 1)),
    }
    if NORM not in stages:
        _become(convolution, ConvPool3d, **fused)
        _pass_through(stages)
        return Swapped(told, f"mer_fast.nn.ConvPool3d, activation={activation!r}")
    chain = Chain(tuple((model.get_submodule(place.rpartition(".")[0]), place.rpartition(".")[2]) for place in told))
    _become(convolution, FoldedConvPool3d, **fused, chain=chain)
    for stage in stages.values():
        _become(stage, STAGES[type(stage)], chain=chain)
    return Swapped(told, f"mer_fast.nn.ConvPool3d, activation={activation!r}, in evaluation; one by one in training")


def _become(module: torch.nn.Module, kind: type[torch.nn.Module], **attributes: object) -> None:
    module.__class__ = kind
    vars(module).update(attributes)


def _pass_through(stages: dict[int, torch.nn.Module]) -> None:
    for stage in stages.values():
        _become(stage, torch.nn.Identity)
