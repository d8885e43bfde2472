"""What a made person looks like: shape, skin, hair and the light on them, all drawn from one generator.

Lengths are in half-widths of the face, from the point between the eyes, x to the right and y down. A frame's pixels come in
by `Traits.place` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mer_fast.data.box import Box

Colour = tuple[float, float, float]

# Gray levels RGB, and what lies between two that follow each other.
_SKINS = ((236, 202, 182), (226, 184, 156), (206, 158, 124), (176, 126, 92), (138, 94, 68), (98, 66, 50))
_HAIRS = ((30, 25, 24), (50, 36, 28), (86, 58, 38), (100, 52, 34), (150, 112, 70), (128, 122, 116))
_IRISES = ((62, 42, 30), (86, 60, 38), (72, 88, 70), (84, 108, 130))


@dataclass(frozen=True)
class Traits:
    """One person.

    Attributes:
        centre, half_width: the point between the eyes, and the face's half width, as shares of the frame's side.
        chin, crown, jaw: y of the chin, y of the top of the head, how much narrower the jaw is.
        eye: x of an eye's middle, its half width, its half opening, the outer corner's height.
        brow: y of a brow's middle, its half length, its half thickness, its arch, its slope.
        nose: y of its tip, its half width.
        mouth: y of its line, its half width, heights of upper and lower lip, its corners' height.
        skin, hair, iris, cloth, wall: colours, in gray levels.
        hairline: y at the middle.
        long_hair: how far it comes down at the sides; `beard`: 0 for none to 1.
        light: direction to the light, a unit vector, z towards the camera.
        ambient: share of the light that comes from everywhere; `exposure`: the face's mean gray level, as a
            camera sets it.
        texture: strength of the skin's texture; `texture_seed`: of its noise.
    """

    centre: tuple[float, float]
    half_width: float
    chin: float
    crown: float
    jaw: float
    eye: tuple[float, float, float, float]
    brow: tuple[float, float, float, float, float]
    nose: tuple[float, float]
    mouth: tuple[float, float, float, float, float]
    skin: Colour
    hair: Colour
    iris: Colour
    cloth: Colour
    wall: Colour
    hairline: float
    long_hair: float
    beard: float
    light: tuple[float, float, float]
    ambient: float
    exposure: float
    texture: float
    texture_seed: int

    def place(self, x: float, y: float, size: int) -> tuple[float, float]:
        """A point of the face in the pixels of a frame size x size."""
        unit = self.half_width * size
        return self.centre[0] * size - 0.5 + x * unit, self.centre[1] * size - 0.5 + y * unit

    def box(self, size: int) -> Box:
        """Where a frontal-face detector sees the face: eyes 0.42 of its side apart and 0.36 of it below its top."""
        side = 2 * self.eye[0] / 0.42
        x, y = self.place(-side / 2, -0.36 * side, size)
        pixels = round(side * self.half_width * size)
        return Box(round(x), round(y), pixels, pixels)


def draw_traits(rng: np.random.Generator) -> Traits:
    """A person."""
    around = rng.uniform(-np.pi, np.pi)
    tilt = rng.uniform(0.2, 0.75)
    light = (float(np.sin(tilt) * np.cos(around)), float(np.sin(tilt) * np.sin(around) - 0.25), float(np.cos(tilt)))
    length = float(np.linalg.norm(light))
    between = rng.uniform
    tone = between(0, 1)  # dark skin goes with darker hair and eyes
    return Traits(
        centre=(0.5 + between(-0.012, 0.012), 0.385 + between(-0.012, 0.012)),
        half_width=between(0.355, 0.38),
        chin=between(1.45, 1.6),
        crown=between(-1.32, -1.12),
        jaw=between(0.18, 0.38),
        eye=(between(0.41, 0.47), between(0.17, 0.205), between(0.062, 0.09), between(-0.03, 0.012)),
        brow=(between(-0.33, -0.25), between(0.22, 0.28), between(0.03, 0.055), between(0.02, 0.07), between(-0.06, 0.06)),
        nose=(between(0.58, 0.7), between(0.19, 0.26)),
        mouth=(between(0.98, 1.1), between(0.29, 0.38), between(0.045, 0.085), between(0.06, 0.11), between(-0.03, 0.03)),
        skin=_between_colours(_SKINS, tone, rng),
        hair=_between_colours(_HAIRS, between(0, 1) * (1 - 0.8 * tone), rng),
        iris=_between_colours(_IRISES, between(0, 1) * (1 - 0.7 * tone), rng),
        cloth=_any_colour(rng, 30, 200),
        wall=_any_colour(rng, 80, 160),
        hairline=between(-0.92, -0.68),
        long_hair=between(-0.3, 1.9),
        beard=max(0.0, between(-1.6, 0.9)),
        light=(light[0] / length, light[1] / length, light[2] / length),
        ambient=between(0.6, 0.85),
        exposure=between(112, 140),
        texture=between(0.7, 1.4),
        texture_seed=int(rng.integers(2**31)),
    )


def _between_colours(stops: tuple[Colour, ...], share: float, rng: np.random.Generator) -> Colour:
    """At a share of the way along a row of colours, and a little off it."""
    at = share * (len(stops) - 1)
    first = min(int(at), len(stops) - 2)
    colour = np.array(stops[first]) + (at - first) * (np.array(stops[first + 1]) - stops[first])
    red, green, blue = (colour * rng.uniform(0.96, 1.04, 3)).tolist()
    return red, green, blue


def _any_colour(rng: np.random.Generator, low: float, high: float) -> Colour:
    """Rather gray."""
    red, green, blue = (rng.uniform(low, high) + rng.uniform(-25, 25, 3)).clip(0, 255).tolist()
    return red, green, blue
