"""What a face does: the movements of brows, eyes and mouth, each in several forms and either way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mer_fast.data.benchmark.traits import Traits
from mer_fast.data.motion import Bump, Motion, Region

REGIONS: tuple[Region, ...] = ("brow", "eye", "mouth")


@dataclass(frozen=True)
class Push:
    """A bump on one side of a face; its mirror image is on the other.

    Attributes:
        part: of the face, from whose middle x and y count: "brow", "eye", "corner" (of the mouth), "lip", "cheek", "nose" ...
        x, y: its middle, outwards and down, in half-widths of the face.
        radius_x, radius_y: in half-widths.
        u, v: the push outwards and down, relative to the others.
    """

    part: str
    x: float
    y: float
    radius_x: float
    radius_y: float
    u: float
    v: float


@dataclass(frozen=True)
class Form:
    """One form of a region's movement, and the action units that it is like when done forwards and backwards.

    Backwards it is the same movement the other way, so that over many clips no pixel gets lighter or darker by the class alone.
    """

    pushes: tuple[Push, ...]
    forwards: tuple[str, ...]
    backwards: tuple[str, ...]


FORMS: dict[Region, tuple[Form, ...]] = {
    "brow": (
        Form((Push("brow", 0.0, -0.02, 0.42, 0.27, 0.0, -1.0),), ("1", "2"), ("4",)),
        Form((Push("brow", -0.16, -0.02, 0.26, 0.26, 0.15, -1.0),), ("1",), ("4",)),
        Form((Push("brow", 0.16, -0.02, 0.26, 0.25, 0.1, -1.0),), ("2",), ("4",)),
        Form((Push("brow", -0.14, -0.02, 0.28, 0.25, -1.0, 0.3),), ("4",), ("1",)),
    ),
    "eye": (
        Form((Push("eye", 0.0, -0.09, 0.3, 0.2, 0.0, 1.0), Push("eye", 0.0, 0.15, 0.3, 0.2, 0.0, -0.7)), ("7",), ("5",)),
        Form((Push("eye", 0.0, 0.15, 0.3, 0.19, 0.0, -1.0),), ("6",), ("43",)),
        Form((Push("eye", 0.16, 0.05, 0.24, 0.22, -1.0, 0.0),), ("6",), ("5",)),
        Form((Push("eye", -0.06, -0.07, 0.27, 0.2, 0.2, -1.0),), ("5",), ("43",)),
    ),
    "mouth": (
        Form((Push("corner", -0.02, -0.02, 0.32, 0.3, 0.7, -1.0),), ("12",), ("15",)),
        Form((Push("corner", 0.0, 0.03, 0.28, 0.24, -1.0, 0.0),), ("18",), ("20",)),
        Form((Push("lip", 0.0, 0.13, 0.32, 0.22, 0.0, -1.0),), ("17",), ("26",)),
        Form((Push("lip", 0.0, -0.12, 0.3, 0.2, 0.0, -1.0), Push("lip", 0.0, 0.13, 0.3, 0.2, 0.0, 0.7)), ("25",), ("24",)),
    ),
}  # fmt: skip
_ONE_SIDED = 0.3  # share of the clips
_FORWARDS = 0.5  # share of the clips
_NEUTRAL = (
    Push("nose", 0.0, 0.0, 0.2, 0.2, 0.6, -1.0),
    Push("cheek", 0.0, 0.0, 0.26, 0.24, 0.5, -1.0),
    Push("chin", 0.0, 0.0, 0.4, 0.16, 0.3, -1.0),
    Push("forehead", 0.0, 0.0, 0.36, 0.18, 0.2, -1.0),
)
_LIDS = (Push("eye", 0.0, -0.05, 0.27, 0.16, 0.0, 1.0),)
_LIDS_LONGEST = 0.055  # in half-widths: half closed, and further the picture would fold


def expression_of(
    region: Region, traits: Traits, size: int, amplitude: float, rng: np.random.Generator
) -> tuple[Motion, tuple[str, ...]]:
    """A movement of one region of a face, its longest push `amplitude` pixels, and its action units.

    Form, direction, sides, strengths, places and sizes are drawn.
    """
    forms = FORMS[region]
    form = forms[int(rng.integers(len(forms)))]
    forwards = bool(rng.random() < _FORWARDS)
    sides = (1.0, 1.0)
    if rng.random() < _ONE_SIDED:
        sides = (1.0, 0.0) if rng.random() < 0.5 else (0.0, 1.0)
    motion = _pushed(form.pushes, traits, size, sides, rng).scaled(1.0 if forwards else -1.0)
    return _with_longest(motion, size, amplitude), form.forwards if forwards else form.backwards


def fidget_of(traits: Traits, size: int, amplitude: float, rng: np.random.Generator) -> Motion:
    """A movement of nose, cheek, chin or forehead, which belongs to no class."""
    push = _NEUTRAL[int(rng.integers(len(_NEUTRAL)))]
    sides = (1.0, 0.0) if rng.random() < 0.5 else (0.0, 1.0)
    motion = _pushed((push,), traits, size, sides, rng).scaled(1.0 if rng.random() < 0.5 else -1.0)
    return _with_longest(motion, size, amplitude)


def blink_of(traits: Traits, size: int) -> Motion:
    """Both lids half closed."""
    longest = _LIDS_LONGEST * traits.half_width * size
    return _with_longest(_pushed(_LIDS, traits, size, (1.0, 1.0), None), size, longest)


def _pushed(
    pushes: Sequence[Push], traits: Traits, size: int, sides: tuple[float, float], rng: np.random.Generator | None
) -> Motion:
    """The bumps of both sides, left in the picture first; a little displaced and of unequal strength where there is an `rng`."""
    unit = traits.half_width * size
    parts = {
        "brow": (traits.eye[0] * 1.02, traits.brow[0]),
        "eye": (traits.eye[0], 0.0),
        "corner": (traits.mouth[1], traits.mouth[0]),
        "lip": (0.12, traits.mouth[0]),
        "cheek": (0.55, 0.48),
        "nose": (traits.nose[1] * 0.8, traits.nose[0] - 0.05),
        "chin": (0.1, traits.chin - 0.12),
        "forehead": (0.35, traits.brow[0] - 0.36),
    }
    bumps = []
    for push in pushes:
        for side, strength in zip((-1, 1), sides, strict=True):
            if not strength:
                continue
            dx, dy, width, height, turn = (0.0, 0.0, 1.0, 1.0, 0.0)
            if rng is not None:
                dx, dy = rng.uniform(-0.03, 0.03, 2)
                width, height = rng.uniform(0.85, 1.15, 2)
                turn, strength = rng.uniform(-0.35, 0.35), rng.uniform(0.7, 1.0)
            u = strength * (push.u * np.cos(turn) - push.v * np.sin(turn))
            v = strength * (push.u * np.sin(turn) + push.v * np.cos(turn))
            part = parts[push.part]
            x, y = traits.place(side * (part[0] + push.x + dx), part[1] + push.y + dy, size)
            bumps.append(Bump(x, y, push.radius_x * width * unit, push.radius_y * height * unit, side * u, v))
    return Motion(tuple(bumps))


def _with_longest(motion: Motion, size: int, amplitude: float) -> Motion:
    y, x = np.mgrid[:size, :size].astype(np.float64)
    return motion.scaled(amplitude / float(np.hypot(*motion.backward(x, y)).max()))
