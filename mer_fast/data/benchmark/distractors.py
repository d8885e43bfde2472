"""What else changes in a clip and tells nothing about its class: the head sways and turns, the light drifts and flickers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """Where the head is: turned by `angle` and grown by `scale` about a point of the picture, then moved by (u, v) pixels."""

    x: float
    y: float
    angle: float
    scale: float
    u: float
    v: float

    def there(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Where points of the picture are in the frame."""
        cos, sin = self.scale * np.cos(self.angle), self.scale * np.sin(self.angle)
        x, y = x - self.x, y - self.y
        return self.x + self.u + cos * x - sin * y, self.y + self.v + sin * x + cos * y

    def back(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Where points of the frame are in the picture."""
        cos, sin = np.cos(self.angle) / self.scale, np.sin(self.angle) / self.scale
        x, y = x - self.x - self.u, y - self.y - self.v
        return self.x + cos * x + sin * y, self.y - sin * x + cos * y


class HeadMotion:
    """A head that drifts at a steady pace and sways as breathing makes it, in place, angle and distance.

    Over the clip it drifts by up to 1.2 pixels of a frame of 128 and half a degree either way.
    """

    def __init__(self, centre: tuple[float, float], size: int, frames: int, strength: float, rng: np.random.Generator) -> None:
        self._centre = centre
        # Pixels, pixels, radians, share: drift over the clip, and half the sway.
        reach = strength * np.array([size / 128, size / 128, np.radians(0.4), 0.004])
        self._drift = 1.2 * reach * rng.uniform(-1, 1, 4)
        self._sway = 0.3 * reach * rng.uniform(-1, 1, 4)
        self._turns = rng.uniform(0.5, 1.5, 4)
        self._phase = rng.uniform(0, 2 * np.pi, 4)
        self._frames = frames

    def at(self, k: int) -> Pose:
        share = k / self._frames
        swayed = np.sin(2 * np.pi * self._turns * share + self._phase)
        u, v, angle, growth = (self._drift * (share - 0.5) + self._sway * swayed).tolist()
        return Pose(*self._centre, angle, 1 + growth, u, v)


class Light:
    """Light that drifts over the picture as a slow plane wave, and flickers as a whole, as lamps do against a camera's shutter.

    Up to `strength` times 2% of the light drifts, and 0.6% flickers.
    """

    def __init__(self, size: int, frames: int, strength: float, rng: np.random.Generator) -> None:
        across, down = rng.uniform(-0.5, 0.5, 2)
        phase, self._phase, self._flicker_phase = rng.uniform(0, 2 * np.pi, 3)
        self._speed = 2 * np.pi * rng.uniform(0.4, 1.0) / frames
        self._flicker_speed = rng.uniform(0.3, np.pi)
        self._drift, self._flicker = strength * rng.uniform(0.2, 1.0, 2) * (0.02, 0.006)
        y, x = np.mgrid[:size, :size] / size
        self._pattern = np.cos(np.pi * (across * x + down * y) + phase)

    def at(self, k: int) -> Field:
        """What frame `k` is multiplied by, (size, size)."""
        drift = self._drift * np.sin(self._speed * k + self._phase)
        return 1 + drift * self._pattern + self._flicker * np.sin(self._flicker_speed * k + self._flicker_phase)
