"""What is measured: for every op of the registry its shapes, inputs, bytes, operations and rivals. On a CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

from mer_fast import ops, reference

from . import conv_cases, fold_cases, recurrent_cases, rivals
from .agreement import tvl1_agreement
from .rivals import Call, Rival

Inputs = tuple[torch.Tensor, ...]
OURS = "mer_fast"


@dataclass(frozen=True)
class Case:
    """One op at one shape.

    Attributes:
        inputs: the same seeded tensors for each device.
        call: our op on those inputs.
        bytes_moved: bytes that any implementation must read and write once.
        flops: floating-point operations of the formula, or None where the data decides how many there are.
        pairs: pairs of frames in a call, for an op on pairs.
        instructions: float32 instructions of a call on a GPU by the counts that its kernel states, where it states any.
        agreement: how near the results are to each other and to the truth, where no test can demand equality. Raises
            `rivals.MissingRival`.
        group: a table of further shapes, of which the README shows the mean and the lowest alone.
    """

    op: str
    shape: str
    inputs: Callable[[str], Inputs]
    call: Callable[..., Any]
    rivals: tuple[Rival, ...]
    bytes_moved: int
    flops: int | None = None
    pairs: int | None = None
    instructions: float | None = None
    agreement: Callable[[], dict[str, Any]] | None = None
    group: str | None = None

    @property
    def name(self) -> str:
        return f"{self.op} {self.shape}"

    def candidate(self, name: str, device: str = "cpu") -> Call:
        """The call of one candidate. Raises `rivals.MissingRival`."""
        inputs = self.inputs(device)
        if name == OURS:
            return partial(self.call, *inputs)
        return next(r for r in self.rivals if r.name == name).make(*inputs)

    def names(self, device: str = "cpu") -> list[str]:
        """The candidates for a device, ours first."""
        return [OURS, *(r.name for r in self.rivals if device in r.devices)]


# --- TV-L1: pairs of a real face with a planted expression -----------------------------------------------------------
REGIONS = ("mouth", "brow", "eye")
AMPLITUDES = (2.0, 1.0, 3.0)  # pixels at the apex

GRAY = np.array([0.299, 0.587, 0.114])


@lru_cache(maxsize=4)
def face_pairs(size: int, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Onset and apex frames, uint8 (N, size, size), and the planted flow, (N, 2, size, size), each pair another expression."""
    from mer_fast.data import synthetic_clip  # wants mer_fast[video]

    frames, flows = [], []
    for k in range(batch):
        amplitude = min(AMPLITUDES[k // 3 % 3], size / 64)  # a small face would fold
        clip = synthetic_clip(REGIONS[k % 3], amplitude=amplitude, seed=k, size=size, frames=3, onset=0, apex=1, offset=2)
        frames.append((clip.frames[:2] @ GRAY).round().astype(np.uint8))
        flows.append(clip.flow)
    onset, apex = torch.from_numpy(np.array(frames)).unbind(1)
    return onset.contiguous(), apex.contiguous(), torch.from_numpy(np.array(flows))


def tvl1_flow_case(size: int, batch: int) -> Case:
    def inputs(device: str) -> Inputs:
        return tuple(frame.to(device) for frame in face_pairs(size, batch)[:2])

    against = [Rival("OpenCV DualTVL1", rivals.opencv_tvl1)]
    if batch > 1:
        against.append(Rival("OpenCV DualTVL1, a pair a thread", rivals.opencv_tvl1_pool))
    return Case(
        "tvl1_flow",
        f"{size}x{size} batch {batch}",
        inputs,
        ops.tvl1_flow,
        (*against, Rival("scikit-image optical_flow_tvl1", rivals.skimage_tvl1)),
        bytes_moved=batch * size * size * (2 * 1 + 2 * 4),  # two uint8 frames, two float32 planes of flow
        pairs=batch,
        agreement=(lambda: tvl1_agreement(*face_pairs(size, batch))) if batch > 1 else None,  # a single pair is among these
    )


# --- Farneback, on the same pairs ------------------------------------------------------------------------------------
# OpenCV's common call, and the defaults of its class.
FARNEBACK = {
    "": {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2},
    "class defaults": {"pyr_scale": 0.5, "levels": 5, "winsize": 13, "iterations": 10, "poly_n": 5, "poly_sigma": 1.1},
}


def farneback_flow_case(size: int, batch: int, preset: str = "") -> Case:
    given = FARNEBACK[preset]

    def inputs(device: str) -> Inputs:
        return tuple(frame.to(device) for frame in face_pairs(size, batch)[:2])

    against = [Rival("OpenCV", rivals.opencv_farneback(*given.values()))]
    if batch > 1:
        against.append(Rival("OpenCV, a pair a thread", rivals.opencv_farneback_pool(*given.values())))
    return Case(
        "farneback_flow",
        f"{size}x{size} batch {batch}{', ' if preset else ''}{preset}",
        inputs,
        partial(ops.farneback_flow, **given),
        tuple(against),
        bytes_moved=batch * size * size * (2 * 1 + 2 * 4),  # as above
        pairs=batch,
    )


# --- TIM -------------------------------------------------------------------------------------------------------------
def tim_case(n: int, m: int, width: int, height: int) -> Case:
    def inputs(device: str) -> Inputs:
        return (torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(0)).to(device),)

    return Case(
        "tim",
        f"{n} to {m} frames of {width}x{height}",
        inputs,
        partial(ops.tim, num_frames=m),
        (
            Rival("SVD, as published (NumPy)", rivals.tim_svd(m)),
            Rival("matrix product (PyTorch)", rivals.tim_product(m), ("cpu", "cuda")),
        ),
        bytes_moved=4 * (n + m) * width * height,
        flops=2 * n * m * width * height,
    )


# --- optical strain --------------------------------------------------------------------------------------------------
def forward(function: Callable[..., Any], flow: torch.Tensor) -> torch.Tensor:
    return function(flow)


def forward_backward(function: Callable[..., Any], flow: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(function(flow), flow, grad)


def optical_strain_case(batch: int, size: int, *, backward: bool) -> Case:
    step = forward_backward if backward else forward

    def inputs(device: str) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        flow = torch.randn(batch, 2, size, size, generator=generator).to(device)
        grad = torch.randn(batch, 1, size, size, generator=generator).to(device)
        return (flow.requires_grad_(), grad) if backward else (flow,)

    plain, both = rivals.plain_strain, ("cpu", "cuda")
    # Planes read and written: flow and strain; backward reads flow and the strain's gradient and writes the flow's.
    planes = 3 + (5 if backward else 0)
    # A pixel: 4 differences, each halved, and sqrt(a^2 + b^2 + s (c + d)^2). Backward: that again with a division for the
    # root, 4 products with the derivatives, and the adjoints of the 4 differences, halved and summed.
    operations = 16 + (16 + 4 + 10 if backward else 0)
    return Case(
        "optical_strain",
        f"{size}x{size} batch {batch}{', with gradient' if backward else ''}",
        inputs,
        partial(step, ops.optical_strain),
        (
            Rival("torch.gradient", rivals.eager(partial(step, plain)), both),
            Rival("torch.gradient, torch.compile", rivals.compiled(step, plain), both),
            Rival("mer_fast.reference", rivals.eager(partial(step, reference.optical_strain)), both),
        ),
        bytes_moved=4 * planes * batch * size * size,
        flops=operations * batch * size * size,
    )


# --- convolutions ------------------------------------------------------------------------------------------------------
def conv_case(op: str, shape: conv_cases.Shape, *, backward: bool, group: str | None = None) -> Case:
    return Case(op, **conv_cases.conv_fields(shape, backward=backward), group=group)


def conv_table(op: str, shown: tuple[conv_cases.Shape, ...], further: tuple[conv_cases.Shape, ...]) -> tuple[Case, ...]:
    """Every shape forward, then forward and backward."""
    cases = [conv_case(op, shape, backward=backward) for shape in shown for backward in (False, True)]
    for backward in (False, True):
        group = f"{len(further)} further shapes{', with gradient' if backward else ''}"
        cases += [conv_case(op, shape, backward=backward, group=group) for shape in further]
    return tuple(cases)


# --- recurrent sections and cells ---------------------------------------------------------------------------------------
def section_case(section: recurrent_cases.Section, *, backward: bool, group: str | None = None) -> Case:
    return Case("recurrent_conv2d", **recurrent_cases.section_fields(section, backward=backward), group=group)


def section_table(sections: tuple[recurrent_cases.Section, ...]) -> tuple[Case, ...]:
    """Every section in evaluation, then a training step of each."""
    widths = ", ".join(f"{s.input[1]}@{s.input[2]}x{s.input[3]}" for s in sections)
    forms = ((False, f"STRCN-G sections, {widths}"), (True, f"STRCN-G sections, {widths}, training step"))
    return tuple(section_case(section, backward=backward, group=group) for backward, group in forms for section in sections)


def cell_case(cell: recurrent_cases.Cell, form: str) -> Case:
    return Case(**recurrent_cases.cell_fields(cell, form))


# --- blocks of many folds -----------------------------------------------------------------------------------------------
def fold_case(folds: fold_cases.Folds, *, backward: bool) -> Case:
    return Case("conv_norm_pool", **fold_cases.fold_fields(folds, backward=backward))


CASES: dict[str, tuple[Case, ...]] = {
    "tvl1_flow": tuple(tvl1_flow_case(size, batch) for size in (128, 224) for batch in (1, 16)),
    "farneback_flow": (
        *(farneback_flow_case(size, batch) for size in (128, 224) for batch in (1, 16)),
        *(farneback_flow_case(size, 16, "class defaults") for size in (128, 224)),
    ),
    "tim": (tim_case(60, 10, 340, 280), tim_case(30, 60, 128, 128)),
    "optical_strain": tuple(optical_strain_case(64, 224, backward=backward) for backward in (False, True)),
    "conv3d": conv_table("conv3d", conv_cases.PLAIN, conv_cases.PLAIN_FURTHER),
    "conv3d_pool": conv_table("conv3d_pool", conv_cases.POOLED, conv_cases.POOLED_FURTHER),
    "conv_norm_pool": tuple(fold_case(folds, backward=backward) for folds in fold_cases.FOLDS for backward in (False, True)),
    "recurrent_conv2d": section_table(recurrent_cases.SECTIONS),
    **{cell.op: tuple(cell_case(cell, form) for form in recurrent_cases.FORMS) for cell in recurrent_cases.CELLS},
}
