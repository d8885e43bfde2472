"""Micro-expressions planted on a real face by a warp that is known exactly: clips whose flow and apex are no one's opinion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mer_fast.data._capture import Frame
from mer_fast.data._optional import require
from mer_fast.data.box import Box
from mer_fast.data.detectors import LBPCascade
from mer_fast.data.motion import Field, Motion, Region, expression
from mer_fast.data.truth import Truth, read_truth, write_frames
from mer_fast.errors import MerFastError

__all__ = ["SyntheticClip", "Truth", "read_truth", "synthetic_clip", "write_frames"]

_FACE_SHARE = 0.6  # of the frame's side
_LARGEST_AMPLITUDE = 5.0


@dataclass(frozen=True)
class SyntheticClip:
    """A clip with a planted micro-expression, and the truth about it.

    Attributes:
        frames: uint8 (T, H, W, 3) RGB.
        flow: float32 (2, H, W), exact flow from the onset to the apex frame at the onset's pixels: u right, v down, pixels.
        moving: bool (H, W), where that flow is longer than a tenth of its maximum.
        onset, apex, offset: frame indices; the face moves strictly between onset and offset.
        region: what moves.
        face: the face's box in every frame.
        motion: the movement at the apex.
    """

    frames: Frame
    flow: npt.NDArray[np.float32]
    moving: npt.NDArray[np.bool_]
    onset: int
    apex: int
    offset: int
    region: str
    face: Box
    motion: Motion

    def flow_at(self, k: int) -> npt.NDArray[np.float32]:
        """Exact flow (2, H, W) from the onset to frame `k`."""
        height, width = self.frames.shape[1:3]
        weight = _profile(k, self.onset, self.apex, self.offset)
        return self.motion.scaled(weight).forward(height, width).astype(np.float32)


def synthetic_clip(
    region: Region = "mouth",
    *,
    amplitude: float = 1.5,
    frames: int = 40,
    onset: int = 8,
    apex: int = 20,
    offset: int = 32,
    size: int = 256,
    noise: float = 1.0,
    lighting: float = 2.0,
    seed: int = 0,
    face: Frame | None = None,
) -> SyntheticClip:
    """Plants a micro-expression on a face: frame_k(y) = face(y + b_k(y)) by cubic splines; then lighting, noise, rounding.

    The movement rises from the onset to the apex and falls to the offset as a raised cosine.

    Args:
        region: "brow" (raised), "eye" (lids narrowed) or "mouth" (corners pulled up and out).
        amplitude: the longest flow at the apex, in pixels of the frame, above 0 and up to 5.
        frames: the clip's length.
        onset, apex, offset: 0 <= onset < apex < offset < frames.
        size: the side of the square frames, in pixels.
        noise: standard deviation of the sensor noise, fresh for each frame and channel, in gray levels.
        lighting: bound of the slow lighting drift, in gray levels.
        seed: places, strengths, drift and noise; the same seed gives the same bytes.
        face: uint8 (H, W, 3) RGB with a frontal face, else with one in its middle; None is scikit-image's astronaut
            (public domain).

    Raises:
        MerFastError: an argument out of range, or an amplitude that would fold a face of that size.
    """
    _check(amplitude, frames, onset, apex, offset, size, noise, lighting)
    motion_seed, lighting_seed, noise_seed = np.random.SeedSequence(seed).spawn(3)
    still, box = _portrait(face, size)
    motion = expression(region, box, size, amplitude, np.random.default_rng(motion_seed))
    flow = motion.forward(size, size)
    length = np.hypot(flow[0], flow[1])
    drift = _Drift(size, frames, np.random.default_rng(lighting_seed))
    sensor = np.random.default_rng(noise_seed)
    render = Renderer(still)
    clip = np.empty((frames, size, size, 3), np.uint8)
    for k in range(frames):
        picture = render(motion.scaled(_profile(k, onset, apex, offset)))
        picture += lighting * drift.at(k)[..., None]
        picture += noise * sensor.standard_normal(picture.shape, np.float32)
        clip[k] = np.clip(np.rint(picture), 0, 255)
    return SyntheticClip(
        frames=clip, flow=flow.astype(np.float32), moving=length > length.max() / 10, onset=onset, apex=apex, offset=offset,
        region=region, face=box, motion=motion,
    )  # fmt: skip


class Renderer:
    """A picture as a cubic spline, sampled where a movement says."""

    def __init__(self, still: Field) -> None:
        """`still` is (H, W, C)."""
        from scipy.ndimage import spline_filter

        self._still = still
        self._splines = [spline_filter(channel, order=3, mode="mirror") for channel in np.moveaxis(still, 2, 0)]

    def __call__(self, motion: Motion) -> Field:
        """float64 (H, W, C): still(y + b(y)) at every pixel y; exactly `still` where b is zero."""
        from scipy.ndimage import map_coordinates

        y, x = np.mgrid[: self._still.shape[0], : self._still.shape[1]].astype(np.float64)
        u, v = motion.backward(x, y)
        moving = (u != 0) | (v != 0)
        places = np.stack([(y + v)[moving], (x + u)[moving]])
        picture = self._still.copy()
        for channel, spline in enumerate(self._splines):
            picture[moving, channel] = map_coordinates(spline, places, order=3, mode="mirror", prefilter=False)
        return picture


class _Drift:
    """Lighting that changes slowly: a plane wave, at most half a period across the frame and one over the clip."""

    def __init__(self, size: int, frames: int, rng: np.random.Generator) -> None:
        across, down = rng.uniform(-0.5, 0.5, 2)
        phase_space, self._phase = rng.uniform(0, 2 * np.pi, 2)
        self._speed = 2 * np.pi * rng.uniform(0.5, 1.0) / frames
        y, x = np.mgrid[:size, :size] / size
        self._pattern = np.cos(np.pi * (across * x + down * y) + phase_space)

    def at(self, k: int) -> Field:
        """(size, size), within -1 and 1."""
        return self._pattern * np.sin(self._speed * k + self._phase)


def _profile(k: int, onset: int, apex: int, offset: int) -> float:
    """The share of the movement at frame k: 0 up to the onset, 1 at the apex, 0 from the offset on."""
    if k <= onset or k >= offset:
        return 0.0
    share = (k - onset) / (apex - onset) if k <= apex else (offset - k) / (offset - apex)
    return float((1 - np.cos(np.pi * share)) / 2)


def _portrait(image: Frame | None, size: int) -> tuple[Field, Box]:
    """A square cut with the face in its middle, (size, size, 3) gray levels, and the face's box there."""
    cv2 = require("cv2")
    if image is None:
        image = require("skimage.data").astronaut()
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise MerFastError(f"face is {image.dtype} {image.shape}: give uint8 (H, W, 3) RGB")
    height, width = image.shape[:2]
    found = LBPCascade()(image)
    middle = Box(width // 2, height // 2, 0, 0).square(1.0)
    face = found[0] if found else Box(middle.x, middle.y, 1, 1).square(min(width, height) * _FACE_SHARE)
    side = min(round(max(face.width, face.height) / _FACE_SHARE), width, height)
    window = face.square(side / max(face.width, face.height)).moved_inside(width, height)
    shrinks = window.width > size
    cut = np.ascontiguousarray(image[window.slices()]).astype(np.float32)
    still = cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    scale = size / window.width
    place = ((face.x - window.x) * scale, (face.y - window.y) * scale, face.width * scale, face.height * scale)
    return still.astype(np.float64), Box(*(round(value) for value in place))


def _check(amplitude: float, frames: int, onset: int, apex: int, offset: int, size: int, noise: float, lighting: float) -> None:
    if not 0 < amplitude <= _LARGEST_AMPLITUDE:
        raise MerFastError(f"amplitude={amplitude}: give pixels above 0 and up to {_LARGEST_AMPLITUDE:g}")
    if not 0 <= onset < apex < offset < frames:
        raise MerFastError(f"onset={onset}, apex={apex}, offset={offset}, frames={frames}: they must rise in this order from 0")
    if size < 32:
        raise MerFastError(f"size={size}: give at least 32 pixels")
    if not (0 <= noise < np.inf and 0 <= lighting < np.inf):
        raise MerFastError(f"noise={noise}, lighting={lighting}: give gray levels, 0 or more")
