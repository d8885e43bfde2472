"""mer_fast.visualize: the colour wheel against its published description, and figures that show what they are given."""

from __future__ import annotations

import sys

import matplotlib.image
import numpy as np
import pytest

from mer_fast import visualize
from mer_fast.errors import MerFastError


def published_color(u: float, v: float) -> list[int]:
    """Middlebury's computeColor, one pixel at a time, with lengths already scaled to at most 1."""
    arcs = [(15, (255, None, 0), 1, True), (6, (None, 255, 0), 0, False), (4, (0, 255, None), 2, True),
            (11, (0, None, 255), 1, False), (13, (None, 0, 255), 0, True), (6, (255, 0, None), 2, False)]  # fmt: skip
    wheel = []
    for count, color, channel, rises in arcs:
        for step in range(count):
            entry = list(color)
            entry[channel] = 255 * step // count if rises else 255 - 255 * step // count
            wheel.append(entry)
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 1)
    low = int(place)
    high = (low + 1) % len(wheel)
    mixed = [(1 - (place - low)) * wheel[low][c] / 255 + (place - low) * wheel[high][c] / 255 for c in range(3)]
    return [int(255 * (1 - np.hypot(u, v) * (1 - value))) for value in mixed]


def test_wheel_has_the_pure_colours_where_its_arcs_begin():
    wheel = visualize.color_wheel()
    assert wheel.shape == (55, 3)
    pure = {0: (1, 0, 0), 15: (1, 1, 0), 21: (0, 1, 0), 25: (0, 1, 1), 36: (0, 0, 1), 49: (1, 0, 1)}
    for index, color in pure.items():
        np.testing.assert_allclose(wheel[index], color)


def test_colours_are_middleburys():
    rng = np.random.default_rng(0)
    angle, length = rng.uniform(-np.pi, np.pi, 200), rng.uniform(0, 1, 200)
    flow = np.stack([length * np.cos(angle), length * np.sin(angle)])[:, None, :]
    ours = visualize.color_flow(flow, scale=1.0)[0]
    published = np.array([published_color(*flow[:, 0, k]) for k in range(200)])
    assert np.abs(ours.astype(int) - published).max() <= 1  # the published wheel is rounded to whole levels


def test_no_motion_is_white_unknown_is_black_and_longer_is_darker():
    flow = np.zeros((2, 1, 5), np.float32)
    flow[0, 0] = [0, np.nan, 1e10, 2.0, 1.0]
    picture = visualize.color_flow(flow, scale=1.0)[0]
    assert picture.dtype == np.uint8
    assert picture[0].tolist() == [255, 255, 255]
    assert picture[1].tolist() == picture[2].tolist() == [0, 0, 0]
    assert picture[4].tolist() == [255, 0, 0]
    assert picture[3].tolist() == [191, 0, 0]


def test_scale_ignores_stray_and_unknown_vectors():
    flow = np.ones((2, 50, 50))
    flow[:, 0, 0] = 100
    flow[:, 0, 1] = np.nan
    flow[:, 0, 2] = 1e10
    assert visualize.flow_scale(flow) == pytest.approx(2**0.5)
    assert visualize.flow_scale(np.zeros((2, 4, 4))) == 1.0
    assert visualize.flow_scale(np.full((2, 4, 4), np.nan)) == 1.0


def test_a_flow_of_another_shape_is_refused():
    with pytest.raises(MerFastError, match="shape"):
        visualize.color_flow(np.zeros((4, 4, 2)))


def test_legend_is_a_white_hearted_disc_on_white():
    legend = visualize.wheel_legend(101)
    assert legend.shape == (101, 101, 3)
    assert legend[0, 0].tolist() == [255, 255, 255]
    assert legend[50, 50].min() >= 250
    assert legend[50, 99].tolist()[0] > 250 and legend[50, 99, 1:].max() < 40  # right is red


@pytest.fixture
def face():
    return np.random.default_rng(1).integers(0, 256, (64, 64)).astype(np.uint8)


def figures(face):
    bump = np.exp(-((np.mgrid[:64, :64] - 32.0) ** 2).sum(0) / 80)
    flow = np.stack([bump, -2 * bump])
    color = np.repeat(face[..., None], 3, axis=2)
    return {
        "face": visualize.face_figure(color, (8, 8, 40, 40)),
        "crop": visualize.crop_figure(face, "Onset"),
        "flow": visualize.flow_figure(flow, face),
        "flow alone": visualize.flow_figure(flow),
        "still": visualize.flow_figure(np.zeros((2, 64, 64)), face),
        "strain": visualize.strain_figure(bump[None], face),
        "strain alone": visualize.strain_figure(np.zeros((64, 64))),
        "curve": visualize.curve_figure(np.array([0, 1.0, 2.0, 1.0]), 5, 7, 25.0, "difference"),
        "curve of two": visualize.curve_figure(np.array([0, 1.0]), 0, 1, None, "difference"),
        "tim": visualize.tim_figure(np.stack([face] * 7)),
        "tim of one": visualize.tim_figure(face[None]),
    }


def test_every_figure_is_written_as_a_picture_with_content(face, tmp_path):
    for name, figure in figures(face).items():
        path = tmp_path / f"{name}.png"
        visualize.save_figure(figure, path)
        picture = matplotlib.image.imread(path)
        assert min(picture.shape[:2]) > 100, name
        assert picture[..., :3].std() > 0.02, name


def test_curve_names_onset_and_apex(face):
    figure = visualize.curve_figure(np.array([0, 1.0, 2.0, 1.0]), 5, 7, 25.0, "difference")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["onset: frame 5 (0.20 s)", "apex: frame 7 (0.28 s)"]
    assert list(figure.axes[0].lines[0].get_xdata()) == [5, 6, 7, 8]


def test_arrows_point_where_the_flow_does(face):
    flow = np.zeros((2, 64, 64))
    flow[0], flow[1] = 1.0, 3.0
    arrows = visualize.flow_figure(flow, face).axes[0].collections[0]
    np.testing.assert_allclose(arrows.V / arrows.U, 3.0)  # rows count downwards in the picture, as v does
    low, high = visualize.flow_figure(flow, face).axes[0].get_ylim()
    assert low > high


def test_no_global_state_of_matplotlib_is_touched(face):
    before = set(sys.modules)
    figures(face)
    assert "matplotlib.pyplot" not in set(sys.modules) - before


def test_pictures_are_written_as_they_are(tmp_path):
    image = np.random.default_rng(2).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    visualize.write_png(tmp_path / "a.png", image)
    back = np.round(matplotlib.image.imread(tmp_path / "a.png") * 255).astype(np.uint8)
    np.testing.assert_array_equal(back[..., :3], image)
