"""How a model's modules feed each other, found with torch.fx; the model itself is neither run nor changed."""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ..nn import Conv3d

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class View:
    """One way through a part of a model: in training or evaluation, with its optional arguments given or not.

    Attributes:
        prefix: the part's name in the model, "" or ending in a dot.
        graph: the calls in it.
        calls: the nodes that call a module, by the module's name in the model.
    """

    prefix: str
    graph: fx.Graph
    calls: dict[str, list[fx.Node]]

    def name_of(self, node: fx.Node) -> str:
        return self.prefix + str(node.target)


@dataclass
class Understanding:
    """What could be traced of a model.

    Attributes:
        views: of each part that was traced as a whole, every way through it.
        opaque: the parts that could not be traced, and why.
    """

    views: list[View] = field(default_factory=list)
    opaque: dict[str, str] = field(default_factory=dict)


def understand(model: torch.nn.Module) -> Understanding:
    """Traces a model as a whole; a part that cannot be traced counts as one call, and its children are traced by themselves."""
    found = Understanding()
    try:
        # fx runs the code of the model, which may store on it what it sees. The copy has the same tensors.
        twin = copy.deepcopy(model, {id(tensor): tensor for tensor in _tensors(model)})
        for module in twin.modules():
            for hooks in HOOKS:
                getattr(module, hooks).clear()
    except Exception as error:
        found.opaque[""] = f"no copy of it can be made: {_line(error)}"
        return found
    with torch.random.fork_rng(devices=[]):
        _explore(twin, "", found)
    return found


def _tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():  # attributes that are neither, as weight_norm makes them
        yield from (value for value in vars(module).values() if isinstance(value, torch.Tensor))


def _explore(module: torch.nn.Module, prefix: str, found: Understanding) -> None:
    if _is_layer(module):
        return
    opaque: dict[str, str] = {}
    try:
        found.views += _views(module, prefix, opaque)
    except Exception as error:
        found.opaque[prefix.removesuffix(".")] = _line(error)
        opaque = {"": ""}
    else:
        found.opaque.update({prefix + name: reason for name, reason in opaque.items()})
    for name in opaque:
        part = module.get_submodule(name) if name else module
        if not isinstance(part, torch.jit.ScriptModule):
            for child, inner in part.named_children():
                _explore(inner, f"{prefix}{name}.{child}." if name else f"{prefix}{child}.", found)


def _views(module: torch.nn.Module, prefix: str, opaque: dict[str, str]) -> list[View]:
    """Every way through a module. What cannot be traced on one of them, and is added to `opaque`, counts as one call on all."""
    _require_own_code(module)
    while True:
        known = len(opaque)
        views = [_trace(module, prefix, opaque, arguments, mode) for arguments, mode in _ways(module)]
        if len(opaque) == known:
            return views


def _ways(module: torch.nn.Module) -> Iterator[tuple[dict[str, Any], bool]]:
    """Values for the optional arguments, and training or not: code that asks for either may take another way."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.default is not parameter.empty
    }
    choices = [defaults]
    for name, value in defaults.items():
        if isinstance(value, bool):
            choices.append({**defaults, name: not value})
        elif value is None:
            choices.append({key: other for key, other in defaults.items() if key != name})
    for training in (True, False):
        for choice in choices:
            yield choice, training


def _trace(module: torch.nn.Module, prefix: str, opaque: dict[str, str], arguments: dict[str, Any], training: bool) -> View:
    module.train(training)
    while True:
        tracer = _Tracer(opaque, arguments)
        try:
            graph = tracer.trace(module)
            break
        except Exception as error:
            if tracer.failed is None:
                raise
            opaque[tracer.failed] = _line(error)
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(prefix + str(node.target), []).append(node)
    return View(prefix, graph, calls)


def trace_cell(cell: torch.nn.Module) -> Iterator[fx.Graph]:
    """What a module does when all its arguments are given, in training and in evaluation."""
    _require_own_code(cell)
    for training in (True, False):
        yield _Tracer({}, {}).trace(cell.train(training))


WALKS = {"children", "named_children", "modules", "named_modules", "_modules", "get_submodule", "__dict__", "getattr"}


def only_called(module: torch.nn.Module, child: str) -> bool:
    """Whether the text of a module's forward does nothing with a child but call it."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward)))
    except (OSError, TypeError, SyntaxError):
        return False
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name in WALKS or (name == child and id(node) not in called):
            return False
    return True


class _Tracer(fx.Tracer):
    def __init__(self, opaque: dict[str, str], arguments: dict[str, Any]) -> None:
        super().__init__()
        self.opaque = opaque
        self.arguments = arguments
        self.failed: str | None = None

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or _is_layer(m)

    def call_module(self, m: torch.nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = self.path_of_module(m)
        try:
            if not self.is_leaf_module(m, name):
                _require_own_code(m)
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or name  # the innermost
            raise

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Placeholders for all arguments but those that `arguments` gives."""
        placed: list[Any] = [self.root]
        named = {}
        for name, parameter in list(inspect.signature(root_fn).parameters.items())[1:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                continue
            value = self.arguments[name] if name in self.arguments else self.create_proxy("placeholder", name, (), {})
            if parameter.kind is parameter.KEYWORD_ONLY:
                named[name] = value
            else:
                placed.append(value)
        return functools.partial(root_fn, **named), placed


def _require_own_code(module: torch.nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("compiled by TorchScript; swap before")
    if "forward" in vars(module):
        raise TypeError("its forward was replaced")


def _is_layer(module: torch.nn.Module) -> bool:
    """Modules whose inside is no one's chain: PyTorch's layers and our own."""
    origin = type(module).__module__
    if origin == "torch.nn.modules.container":
        return False
    return origin.startswith(("torch.nn.modules.", "torch.ao.", "mer_fast.nn.", "mer_fast.swap.")) or isinstance(module, Conv3d)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
