"""A made person as a picture: a shaded head with hair, eyes, brows, nose, mouth and skin texture at several scales."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mer_fast.data._optional import require
from mer_fast.data.benchmark.traits import Colour, Traits

Field = npt.NDArray[np.float64]

# Of the skin's texture: the blur's standard deviation in half-widths of the face, and the contrast in shares of the tone.
_SCALES = ((0.014, 0.035), (0.03, 0.03), (0.06, 0.02), (0.2, 0.025))


def paint(traits: Traits, side: int) -> Field:
    """The picture, float64 (side, side, 3) RGB in gray levels from 0 to 255. All edges are soft, a pixel wide at least."""
    return _Painter(traits, side).picture()


class _Painter:
    def __init__(self, traits: Traits, side: int) -> None:
        self.traits = traits
        self.unit = traits.half_width * side
        rows, columns = np.mgrid[:side, :side].astype(np.float64)
        self.x = (columns + 0.5 - traits.centre[0] * side) / self.unit
        self.y = (rows + 0.5 - traits.centre[1] * side) / self.unit
        self.across = np.abs(self.x)  # faces are painted as if symmetric; light and texture are not
        self.rng = np.random.default_rng(traits.texture_seed)
        self.canvas = np.empty((side, side, 3))

    def picture(self) -> Field:
        traits = self.traits
        slope = 1 + 0.1 * self.noise(0.8) + 0.1 * traits.light[0] * self.x
        slope *= 1 + 0.03 * self.noise(0.12) + 0.03 * self.noise(0.035)
        self.canvas[:] = np.array(traits.wall) * slope[..., None]
        self.behind()
        head = self.head()
        self.skin(head)
        self.brows()
        self.eyes()
        self.nose()
        self.mouth()
        self.hair_in_front(head)
        return self.exposed(head)

    def exposed(self, head: Field) -> Field:
        """As a camera does: so bright that the face has its gray level."""
        gray = self.canvas @ np.array([0.299, 0.587, 0.114])
        self.canvas *= self.traits.exposure / gray[head < 0.9].mean()
        return self.canvas.clip(0, 255)

    # The brushes.

    def noise(self, scale: float) -> Field:
        """Smooth noise of mean 0 and deviation 1, blurred by `scale` half-widths."""
        blur = require("scipy.ndimage").gaussian_filter
        field = blur(self.rng.standard_normal(self.x.shape), max(0.6, scale * self.unit), mode="wrap")
        return (field - field.mean()) / field.std()

    def inside(self, distance: Field, soft: float = 0.02) -> Field:
        """1 where a signed distance is negative, 0 where it is positive, and a smooth step between."""
        step = np.clip(0.5 - distance / max(soft, 1.5 / self.unit), 0, 1)
        return step * step * (3 - 2 * step)

    def blob(self, x: float, y: float, radius_x: float, radius_y: float) -> Field:
        """A soft spot on both sides, at most 1."""
        return np.exp(-(((self.across - x) / radius_x) ** 2) - ((self.y - y) / radius_y) ** 2)

    def lay(self, colour: Colour | Field, cover: Field) -> None:
        """Paints a colour over what is there, as far as `cover` says."""
        self.canvas += cover[..., None] * (np.asarray(colour) - self.canvas)

    def shade(self, factor: Field) -> None:
        self.canvas *= factor[..., None]

    # The parts, from behind to front.

    def behind(self) -> None:
        """Hair behind the head, neck, shoulders."""
        traits = self.traits
        strands = 1 + 0.13 * self.strands()
        width = 1.16 - 0.1 * np.clip(self.y, -1, 0) ** 2
        top = np.hypot(self.x / width, np.minimum(self.y + 0.15, 0) / (-0.02 - traits.crown))
        hair = self.inside(top - 1, 0.06) * self.inside(self.y - traits.long_hair, 0.25)
        self.lay(np.array(traits.hair) * strands[..., None], hair)
        neck = self.inside(self.across - 0.55 - 0.12 * np.clip(self.y - 1.5, 0, 1), 0.05) * self.inside(0.9 - self.y)
        self.lay(np.array(traits.skin) * 0.62, neck)
        shoulders = self.inside(1.95 - self.y + 0.14 * self.x**2 - 0.25 * np.exp(-((self.x / 0.5) ** 2)), 0.05)
        self.lay(np.array(traits.cloth) * (1 + 0.06 * self.noise(0.08) + 0.05 * self.noise(0.03))[..., None], shoulders)

    def strands(self) -> Field:
        """Noise drawn out along the hair."""
        blur = require("scipy.ndimage").gaussian_filter
        field = blur(self.rng.standard_normal(self.x.shape), (0.16 * self.unit, max(0.6, 0.02 * self.unit)), mode="wrap")
        return field / field.std()

    def head(self) -> Field:
        """Distance from the head's middle, 1 at its outline."""
        traits = self.traits
        down = np.clip((self.y - 0.15) / (traits.chin - 0.15), 0, 1.2)
        width = 1 - traits.jaw * down**1.6
        height = np.where(self.y < 0.15, (self.y - 0.15) / (traits.crown - 0.15), down)
        return (self.across / width) ** 2.2 + np.abs(height) ** 2.4

    def relief(self, head: Field) -> Field:
        """The surface's height towards the camera, in half-widths."""
        traits = self.traits
        (eye_x, eye_w, _, _), (tip, wings) = traits.eye, traits.nose
        height = 0.85 * np.sqrt(np.clip(1 - head, 0, 1) + 0.02)
        ridge = np.exp(-((self.x / 0.1) ** 2)) * self.inside(self.y - tip, 0.2) * self.inside(-0.25 - self.y, 0.5)
        height += 0.16 * ridge * np.clip(0.35 + 0.75 * (self.y + 0.2) / (tip + 0.2), 0, 1.1)
        height += 0.1 * np.exp(-((self.x / 0.13) ** 2) - ((self.y - tip) / 0.1) ** 2)
        height += 0.05 * self.blob(wings * 0.75, tip + 0.03, 0.07, 0.07)
        height -= 0.1 * self.blob(eye_x, 0.0, eye_w * 1.15, 0.17) + 0.04 * self.blob(eye_x * 0.75, 0.02, 0.08, 0.1)
        height += 0.05 * self.blob(eye_x, traits.brow[0] - 0.02, 0.3, 0.1)
        height += 0.06 * self.blob(0.55, 0.5, 0.25, 0.25)
        height += 0.05 * np.exp(-((self.x / 0.34) ** 2) - ((self.y - traits.mouth[0]) / 0.2) ** 2)
        height += 0.05 * np.exp(-((self.x / 0.25) ** 2) - ((self.y - traits.chin + 0.2) / 0.14) ** 2)
        return height

    def skin(self, head: Field) -> None:
        """The head's skin, lit, with its texture and folds."""
        traits = self.traits
        down, right = np.gradient(self.relief(head), 1 / self.unit)
        to_light = (-right * traits.light[0] - down * traits.light[1] + traits.light[2]) / np.sqrt(1 + right**2 + down**2)
        lit = traits.ambient + (1 - traits.ambient) * np.clip(to_light, 0, None) * 1.15
        for scale, contrast in _SCALES:
            lit = lit * (1 + traits.texture * contrast * self.noise(scale))
        colour = np.array(traits.skin) * lit[..., None]
        # Cheeks, nose and ears are redder.
        red = 0.06 * (
            self.blob(0.55, 0.5, 0.28, 0.25) + np.exp(-((self.x / 0.15) ** 2) - ((self.y - traits.nose[0]) / 0.15) ** 2)
        )
        colour *= 1 + red[..., None] * np.array([0.6, -0.6, -0.6])
        freckles = np.clip(self.noise(0.016) - 2.1, 0, 1.2) * self.blob(0.35, 0.42, 0.5, 0.5)
        colour *= (1 - 0.16 * freckles * traits.texture)[..., None]
        self.lay(colour, self.inside(head - 1, 0.05))
        self.folds()
        if traits.beard > 0:
            edge = 0.98 - 0.5 * self.across**2 + 0.06 * self.noise(0.08)
            low = self.inside(edge - self.y, 0.35) * self.inside(head - 1, 0.05)
            hairs = np.clip(0.75 + 0.25 * self.noise(0.018), 0, 1)
            self.lay(np.array(traits.hair) * 0.8 * (0.4 + 0.6 * lit[..., None]), 0.8 * traits.beard * low * hairs)

    def folds(self) -> None:
        """From the nose to the mouth's corners, under the eyes, on the forehead."""
        traits = self.traits
        wing, corner = traits.nose[1] + 0.03, traits.mouth[1] + 0.1
        share = np.clip((self.y - traits.nose[0]) / (traits.mouth[0] - traits.nose[0]), 0, 1)
        line = wing + (corner - wing) * share**0.8
        reach = self.inside(traits.nose[0] - 0.02 - self.y, 0.1) * self.inside(self.y - traits.mouth[0] - 0.02, 0.15)
        self.shade(1 - 0.11 * traits.texture * np.exp(-(((self.across - line) / 0.035) ** 2)) * reach)
        bag = 0.17 - 0.3 * (self.across - traits.eye[0]) ** 2
        near = np.exp(-(((self.across - traits.eye[0]) / 0.17) ** 2))
        self.shade(1 - 0.09 * traits.texture * np.exp(-(((self.y - bag) / 0.03) ** 2)) * near)
        for height in (0.17, 0.28):
            wave = traits.brow[0] - height + 0.02 * np.cos(4 * self.x + traits.texture_seed % 7)
            crease = np.exp(-(((self.y - wave) / 0.02) ** 2) - (self.x / 0.5) ** 4)
            self.shade(1 - 0.06 * (traits.texture - 0.5) * crease)

    def brows(self) -> None:
        traits = self.traits
        middle, length, thick, arch, slope = traits.brow
        along = (self.across - traits.eye[0] * 1.02) / length
        line = middle - arch * (1 - along**2) + slope * along * 0.5
        half = thick * np.clip(1.0 - 0.45 * np.clip(along, -0.3, 1), 0.25, None)
        hairs = 0.78 + 0.2 * self.noise(0.018)
        cover = self.inside(np.abs(self.y - line) - half, 0.05) * self.inside(np.abs(along) - 1, 0.25) * hairs.clip(0, 1)
        self.lay(np.array(traits.hair) * 0.75, 0.9 * cover)

    def eyes(self) -> None:
        traits = self.traits
        x, width, opening, tilt = traits.eye
        along = (self.across - x) / width
        axis = tilt * along
        bow = np.clip(1 - along**2, 0, 1)
        upper, lower = axis - opening * 1.15 * bow**0.7, axis + opening * 0.8 * bow**0.9
        within = self.inside(np.abs(along) - 1, 0.06)
        between = self.inside(upper - self.y, 0.02) * self.inside(self.y - lower, 0.02) * within
        light = 0.72 + 0.28 * traits.ambient
        self.lay((228 * light, 222 * light, 216 * light), between)
        radius = np.hypot(self.across - x, self.y - axis + 0.01)
        self.lay(traits.iris, between * self.inside(radius - 0.085, 0.02))
        self.lay((16, 13, 12), between * self.inside(radius - 0.036, 0.02))
        side = np.sign(self.x) * traits.light[0]  # the highlight lies on the light's side of either eye
        self.lay(
            (245, 245, 245),
            0.9 * between * np.exp(-(((self.across - x - 0.03 * np.sign(side)) ** 2 + (self.y + 0.03) ** 2) / 0.00045)),
        )
        self.shade(1 - 0.35 * between * self.inside(self.y - upper - 0.03, 0.06))
        lash = np.exp(-(((self.y - upper) / 0.02) ** 2)) * self.inside(np.abs(along) - 1.05, 0.1)
        self.lay((30, 22, 20), 0.8 * lash)
        self.shade(1 - 0.3 * np.exp(-(((self.y - lower) / 0.016) ** 2)) * within)
        crease = np.exp(-(((self.y - upper + 0.055) / 0.018) ** 2)) * self.inside(np.abs(along) - 0.95, 0.2)
        self.shade(1 - 0.22 * crease)

    def nose(self) -> None:
        tip, wing = self.traits.nose
        self.shade(1 - 0.68 * self.blob(wing * 0.45, tip + 0.085, wing * 0.24, 0.028))
        self.shade(1 - 0.2 * np.exp(-((self.x / (wing * 1.1)) ** 2) - ((self.y - tip - 0.12) / 0.035) ** 2))
        curve = wing + 0.02 - 0.8 * (self.y - tip - 0.01) ** 2
        alar = np.exp(-(((self.across - curve) / 0.022) ** 2)) * self.inside(np.abs(self.y - tip - 0.01) - 0.09, 0.05)
        self.shade(1 - 0.25 * alar)

    def mouth(self) -> None:
        traits = self.traits
        middle, width, above, below, corners = traits.mouth
        along = self.x / width
        bow = np.clip(1 - along**2, 0, 1)
        line = middle + corners * along**2 - 0.012 * np.cos(6 * along) * bow
        top = line - above * bow**0.8 * (1 + 0.25 * np.cos(7 * along) * bow - 0.35 * np.exp(-((along / 0.14) ** 2)))
        bottom = line + below * bow**0.75
        red = np.array(traits.skin) * (0.86, 0.66, 0.66) + (6.0, 0.0, 2.0)
        furrows = (1 + 0.05 * self.noise(0.02))[..., None]
        within = self.inside(np.abs(along) - 1, 0.08)
        shine = 0.16 * np.exp(-(((self.y - line - below * 0.5) / 0.03) ** 2) - (self.x / (0.5 * width)) ** 2)
        self.lay(red * 0.86 * furrows, 0.85 * self.inside(top - self.y, 0.03) * self.inside(self.y - line, 0.02) * within)
        lower = self.inside(line - self.y, 0.02) * self.inside(self.y - bottom, 0.03) * within
        self.lay(red * furrows * (1 + shine[..., None]), 0.85 * lower)
        self.lay(red * 0.28, 0.8 * np.exp(-(((self.y - line) / 0.018) ** 2)) * self.inside(np.abs(along) - 1.08, 0.1))
        self.shade(1 - 0.16 * np.exp(-((self.x / (0.7 * width)) ** 2) - ((self.y - middle - below - 0.06) / 0.035) ** 2))

    def hair_in_front(self, head: Field) -> None:
        """Above the hairline."""
        traits = self.traits
        line = traits.hairline + 0.5 * np.clip(self.across, 0, 1.1) ** 3 * 1.1 + 0.03 * self.noise(0.06)
        cover = self.inside(self.y - line, 0.1) * self.inside(head - 1.12, 0.1)
        self.lay(np.array(traits.hair) * (1 + 0.15 * self.strands())[..., None], cover)
