"""How flow is measured and written: everything that a result depends on, and what it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mer_fast.errors import MerFastError
from mer_fast.flows.formats import FORMATS
from mer_fast.flows.methods import parameters

PAIRS = ("consecutive", "onset", "onset-apex")
_SIDES = (16, 2048)  # of the face crop, in pixels


@dataclass(frozen=True)
class FlowOptions:
    """What `measure_flows` does with each clip.

    Attributes:
        method, preset: which flow, and whose parameters: a key of `METHODS`, and one of its presets.
        pairs: "consecutive" (each frame and the next), "onset" (the first frame and each later one), "onset-apex" (one pair).
        step: every step-th frame is used, counted from the first.
        crop: whether the frames are cut to the face, found once in each clip; else they are used whole.
        detector: finds the face, as `mer_fast.data.make_detector` takes it.
        size: side of the face crop in pixels.
        format: a key of `FORMATS`.
        strain: whether optical strain is written too.
        device: "cpu" or "cuda".
        batch: pairs to one call of the op; by the size of the frames unless given. No result depends on it.

    Raises:
        MerFastError: an option that is unknown or out of range.
    """

    method: str = "tvl1"
    preset: str = "opencv"
    pairs: str = "consecutive"
    step: int = 1
    crop: bool = False
    detector: str = "lbp"
    size: int = 128
    format: str = "npy"
    strain: bool = False
    device: str = "cpu"
    batch: int | None = None

    def __post_init__(self) -> None:
        parameters(self.method, self.preset)
        for name, value, known in (("pairs", self.pairs, PAIRS), ("format", self.format, FORMATS)):
            if value not in known:
                raise MerFastError(f"{name} {value!r} is unknown: give one of {', '.join(known)}")
        for name, number, least, most in (
            ("step", self.step, 1, 2**31),
            ("size", self.size, *_SIDES),
            ("batch", self.batch, 1, 2**20),
        ):
            if number is not None and not least <= number <= most:
                raise MerFastError(f"{name} must lie between {least} and {most}, got {number}")
        if self.step > 1 and self.pairs == "onset-apex":
            raise MerFastError(f"step={self.step}: onset and apex are one pair, without frames between; leave step away")

    @property
    def looks_for_face(self) -> bool:
        """Whether the face of a clip may be needed: for the crop, or to look for the apex in."""
        return self.crop or self.pairs == "onset-apex"

    def parameters(self) -> dict[str, Any]:
        """What the flow depends on, as JSON keeps it."""
        return {
            "method": self.method,
            "preset": self.preset,
            "arguments": dict(parameters(self.method, self.preset)),
            "pairs": self.pairs,
            "step": self.step,
            "face_crop": self.size if self.crop else None,
            "detector": self.detector if self.looks_for_face else None,
            "format": self.format,
            "strain": self.strain,
            "device": self.device,
        }
