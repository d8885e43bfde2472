"""Public ConvLSTM cells: one convolution over the concatenated input and state, then four gates in some order.

A cell is traced to see that it is nothing but these operations, and compared on random input with every order of gates, every
order of the concatenation and of the states: it is swapped when exactly one agrees.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import torch
from torch import fx

from .. import ops
from ..ops._checks import FLOATS
from .report import Left, Swapped, SwapReport
from .trace import HOOKS, Understanding, trace_cell

# Names of functions, methods and operators that a cell may consist of.
_ALLOWED = {
    "cat", "concat", "concatenate", "split", "chunk", "tensor_split", "getitem", "narrow", "unbind", "sigmoid", "sigmoid_",
    "tanh", "tanh_", "mul", "mul_", "add", "add_", "iadd", "imul", "getattr", "size", "floordiv", "sub", "neg",
}  # fmt: skip
_ALLOWED_LAYERS = (torch.nn.Sigmoid, torch.nn.Tanh, torch.nn.Identity)
_TOLERANCE = 1e-9  # of float64
_NO_ORDER = "no order of four LSTM gates gives its results on random input"


# What a cell may give back.
RESULTS: dict[str, Callable[[Any, Any], Any]] = {
    "h c": lambda h, c: (h, c),
    "c h": lambda h, c: (c, h),
    "h (h c)": lambda h, c: (h, (h, c)),
}


@dataclass(frozen=True)
class Convention:
    """How a cell orders what it takes and gives.

    Attributes:
        convolution: the name of its convolution.
        gates: where i, f, g and o are among the four parts of the convolution's outputs.
        input_first: whether the input's channels come before the state's in the convolution.
        paired: whether the state is one argument (a pair), or two.
        hidden_first: whether the state is (h, c), not (c, h).
        result: one of RESULTS.
    """

    convolution: str
    gates: tuple[int, ...]
    input_first: bool
    paired: bool
    hidden_first: bool
    result: str

    def names(self) -> str:
        return ", ".join("ifgo"[self.gates.index(part)] for part in range(4))

    def packed(self, h: Any, c: Any) -> Any:
        """The result of a cell's forward."""
        return RESULTS[self.result](h, c)

    def states(self, state: tuple[Any, ...]) -> tuple[Any, Any]:
        """h and c of the arguments behind the input."""
        first, second = state[0] if self.paired else state
        return (first, second) if self.hidden_first else (second, first)

    def arguments(self, h: torch.Tensor, c: torch.Tensor) -> tuple[Any, ...]:
        """The arguments behind the input, of h and c."""
        both = (h, c) if self.hidden_first else (c, h)
        return (both,) if self.paired else both

    def weights(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """weight_ih, weight_hh and bias of `ops.conv_lstm`, of the convolution's."""
        hidden = weight.shape[0] // 4
        inputs = weight.shape[1] - hidden
        first = inputs if self.input_first else hidden
        gates = self._ordered(weight)
        parts = gates[:, :first], gates[:, first:]
        of_input, of_state = parts if self.input_first else parts[::-1]
        return of_input, of_state, None if bias is None else self._ordered(bias)

    def _ordered(self, rows: torch.Tensor) -> torch.Tensor:
        """Gates i, f, g, o; without an index, which would go from the host to the device at every call."""
        parts = rows.chunk(4)
        return torch.cat([parts[place] for place in self.gates])


class SwappedCell(torch.nn.Module):
    """A ConvLSTM cell of someone else's, run by `ops.conv_lstm`: its class, attributes, parameters and signature stay.

    Weights are split and put into our order at every call, so that nothing can go stale.
    """

    convention: Convention
    parameters_of_forward: tuple[str, ...]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        names = self.parameters_of_forward
        values = dict(zip(names, args, strict=False)) | kwargs
        given: list[Any] = [values.get(name) for name in names]
        states = given[1] if self.convention.paired and len(given) == 2 else given[1:]
        parts: list[Any] = [given[0], *(states if isinstance(states, (list, tuple)) else ())]
        ours = len(values) == len(names) and len(parts) == 3 and all(isinstance(part, torch.Tensor) for part in parts)
        if not ours or parts[0].dim() != 4:  # no state yet, for one
            return super().forward(*args, **kwargs)
        h, c = self.convention.states(tuple(given[1:]))
        convolution = self.get_submodule(self.convention.convolution)
        weights = self.convention.weights(convolution.weight, convolution.bias)  # type: ignore[arg-type]
        _, h, c = ops.conv_lstm(parts[0].unsqueeze(0), *weights, h0=h, c0=c)
        return self.convention.packed(h, c)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _remade, (type(self).__mro__[2],), self.__getstate__()


_SWAPPED: dict[type[torch.nn.Module], type[torch.nn.Module]] = {}


def _swapped_class(original: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """The one subclass of a cell's class that runs by the op."""
    if original not in _SWAPPED:
        namespace = {"__module__": __name__, "__doc__": original.__doc__}
        _SWAPPED[original] = type(original.__name__, (SwappedCell, original), namespace)
    return _SWAPPED[original]


def _remade(original: type[torch.nn.Module]) -> torch.nn.Module:
    kind = _swapped_class(original)
    return kind.__new__(kind)


def swap_recurrent_cells(model: torch.nn.Module, understanding: Understanding, report: SwapReport) -> None:
    """Swaps every ConvLSTM cell of `model` whose results `ops.conv_lstm` gives too."""
    for name, module in model.named_modules():
        if not _looks_like_a_cell(module):
            continue
        found = _recognised(module)
        if isinstance(found, str):
            if _named_a_cell(module) or found == _NO_ORDER:
                report.left.append(Left(name, found))
            continue
        vars(module).update(convention=found, parameters_of_forward=tuple(_parameters(module)))
        module.__class__ = _swapped_class(type(module))
        report.swapped.append(Swapped((name,), f"mer_fast.ops.conv_lstm, gates {found.names()} put in order"))


def _parameters(module: torch.nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def _looks_like_a_cell(module: torch.nn.Module) -> bool:
    """Someone else's module with a 2-D convolution of its own that takes an input and a state, by its name or its sizes."""
    origin = type(module).__module__
    if origin.startswith(("torch.", "mer_fast.")) or isinstance(module, torch.jit.ScriptModule):
        return False
    convolutions = [child for child in module.children() if isinstance(child, torch.nn.Conv2d)]
    if not convolutions or len(_parameters(module)) < 2:
        return False
    first = convolutions[0]
    sized = len(convolutions) == 1 and first.out_channels % 4 == 0 and first.in_channels > first.out_channels // 4
    return sized or _named_a_cell(module)


def _named_a_cell(module: torch.nn.Module) -> bool:
    names = " ".join(kind.__name__.lower() for kind in type(module).__mro__)
    return any(word in names for word in ("lstm", "gru", "rnn", "cell", "recurrent"))


def _recognised(module: torch.nn.Module) -> Convention | str:
    """The convention of a cell, or why it is left."""
    reason = _why_not(module)
    if reason:
        return reason
    try:
        with torch.random.fork_rng(devices=[]):
            twin = copy.deepcopy(module).cpu().double().requires_grad_(False)
            reason = _why_not_graph(twin)
            if reason:
                return reason
            agreeing = _agreeing(twin)
    except Exception as error:
        return f"it cannot be traced or compared ({str(error).strip().partition(chr(10))[0] or type(error).__name__})"
    if not agreeing:
        return _NO_ORDER
    return agreeing[0] if len(agreeing) == 1 else "its gates cannot be told apart"


def _why_not(module: torch.nn.Module) -> str | None:
    """What can be seen without running a cell."""
    name, convolution = next((n, c) for n, c in module.named_children() if isinstance(c, torch.nn.Conv2d))
    own = {id(parameter) for parameter in convolution.parameters()}
    if "forward" in vars(module):
        return "its forward was replaced"
    if any(id(parameter) not in own for parameter in module.parameters()) or any(True for _ in module.buffers()):
        return "it has weights or buffers besides those of one convolution over input and state"
    if type(convolution) is not torch.nn.Conv2d or torch.nn.utils.parametrize.is_parametrized(convolution):
        return f"its convolution {name} is parametrized, or of a class that may do more than torch.nn.Conv2d"
    if any(getattr(convolution, hooks, None) for hooks in HOOKS):
        return f"its convolution {name} has hooks, which have to see what it takes and gives"
    if convolution.weight.dtype not in FLOATS:
        return f"its weights are {convolution.weight.dtype}, not floats"
    kernel = convolution.kernel_size
    same = convolution.padding == "same" or convolution.padding == tuple(size // 2 for size in kernel)
    plain = (convolution.stride, convolution.dilation, convolution.groups) == ((1, 1), (1, 1), 1)
    if not (same and plain and all(size % 2 for size in kernel) and convolution.padding_mode == "zeros"):
        return f"its convolution {name} is not one with an odd kernel, stride 1 and zero padding that keeps the size"
    if convolution.out_channels % 4 or convolution.in_channels <= convolution.out_channels // 4:
        return f"its convolution {name} has not four gates of a state that is a part of its input"
    if len(_parameters(module)) not in (2, 3):
        return "its forward takes other arguments than an input and a state"
    return None


def _why_not_graph(cell: torch.nn.Module) -> str | None:
    """What tracing shows: one call of the convolution, and nothing but concatenation, gates and sums of products."""
    for graph in trace_cell(cell):
        calls = 0
        for node in graph.nodes:
            if node.op == "call_module":
                layer = cell.get_submodule(str(node.target))
                calls += isinstance(layer, torch.nn.Conv2d)
                if not isinstance(layer, (torch.nn.Conv2d, *_ALLOWED_LAYERS)):
                    return f"it has a {type(layer).__name__} besides the gates"
            elif node.op == "get_attr" or (node.op in ("call_function", "call_method") and _called(node) not in _ALLOWED):
                return f"it calls {_called(node)}, which is no part of an LSTM cell"
        if calls != 1:
            return f"it calls its convolution {calls} times, not once over input and state"
    return None


def _called(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target)).strip("_")


def _agreeing(cell: torch.nn.Module) -> list[Convention]:
    """Every convention under which `ops.conv_lstm` gives the cell's results; `cell` is a float64 copy, and is changed."""
    name, convolution = next((n, c) for n, c in cell.named_children() if isinstance(c, torch.nn.Conv2d))
    for parameter in convolution.parameters():  # the cell's own may be zero, which tells nothing
        parameter.normal_(0, 0.3)
    hidden = convolution.out_channels // 4
    inputs = convolution.in_channels - hidden
    x = torch.randn(2, inputs, 5, 4, dtype=torch.float64)
    h, c = torch.randn(2, 2, hidden, 5, 4, dtype=torch.float64)
    found = list(_by_gates(cell.eval(), name, convolution, x, h, c))
    for training in (True, False):
        x = torch.randn(1, inputs, 3, 6, dtype=torch.float64)
        h, c = torch.randn(2, 1, hidden, 3, 6, dtype=torch.float64)
        found = [one for one in found if _agrees(cell.train(training), convolution, one, x, h, c)]
    return found


def _by_gates(
    cell: torch.nn.Module, name: str, convolution: torch.nn.Conv2d, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor
) -> Iterator[Convention]:
    """Conventions that give the cell's results by the formula, from the convolution's four parts."""
    paired = len(_parameters(cell)) == 2
    for hidden_first, input_first in product((True, False), (True, False)):
        blank = Convention(name, (0, 1, 2, 3), input_first, paired, hidden_first, "")
        out = cell(x.clone(), *blank.arguments(h.clone(), c.clone()))
        parts = convolution(torch.cat([x, h] if input_first else [h, x], 1)).chunk(4, 1)
        for gates, result in product(permutations(range(4)), RESULTS):
            i, f, g, o = (parts[place] for place in gates)
            next_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            one = Convention(name, gates, input_first, paired, hidden_first, result)
            if _same(out, one.packed(o.sigmoid() * next_c.tanh(), next_c)):
                yield one


def _agrees(
    cell: torch.nn.Module, convolution: torch.nn.Conv2d, one: Convention, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor
) -> bool:
    """Whether the op that will run gives the cell's results."""
    weights = one.weights(convolution.weight, convolution.bias)
    _, next_h, next_c = ops.conv_lstm(x.unsqueeze(0), *weights, h0=h, c0=c)
    return _same(cell(x.clone(), *one.arguments(h.clone(), c.clone())), one.packed(next_h, next_c))


def _same(got: Any, want: Any) -> bool:
    """Whether two results have the same form and, within rounding, the same values."""
    if isinstance(want, tuple):
        return isinstance(got, (tuple, list)) and len(got) == len(want) and all(map(_same, got, want))
    if not isinstance(got, torch.Tensor) or got.shape != want.shape:
        return False
    return bool((got - want).norm() <= _TOLERANCE * want.norm())
