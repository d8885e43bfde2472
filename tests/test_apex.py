"""The apex of planted micro-expressions is found, in a stream, whatever the noise and the light do."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mer_fast.data import crop, spot_apex, synthetic_clip
from mer_fast.errors import MerFastError

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
pytest.importorskip("skimage.data", reason="scikit-image is not installed")

REGIONS = ("brow", "eye", "mouth")


@functools.cache
def faces(region: Any, amplitude: float, seed: int, size: int = 128, **settings: Any) -> np.ndarray:
    """Crops of a planted clip, (T, H, W) uint8, as an analysis would make them: onset 4, apex 13, offset 21 of 26 frames."""
    clip = synthetic_clip(region, amplitude=amplitude, seed=seed, size=size, frames=26, onset=4, apex=13, offset=21, **settings)
    box = clip.face.square(1.1)
    return np.stack([crop(frame, box, box.width) for frame in clip.frames])


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("amplitude", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("region", REGIONS)
def test_difference_finds_the_planted_apex(region: str, amplitude: float, seed: int) -> None:
    apex = spot_apex(faces(region, amplitude, seed), onset=4)
    assert abs(apex.index - 13) <= 2


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("amplitude", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("region", REGIONS)
def test_flow_finds_the_planted_apex(region: str, amplitude: float, seed: int) -> None:
    apex = spot_apex(faces(region, amplitude, seed), onset=4, method="flow")
    assert abs(apex.index - 13) <= 2


@pytest.mark.parametrize("region", REGIONS)
def test_noise_does_not_win(region: str) -> None:
    assert abs(spot_apex(faces(region, 1.0, 5, noise=4.0), onset=4).index - 13) <= 2


@pytest.mark.parametrize("method", ["difference", "flow"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lighting_does_not_win(method: Any, seed: int) -> None:
    assert abs(spot_apex(faces("mouth", 1.0, seed, lighting=15.0), onset=4, method=method).index - 13) <= 2


@pytest.mark.parametrize("method", ["difference", "flow"])
def test_a_lamp_that_dims_does_not_win(method: Any) -> None:
    crops = faces("brow", 1.5, 0).astype(np.float64)
    dimmed = np.stack([frame * (1 - 0.008 * k) for k, frame in enumerate(crops)]).round().astype(np.uint8)
    assert abs(spot_apex(dimmed, onset=4, method=method).index - 13) <= 2


@pytest.mark.parametrize("method", ["difference", "flow"])
def test_a_head_that_drifts_does_not_win(method: Any) -> None:
    from scipy.ndimage import shift

    crops = faces("mouth", 3.0, 0)
    drifting = np.stack([shift(frame, (0, 0.04 * k), order=3, mode="nearest") for k, frame in enumerate(crops)])
    assert abs(spot_apex(drifting, onset=4, method=method).index - 13) <= 2


def test_the_curve() -> None:
    crops = faces("mouth", 3.0, 0)
    apex = spot_apex(crops, onset=4)
    assert apex.curve.dtype == np.float32 and apex.curve.shape == (26,)
    assert not apex.curve[:5].any() and (apex.curve[5:] > 0).all()
    assert apex.index == np.argmax(apex.curve)
    assert apex.curve[13] > 2 * max(apex.curve[5], apex.curve[25])
    index, curve = apex
    assert index == apex.index and curve is apex.curve


@pytest.mark.parametrize("method", ["difference", "flow"])
def test_the_batch_changes_nothing(method: Any) -> None:
    crops = faces("eye", 1.0, 0)
    whole = spot_apex(crops, onset=4, method=method, batch=64)
    for batch in (1, 5):
        parts = spot_apex(iter(crops), onset=4, method=method, batch=batch)
        assert parts.index == whole.index
        assert np.allclose(parts.curve, whole.curve, rtol=1e-4)


def test_memory_is_for_one_batch() -> None:
    crops = faces("eye", 1.0, 0)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def stream() -> Iterator[np.ndarray]:
        nonlocal most
        for k in range(200):
            frame = crops[k % len(crops)].copy()
            alive.append(weakref.ref(frame))
            most = max(most, sum(ref() is not None for ref in alive))
            yield frame

    done: list[int] = []
    spot_apex(stream(), onset=20, batch=8, progress=done.append)
    assert most <= 8 + 3
    assert done == [*range(29, 200, 8), 200]


def test_a_still_clip_and_flat_frames() -> None:
    flat = np.full((6, 32, 32), 80, np.uint8)
    still = spot_apex(flat, onset=2)
    assert still.index == 3 and np.allclose(still.curve, 0, atol=1e-4)
    lit = flat + np.arange(6, dtype=np.uint8)[:, None, None]
    assert np.allclose(spot_apex(lit).curve, 0, atol=1e-4)
    assert spot_apex(np.zeros((3, 1, 1), np.uint8)).index == 1


def test_two_frames_are_enough() -> None:
    crops = faces("mouth", 3.0, 0)
    assert spot_apex(crops[:2]).index == 1
    assert spot_apex(crops[:6], onset=4).index == 5


@pytest.mark.parametrize(("count", "onset"), [(0, 0), (1, 0), (5, 4), (3, 7)])
def test_too_few_frames(count: int, onset: int) -> None:
    with pytest.raises(MerFastError, match=f"frames holds {count} frames and the onset is {onset}: at least 2"):
        spot_apex(iter(np.zeros((count, 16, 16), np.uint8)), onset=onset)


@pytest.mark.parametrize(
    ("frames", "settings", "words"),
    [
        (np.zeros((4, 8, 8), np.uint8), {"method": "lbp"}, "method 'lbp' is unknown"),
        (np.zeros((4, 8, 8), np.uint8), {"onset": -1}, "onset=-1"),
        (np.zeros((4, 8, 8), np.uint8), {"batch": 0}, "batch=0"),
        (np.zeros((4, 8, 8)), {}, r"frames\[0\] is float64 \(8, 8\): give uint8"),
        (np.zeros((4, 8, 8, 3), np.uint8), {}, r"frames\[0\] is uint8 \(8, 8, 3\)"),
        (
            [np.zeros((8, 8), np.uint8)] * 3 + [np.zeros((8, 9), np.uint8)],
            {},
            r"frames\[3\] is \(8, 9\) and the first frame \(8, 8\)",
        ),
    ],
)
def test_bad_arguments_are_named(frames: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MerFastError, match=words) as error:
        spot_apex(frames, **settings)
    assert "\n" not in str(error.value)
