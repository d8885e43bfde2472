"""The cases of recurrent_conv2d, conv_lstm and conv_gru: sections as STRCN-G has them, and cells over 16 steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from mer_fast import ops

from . import rivals
from .rivals import Call, Rival

KERNEL, PADDING = 3, 1
EPS = 1e-5  # of batch norms
Make = Callable[..., Call]
BOTH = ("cpu", "cuda")


class Section(NamedTuple):
    """A section as in STRCN-G: the input is added before each 3x3 convolution, which has weights of its own; batch norm."""

    input: tuple[int, int, int, int]  # (N, C, H, W)
    steps: int = 2

    @property
    def name(self) -> str:
        return f"{'x'.join(map(str, self.input))}, {self.steps} steps"

    def elements(self) -> int:
        """Of input and output."""
        return 2 * prod(self.input)

    def flops(self) -> int:
        """Of the convolutions as they are written: 1x1, then a 3x3 a step."""
        return 2 * prod(self.input) * self.input[1] * (1 + self.steps * KERNEL**2)


class Cell(NamedTuple):
    """A ConvLSTM (4 gates) or ConvGRU (3) of 3x3 kernels over the steps of its input, from a zero state."""

    op: str
    input: tuple[int, int, int, int, int]  # (T, N, C, H, W)
    hidden: int

    @property
    def gates(self) -> int:
        return {"conv_lstm": 4, "conv_gru": 3}[self.op]

    @property
    def name(self) -> str:
        return f"{'x'.join(map(str, self.input))}, hidden {self.hidden}"

    @property
    def output(self) -> tuple[int, ...]:
        return (*self.input[:2], self.hidden, *self.input[3:])

    def elements(self) -> int:
        """Of input and output."""
        return prod(self.input) + prod(self.output)

    def flops(self) -> int:
        """Of the convolutions as they are written."""
        return 2 * prod(self.output) * self.gates * (self.input[2] + self.hidden) * KERNEL**2


# --- a call: values alone, under autocast, or with the gradients of all that wants one ------------------------------------
def forward(function: Callable[..., Any], *operands: torch.Tensor) -> Any:
    with torch.no_grad():
        return function(*operands)


def forward_autocast(function: Callable[..., Any], *operands: torch.Tensor) -> Any:
    with torch.no_grad(), torch.autocast(operands[0].device.type, torch.bfloat16):
        return function(*operands)


def forward_backward(function: Callable[..., Any], *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The last tensor is the output's gradient."""
    *operands, grad = tensors
    return torch.autograd.grad(function(*operands), [one for one in operands if one.requires_grad], grad)


def channels_last(make: Make) -> Make:
    """Weights, and every step of inputs, in channels-last beforehand, as a network kept in that layout has them."""

    def moved(t: torch.Tensor) -> torch.Tensor:
        if t.dim() < 4:
            return t
        last = t.detach().flatten(0, -4).to(memory_format=torch.channels_last)
        return last.unflatten(0, t.shape[:-3]).requires_grad_(t.requires_grad)

    return lambda *inputs: make(*map(moved, inputs))


def compiled(step: Callable[..., Any], function: Callable[..., Any], *, first: bool) -> Make:
    """On a GPU with all that the compiler can search through; `first`: of the compiled rivals of a case."""

    def make(*inputs: torch.Tensor) -> Call:
        mode = "max-autotune" if inputs[0].is_cuda else None
        return rivals.compiled(step, function, mode=mode, fresh=first)(*inputs)

    return make


# --- sections ----------------------------------------------------------------------------------------------------------
def plain_section(x: torch.Tensor, first: torch.Tensor, *rest: torch.Tensor, training: bool) -> torch.Tensor:
    """As one writes it. In training it leaves the running statistics alone, which is less work than ours."""
    *recurrent, affine, statistics = rest

    def activated(z: torch.Tensor, k: int) -> torch.Tensor:
        mean, var = (None, None) if training else (statistics[0, k], statistics[1, k])
        return F.relu(F.batch_norm(z, mean, var, affine[0, k], affine[1, k], training))

    y = activated(F.conv2d(x, first), 0)
    for k, weight in enumerate(recurrent, 1):
        y = activated(F.conv2d(y + x, weight, padding=PADDING), k)
    return y


def folded_section(x: torch.Tensor, first: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
    """With each norm's scale in its weights already; the last operand has the shifts."""
    *recurrent, shifts = rest
    y = F.relu(F.conv2d(x, first, shifts[0]))
    for weight, shift in zip(recurrent, shifts[1:], strict=True):
        y = F.relu(F.conv2d(y + x, weight, shift, padding=PADDING))
    return y


def norms_folded(make: Make) -> Make:
    """The weights of `folded_section`, made beforehand; ours are folded at every call."""

    def folded(x: torch.Tensor, *rest: torch.Tensor) -> Call:
        *weights, affine, statistics = (t.detach() for t in rest)
        scales = affine[0] * (statistics[1] + EPS).rsqrt()
        scaled = [weight * scale[:, None, None, None] for weight, scale in zip(weights, scales, strict=True)]
        return make(x, *scaled, affine[1] - scales * statistics[0])

    return folded


def our_section(x: torch.Tensor, first: torch.Tensor, *rest: torch.Tensor, training: bool) -> torch.Tensor:
    *recurrent, affine, statistics = rest
    (weights, biases), (means, variances) = ([list(each) for each in pair] for pair in (affine, statistics))
    return ops.recurrent_conv2d(
        x, first, recurrent, steps=len(recurrent), injection="input", norm="batch", norm_weights=weights, norm_biases=biases,
        running_means=means, running_vars=variances, training=training,
    )  # fmt: skip


def section_inputs(section: Section, *, backward: bool) -> Callable[[str], tuple[torch.Tensor, ...]]:
    """Input, weights, scales and shifts (2, states, C), running means and variances likewise, and the output's gradient."""

    def inputs(device: str) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        channels, states = section.input[1], section.steps + 1
        x = torch.randn(section.input, generator=generator)
        weights = [
            torch.randn(channels, channels, side, side, generator=generator) / (channels**0.5 * side)
            for side in (1, *[KERNEL] * section.steps)
        ]
        affine, statistics = (0.5 + torch.rand(2, states, channels, generator=generator) for _ in range(2))
        leaves = [t.to(device).requires_grad_(backward or t is not x) for t in (x, *weights, affine)]
        rest = [statistics, *([torch.randn(section.input, generator=generator)] if backward else [])]
        return (*leaves, *(t.to(device) for t in rest))

    return inputs


def section_fields(section: Section, *, backward: bool) -> dict[str, Any]:
    """What a `Case` says of a section: everything but the op and the group."""
    step, function = forward_backward if backward else forward, partial(plain_section, training=backward)
    eager = rivals.eager(partial(step, function))
    against = [
        Rival("PyTorch", eager, BOTH),
        Rival("PyTorch, channels last", channels_last(eager), BOTH),
        Rival("PyTorch, torch.compile", compiled(step, function, first=True), BOTH),
        # On a GPU the compiler takes this layout by itself.
        Rival("PyTorch, torch.compile, channels last", channels_last(compiled(step, function, first=False))),
    ]
    if not backward:
        make = norms_folded(channels_last(compiled(step, folded_section, first=False)))
        against.append(Rival("PyTorch, norms folded beforehand, torch.compile, channels last", make, BOTH))
    return {
        "shape": section.name + (", training step" if backward else ""),
        "inputs": section_inputs(section, backward=backward),
        "call": partial(step, partial(our_section, training=backward)),
        "rivals": tuple(against),
        "bytes_moved": 4 * section.elements() * (1 + backward),
        "flops": section.flops() * (3 if backward else 1),
    }


# --- cells -------------------------------------------------------------------------------------------------------------
def lstm_state(gates: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    i, f, g, o = gates.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def lstm_hoisted(x: torch.Tensor, w_ih: torch.Tensor, w_hh: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The input's convolution of all steps at once."""
    out, of_input = [], F.conv2d(x.flatten(0, 1), w_ih, bias, padding=PADDING).unflatten(0, x.shape[:2])
    h = c = x.new_zeros(x.shape[1], w_hh.shape[1], *x.shape[3:])
    for gates in of_input:
        h, c = lstm_state(gates + F.conv2d(h, w_hh, padding=PADDING), c)
        out.append(h)
    return torch.stack(out)


def lstm_joined(x: torch.Tensor, w_ih: torch.Tensor, w_hh: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The common public cell: a step is one convolution over input and state."""
    out, weight = [], torch.cat([w_ih, w_hh], 1)
    h = c = x.new_zeros(x.shape[1], w_hh.shape[1], *x.shape[3:])
    for step in x:
        h, c = lstm_state(F.conv2d(torch.cat([step, h], 1), weight, bias, padding=PADDING), c)
        out.append(h)
    return torch.stack(out)


def gru_state(r: torch.Tensor, z: torch.Tensor, n_x: torch.Tensor, n_h: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    n = torch.tanh(n_x + r.sigmoid() * n_h)
    return n + z.sigmoid() * (h - n)


def gru_hoisted(x: torch.Tensor, w_ih: torch.Tensor, w_hh: torch.Tensor, b_ih: torch.Tensor, b_hh: torch.Tensor) -> torch.Tensor:
    """The input's convolution of all steps at once."""
    out, of_input = [], F.conv2d(x.flatten(0, 1), w_ih, b_ih, padding=PADDING).unflatten(0, x.shape[:2])
    h = x.new_zeros(x.shape[1], w_hh.shape[1], *x.shape[3:])
    for gates in of_input:
        (r_x, z_x, n_x), (r_h, z_h, n_h) = gates.chunk(3, 1), F.conv2d(h, w_hh, b_hh, padding=PADDING).chunk(3, 1)
        h = gru_state(r_x + r_h, z_x + z_h, n_x, n_h, h)
        out.append(h)
    return torch.stack(out)


def gru_joined(x: torch.Tensor, w_ih: torch.Tensor, w_hh: torch.Tensor, b_ih: torch.Tensor, b_hh: torch.Tensor) -> torch.Tensor:
    """r and z are one convolution over input and state; n needs both apart."""
    out, hidden = [], w_hh.shape[1]
    parts = [2 * hidden, hidden]
    (w_x, w_nx), (w_h, w_nh), (b_x, b_nx), (b_h, b_nh) = (t.split(parts) for t in (w_ih, w_hh, b_ih, b_hh))
    weight, bias = torch.cat([w_x, w_h], 1), b_x + b_h
    h = x.new_zeros(x.shape[1], hidden, *x.shape[3:])
    for step in x:
        r, z = F.conv2d(torch.cat([step, h], 1), weight, bias, padding=PADDING).chunk(2, 1)
        n_x, n_h = F.conv2d(step, w_nx, b_nx, padding=PADDING), F.conv2d(h, w_nh, b_nh, padding=PADDING)
        h = gru_state(r, z, n_x, n_h, h)
        out.append(h)
    return torch.stack(out)


PLAIN: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "conv_lstm": (lstm_hoisted, lstm_joined),
    "conv_gru": (gru_hoisted, gru_joined),
}


def our_cell(*operands: torch.Tensor, op: str) -> torch.Tensor:
    output: torch.Tensor = getattr(ops, op)(*operands)[0]
    return output


def cell_inputs(cell: Cell, *, backward: bool, dtype: torch.dtype) -> Callable[[str], tuple[torch.Tensor, ...]]:
    """Input in `dtype`, weights and biases in float32 that want a gradient as parameters do, and the output's gradient."""

    def inputs(device: str) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        rows = cell.gates * cell.hidden
        x = torch.randn(cell.input, generator=generator).to(dtype)
        shapes = [(rows, channels, KERNEL, KERNEL) for channels in (cell.input[2], cell.hidden)]
        biases = [(rows,)] * (1 if cell.op == "conv_lstm" else 2)
        bound = 1 / (cell.hidden**0.5 * KERNEL)  # of the layers' initial values
        weights = [bound * (2 * torch.rand(shape, generator=generator) - 1) for shape in (*shapes, *biases)]
        leaves = [t.to(device).requires_grad_(backward or t is not x) for t in (x, *weights)]
        return (*leaves, *([torch.randn(cell.output, generator=generator).to(device)] if backward else []))

    return inputs


def cell_fields(cell: Cell, form: str) -> dict[str, Any]:
    """What a `Case` says of a cell: everything but the group. `form`: "", "training step" or "bfloat16 by autocast"."""
    step = {"": forward, "training step": forward_backward, "bfloat16 by autocast": forward_autocast}[form]
    backward, autocast = step is forward_backward, step is forward_autocast
    hoisted, joined = PLAIN[cell.op]
    # All in channels-last: in each case the fastest of them is faster so.
    once, every = "PyTorch, input convolved once", "PyTorch, input and state joined"
    against = [Rival(name, channels_last(rivals.eager(partial(step, f))), BOTH) for name, f in ((once, hoisted), (every, joined))]
    make = channels_last(compiled(step, joined, first=True))
    against.append(Rival(f"{every}, torch.compile", make, BOTH))
    if not backward:  # it would take a minute to compile, and be slower than the other
        against.append(Rival(f"{once}, torch.compile", channels_last(compiled(step, hoisted, first=False)), BOTH))
    return {
        "op": cell.op,
        "shape": cell.name + (f", {form}" if form else ""),
        "inputs": cell_inputs(cell, backward=backward, dtype=torch.bfloat16 if autocast else torch.float32),
        "call": partial(step, partial(our_cell, op=cell.op)),
        "rivals": tuple(against),
        "bytes_moved": (2 if autocast else 4) * cell.elements() * (1 + backward),
        # A rate is held against a product in float32.
        "flops": None if autocast else cell.flops() * (3 if backward else 1),
    }


# --- the shapes --------------------------------------------------------------------------------------------------------
SECTIONS = (Section((8, 32, 64, 64)), Section((8, 64, 32, 32)), Section((8, 128, 56, 56)))
CELLS = tuple(Cell(op, (16, 8, 32, 32, 32), 32) for op in ("conv_lstm", "conv_gru"))
FORMS = ("", "training step", "bfloat16 by autocast")
