"""A synthetic clip as a folder: its frames as PNG files, and the truth about them in `truth.npz`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mer_fast.data._optional import require
from mer_fast.errors import MerFastError
from mer_fast.files import atomic_folder

_TRUTH = "truth.npz"


class Truth(NamedTuple):
    """What is known of a synthetic clip, as `SyntheticClip` has it: flow (2, H, W), frame indices, moving (H, W)."""

    flow: npt.NDArray[np.float32]
    onset: int
    apex: int
    offset: int
    moving: npt.NDArray[np.bool_]


class KnownClip(Protocol):
    """A clip with the truth about it, as `SyntheticClip`: frames uint8 (T, H, W, 3) RGB, the rest as in `Truth`."""

    @property
    def frames(self) -> Any: ...
    @property
    def flow(self) -> npt.NDArray[np.float32]: ...
    @property
    def moving(self) -> npt.NDArray[np.bool_]: ...
    @property
    def onset(self) -> int: ...
    @property
    def apex(self) -> int: ...
    @property
    def offset(self) -> int: ...


def write_frames(clip: KnownClip, folder: str | os.PathLike[str]) -> None:
    """Writes a clip's frames as 00000.png, 00001.png, ... and its truth; all of it or nothing, whatever interrupts.

    A folder written by an earlier call is replaced.

    Raises:
        MerFastError: the folder holds other files.
    """
    cv2 = require("cv2")
    folder = Path(folder)
    if folder.is_dir() and not _is_ours(folder) and any(folder.iterdir()):
        raise MerFastError(f"{folder} holds other files: give a new folder for the frames")
    earlier = {path.name for path in folder.glob("[0-9]*.png")} if folder.is_dir() else set()
    names = {f"{index:05d}.png" for index in range(len(clip.frames))}
    with atomic_folder(folder, earlier | names | {_TRUTH}, _is_ours, _TRUTH) as temporary:
        for name, frame in zip(sorted(names), clip.frames, strict=True):
            _, png = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            (temporary / name).write_bytes(png.tobytes())
        np.savez_compressed(
            temporary / _TRUTH, flow=clip.flow, onset=clip.onset, apex=clip.apex, offset=clip.offset, moving=clip.moving
        )


def read_truth(folder: str | os.PathLike[str]) -> Truth | None:
    """The truth of a folder that `write_frames` wrote; None for anything else, a video file included.

    Raises:
        MerFastError: there is a truth.npz, and it is damaged.
    """
    path = Path(folder) / _TRUTH
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            truth = Truth(data["flow"], int(data["onset"]), int(data["apex"]), int(data["offset"]), data["moving"].astype(bool))
    except Exception as error:  # numpy, zipfile, zlib and tokenize each raise their own
        raise MerFastError(f"{path} is damaged: write the clip again, or remove the file") from error
    if truth.flow.ndim != 3 or truth.flow.shape[0] != 2 or truth.moving.shape != truth.flow.shape[1:]:
        raise MerFastError(f"{path} has a flow of shape {truth.flow.shape} for {truth.moving.shape} pixels: write the clip again")
    return truth


def _is_ours(folder: Path) -> bool:
    return (folder / _TRUTH).is_file()
