"""Tensors in a file that is whole or not there, and whose damage is noticed: safetensors with a header of our own.

The header is JSON in the file's metadata. It tells what kind of file it is, and holds a checksum of names, types, shapes and
values, since safetensors has none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .errors import MerFastError
from .files import atomic_path

_KEY = "mer_fast"
_FORMAT = 1


class DamagedFileError(MerFastError):
    """A file that is not as it was written."""


def save(path: str | os.PathLike[str], kind: str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> None:
    """Writes tensors by name, and a header of what JSON can hold.

    Raises:
        MerFastError: safetensors is not installed, or `path` is a folder.
    """
    _, save_bytes = _safetensors()
    plain = _apart(tensors)
    text = json.dumps({"kind": kind, "format": _FORMAT, **header})
    # One entry, since the library writes several in an order that differs from process to process.
    content = save_bytes(plain, {_KEY: f"{_checksum(plain, text)} {text}"})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def load(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and header of a file that `save` wrote.

    Raises:
        FileNotFoundError: no such file.
        DamagedFileError: a damaged file, or none of ours.
        MerFastError: a file of another kind, or safetensors is not installed.
    """
    open_file, _ = _safetensors()
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with open_file(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
        checksum, _, text = metadata.get(_KEY, "").partition(" ")
        whole = checksum == _checksum(tensors, text)
        header = json.loads(text) if whole else {}
    except Exception as error:  # the library has an error of its own, and passes on others
        raise DamagedFileError(f"{path} cannot be read ({error}): it is damaged, or not of mer_fast; delete it") from error
    if not whole:
        raise DamagedFileError(f"{path} does not have the content that its checksum tells: it is damaged; delete it")
    if header["kind"] != kind or header["format"] != _FORMAT:
        raise MerFastError(
            f"{path} is a {header['kind']} of format {header['format']}, where a {kind} of format {_FORMAT} is needed"
        )
    return tensors, header


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU and contiguous, each with memory of its own, as the file format asks."""
    seen: set[int] = set()
    out = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        out[name] = plain.clone() if place in seen else plain
        seen.add(place)
    return out


def _checksum(tensors: Mapping[str, torch.Tensor], header: str) -> str:
    total = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _safetensors() -> Any:
    try:
        from safetensors import safe_open
        from safetensors.torch import save
    except ImportError as error:
        raise MerFastError(f'safetensors cannot be imported ({error}): pip install "mer_fast[train]"') from error
    return safe_open, save
