"""Launches kernels/triton/conv_gru*.py: torch.ops.mer_fast.conv_gru and its gradient, of CUDA tensors.

Forward: one convolution of the library over the input of all steps, then one launch a time step (the state's convolution,
gates, state, ends of the sequences). Backward: one launch a time step (the state's convolution turned around, gates) and one
a segment, which makes the states before its steps again; the gradients of weights and input are two calls of the library
over all steps. Where no gates were kept, each segment's forward steps run again first, and those calls are made for each
segment. Around that a few launches a call, for layouts and sums, and none that waits for the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import _double_recurrent, kernels, launch
from ._implicit_gemm import cdiv, is_wide, serves_cuda
from ._recurrent import Cell, Gradients, maps_of, orders, packed, pointwise, products, rows_of, turned, wide


@dataclass(frozen=True)
class Gru(Cell):
    bias_ih: torch.Tensor | None
    bias_hh: torch.Tensor | None


def _cell(
    weight_ih: torch.Tensor, weight_hh: torch.Tensor, bias_ih: torch.Tensor | None, bias_hh: torch.Tensor | None,
    lengths: torch.Tensor | None, reverse: bool, segment: int,
) -> Gru:  # fmt: skip
    ends, *biases = (None if one is None else one.contiguous() for one in (lengths, bias_ih, bias_hh))
    return Gru(weight_ih, weight_hh, ends, reverse, segment, *biases)


def _run(
    cell: Gru, input: torch.Tensor, times: list[int], state: torch.Tensor | None, output: torch.Tensor | None,
    gates: torch.Tensor | None, states: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """The steps at `times`, from a state (N, H, W, D) float32; input, output and gates begin with the earliest."""
    _, batch, _, height, width = input.shape
    first, ahead, shape = min(times), cell.ahead(input), (2, batch, height, width, cell.hidden)
    double, rows = input.dtype == torch.float64, batch * height * width
    turns = input.new_empty(shape), input.new_empty(shape, dtype=wide(input.dtype))
    h = None if state is None else state.to(input.dtype)
    if not double:
        weight = packed(cell.weight_hh)
        _, programs, blocks = products("conv_gru_step", rows, cell.hidden, input)
    for k, t in enumerate(times):
        next_h, next_state = (turn[k % 2] for turn in turns)
        to = (
            *(None if one is None else one[t - first] for one in (output, gates)),
            None if states is None else cell.kept(states, k),
        )
        filled = [one for one in to if one is not None]
        if double:
            _double_recurrent.gru_step(cell, (cell.bias_ih, cell.bias_hh), t, ahead[t - first], state, next_state, *to)
        else:
            launch(
                kernels("conv_gru").conv_gru_step, programs, ahead[t - first], h, weight, cell.bias_ih, cell.bias_hh,
                cell.lengths, state, next_h, next_state, *to, t, rows, (height, width),
                **cell.constants(), WIDE=is_wide(ahead[0], *filled), **blocks,
            )  # fmt: skip
        h, state = next_h, next_state
    assert state is not None
    return state


@serves_cuda("conv_gru")
def conv_gru(
    input: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias_ih: torch.Tensor | None,
    bias_hh: torch.Tensor | None,
    h0: torch.Tensor | None,
    lengths: torch.Tensor | None,
    reverse: bool,
    segment: int,
    keep_gates: bool,
    exact: bool,  # sums always go in the order of the formula here
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    cell = _cell(weight_ih, weight_hh, bias_ih, bias_hh, lengths, reverse, segment)
    steps, batch, _, height, width = input.shape
    output = input.new_empty((steps, batch, cell.hidden, height, width))
    states = cell.states(input, ())
    keeps = segment > 0 and keep_gates
    gates = input.new_empty((steps, batch, height, width, 4 * cell.hidden) if keeps else (0,))
    if output.numel() == 0:
        return output, output.new_zeros(output.shape[1:]) if h0 is None else h0.clone(), gates, states
    with torch.cuda.device_of(input):
        state = None if h0 is None else rows_of(h0, wide(input.dtype))
        if segment > 0:
            states[0].zero_() if state is None else states[0].copy_(state)
        (times,) = orders(steps, steps, reverse)
        end = _run(cell, input, times, state, output, gates if keeps else None, states)
        h = torch.empty_like(output[0]).copy_(maps_of(end))
    return output, h, gates, states


class Back:
    """The way back through the steps, as far as it has come."""

    def __init__(self, cell: Gru, grad_output: torch.Tensor, grad_h: torch.Tensor) -> None:
        steps, batch, _, height, width = grad_output.shape
        self.cell, self.grad_output, self.size, self.rows = cell, grad_output, (height, width), batch * height * width
        self.double = grad_output.dtype == torch.float64
        self.carry = rows_of(grad_h, wide(grad_h.dtype))  # what reaches the state past the convolution of the step behind
        self.after: torch.Tensor | None = None  # gradients of the state's share of that step's gates
        self.spare = [torch.empty_like(self.carry) for _ in range(2)]
        row_blocks = 1
        if not self.double:
            self.weight = turned(cell.weight_hh)
            row_blocks, self.programs, self.blocks = products("conv_gru_gradient", self.rows, cell.hidden, grad_output)
        wanted = cell.bias_ih is not None or cell.bias_hh is not None
        self.sums = self.carry.new_empty((steps, row_blocks, 4, cell.hidden)) if wanted else None

    def replay(self, gates: torch.Tensor, state: torch.Tensor, times: list[int], hidden: torch.Tensor) -> torch.Tensor:
        """(steps, N, H, W, D) float32: h before each step at `times`, in that order; `hidden` takes it in order of time."""
        states = state.new_empty((len(times), *state.shape))
        if self.double:
            _double_recurrent.gru_replay(self.cell, times, gates, state, states, hidden)
            return states
        count, at, reverse = state.numel(), times[0] - min(times), self.cell.reverse
        blocks = pointwise("conv_gru_replay", self.cell.hidden, hidden, "BLOCK_M")
        launch(
            kernels("conv_gru_backward").conv_gru_replay, cdiv(count, blocks["BLOCK_M"]),
            gates[at], state, self.cell.lengths, states, hidden[at], times[0], len(times), -count if reverse else count, count,
            self.size[0] * self.size[1], HIDDEN=self.cell.hidden, REVERSE=reverse, WIDE=is_wide(gates[0]), **blocks,
        )  # fmt: skip
        return states

    def step(self, t: int, gates: torch.Tensor, h: torch.Tensor, of_input: torch.Tensor, of_state: torch.Tensor) -> None:
        """Back through step t."""
        cell, grad, carried = self.cell, self.grad_output[t], self.spare.pop()
        sums = None if self.sums is None else self.sums[t]
        if self.double:
            _double_recurrent.gru_gradient(
                cell, t, self.after, grad, self.carry, carried, gates, h, of_input, of_state, sums
            )
        else:
            launch(
                kernels("conv_gru_backward").conv_gru_gradient, self.programs,
                self.after, self.weight, grad, self.carry, carried, gates, h, cell.lengths, of_input, of_state, sums,
                t, self.rows, *grad.stride(), self.size, **cell.constants(), WIDE=is_wide(gates, grad), **self.blocks,
            )  # fmt: skip
        self.spare.insert(0, carried)
        self.carry, self.after = carried, of_state


@serves_cuda("conv_gru_backward")
def conv_gru_backward(
    grad_output: torch.Tensor,
    grad_h: torch.Tensor,
    input: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias_ih: torch.Tensor | None,
    bias_hh: torch.Tensor | None,
    h0: torch.Tensor | None,
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
        given = input if need_input else None, weight_ih, weight_hh, bias_ih, bias_hh
        zeros = (none if one is None else torch.zeros_like(one) for one in given)
        return *zeros, none if h0 is None else grad_h.clone()
    cell = _cell(weight_ih, weight_hh, bias_ih, bias_hh, lengths, reverse, segment)
    with torch.cuda.device_of(input):
        back, found = Back(cell, grad_output, grad_h), cell.gradients(input, need_input)
        _through(cell, input, gates, states, back, found)
        assert back.after is not None
        of_h = none if h0 is None else cell.first_state(back.after, back.carry, turned(weight_hh))
        sums = None if back.sums is None else back.sums.sum((0, 1))
    return (
        none if found.of_input is None else found.of_input, found.ih.result(weight_ih), found.hh.result(weight_hh),
        none if bias_ih is None or sums is None else sums[:3].flatten().to(bias_ih.dtype),
        none if bias_hh is None or sums is None else torch.cat((sums[:2], sums[3:])).flatten().to(bias_hh.dtype), of_h,
    )  # fmt: skip


def _through(
    cell: Gru, input: torch.Tensor, gates: torch.Tensor, states: torch.Tensor, back: Back, found: Gradients
) -> None:
    """Back through all segments, the last one first."""
    steps, hidden = input.shape[0], states.shape[1:]
    kept = gates.numel() > 0
    share = *hidden[:-1], 3 * cell.hidden
    if kept:
        of_input, of_state, before = (input.new_empty((steps, *shape)) for shape in (share, share, hidden))
    for k, times in reversed(list(enumerate(orders(steps, cell.segment, cell.reverse)))):
        first = min(times)
        if kept:
            its_gates, its_input, its_state, its_before = (
                one[first : first + len(times)] for one in (gates, of_input, of_state, before)
            )
        else:
            its_gates, its_input, its_state, its_before = (
                input.new_empty((len(times), *shape)) for shape in ((*hidden[:-1], 4 * cell.hidden), share, share, hidden)
            )
            _run(cell, input[first : first + len(times)], times, states[k], None, its_gates, None)
        before_each = back.replay(its_gates, states[k], times, its_before)
        for s, t in reversed(list(enumerate(times))):
            back.step(t, its_gates[t - first], before_each[s], its_input[t - first], its_state[t - first])
        if not kept:
            found.add(first, its_input, its_state, its_before)
    if kept:
        found.add(0, of_input, of_state, before)
