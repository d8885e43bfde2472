"""Pictures of motion for people: the colour wheel, strain as heat, the motion curve, the frames in between.

Arrays come in as NumPy; figures come out as matplotlib `Figure` objects, which own their canvas: nothing global is touched.
"""

from __future__ import annotations

import functools
import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mer_fast.errors import MerFastError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = npt.NDArray[np.uint8]
Field = npt.NDArray[np.floating[Any]]

_WHEEL_STEPS = ((15, 0, 1, +1), (6, 1, 0, -1), (4, 1, 2, +1), (11, 2, 1, -1), (13, 2, 0, +1), (6, 0, 2, -1))
_ONSET, _APEX, _INK = "#2b6cb0", "#c05621", "#444444"
_FULL_COLOR_PERCENTILE = 99.5  # a few stray pixels must not bleach the picture


@functools.cache
def color_wheel() -> npt.NDArray[np.float64]:
    """The 55 colours of the Middlebury wheel (Baker et al., IJCV 2011), (55, 3) RGB from 0 to 1, beginning with red.

    Each arc keeps one channel full and raises or lowers another in equal steps: red to yellow in 15, yellow to green in 6,
    green to cyan in 4, cyan to blue in 11, blue to magenta in 13, magenta to red in 6, as the eye tells these hues apart.
    """
    arcs = []
    for steps, full, moving, direction in _WHEEL_STEPS:
        arc = np.zeros((steps, 3))
        arc[:, full] = 1.0
        ramp = np.arange(steps) / steps
        arc[:, moving] = ramp if direction > 0 else 1.0 - ramp
        arcs.append(arc)
    return np.concatenate(arcs)


def flow_scale(flow: Field) -> float:
    """The length in pixels that gets the full colour: the longest but for 0.5% of the vectors; 1 where nothing moves."""
    lengths = np.hypot(flow[0], flow[1])
    known = lengths[np.isfinite(lengths) & (lengths < 1e9)]
    return (float(np.percentile(known, _FULL_COLOR_PERCENTILE)) if known.size else 0.0) or 1.0


def color_flow(flow: Field, scale: float | None = None) -> Image:
    """Flow as a picture: hue is the direction (red right, yellow-green down, cyan left, blue-violet up), strength is the length.

    Args:
        flow: (2, H, W), u right and v down, in pixels. Unknown flow (NaN, or above 1e9 as in Middlebury's files) becomes black.
        scale: the length in pixels that gets the full colour; `flow_scale(flow)` unless given. Longer vectors are darkened.

    Returns:
        (H, W, 3) uint8 RGB; no motion is white.
    """
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise MerFastError(f"flow must have the shape (2, H, W), got {flow.shape}")
    known = np.asarray(np.isfinite(flow).all(axis=0) & (np.abs(flow) < 1e9).all(axis=0))
    u, v = np.where(known, np.asarray(flow, dtype=np.float64), 0.0) / (flow_scale(flow) if scale is None else scale)
    wheel = color_wheel()
    turn = (np.arctan2(-v, -u) / np.pi + 1.0) / 2.0 * (len(wheel) - 1)
    index = np.floor(turn).astype(np.intp)
    fraction = (turn - index)[..., None]
    hue = (1.0 - fraction) * wheel[index] + fraction * wheel[(index + 1) % len(wheel)]
    length = np.hypot(u, v)[..., None]
    color = np.where(length <= 1.0, 1.0 - length * (1.0 - hue), 0.75 * hue)
    picture: Image = np.floor(255.0 * np.where(known[..., None], color, 0.0)).astype(np.uint8)
    return picture


def wheel_legend(size: int = 151) -> Image:
    """The colours of all directions as a disc, (size, size, 3) uint8 RGB: the middle is no motion, the rim the full colour."""
    axis = np.linspace(-1.0, 1.0, size) * (size / (size - 1))
    u, v = np.meshgrid(axis, axis)
    disc = color_flow(np.stack([u, v]), scale=1.0)
    disc[np.hypot(u, v) > 1.0] = 255
    return disc


def write_png(path: str | os.PathLike[str], image: Image) -> None:
    """Writes an (H, W, 3) uint8 RGB picture as PNG, its pixels unchanged."""
    from matplotlib.image import imsave

    imsave(path, image, format="png")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG, cut to what is drawn on it."""
    figure.savefig(path, format="png", dpi=120, bbox_inches="tight", pad_inches=0.12, facecolor="white")


def face_figure(frame: Image, box: tuple[int, int, int, int]) -> Figure:
    """The whole frame, (H, W, 3), with the face box (x, y, width, height) that was cut out."""
    from matplotlib.patches import Rectangle

    height, width = frame.shape[:2]
    figure = _figure(6.4, 6.4 * height / width)
    axes = figure.add_axes((0, 0, 1, 1))
    _show(axes, frame)
    axes.add_patch(Rectangle(box[:2], box[2], box[3], fill=False, edgecolor="#ffd400", linewidth=2))
    return figure


def crop_figure(crop: Image, title: str) -> Figure:
    """One gray face crop, (H, W), enlarged, with a line of text above it."""
    figure = _figure(3.4, 3.6)
    axes = figure.add_subplot()
    _show(axes, crop)
    axes.set_title(title, fontsize=11)
    return figure


def flow_figure(flow: Field, face: Image | None = None, scale: float | None = None) -> Figure:
    """Flow, (2, H, W): arrows on the gray face (H, W) when it is given, the colours, and the wheel that explains them.

    `scale` is the length in pixels that gets the full colour, `flow_scale(flow)` unless given: two flows compare when it is one.
    """
    scale = flow_scale(flow) if scale is None else scale
    figure = _figure(11.2 if face is not None else 7.4, 4.3)
    panels = figure.subplots(1, 3 if face is not None else 2, width_ratios=[4, 4, 2.6] if face is not None else [4, 2.6])
    if face is not None:
        times = _draw_arrows(panels[0], flow, face, scale)
        lengthened = f"{times:g} times as long" if times > 1 else "at their true length"
        panels[0].set_title(f"Where each point moved\n(arrows drawn {lengthened})", fontsize=11)
    # The few vectors beyond the scale are drawn at the rim's colour: a darker shade would need one more line of explanation.
    lengths = np.maximum(np.hypot(flow[0], flow[1]), 1e-12)
    drawn = np.where(lengths < 1e9, flow * np.minimum(1.0, 0.9999 * scale / lengths), flow)
    panels[-2].imshow(color_flow(drawn, scale), interpolation="nearest")
    panels[-2].set(xticks=[], yticks=[])
    panels[-2].set_title("The same motion in colours:\nhue is direction, strength is distance", fontsize=11)
    _draw_legend(panels[-1], scale)
    figure.tight_layout()
    return figure


def strain_figure(strain: Field, face: Image | None = None) -> Figure:
    """Optical strain, (1, H, W) or (H, W), as heat on the gray face (H, W) when it is given, with its scale."""
    heat = np.asarray(strain, dtype=np.float64).reshape(strain.shape[-2:])
    top = (float(np.percentile(heat, _FULL_COLOR_PERCENTILE)) if np.isfinite(heat).all() else 0.0) or 1.0
    figure = _figure(8.8 if face is not None else 4.8, 4.0)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, 2 if face is not None else 1, squeeze=False)[0]
    drawn = panels[-1].imshow(heat, cmap="inferno", vmin=0.0, vmax=top, interpolation="nearest")
    panels[-1].set_title("Strain: how much the skin\nstretches, squeezes or shears", fontsize=11)
    panels[-1].set_axis_off()
    if face is not None:
        _show(panels[0], face)
        # Opacity grows with strain, so that the face shows wherever the skin is at rest.
        panels[0].imshow(heat, cmap="inferno", vmin=0.0, vmax=top, alpha=np.clip(heat / top, 0.0, 1.0) * 0.85)
        panels[0].set_title("On the face:\nthe face shows where nothing strains", fontsize=11)
    bar = figure.colorbar(drawn, ax=list(panels), fraction=0.03, pad=0.02, aspect=28)
    bar.set_label("strain (pixels of motion per pixel)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def classes_figure(classes: Sequence[str], probabilities: Field) -> Figure:
    """The probability of each class as a bar, (C,), the most probable one in colour."""
    places = np.arange(len(classes))
    best = int(np.argmax(probabilities))
    figure = _figure(7.0, 0.6 + 0.42 * len(classes))
    axes = figure.add_subplot()
    axes.barh(places, probabilities, color=[_APEX if place == best else "#b8b8b8" for place in places], height=0.66)
    for place, share in enumerate(probabilities):
        axes.text(float(share) + 0.01, place, f"{100 * share:.1f}%", va="center", fontsize=10, color=_INK)
    axes.set_yticks(places, [_short(name) for name in classes], fontsize=11, parse_math=False)
    axes.set_xlim(0.0, 1.12)
    axes.set_xticks([])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    return figure


def relevance_figure(apex: Image, strain: Field, relevance: Field, name: str) -> Figure:
    """The apex (H, W) gray; strain (H, W) as heat on it; and what spoke for a class (red) and against it (blue), (H, W)."""
    figure = _figure(11.6, 4.0 * max(1.0, apex.shape[0] / apex.shape[1]))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, 3)
    for panel in panels:
        _show(panel, apex)
    panels[0].set_title("Apex, as the network reads it", fontsize=11)
    top = (float(np.percentile(strain, _FULL_COLOR_PERCENTILE)) if np.isfinite(strain).all() else 0.0) or 1.0
    heat = panels[1].imshow(strain, cmap="inferno", vmin=0.0, vmax=top, alpha=np.clip(strain / top, 0.0, 1.0) * 0.85)
    panels[1].set_title("Where the skin strains", fontsize=11)
    # Single pixels say little: neighbours are added up, within a fortieth of the picture.
    smooth = _smoothed(relevance, max(relevance.shape) / 40)
    most = float(np.percentile(np.abs(smooth), _FULL_COLOR_PERCENTILE)) or 1.0
    shown = np.clip(smooth / most, -1.0, 1.0)
    push = panels[2].imshow(shown, cmap="RdBu_r", vmin=-1.0, vmax=1.0, alpha=np.abs(shown) * 0.85)
    panels[2].set_title(f"What speaks for {_short(name)} (red)\nand against it (blue)", fontsize=11, parse_math=False)
    for panel, drawn, label in ((panels[1], heat, "strain (pixels per pixel)"), (panels[2], push, "share of the strongest")):
        bar = figure.colorbar(drawn, ax=panel, fraction=0.045, pad=0.02)
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=8)
    return figure


def curve_figure(curve: Field, onset: int, apex: int, fps: float | None, label: str) -> Figure:
    """How far each frame is from the onset frame, with onset and apex marked.

    Args:
        curve: (K,), entry k is frame `onset + k`.
        fps: frames a second; None where that is not known.
        label: what the curve is, with its unit.
    """
    frames = onset + np.arange(len(curve))
    figure = _figure(8.0, 3.0)
    axes = figure.add_subplot()
    axes.plot(frames, curve, color=_INK, linewidth=1.4)
    axes.fill_between(frames, curve, color=_INK, alpha=0.08, linewidth=0)
    for row, (name, frame, color) in enumerate((("onset", onset, _ONSET), ("apex", apex, _APEX))):
        when = f" ({frame / fps:.2f} s)" if fps else ""
        axes.axvline(frame, color=color, linewidth=1.2, linestyle="--")
        axes.plot([frame], [curve[frame - onset]], "o", color=color, markersize=6)
        # One row of text for each, written towards the middle: they never meet, however close the frames are.
        axes.annotate(
            f"{name}: frame {frame}{when}", (frame, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 4 + 15 * row),
            textcoords="offset points", color=color, fontsize=10, ha="left" if frame - onset < len(curve) / 2 else "right",
        )  # fmt: skip
    axes.set_xlabel("frame")
    axes.set_ylabel(label, fontsize=9)
    axes.margins(x=0.01)
    axes.set_ylim(bottom=0.0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def tim_figure(clip: Image, columns: int = 5) -> Figure:
    """The frames of a gray clip, (T, H, W), side by side in reading order, each with its number."""
    rows = -(-len(clip) // columns)
    columns = min(columns, len(clip))
    figure = _figure(1.7 * columns, 1.9 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.05, "hspace": 0.22}).ravel()
    for number, panel in enumerate(panels):
        panel.set_axis_off()
        if number < len(clip):
            _show(panel, clip[number])
            note = " (onset)" if number == 0 else " (apex)" if number == len(clip) - 1 else ""
            panel.set_title(f"{number + 1}{note}", fontsize=9, pad=3)
    return figure


def confusion_figure(confusion: npt.NDArray[np.integer[Any]], classes: Sequence[str]) -> Figure:
    """A confusion matrix (C, C), rows the true classes: counts, and the share of its row as the strength of the colour."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.95 * len(classes)
    figure = _figure(side + 0.6, side)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for row, column in np.ndindex(*confusion.shape):
        axes.text(
            column, row, f"{confusion[row, column]}\n{shares[row, column]:.0%}", ha="center", va="center", fontsize=11,
            color="white" if shares[row, column] > 0.55 else "#222222",
        )  # fmt: skip
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=30 if len(classes) > 3 else 0, fontsize=10)
    axes.set_yticks(places, classes, fontsize=10)
    axes.set_xlabel("taken for", fontsize=11)
    axes.set_ylabel("is", fontsize=11)
    axes.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return figure


def clip_figure(onset: Image, apex: Image, flow: Field) -> Figure:
    """A clip in one row: the gray crops (H, W) of onset and apex, the flow between them (2, H, W) as colours, and their wheel."""
    figure = _figure(10.2, 2.9)
    panels = figure.subplots(1, 4, width_ratios=[3, 3, 3, 2.4])
    scale = flow_scale(flow)
    lengths = np.maximum(np.hypot(flow[0], flow[1]), 1e-12)
    for panel, picture, title in zip(panels, (onset, apex), ("onset", "apex"), strict=False):
        _show(panel, picture)
        panel.set_title(title, fontsize=11)
    panels[2].imshow(color_flow(flow * np.minimum(1.0, 0.9999 * scale / lengths), scale), interpolation="nearest")
    panels[2].set(xticks=[], yticks=[])
    panels[2].set_title("motion between them", fontsize=11)
    _draw_legend(panels[3], scale)
    panels[3].set_title(f"the rim is {scale:.2g} px", fontsize=10)
    figure.tight_layout()
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _show(axes: Axes, image: Image) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()


def _draw_arrows(axes: Axes, flow: Field, face: Image, scale: float) -> float:
    """Draws a grid of arrows where there is motion worth an arrow; returns how many times too long they are."""
    height, width = flow.shape[1:]
    step = max(1, round(max(height, width) / 18))
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    u, v = np.nan_to_num(flow[:, rows, columns])
    times = _round_factor(1.5 * step / scale)
    lengths = np.hypot(u, v)
    moving = (lengths > 0.2 * scale) & (lengths < 1e9)
    _show(axes, face)
    axes.quiver(
        columns[moving], rows[moving], u[moving] * times, v[moving] * times, angles="xy", scale_units="xy", scale=1.0,
        color="#ffd400", edgecolor="black", linewidth=0.4, width=0.006, headwidth=3, headlength=3, headaxislength=2.6,
    )  # fmt: skip
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    return times


def _smoothed(field: Field, sigma: float) -> Field:
    from scipy.ndimage import gaussian_filter

    smooth: Field = gaussian_filter(np.asarray(field, dtype=np.float64), sigma)
    return smooth


def _short(name: str) -> str:
    """A class's name on one line that fits a picture."""
    return textwrap.shorten(name, 32, placeholder=" ...") or name[:32]


def _round_factor(factor: float) -> float:
    """The nearest of 1, 2, 5, 10, 20, ... below `factor`, so that the caption stays readable."""
    steps = [mantissa * 10.0**power for power in range(5) for mantissa in (1, 2, 5)]
    return max((step for step in steps if step <= factor), default=1.0)


def _draw_legend(axes: Axes, scale: float) -> None:
    axes.imshow(wheel_legend(301), extent=(-1, 1, 1, -1), interpolation="bilinear")
    axes.set_xlim(-1.75, 1.75)
    axes.set_ylim(1.45, -1.6)
    axes.set_axis_off()
    for text, x, y in (("right", 1.08, 0.0), ("left", -1.08, 0.0), ("up", 0.0, -1.08), ("down", 0.0, 1.08)):
        horizontal = "center" if x == 0 else "left" if x > 0 else "right"
        vertical = "center" if y == 0 else "bottom" if y < 0 else "top"
        axes.text(x, y, text, ha=horizontal, va=vertical, fontsize=10, color=_INK)
    axes.text(0.0, 0.0, "still", ha="center", va="center", fontsize=8, color=_INK)
    axes.set_title("How to read the colours:\n" + f"white is still, the rim is {scale:.2g} px", fontsize=11)
