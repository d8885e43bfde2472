"""Launches kernels/triton/conv_lstm*.py: torch.ops.mer_fast.conv_lstm and its gradient, of CUDA tensors.

Forward: one convolution of the library over the input of all steps, then one launch a time step (the state's convolution,
gates, cell, ends of the sequences). Backward: one launch a time step (the state's convolution turned around, gates, cell)
and one a segment, which makes the states before its steps again; the gradients of weights and input are two calls of the
library over all steps. Where no gates were kept, each segment's forward steps run again first, and those calls are made for
each segment. Around that a few launches a call, for layouts and sums, and none that waits for the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import _double_recurrent, kernels, launch
from ._implicit_gemm import cdiv, is_wide, serves_cuda
from ._recurrent import Cell, Gradients, maps_of, orders, packed, pointwise, products, rows_of, turned, wide


@dataclass(frozen=True)
class Lstm(Cell):
    bias: torch.Tensor | None
    peephole: torch.Tensor | None  # (3, D)


def _cell(
    weight_ih: torch.Tensor, weight_hh: torch.Tensor, bias: torch.Tensor | None, peephole: torch.Tensor | None,
    lengths: torch.Tensor | None, reverse: bool, segment: int,
) -> Lstm:  # fmt: skip
    flat = None if peephole is None else peephole.reshape(3, -1).contiguous()
    ends, shift = (None if one is None else one.contiguous() for one in (lengths, bias))
    return Lstm(weight_ih, weight_hh, ends, reverse, segment, shift, flat)


def _run(
    cell: Lstm, input: torch.Tensor, times: list[int], h: torch.Tensor | None, c: torch.Tensor | None,
    output: torch.Tensor | None, gates: torch.Tensor | None, states: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The steps at `times`; input, output and gates begin with the earliest. Returns h and c behind them, (N, H, W, D)."""
    _, batch, _, height, width = input.shape
    first, ahead, shape = min(times), cell.ahead(input), (2, batch, height, width, cell.hidden)
    double = input.dtype == torch.float64
    turns = input.new_empty(shape), input.new_empty(shape, dtype=wide(input.dtype))
    rows = batch * height * width
    if not double:
        weight = packed(cell.weight_hh)
        _, programs, blocks = products("conv_lstm_step", rows, cell.hidden, input)
    for k, t in enumerate(times):
        next_h, next_c = (turn[k % 2] for turn in turns)
        to = (
            *(None if one is None else one[t - first] for one in (output, gates)),
            None if states is None else cell.kept(states, k),
        )
        filled = [one for one in to if one is not None]
        if double:
            _double_recurrent.lstm_step(cell, t, ahead[t - first], h, c, next_h, next_c, *to)
        else:
            launch(
                kernels("conv_lstm").conv_lstm_step, programs, ahead[t - first], h, weight, cell.bias, cell.peephole,
                cell.lengths, c, next_h, next_c, *to, t, rows, (height, width),
                **cell.constants(), WIDE=is_wide(ahead[0], *filled), **blocks,
            )  # fmt: skip
        h, c = next_h, next_c
    assert h is not None and c is not None
    return h, c


@serves_cuda("conv_lstm")
def conv_lstm(
    input: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias: torch.Tensor | None,
    peephole: torch.Tensor | None,
    h0: torch.Tensor | None,
    c0: torch.Tensor | None,
    lengths: torch.Tensor | None,
    reverse: bool,
    segment: int,
    keep_gates: bool,
    exact: bool,  # sums always go in the order of the formula here
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    cell = _cell(weight_ih, weight_hh, bias, peephole, lengths, reverse, segment)
    steps, batch, _, height, width = input.shape
    output = input.new_empty((steps, batch, cell.hidden, height, width))
    states = cell.states(input, (2,))
    keeps = segment > 0 and keep_gates
    gates = input.new_empty((steps, batch, height, width, 4 * cell.hidden) if keeps else (0,))
    if output.numel() == 0:
        h, c = (output.new_zeros(output.shape[1:]) if one is None else one.clone() for one in (h0, c0))
        return output, h, c, gates, states
    with torch.cuda.device_of(input):
        h_rows = None if h0 is None else rows_of(h0)
        c_rows = None if c0 is None else rows_of(c0, wide(input.dtype))
        if segment > 0:
            for state, given in zip(states[0], (h_rows, c_rows), strict=True):
                state.zero_() if given is None else state.copy_(given)
        (times,) = orders(steps, steps, reverse)
        ends = _run(cell, input, times, h_rows, c_rows, output, gates if keeps else None, states)
        h, c = (torch.empty_like(output[0]).copy_(maps_of(end)) for end in ends)
    return output, h, c, gates, states


class Back:
    """The way back through the steps, as far as it has come."""

    def __init__(self, cell: Lstm, grad_output: torch.Tensor, grad_h: torch.Tensor, grad_c: torch.Tensor) -> None:
        steps, batch, _, height, width = grad_output.shape
        self.cell, self.grad_output, self.size, self.rows = cell, grad_output, (height, width), batch * height * width
        self.double = grad_output.dtype == torch.float64
        self.carry: torch.Tensor | None = rows_of(grad_h, wide(grad_h.dtype))  # what reaches h past the gates of the step behind
        self.of_c = rows_of(grad_c, wide(grad_c.dtype))
        self.after: torch.Tensor | None = None  # gradients of the gates of the step behind
        self.spare = [torch.empty_like(self.of_c) for _ in range(2)]
        row_blocks = 1
        if not self.double:
            self.weight = turned(cell.weight_hh)
            row_blocks, self.programs, self.blocks = products("conv_lstm_gradient", self.rows, cell.hidden, grad_output)
        wanted = cell.bias is not None or cell.peephole is not None
        self.sums = self.of_c.new_empty((steps, row_blocks, 7, cell.hidden)) if wanted else None

    def replay(self, gates: torch.Tensor, states: torch.Tensor, times: list[int], hidden: torch.Tensor) -> torch.Tensor:
        """(steps, N, H, W, D): c before each step at `times`, in that order; `hidden` takes h, as gates in order of time."""
        cells = states.new_empty((len(times), *states.shape[1:]))
        if self.double:
            _double_recurrent.lstm_replay(self.cell, times, gates, states, cells, hidden)
            return cells
        count, at, reverse = states[0].numel(), times[0] - min(times), self.cell.reverse
        blocks = pointwise("conv_lstm_replay", self.cell.hidden, hidden, "BLOCK_M")
        launch(
            kernels("conv_lstm_backward").conv_lstm_replay, cdiv(count, blocks["BLOCK_M"]),
            gates[at], states, self.cell.lengths, cells, hidden[at], times[0], len(times), -count if reverse else count, count,
            self.size[0] * self.size[1], HIDDEN=self.cell.hidden, REVERSE=reverse, WIDE=is_wide(gates[0]), **blocks,
        )  # fmt: skip
        return cells

    def step(self, t: int, gates: torch.Tensor, c: torch.Tensor, of_gates: torch.Tensor) -> None:
        """Back through step t."""
        cell, grad, next_c = self.cell, self.grad_output[t], self.spare.pop()
        carried = None if cell.lengths is None else torch.empty_like(c)
        sums = None if self.sums is None else self.sums[t]
        if self.double:
            _double_recurrent.lstm_gradient(
                cell, t, self.after, grad, self.carry, carried, self.of_c, next_c, gates, c, of_gates, sums
            )
        else:
            launch(
                kernels("conv_lstm_backward").conv_lstm_gradient, self.programs,
                self.after, self.weight, grad, self.carry, carried, self.of_c, next_c, gates, c, cell.peephole, cell.lengths,
                of_gates, sums, t, self.rows, *grad.stride(), self.size,
                **cell.constants(), WIDE=is_wide(of_gates, grad), **self.blocks,
            )  # fmt: skip
        self.spare.insert(0, next_c)
        self.of_c, self.carry, self.after = next_c, carried, of_gates


@serves_cuda("conv_lstm_backward")
def conv_lstm_backward(
    grad_output: torch.Tensor,
    grad_h: torch.Tensor,
    grad_c: torch.Tensor,
    input: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias: torch.Tensor | None,
    peephole: torch.Tensor | None,
    h0: torch.Tensor | None,
    c0: torch.Tensor | None,
    lengths: torch.Tensor | None,
    gates: torch.Tensor,
    states: torch.Tensor,
    reverse: bool,
    segment: int,
    need_input: bool,
    exact: bool,  # sums always go in the order of the formula here
) -> tuple[torch.Tensor, ...]:
    none = input.new_empty((0,))
    if grad_output.numel() == 0:
        given = input if need_input else None, weight_ih, weight_hh, bias, peephole
        zeros = (none if one is None else torch.zeros_like(one) for one in given)
        return *zeros, none if h0 is None else grad_h.clone(), none if c0 is None else grad_c.clone()
    cell = _cell(weight_ih, weight_hh, bias, peephole, lengths, reverse, segment)
    with torch.cuda.device_of(input):
        back, found = Back(cell, grad_output, grad_h, grad_c), cell.gradients(input, need_input)
        _through(cell, input, gates, states, back, found)
        assert back.after is not None
        of_h = none if h0 is None else cell.first_state(back.after, back.carry, turned(weight_hh))
        of_c = none if c0 is None else torch.empty_like(c0, memory_format=torch.contiguous_format).copy_(maps_of(back.of_c))
        sums = None if back.sums is None else back.sums.sum((0, 1))
    return (
        none if found.of_input is None else found.of_input, found.ih.result(weight_ih), found.hh.result(weight_hh),
        none if bias is None or sums is None else sums[:4].flatten().to(bias.dtype),
        none if peephole is None or sums is None else sums[4:].reshape(peephole.shape).to(peephole.dtype), of_h, of_c,
    )  # fmt: skip


def _through(
    cell: Lstm, input: torch.Tensor, gates: torch.Tensor, states: torch.Tensor, back: Back, found: Gradients
) -> None:
    """Back through all segments, the last one first."""
    steps, hidden = input.shape[0], states.shape[2:]
    kept = gates.numel() > 0
    if kept:
        of_gates, before = torch.empty_like(gates), input.new_empty((steps, *hidden))
    for k, times in reversed(list(enumerate(orders(steps, cell.segment, cell.reverse)))):
        first = min(times)
        if kept:
            part = slice(first, first + len(times))
            its_gates, its_gradients, its_before = gates[part], of_gates[part], before[part]
        else:
            shape = len(times), *hidden[:-1], 4 * cell.hidden
            its_gates, its_gradients = input.new_empty(shape), input.new_empty(shape)
            its_before = input.new_empty((len(times), *hidden))
            h = states[k, 0].to(input.dtype)
            _run(cell, input[first : first + len(times)], times, h, states[k, 1], None, its_gates, None)
        cells = back.replay(its_gates, states[k], times, its_before)
        for s, t in reversed(list(enumerate(times))):
            back.step(t, its_gates[t - first], cells[s], its_gradients[t - first])
        if not kept:
            found.add(first, its_gradients, its_gradients, its_before)
    if kept:
        found.add(0, of_gates, of_gates, before)
