"""The flow between two images, into one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from mer_fast import ops
from mer_fast.data import to_gray
from mer_fast.data._capture import IMAGE_SUFFIXES, read_image
from mer_fast.data.flow_io import flow_ending, write_flow
from mer_fast.errors import MerFastError
from mer_fast.flows.methods import make_meter
from mer_fast.flows.options import FlowOptions

_OF_CLIPS = ("pairs", "step", "crop", "detector", "size", "format", "batch")


def are_images(inputs: Sequence[Path]) -> bool:
    """Whether images are meant, by their endings, rather than clips."""
    return all(path.suffix.lower() in IMAGE_SUFFIXES and not os.path.isdir(path) for path in inputs)


def measure_images(inputs: Sequence[Path], output: Path, options: FlowOptions) -> None:
    """Writes the flow from the first of two images to the second, in gray, as the ending of `output` says.

    Raises:
        MerFastError: not two images of one size, an unknown ending, an option that only clips have, or strain in a format
            other than `.npz`.
    """
    for name in _OF_CLIPS:
        if getattr(options, name) != getattr(FlowOptions, name):
            raise MerFastError(f"{name} is for clips, and {inputs[0]} is an image: leave --{name} away")
    ending = flow_ending(output)
    if options.strain and ending != ".npz":
        raise MerFastError(f"{output}: strain beside the flow takes a .npz")
    if len(inputs) != 2:
        raise MerFastError(f"{len(inputs)} image{'s' * (len(inputs) != 1)}: give two, or the folder that holds a clip's frames")
    images = [to_gray(read_image(path)) for path in inputs]
    sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in images]
    if sizes[0] != sizes[1]:
        raise MerFastError(f"{inputs[0]} is {sizes[0]} and {inputs[1]} is {sizes[1]}: flow needs two images of one size")
    flow = make_meter(options.method, options.preset, options.device)(images[0][None], images[1][None])  # (1, 2, H, W)
    strain = {"strain": ops.optical_strain(torch.from_numpy(flow))[0].numpy()} if options.strain else {}
    write_flow(output, flow[0], **strain)
