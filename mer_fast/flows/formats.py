"""The files in which a clip's flow ends up: one array for all its pairs, or a file a pair."""

from __future__ import annotations

import itertools
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mer_fast.data.flow_io import write_flow

Pairs = Sequence[tuple[int, int]]
Shape = tuple[int, ...]

HEADER = 128  # bytes before the values of a .npy file, whatever their number
_CHUNK = 16 << 20  # bytes of flow that are worked on at once


def npy_header(shape: Shape) -> bytes:
    """The `HEADER` bytes before float32 values of that shape (NumPy's format 1.0), the same length for every shape.

    So that values can be appended while their number is not known yet.
    """
    told = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + told.ljust(HEADER - 11) + b"\n"


class Stack:
    """Fields (n, C, H, W) float32 growing in a file that becomes a `.npy`, or is read again where its writer was killed."""

    def __init__(self, path: Path, channels: int, height: int, width: int) -> None:
        self.path = path
        self.shape = (channels, height, width)
        self._bytes = 4 * channels * height * width

    def __len__(self) -> int:
        """How many whole fields there are."""
        return max(0, self.path.stat().st_size - HEADER) // self._bytes if self.path.exists() else 0

    def trim(self) -> int:
        """Cuts off what was half written, and tells how many fields there are."""
        count = len(self)
        if count:
            with self.path.open("r+b") as file:
                file.truncate(HEADER + count * self._bytes)
        else:
            self.path.unlink(missing_ok=True)
        return count

    def append(self, fields: npt.NDArray[np.float32]) -> None:
        """Adds (k, C, H, W). Not kept open meanwhile: as many clips are under way as fit one batch."""
        with self.path.open("ab") as file:
            if file.tell() == 0:
                file.write(npy_header((0, *self.shape)))
            file.write(np.ascontiguousarray(fields, dtype="<f4").data)

    def seal(self) -> None:
        """Makes the file a `.npy` of as many fields as there are."""
        with self.path.open("r+b") as file:
            file.write(npy_header((len(self), *self.shape)))

    def chunks(self) -> Iterator[npt.NDArray[np.float32]]:
        """All of it, (k, C, H, W) at a time. Not mapped into memory, which would grow with the clip."""
        count = max(1, _CHUNK // self._bytes)
        with self.path.open("rb") as file:
            file.seek(HEADER)
            for begin in range(0, len(self), count):
                fields = min(count, len(self) - begin)
                yield np.fromfile(file, "<f4", fields * self._bytes // 4).reshape(fields, *self.shape)


class Format(ABC):
    """One way to write a clip. `name` is the clip's in the output; strain is a stack of its own, or None."""

    @abstractmethod
    def files(self, name: str, pairs: Pairs, strain: bool) -> list[str]:
        """The files of a clip with these pairs, relative to the output."""

    @abstractmethod
    def write(self, scratch: Path, flow: Stack, strain: Stack | None, pairs: Pairs) -> list[Path]:
        """Writes them, in the order of `files`, to temporary places beside `scratch`, or leaves them where they are."""


class Npy(Format):
    """`NAME.npy` (n, 2, H, W), which NumPy maps into memory, and `NAME.strain.npy` (n, 1, H, W)."""

    def files(self, name: str, pairs: Pairs, strain: bool) -> list[str]:
        return [f"{name}.npy", *_strain_file(name, strain)]

    def write(self, scratch: Path, flow: Stack, strain: Stack | None, pairs: Pairs) -> list[Path]:
        flow.seal()
        return [flow.path, *_sealed(strain)]


class Npz(Format):
    """`NAME.npz`, compressed, with `flow` (n, 2, H, W), `pairs` (n, 2) and, where it is wanted, `strain` (n, 1, H, W)."""

    def files(self, name: str, pairs: Pairs, strain: bool) -> list[str]:
        return [f"{name}.npz"]

    def write(self, scratch: Path, flow: Stack, strain: Stack | None, pairs: Pairs) -> list[Path]:
        path = scratch.with_suffix(".npz")
        # As np.savez_compressed does it, which would hold the whole clip; the entries' times are zip's first day.
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, stack in (("flow", flow), ("strain", strain)):
                if stack is not None:
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        file.write(npy_header((len(stack), *stack.shape)))
                        for fields in stack.chunks():
                            file.write(fields.data)
            with archive.open("pairs.npy", "w") as file:
                np.lib.format.write_array(file, np.array(pairs, "<i4"))
        return [path]


class EachPair(Format):
    """`NAME/000000-000001.flo` or `.png`, named by the frames of each pair, and `NAME.strain.npy` (n, 1, H, W)."""

    def __init__(self, ending: str) -> None:
        self._ending = ending

    def files(self, name: str, pairs: Pairs, strain: bool) -> list[str]:
        return [*(f"{name}/{first:06d}-{second:06d}{self._ending}" for first, second in pairs), *_strain_file(name, strain)]

    def write(self, scratch: Path, flow: Stack, strain: Stack | None, pairs: Pairs) -> list[Path]:
        paths = [scratch.with_name(f"{scratch.name}.{number}{self._ending}") for number in range(len(pairs))]
        for path, field in zip(paths, itertools.chain.from_iterable(flow.chunks()), strict=True):
            write_flow(path, field)
        return [*paths, *_sealed(strain)]


def _strain_file(name: str, strain: bool) -> list[str]:
    return [f"{name}.strain.npy"] if strain else []


def _sealed(strain: Stack | None) -> list[Path]:
    if strain is None:
        return []
    strain.seal()
    return [strain.path]


FORMATS: dict[str, Format] = {"npy": Npy(), "npz": Npz(), "flo": EachPair(".flo"), "png": EachPair(".png")}


def add_strain(flow: Stack, path: Path) -> Stack:
    """The optical strain of each field, in a file beside."""
    import torch

    from mer_fast import ops

    strain = Stack(path, 1, *flow.shape[1:])
    path.unlink(missing_ok=True)
    for fields in flow.chunks():
        strain.append(ops.optical_strain(torch.from_numpy(fields)).numpy())
    return strain
