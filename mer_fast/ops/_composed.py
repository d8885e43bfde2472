"""Recurrent convolutions composed of the library's convolutions: no kernel of ours, PyTorch's calls in their cheapest order.

Convolutions see channels-last memory, what needs no gradient is changed in place, states are kept in float32 below half
precision. It is what runs where no fused kernel applies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint as checkpointed

from ..reference.recurrent_conv2d import same

State = tuple[torch.Tensor | None, ...]
# A cell over some steps: (input, mask of running sequences, state) -> (outputs, state).
Segment = Callable[[torch.Tensor, torch.Tensor | None, State], tuple[list[torch.Tensor], State]]


def channels_last(maps: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) with its channels side by side in memory; spelled so that vmap knows every step."""
    return maps.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def precise(tensor: torch.Tensor) -> torch.dtype:
    """The dtype of sums and states."""
    return torch.promote_types(tensor.dtype, torch.float32)


AT_ONCE = 2**20  # gate values: a few MB, which stay in a CPU's cache and need no fresh pages


def over_time(
    segment: Segment, input: torch.Tensor, state: State, mask: torch.Tensor | None, outputs_a_step: int, *, reverse: bool,
    gradient: bool, checkpoint: bool,
) -> tuple[torch.Tensor, State]:  # fmt: skip
    """Runs a cell over (T, N, C, H, W), in segments of whose steps one convolution takes the input.

    On a CPU a segment is as long as its cache holds. With `checkpoint` and `gradient`, stretches of about sqrt(T) steps keep
    only the states between them. `outputs_a_step` counts the gate values of a step.
    """
    steps = input.shape[0]
    short = input.device.type == "cpu" and not torch.compiler.is_compiling()
    length = max(1, min(steps, AT_ONCE // max(1, outputs_a_step))) if short else steps

    def stretch(input: torch.Tensor, mask: torch.Tensor | None, state: State) -> tuple[list[torch.Tensor], State]:
        return _in_turn(segment, input, mask, state, length, reverse)

    def kept(input: torch.Tensor, mask: torch.Tensor | None, state: State) -> tuple[list[torch.Tensor], State]:
        return checkpointed(stretch, input, mask, state, use_reentrant=False, preserve_rng_state=False)

    if checkpoint and gradient:
        outputs, state = _in_turn(kept, input, mask, state, isqrt(steps - 1) + 1, reverse)
    else:
        outputs, state = stretch(input, mask, state)
    return torch.stack(outputs), state


def _in_turn(
    run: Segment, input: torch.Tensor, mask: torch.Tensor | None, state: State, length: int, reverse: bool
) -> tuple[list[torch.Tensor], State]:
    """Parts of `length` steps one after another, each on the state that the one before it left."""
    # Split: the gradient of a slice would be as large as the whole.
    parts = input.split(length)
    masks = [None] * len(parts) if mask is None else mask.split(length)
    outputs: list[list[torch.Tensor]] = [[] for _ in parts]
    for k in _order(len(parts), reverse):
        outputs[k], state = run(parts[k], masks[k], state)
    return [output for part in outputs for output in part], state


def lstm_segment(
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias: torch.Tensor | None,
    peephole: torch.Tensor | None,
    *,
    reverse: bool,
    in_place: bool,
) -> Segment:
    """A convolutional LSTM; its state is (h, c), each None where it is zero."""
    sigmoid, tanh = _activations(in_place)

    def run(input: torch.Tensor, mask: torch.Tensor | None, state: State) -> tuple[list[torch.Tensor], State]:
        h, c = state
        inputs = _all_steps(input, weight_ih, bias, mask)
        outputs = list(inputs)
        for t in _order(input.shape[0], reverse):
            gates = inputs[t].to(precise(input))
            if h is not None:
                gates = gates + F.conv2d(h, weight_hh, padding=same(weight_hh))
            elif in_place:
                gates = gates.clone()
            i, f, g, o = gates.chunk(4, 1)
            if peephole is not None and c is not None:
                i, f = i + peephole[0] * c, f + peephole[1] * c
            new = sigmoid(i) * tanh(g)
            if c is not None:
                new = new + sigmoid(f) * c
            if peephole is not None:
                o = o + peephole[2] * new
            out = (sigmoid(o) * new.tanh()).to(input.dtype)
            h, c, outputs[t] = _held(mask, t, out, h), _held(mask, t, new, c), _held(mask, t, out, None)
        return outputs, (h, c)

    return run


def gru_segment(
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias_ih: torch.Tensor | None,
    bias_hh: torch.Tensor | None,
    *,
    reverse: bool,
    in_place: bool,
) -> Segment:
    """A convolutional GRU; its state is (h,), None where it is zero."""
    sigmoid, tanh = _activations(in_place)
    hidden = weight_hh.shape[1]

    def run(input: torch.Tensor, mask: torch.Tensor | None, state: State) -> tuple[list[torch.Tensor], State]:
        (h,) = state
        inputs = _all_steps(input, weight_ih, bias_ih, mask)
        outputs = list(inputs)
        zero = None if h is not None else input.new_zeros(input.shape[1], hidden, *input.shape[3:])
        for t in _order(input.shape[0], reverse):
            before = zero if h is None else h
            assert before is not None
            ahead = inputs[t].to(precise(input))
            back = F.conv2d(before.to(input.dtype), weight_hh, bias_hh, padding=same(weight_hh)).to(precise(input))
            gates = sigmoid(ahead[:, : 2 * hidden] + back[:, : 2 * hidden])
            r, z = gates.chunk(2, 1)
            n = tanh(ahead[:, 2 * hidden :] + r * back[:, 2 * hidden :])
            new = torch.lerp(n, before.to(n.dtype), z)
            h = _held(mask, t, new, h)
            outputs[t] = _held(mask, t, new, None).to(input.dtype)
        return outputs, (h,)

    return run


def section(
    input: torch.Tensor,
    input_weight: torch.Tensor,
    recurrent_weights: Sequence[torch.Tensor],
    steps: int,
    injection: str,
    activated: Callable[[torch.Tensor, int], torch.Tensor],
    in_place: bool,
    keep_layout: bool,
) -> torch.Tensor:
    """The steps of a section; `activated(z, k)` normalises and rectifies what goes into state k."""
    x = input if keep_layout else channels_last(input)
    u = F.conv2d(x, input_weight, padding=same(input_weight))
    # With "feedforward" u goes into every state, and may not be changed.
    y = activated(u.clone() if in_place and injection == "feedforward" else u, 0)
    for k in range(steps):
        weight = recurrent_weights[k % len(recurrent_weights)]
        if injection == "input":
            z = F.conv2d(y + x, weight, padding=same(weight))
        else:
            z = F.conv2d(y, weight, padding=same(weight)) + u
        y = activated(z, k + 1)
    return y


def folded_section(
    input: torch.Tensor,
    input_weight: torch.Tensor,
    recurrent_weights: Sequence[torch.Tensor],
    steps: int,
    injection: str,
    folds: tuple[torch.Tensor, torch.Tensor],
    in_place: bool,
) -> torch.Tensor:
    """The steps of a section whose norms are fixed: scales and shifts, (steps + 1, K), go into the weights at every call."""
    relu = F.relu_ if in_place else F.relu
    x = channels_last(input)

    def convolved(maps: torch.Tensor, weight: torch.Tensor, k: int) -> torch.Tensor:
        scale, shift = folds[0][k], folds[1][k]
        folded = (weight * scale.view(-1, 1, 1, 1)).to(weight.dtype)
        return F.conv2d(maps, folded, shift.to(weight.dtype), padding=same(weight))

    if injection == "input":
        y = relu(convolved(x, input_weight, 0))
        for k in range(steps):
            y = relu(convolved(y + x, recurrent_weights[k % len(recurrent_weights)], k + 1))
        return y
    u = F.conv2d(x, input_weight, padding=same(input_weight))
    first, shift = (value.view(-1, 1, 1).to(u.dtype) for value in (folds[0][0], folds[1][0]))
    y = relu(u * first + shift)
    for k in range(steps):
        z = convolved(y, recurrent_weights[k % len(recurrent_weights)], k + 1)
        y = relu(torch.addcmul(z, u, folds[0][k + 1].view(-1, 1, 1).to(u.dtype)))
    return y


def _all_steps(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, mask: torch.Tensor | None
) -> tuple[torch.Tensor, ...]:
    """The input's share of the gates from one convolution: at each step (N, gates * hidden, H, W)."""
    if mask is not None:  # what stands behind a sequence's end may be anything, NaN too
        input = torch.where(mask, input, 0)
    gates = F.conv2d(channels_last(input.flatten(0, 1)), weight, bias, padding=same(weight))
    # The gradient of an index would be as large as all steps, at every step.
    return gates.unflatten(0, input.shape[:2]).unbind(0)


def _order(count: int, reverse: bool) -> Sequence[int]:
    return range(count)[::-1] if reverse else range(count)


def _held(mask: torch.Tensor | None, t: int, new: torch.Tensor, old: torch.Tensor | None) -> torch.Tensor:
    """`new` where a sequence still runs at step t, else `old` (None is zero)."""
    return new if mask is None else torch.where(mask[t], new, 0 if old is None else old)


Pointwise = Callable[[torch.Tensor], torch.Tensor]


def _activations(in_place: bool) -> tuple[Pointwise, Pointwise]:
    return (torch.sigmoid_, torch.tanh_) if in_place else (torch.sigmoid, torch.tanh)
