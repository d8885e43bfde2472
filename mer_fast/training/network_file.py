"""A trained network in a file, with what it takes to make it again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import models, tensor_file
from ..data.network_inputs import NetworkInput, network_input
from ..errors import MerFastError
from .statistics import as_in

_KIND = "network"


@dataclass(frozen=True)
class SavedNetwork:
    """A network as a file has it.

    Attributes:
        model: in evaluation mode, on the CPU.
        network, options: as of `models.create`.
        classes: names, in the order of the logits.
        input: what `data.network_input` was asked to change.
    """

    model: torch.nn.Module
    network: str
    classes: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)

    def network_input(self) -> NetworkInput:
        """How clips are preprocessed for it, and its input is made of that."""
        return network_input(self.network, **self.input)


def save_network(
    path: str | os.PathLike[str],
    model: torch.nn.Module,
    network: str,
    classes: Sequence[str],
    options: Mapping[str, Any] | None = None,
    input: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network of `models`, with what `STATISTICS` put around it or not; whole or not at all.

    Args:
        path: a safetensors file.
        model: trained.
        network, options: as of `models.create`.
        classes: names, in the order of the logits.
        input: what `data.network_input` was asked to change; what JSON can hold.

    Raises:
        MerFastError: safetensors is not installed, or `path` is a folder.
    """
    header = {"network": network, "classes": list(classes), "options": dict(options or {}), "input": dict(input or {})}
    tensor_file.save(path, _KIND, model.state_dict(), header)


def load_network(path: str | os.PathLike[str]) -> SavedNetwork:
    """Reads what `save_network` wrote.

    Raises:
        MerFastError: no such file, a damaged one, one of another kind, or a network that is made otherwise today.
    """
    try:
        tensors, header = tensor_file.load(path, _KIND)
    except FileNotFoundError as error:
        raise MerFastError(str(error)) from error
    try:
        model = models.create(header["network"], len(header["classes"]), **header["options"])
    except TypeError as error:
        raise MerFastError(f"{path}: {header['network']} of this version takes no such options: {error}") from error
    model = as_in(model, tensors)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = (str(error).splitlines()[1:] or [str(error)])[0].strip()  # of a line for each weight, below a title
        raise MerFastError(f"{path}: its weights do not fit {header['network']} with {header['options']}: {first}") from error
    return SavedNetwork(model.eval(), header["network"], tuple(header["classes"]), header["options"], header["input"])
