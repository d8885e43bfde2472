"""The inputs of MicroExpSTCNN and MicroExpFuseNet: crops of eyes and mouth, and gray values about zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from mer_fast.data.box import Box
from mer_fast.errors import MerFastError

_GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as everywhere in mer_fast.data


class _Region(NamedTuple):
    """A region by the 68 landmarks (0-based) whose coordinates bound it, and by shares of a face box."""

    landmarks: tuple[int, int, int, int]  # top (y), bottom (y), left (x), right (x)
    shares: tuple[float, float, float, float]


# The shares are where these landmarks of the average 68-point face lie in the box of `find_face`: eyes 0.42 of its side apart
# and 0.36 of it below its top, upright and about its middle. Such a box ends above the chin.
_EYES = _Region((19, 1, 1, 15), (0.21, 0.54, 0.04, 0.96))
_MOUTH = _Region((2, 6, 2, 14), (0.66, 1.04, 0.06, 0.94))


def eyes_and_mouth(
    clip: Any, landmarks: Any = None, *, box: Box | None = None, size: int = 32
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two regions of a face that MicroExpFuseNet looks at: the eyes with the brows, and the mouth below the nose.

    Of 68 landmarks, 0-based, the eyes are rows y19 to y1 and columns x1 to x15, the mouth rows y2 to y6 and columns x2 to x14;
    bounds are rounded to pixels, the end not included, and cut at the frame's edge. Without landmarks the regions are fixed
    shares of the face box, where these landmarks lie in the average face: eyes rows 0.21 to 0.54 and columns 0.04 to 0.96,
    mouth rows 0.66 to 1.04 and columns 0.06 to 0.94.

    Args:
        clip: (T, H, W) gray, or (T, C, H, W) with C 1 or 3 (RGB), a NumPy array or a torch tensor, uint8 or float.
        landmarks: (68, 2), x and y in pixels, for all frames, as of the first; or (T, 68, 2), one set a frame.
        box: the face in the frames, as from `find_face`, where no landmarks are given; the whole frame unless given.
        size: side of the crops, in pixels; they are resized bilinearly, with antialiasing.

    Returns:
        Eyes and mouth, each (1, T, size, size), on the device of the clip: float64 from float64, else float32; gray values
        keep their range (0..255 from uint8). `Normalisation` brings them about zero.

    Raises:
        MerFastError: another shape or dtype, landmarks that are not finite, both landmarks and a box, or a region with no
            pixel in the frame.

    Source: Reddy, Karri, Dubey, Mukherjee, "Spontaneous facial micro-expression recognition using 3D spatiotemporal
    convolutional neural networks", IJCNN 2019, arXiv 1904.01390.
    """
    frames = _gray(clip)
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise MerFastError(f"eyes_and_mouth: size must be a whole number of pixels from 1 on, got {size!r}")
    if landmarks is not None and box is not None:
        raise MerFastError("eyes_and_mouth: landmarks and box are both given: give one of them")
    count, height, width = frames.shape
    places = None if landmarks is None else _landmarks(landmarks, count)
    face = Box(0, 0, width, height) if box is None else _box(box)
    crops = []
    for name, region in (("eyes", _EYES), ("mouth", _MOUTH)):
        bounds = [_by_shares(face, region)] if places is None else [_by_landmarks(points, region) for points in places]
        boxes = [_inside(name, one, width, height, "box" if places is None else "landmarks") for one in bounds]
        if len(boxes) == 1:
            rows, columns = boxes[0].slices()
            crops.append(_resized(frames[:, rows, columns], size))
        else:
            pairs = zip(frames, boxes, strict=True)
            crops.append(torch.cat([_resized(frame[one.slices()].unsqueeze(0), size) for frame, one in pairs]))
    return crops[0].unsqueeze(0), crops[1].unsqueeze(0)


@dataclass(frozen=True)
class Normalisation:
    """Gray values about zero: minus the mean of a data set, over the maximum of what is left, as published.

    Fit it on the training clips of a fold, and use it on the test clips too.

    Attributes:
        mean, maximum: in gray levels.
    """

    mean: float
    maximum: float

    @classmethod
    def of(cls, clips: Iterable[torch.Tensor]) -> Normalisation:
        """The numbers of a data set, which is read once, clip by clip.

        Raises:
            MerFastError: no clips, values that are not finite, or all values equal.
        """
        total, count, largest = 0.0, 0, -float("inf")
        for clip in clips:
            if clip.numel():
                total += float(clip.sum(dtype=torch.float64))
                count += clip.numel()
                largest = max(largest, float(clip.max()))
        if not count:
            raise MerFastError("Normalisation.of: clips must hold at least one value")
        mean = total / count
        if not np.isfinite(mean) or not largest - mean > 0:
            raise MerFastError(f"Normalisation.of: clips must hold finite values that differ, got a mean of {mean}")
        return cls(mean, largest - mean)

    def __call__(self, clip: torch.Tensor) -> torch.Tensor:
        """(clip - mean) / maximum, of the same shape; float32 from uint8."""
        values = clip if clip.is_floating_point() else clip.to(torch.float32)
        return (values - self.mean) / self.maximum


def _box(box: Any) -> Box:
    try:
        numbers = [float(side) for side in box]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise MerFastError(f"eyes_and_mouth: box must be four finite numbers (x, y, width, height), got {box!r}")
    return Box(*box)


def _gray(clip: Any) -> torch.Tensor:
    """(T, H, W) float."""
    if not isinstance(clip, (np.ndarray, torch.Tensor)):
        raise MerFastError(f"eyes_and_mouth: clip must be a NumPy array or a torch tensor, got {type(clip).__name__}")
    if isinstance(clip, np.ndarray) and clip.dtype.kind not in "uif":
        raise MerFastError(f"eyes_and_mouth: clip must be uint8 or float, got {clip.dtype}; convert it with .astype")
    # A copy where NumPy's memory has strides, a byte order or a protection that torch cannot take.
    if isinstance(clip, np.ndarray):
        clip = torch.from_numpy(np.require(clip, clip.dtype.newbyteorder("="), ["C", "W"]))
    frames: torch.Tensor = clip
    if frames.dtype != torch.uint8 and not frames.is_floating_point():
        raise MerFastError(f"eyes_and_mouth: clip must be uint8 or float, got {frames.dtype}; convert it with .astype or .to")
    if frames.dim() not in (3, 4) or (frames.dim() == 4 and frames.shape[1] not in (1, 3)) or not frames.numel():
        raise MerFastError(
            f"eyes_and_mouth: clip must have shape (T, H, W) or (T, C, H, W) with C 1 or 3, got {tuple(frames.shape)}"
        )
    frames = frames if frames.dtype == torch.float64 else frames.to(torch.float32)
    if frames.dim() == 3:
        return frames
    if frames.shape[1] == 1:
        return frames[:, 0]
    return torch.einsum("tchw,c->thw", frames, frames.new_tensor(_GRAY))


def _landmarks(landmarks: Any, frames: int) -> npt.NDArray[np.float64]:
    """(1, 68, 2) or (frames, 68, 2)."""
    values = landmarks.detach().cpu().numpy() if isinstance(landmarks, torch.Tensor) else landmarks
    try:
        points = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise MerFastError(f"eyes_and_mouth: landmarks must be numbers, got {type(landmarks).__name__}") from error
    if points.shape not in ((68, 2), (frames, 68, 2)):
        raise MerFastError(
            f"eyes_and_mouth: landmarks must have shape (68, 2), or ({frames}, 68, 2) for one set a frame, got {points.shape}"
        )
    if not np.isfinite(points).all():
        raise MerFastError("eyes_and_mouth: landmarks must be finite; leave out the frames in which no face was found")
    return points.reshape(-1, 68, 2)


def _by_landmarks(points: npt.NDArray[np.float64], region: _Region) -> tuple[int, int, int, int]:
    top, bottom, left, right = region.landmarks
    return round(points[top, 1]), round(points[bottom, 1]), round(points[left, 0]), round(points[right, 0])


def _by_shares(face: Box, region: _Region) -> tuple[int, int, int, int]:
    top, bottom, left, right = region.shares
    return (
        round(face.y + top * face.height), round(face.y + bottom * face.height),
        round(face.x + left * face.width), round(face.x + right * face.width),
    )  # fmt: skip


def _inside(name: str, bounds: tuple[int, int, int, int], width: int, height: int, argument: str) -> Box:
    top, bottom, left, right = bounds
    inside = Box(left, top, right - left, bottom - top).clipped(width, height)
    if inside.width < 1 or inside.height < 1:
        raise MerFastError(
            f"eyes_and_mouth: {argument} put the {name} at rows {top} to {bottom}, columns {left} to {right}, where the "
            f"{width}x{height} frame has no pixel: give pixels of these frames, x before y"
        )
    return inside


def _resized(frames: torch.Tensor, size: int) -> torch.Tensor:
    """(T, h, w) -> (T, size, size)."""
    return F.interpolate(frames.unsqueeze(1), (size, size), mode="bilinear", antialias=True, align_corners=False)[:, 0]
