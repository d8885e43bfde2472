"""A smooth movement of a face that is known exactly, forwards and backwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from mer_fast.data.box import Box
from mer_fast.errors import MerFastError

Region = Literal["brow", "eye", "mouth"]
Field = npt.NDArray[np.float64]

_TOLERANCE = 1e-9
# Above this the fixed point converges slowly, and a little further the face would fold over itself.
_STEEPEST = 0.9


@dataclass(frozen=True)
class Bump:
    """A push of (u, v) pixels at (x, y) that falls as (1 - r^2)^3 to zero on an ellipse; nothing outside."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    u: float
    v: float

    def weight(self, x: Field, y: Field) -> Field:
        squared = ((x - self.x) / self.radius_x) ** 2 + ((y - self.y) / self.radius_y) ** 2
        return np.maximum(1 - squared, 0) ** 3


# By region: x, y, radius_x, radius_y, u, v. Places are shares of a frontal-face detector's box (eyes at a third of its height,
# mouth at four fifths), the push is relative. Action units 1, inner brow raiser; 7, lid tightener; 12, lip corner puller.
_ANATOMY: dict[str, tuple[tuple[float, float, float, float, float, float], ...]] = {
    "brow": ((0.36, 0.28, 0.20, 0.16, 0.15, -1.0), (0.63, 0.28, 0.20, 0.16, -0.15, -1.0)),
    "eye": (
        (0.30, 0.35, 0.19, 0.12, 0.0, 1.0),
        (0.71, 0.35, 0.19, 0.12, 0.0, 1.0),
        (0.30, 0.47, 0.19, 0.12, 0.0, -0.5),
        (0.71, 0.47, 0.19, 0.12, 0.0, -0.5),
    ),
    "mouth": ((0.32, 0.82, 0.20, 0.18, -0.6, -0.8), (0.68, 0.82, 0.20, 0.18, 0.6, -0.8)),
}


@dataclass(frozen=True)
class Motion:
    """A sum of bumps: frame(y) = face(y + b(y)) with b the negated sum, so that points move as the bumps push."""

    bumps: tuple[Bump, ...]

    def scaled(self, factor: float) -> Motion:
        return Motion(tuple(replace(bump, u=bump.u * factor, v=bump.v * factor) for bump in self.bumps))

    def backward(self, x: Field, y: Field) -> tuple[Field, Field]:
        """b at any points, in pixels: where each comes from, relative to where it is."""
        u, v = np.zeros_like(x), np.zeros_like(x)
        for bump in self.bumps:
            weight = bump.weight(x, y)
            u -= bump.u * weight
            v -= bump.v * weight
        return u, v

    def pushed(self, x: Field, y: Field) -> tuple[Field, Field]:
        """How far the face's points at (x, y) go: f(x) = -b(x + f(x)), solved by fixed-point iteration far below a millionth of a
        pixel, for a movement that does not fold the face (`steepness` below 1)."""
        u, v = self.backward(x, y)
        # Where b is zero, zero is the fixed point, and a contraction has no other.
        moving = (u != 0) | (v != 0)
        x, y = x[moving], y[moving]
        moved_u, moved_v = -u[moving], -v[moving]
        for _ in range(500):
            back_u, back_v = self.backward(x + moved_u, y + moved_v)
            change = max(np.abs(back_u + moved_u).max(initial=0), np.abs(back_v + moved_v).max(initial=0))
            moved_u, moved_v = -back_u, -back_v
            if change < _TOLERANCE:
                break
        u, v = np.zeros_like(u), np.zeros_like(v)
        u[moving], v[moving] = moved_u, moved_v
        return u, v

    def forward(self, height: int, width: int) -> Field:
        """Flow (2, H, W) at every pixel."""
        y, x = np.mgrid[:height, :width].astype(np.float64)
        return np.stack(self.pushed(x, y))

    def steepness(self, height: int, width: int) -> float:
        """The largest change of b per pixel (its Jacobian's norm, by differences); below 1 the movement can be undone."""
        y, x = np.mgrid[:height, :width].astype(np.float64)
        u, v = self.backward(x, y)
        (u_y, u_x), (v_y, v_x) = np.gradient(u), np.gradient(v)
        return float(np.linalg.norm(np.stack([u_x, u_y, v_x, v_y]), axis=0).max())


def expression(region: Region, face: Box, size: int, amplitude: float, rng: np.random.Generator) -> Motion:
    """The movement of one region of a face: its bumps, a little displaced and of unequal strength by `rng`.

    Its flow on the size x size pixel grid is at most `amplitude` pixels, and that exactly.

    Raises:
        MerFastError: an unknown region, or an amplitude too large for the size.
    """
    if region not in _ANATOMY:
        raise MerFastError(f"region {region!r} is unknown: give one of {', '.join(_ANATOMY)}")
    bumps = []
    for x, y, radius_x, radius_y, u, v in _ANATOMY[region]:
        dx, dy = rng.uniform(-0.02, 0.02, 2)
        width, height = rng.uniform(0.9, 1.1, 2)
        strength = rng.uniform(0.8, 1.0)
        centre = (face.x + (x + dx) * face.width, face.y + (y + dy) * face.height)
        radii = (radius_x * width * face.width, radius_y * height * face.height)
        bumps.append(Bump(*centre, *radii, u * strength, v * strength))
    return _with_amplitude(Motion(tuple(bumps)), size, amplitude)


def _with_amplitude(motion: Motion, size: int, amplitude: float) -> Motion:
    # The largest flow on the grid is nearly, but not quite, proportional to the bumps: where b peaks moves with them.
    motion = motion.scaled(amplitude / _longest(motion.scaled(1e-3).forward(size, size)) * 1e-3)
    for _ in range(50):
        if motion.steepness(size, size) > _STEEPEST:
            raise MerFastError(f"amplitude={amplitude} would fold the face at size={size}: give less of it, or a larger size")
        longest = _longest(motion.forward(size, size))
        if abs(longest - amplitude) < 1e-8:
            break
        motion = motion.scaled(amplitude / longest)
    return motion


def _longest(flow: Field) -> float:
    return float(np.hypot(flow[0], flow[1]).max())
