"""Launches kernels/triton/recurrent_conv2d*.py: a section of recurrent convolutions on CUDA tensors.

Evaluation: one launch a state, steps + 1 in all: convolution, injection, norm, ReLU. Training: two a state (the convolution
with its block's statistics, then the batch's), one where there is no norm, and one for the output. Its gradient: four a state
(the state made again, sums, their total, back through the norm; two without a norm) and one call of the library for the
convolution's two gradients; with injection "input", one addition. Around that a few launches a call, for layouts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import _double_section, kernels, launch
from ._implicit_gemm import Ints, cdiv, is_wide, serves_cuda
from ._recurrent import Sum, convolution_gradients, maps_of, packed, pointwise, products, rows_of

PROGRAMS = 512  # of the sums, about: enough for every GPU, and the same splits on each


@dataclass(frozen=True)
class Section:
    """A section's input and weights, as its kernels take them."""

    input: torch.Tensor
    input_weight: torch.Tensor
    recurrent_weights: torch.Tensor
    steps: int
    injection: str

    @property
    def maps(self) -> int:
        return self.input_weight.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        return self.input.shape[2], self.input.shape[3]

    @property
    def rows(self) -> int:
        return self.input.shape[0] * self.size[0] * self.size[1]

    def weight(self, k: int) -> torch.Tensor:
        """Of the convolution in front of state k."""
        return self.input_weight if k == 0 else self.recurrent_weights[(k - 1) % len(self.recurrent_weights)]

    def new_rows(self, *parts: int) -> torch.Tensor:
        return self.input.new_empty((*parts, self.input.shape[0], *self.size, self.maps))

    def gathered(self) -> torch.Tensor:
        """The input, channels last where that pays: with few channels the stem reads any layout."""
        if self.injection == "input" or self.input.shape[1] % 8 == 0:
            return maps_of(rows_of(self.input))
        return self.input

    def constants(self, k: int) -> dict[str, object]:
        """What the kernels take of the convolution in front of state k at compile time."""
        outputs, channels, *kernel = self.weight(k).shape
        return {"CHANNELS": channels, "OUTPUTS": outputs, "KERNEL": tuple(kernel)}

    def packed(self) -> list[torch.Tensor]:
        """The weights of every state's convolution."""
        recurrent = packed(self.recurrent_weights)
        return [packed(self.input_weight), *(recurrent[k % len(recurrent)] for k in range(self.steps))]


@serves_cuda("recurrent_conv2d")
def recurrent_conv2d(
    input: torch.Tensor,
    input_weight: torch.Tensor,
    recurrent_weights: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    steps: int,
    injection: str,
    pool: Ints,
    exact: bool,  # sums always go in the order of the formula here
) -> torch.Tensor:
    output = _states(input, input_weight, recurrent_weights, scale, shift, steps, injection)
    return output if tuple(pool) == (1, 1) else F.max_pool2d(output, list(pool))


def _states(
    input: torch.Tensor, input_weight: torch.Tensor, recurrent_weights: torch.Tensor, scale: torch.Tensor | None,
    shift: torch.Tensor | None, steps: int, injection: str,
) -> torch.Tensor:  # fmt: skip
    """The last state, one launch each."""
    section = Section(input, input_weight, recurrent_weights, steps, injection)
    output = input.new_empty((input.shape[0], section.maps, *section.size))
    if output.numel() == 0:
        return output
    if input.dtype == torch.float64:
        return _double_section.forward(section, scale, shift, output)
    fed = injection == "feedforward"
    with torch.cuda.device_of(input):
        x = section.gathered()
        _, programs, blocks = products("recurrent_conv2d_step", section.rows, section.maps, input)
        folds = [None if one is None else one.contiguous() for one in (scale, shift)]
        u = section.new_rows() if fed else None
        turns = [section.new_rows() for _ in range(min(steps, 2))]
        source = x
        for k, weight in enumerate(section.packed()):
            last = k == steps
            before, plain = (u, None) if k > 0 else (None, u)
            y = output if last else turns[k % 2]
            launch(
                kernels("recurrent_conv2d").recurrent_conv2d_step, programs, source, weight,
                *(None if one is None else one[k] for one in folds), before, None if fed or last else x, plain, y,
                section.rows, *source.stride(), section.size, **section.constants(k), CHANNELS_FIRST=last,
                WIDE=is_wide(source, y), **blocks,
            )  # fmt: skip
            source = output if last else maps_of(y)
    return output


def _state(
    section: Section, maps: torch.Tensor, fold: torch.Tensor | None, added: torch.Tensor | None, output: torch.Tensor, *,
    channels_first: bool = False,
) -> None:  # fmt: skip
    """Fills `output` with the state made from what went into its norm."""
    blocks = pointwise("recurrent_conv2d_state", section.maps, maps, "BLOCK_M", "BLOCK_O")
    programs = cdiv(section.rows, blocks["BLOCK_M"]) * cdiv(section.maps, blocks["BLOCK_O"])
    launch(
        kernels("recurrent_conv2d").recurrent_conv2d_state, programs, maps, fold, added, output, section.rows, section.size,
        OUTPUTS=section.maps, CHANNELS_FIRST=channels_first, WIDE=is_wide(maps), **blocks,
    )  # fmt: skip


def _merge(
    section: Section, partial: torch.Tensor, norm: list[torch.Tensor | None], statistics: torch.Tensor, fold: torch.Tensor,
    eps: float, rows_of_block: int,
) -> None:  # fmt: skip
    """Statistics of a state's norm, and what they make of it, from those of the row blocks."""
    blocks = pointwise("recurrent_conv2d_statistics", section.maps, partial, "BLOCK_M", "BLOCK_O")
    launch(
        kernels("recurrent_conv2d").recurrent_conv2d_statistics, cdiv(section.maps, blocks["BLOCK_O"]),
        partial, *norm, statistics, fold, section.rows, partial.shape[0], eps,
        OUTPUTS=section.maps, ROWS=rows_of_block, **blocks,
    )  # fmt: skip


@serves_cuda("recurrent_conv2d_train")
def recurrent_conv2d_train(
    input: torch.Tensor,
    input_weight: torch.Tensor,
    recurrent_weights: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    steps: int,
    injection: str,
    normalise: bool,
    eps: float,
    exact: bool,  # sums always go in the order of the formula here
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    section = Section(input, input_weight, recurrent_weights, steps, injection)
    output, maps = input.new_empty((input.shape[0], section.maps, *section.size)), section.new_rows(steps + 1)
    if input.dtype == torch.float64 and output.numel() > 0:
        return _double_section.train(section, norm_weight, norm_bias, normalise, eps, output, maps)
    statistics = maps.new_empty((steps + 1 if normalise else 0, 2, section.maps), dtype=torch.float32)
    if output.numel() == 0:
        return output, maps, statistics.fill_(float("nan"))
    fed = injection == "feedforward"
    with torch.cuda.device_of(input):
        x = section.gathered()
        row_blocks, programs, blocks = products("recurrent_conv2d_train", section.rows, section.maps, input)
        partial = statistics.new_empty((row_blocks, 2, section.maps)) if normalise else None
        folds = [statistics.new_empty((3, section.maps)) if normalise else None for _ in range(2)]
        norms = [None if one is None else one.contiguous() for one in (norm_weight, norm_bias)]
        for k, weight in enumerate(section.packed()):
            stem = k == 0
            source = (x, None, None) if stem else (maps[k - 1], folds[(k - 1) % 2], None if fed else x)
            launch(
                kernels("recurrent_conv2d").recurrent_conv2d_train, programs, *source, weight,
                maps[0] if fed and not stem else None, maps[k], partial, section.rows, *x.stride(), section.size,
                **section.constants(k), STEM=stem, WIDE=is_wide(x, maps[k]), **blocks,
            )  # fmt: skip
            fold = folds[k % 2]
            if partial is not None and fold is not None:
                norm = [None if one is None else one[k] for one in norms]
                _merge(section, partial, norm, statistics[k], fold, eps, blocks["BLOCK_M"])
        _state(section, maps[steps], folds[steps % 2], None, output, channels_first=True)
    return output, maps, statistics


def _through_norm(
    section: Section, grad: torch.Tensor, maps: torch.Tensor, fold: torch.Tensor | None, sums: torch.Tensor | None,
    total: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """(N, H, W, K): the gradient of what goes into a norm; fills the sums, adds to the total."""
    module, count = kernels("recurrent_conv2d_backward"), section.maps
    if sums is not None:
        blocks = pointwise("recurrent_conv2d_sums", count, grad, "BLOCK_M", "BLOCK_O")
        columns, row_blocks = cdiv(count, blocks["BLOCK_O"]), cdiv(section.rows, blocks["BLOCK_M"])
        rows_of_split = blocks["BLOCK_M"] * cdiv(row_blocks, min(row_blocks, cdiv(PROGRAMS, columns)))
        partial = sums.new_empty((cdiv(section.rows, rows_of_split), *sums.shape))
        launch(
            module.recurrent_conv2d_sums, partial.shape[0] * columns, grad, maps, fold, partial, section.rows, rows_of_split,
            OUTPUTS=count, WIDE=is_wide(maps), **blocks,
        )  # fmt: skip
        torch.sum(partial, 0, out=sums)
    output = torch.empty_like(maps)
    blocks = pointwise("recurrent_conv2d_gradient", count, grad, "BLOCK_M", "BLOCK_O")
    launch(
        module.recurrent_conv2d_gradient, cdiv(section.rows, blocks["BLOCK_M"]) * cdiv(count, blocks["BLOCK_O"]),
        grad, maps, fold, sums, output, total, section.rows, OUTPUTS=count, WIDE=is_wide(maps), **blocks,
    )  # fmt: skip
    return output


def _folds(statistics: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """(steps + 1, 4, K): mean, scale, bias and 1 / deviation of each norm."""
    mean, variance = statistics.unbind(1)
    inverse = (variance + eps).rsqrt()
    scale = inverse if weight is None else inverse * weight
    return torch.stack((mean, scale, torch.zeros_like(mean) if bias is None else bias, inverse), 1)


@serves_cuda("recurrent_conv2d_backward")
def recurrent_conv2d_backward(
    grad: torch.Tensor,
    input: torch.Tensor,
    input_weight: torch.Tensor,
    recurrent_weights: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    maps: torch.Tensor,
    statistics: torch.Tensor,
    steps: int,
    injection: str,
    normalise: bool,
    eps: float,
    need_input: bool,
    exact: bool,  # sums always go in the order of the formula here
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    none = input.new_empty((0,))
    section = Section(input, input_weight, recurrent_weights, steps, injection)
    if grad.numel() == 0:
        given = input if need_input else None, input_weight, recurrent_weights, norm_weight, norm_bias
        a, b, c, d, e = (none if one is None else torch.zeros_like(one) for one in given)
        return a, b, c, d, e
    with torch.cuda.device_of(input):
        folds = _folds(statistics, norm_weight, norm_bias, eps) if normalise else None
        sums = torch.empty_like(statistics) if normalise else None
        of_input, of_first, of_recurrent = _back(section, grad, maps, folds, sums, need_input)
        if of_input is None:
            of_input = none
    of_bias, of_norm = (None, None) if sums is None else sums.unbind(1)
    return (
        of_input.contiguous(), of_first, of_recurrent,
        none if norm_weight is None or of_norm is None else of_norm.contiguous(),
        none if norm_bias is None or of_bias is None else of_bias.contiguous(),
    )  # fmt: skip


def _back(
    section: Section, grad: torch.Tensor, maps: torch.Tensor, folds: torch.Tensor | None, sums: torch.Tensor | None,
    need_input: bool,
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of input, input_weight and recurrent_weights, from the last state to the first."""
    fed, x = section.injection == "feedforward", section.gathered()
    double = section.input.dtype == torch.float64
    state_of, through = (_double_section.state, _double_section.through_norm) if double else (_state, _through_norm)
    weights = [Sum() for _ in section.recurrent_weights]
    of_state, total, of_x = rows_of(grad), None, None
    state = torch.empty_like(maps[0])
    for k in reversed(range(section.steps + 1)):
        fold, its_sums = (None if one is None else one[k] for one in (folds, sums))
        of_map = through(section, of_state, maps[k], fold, its_sums, total)
        if k == 0:
            break
        if fed and total is None:
            total = of_map
        state_of(section, maps[k - 1], None if folds is None else folds[k - 1], None if fed else rows_of(x), state)
        before, of_weight = convolution_gradients(of_map, maps_of(state), section.weight(k), True)
        assert before is not None
        weights[(k - 1) % len(weights)].add(of_weight)
        of_state = rows_of(before)
        if not fed and need_input:
            of_x = before if of_x is None else of_x + before
    of_input, of_first = convolution_gradients(total if total is not None else of_map, x, section.input_weight, need_input)
    if of_input is not None and of_x is not None:
        of_input = of_input + of_x
    of_recurrent = [one.result(like) for one, like in zip(weights, section.recurrent_weights, strict=True)]
    return of_input, of_first.contiguous(), torch.stack(of_recurrent)
