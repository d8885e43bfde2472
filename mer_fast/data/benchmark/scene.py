"""What happens in a clip: a person's face moves, the head and the light with it, and any frame of that, or flow, on demand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mer_fast.data._capture import Frame
from mer_fast.data._optional import require
from mer_fast.data.benchmark.distractors import Field, HeadMotion, Light
from mer_fast.data.benchmark.expressions import blink_of, expression_of, fidget_of
from mer_fast.data.benchmark.painting import paint
from mer_fast.data.benchmark.traits import Traits, draw_traits
from mer_fast.data.motion import Motion, Region
from mer_fast.seeds import derive

_FINER = 2  # the picture is painted so much finer than the frames are sampled
_BLUR = 0.9  # pixels of the picture, against aliasing
_BLINK = 2  # frames from open to half closed
_BLINKING = 0.5  # share of the clips


class Person:
    """A made face, ready to be sampled."""

    def __init__(self, seed: int, size: int) -> None:
        ndimage = require("scipy.ndimage")
        self.size = size
        self.traits: Traits = draw_traits(np.random.default_rng(seed))
        picture = np.moveaxis(paint(self.traits, _FINER * size), 2, 0)
        smooth = [ndimage.gaussian_filter(channel, _BLUR, mode="nearest") for channel in picture]
        self._splines = [ndimage.spline_filter(channel, order=3, mode="mirror").astype(np.float32) for channel in smooth]

    def sample(self, x: Field, y: Field) -> Field:
        """The picture at points (H, W) given in pixels of a frame: (H, W, 3), by cubic splines."""
        sampled = require("scipy.ndimage").map_coordinates
        places = np.stack([y, x]) * _FINER + (_FINER - 1) / 2
        channels = [sampled(one, places, order=3, mode="mirror", prefilter=False) for one in self._splines]
        return np.stack(channels, 2)


@dataclass(frozen=True)
class Span:
    """A movement that begins after frame `start`, is whole at frame `peak` and over at frame `end`, as a raised cosine."""

    start: int
    peak: int
    end: int

    def weight(self, k: int) -> float:
        """The share of the movement at frame `k`."""
        if not self.start < k < self.end:
            return 0.0
        share = (k - self.start) / (self.peak - self.start) if k <= self.peak else (self.end - k) / (self.end - self.peak)
        return float((1 - np.cos(np.pi * share)) / 2)


@dataclass(frozen=True)
class Scene:
    """A clip before it is sampled.

    Attributes:
        person: who.
        span: onset, apex and offset of the expression.
        expression: at its apex; `units`: its action units; `amplitude`: its longest push in pixels.
        others: movements that tell nothing, and when they happen: lids, cheeks, nose, chin, forehead.
        head, light: what they do.
        noise: standard deviation of the sensor's, in gray levels; `noise_seed`: of its generator.
    """

    person: Person
    span: Span
    expression: Motion
    units: tuple[str, ...]
    amplitude: float
    others: tuple[tuple[Motion, Span], ...]
    head: HeadMotion
    light: Light
    noise: float
    noise_seed: int

    def motion(self, k: int) -> Motion:
        """How the face is moved in frame `k`, but for the head."""
        together = [(self.expression, self.span), *self.others]
        weighted = [(motion, span.weight(k)) for motion, span in together]
        return Motion(tuple(bump for motion, weight in weighted if weight for bump in motion.scaled(weight).bumps))

    def frame(self, k: int) -> Frame:
        """Frame `k`: uint8 (size, size, 3) RGB."""
        x, y = self._picture(k)
        seen = self.person.sample(x, y) * self.light.at(k)[..., None]
        sensor = np.random.default_rng(derive(self.noise_seed, k))
        seen += self.noise * sensor.standard_normal(seen.shape, np.float32)
        frame: Frame = np.clip(np.rint(seen), 0, 255).astype(np.uint8)
        return frame

    def flow(self, first: int, second: int) -> Field:
        """Exact flow (2, size, size) from one frame to another, head and all, at the first one's pixels: u right, v down."""
        columns, rows = self._grid()
        x, y = self._picture(first)
        u, v = self.motion(second).pushed(x, y)
        there_x, there_y = self.head.at(second).there(x + u, y + v)
        return np.stack([there_x - columns, there_y - rows])

    def moving(self) -> Field:
        """How far the expression alone moves each of the onset's pixels by the apex, (size, size) pixels."""
        x, y = self.head.at(self.span.start).back(*self._grid())
        return np.hypot(*self.expression.pushed(x, y))

    def _grid(self) -> tuple[Field, Field]:
        y, x = np.mgrid[: self.person.size, : self.person.size].astype(np.float64)
        return x, y

    def _picture(self, k: int) -> tuple[Field, Field]:
        """Where the pixels of frame `k` come from in the picture."""
        x, y = self.head.at(k).back(*self._grid())
        u, v = self.motion(k).backward(x, y)
        return x + u, y + v


def draw_scene(
    person: Person, region: Region, frames: int, amplitudes: tuple[float, float], distraction: float, seed: int
) -> Scene:
    """A scene.

    What tells nothing about the class is drawn from generators of its own, so that it is the same whatever the region.

    Args:
        person: who.
        region: what moves.
        frames: the clip's length.
        amplitudes: bounds of the expression's longest push, in pixels of a frame of 128.
        distraction: strength of all that tells nothing.
        seed: of this clip.
    """
    traits, size = person.traits, person.size
    timing, moving, other, head, light = (
        np.random.default_rng(derive(seed, name)) for name in ("timing", "expression", "others", "head", "light")
    )  # fmt: skip
    span = _span(frames, timing)
    amplitude = float(timing.uniform(*amplitudes)) * size / 128
    expression, units = expression_of(region, traits, size, amplitude, moving)
    return Scene(
        person, span, expression, units, amplitude,
        others=_others(traits, size, frames, span, distraction, other),
        head=HeadMotion(traits.place(0.0, 0.5, size), size, frames, distraction, head),
        light=Light(size, frames, distraction, light),
        noise=distraction * float(light.uniform(0.7, 1.6)),
        noise_seed=derive(seed, "noise"),
    )  # fmt: skip


def _span(frames: int, rng: np.random.Generator) -> Span:
    start = round(frames * rng.uniform(0.08, 0.22))
    peak = start + max(2, round(frames * rng.uniform(0.18, 0.38)))
    end = peak + max(2, round(frames * rng.uniform(0.16, 0.32)))
    return Span(start, peak, min(end, frames - 1))


def _others(
    traits: Traits, size: int, frames: int, span: Span, distraction: float, rng: np.random.Generator
) -> tuple[tuple[Motion, Span], ...]:
    """A fidget at any time, and in some clips a blink, which spares onset and apex: whoever annotates takes open eyes."""
    longest = distraction * float(rng.uniform(0.1, 0.6)) * size / 128
    start = int(rng.integers(-frames // 4, frames // 2))
    peak = start + int(rng.integers(3, frames // 3 + 2))
    fidget = fidget_of(traits, size, longest, rng) if longest else Motion(())
    found = [(fidget, Span(start, peak, peak + int(rng.integers(3, frames // 3 + 2))))]
    free = [k for k in range(_BLINK, frames - _BLINK) if min(abs(k - span.start), abs(k - span.peak)) > _BLINK]
    middle = free[int(rng.integers(len(free)))]
    if rng.random() < _BLINKING and distraction:
        found.append((blink_of(traits, size), Span(middle - _BLINK - 1, middle, middle + _BLINK + 1)))
    return tuple(found)
