"""Crops of eyes and mouth, and gray values about zero."""

import numpy as np
import pytest
import torch

from mer_fast.data import Box, Normalisation, eyes_and_mouth
from mer_fast.errors import MerFastError

H, W = 90, 120


def face(dx=0.0, dy=0.0):
    """68 landmarks of which only those that bound a region are put anywhere in particular: eyes rows 20 to 40 and columns
    30 to 80, mouth rows 50 to 70 and columns 32 to 76."""
    points = np.full((68, 2), 45.0)
    points[19, 1], points[1], points[15, 0] = 20, (30, 40), 80
    points[2], points[6, 1], points[14, 0] = (32, 50), 70, 76
    return points + np.array((dx, dy))


def clip_of(frames=3):
    return np.random.default_rng(1).random((frames, H, W))


def centres(*args, frames=3, height=H, **kwargs):
    """(row, column) of the centre of the eyes and of the mouth in each frame, (2, frames, 2): a resize that is symmetric
    keeps the mean of a ramp."""
    ramps = (np.broadcast_to(ramp, (frames, height, W)).astype("float64") for ramp in np.mgrid[:height, :W])
    return torch.stack([torch.stack(eyes_and_mouth(ramp, *args, **kwargs)).mean((1, 3, 4)) for ramp in ramps], -1).numpy()


def test_regions_are_those_of_the_landmarks():
    eyes, mouth = eyes_and_mouth(clip_of(), face())
    assert eyes.shape == mouth.shape == (1, 3, 32, 32)
    eyes, mouth = centres(face())
    np.testing.assert_allclose(eyes, [(29.5, 54.5)] * 3, atol=0.3)
    np.testing.assert_allclose(mouth, [(59.5, 53.5)] * 3, atol=0.3)


def test_crops_are_the_pixels_where_nothing_is_resized():
    points = face()
    points[1, 1], points[15, 0] = 52, 62  # eyes 32x32
    clip = torch.rand(2, H, W, dtype=torch.float64)
    eyes, _ = eyes_and_mouth(clip, points)
    torch.testing.assert_close(eyes[0], clip[:, 20:52, 30:62])


def test_antialiasing_averages_what_it_leaves_out():
    clip = np.zeros((1, H, W))
    clip[..., ::2] = 1  # stripes that plain bilinear sampling would turn into new ones
    eyes, _ = eyes_and_mouth(clip, face(), size=8)
    assert (eyes - 0.5).abs().max() < 0.05


def test_one_set_of_landmarks_a_frame_moves_the_crops():
    moving, clip = np.stack([face(), face(5, 0), face(0, 7)]), clip_of()
    crops = eyes_and_mouth(clip, moving)
    for frame, points in enumerate(moving):
        for got, want in zip(crops, eyes_and_mouth(clip, points), strict=True):
            torch.testing.assert_close(got[:, frame], want[:, frame])
    assert not torch.equal(crops[0][:, 1], eyes_and_mouth(clip, face())[0][:, 1])


def test_without_landmarks_the_box_gives_the_regions():
    eyes, mouth = centres(box=Box(10, 5, 100, 80), frames=1)
    np.testing.assert_allclose(eyes, [(5 + 0.375 * 80 - 0.5, 59.5)], atol=0.6)
    np.testing.assert_allclose(mouth, [(5 + 0.85 * 80 - 0.5, 59.5)], atol=0.6)
    clip = clip_of()
    for got, want in zip(eyes_and_mouth(clip), eyes_and_mouth(clip, box=Box(0, 0, W, H)), strict=True):
        assert torch.equal(got, want)


def test_the_shares_agree_with_landmarks_of_an_average_face():
    """Eyes 0.42 of the box apart and 0.36 below its top, in a box of side 100 at (10, 0)."""
    points = np.full((68, 2), 50.0)
    points[19, 1], points[1], points[15, 0] = 21.3, (13.5, 54.0), 105.0
    points[2], points[6, 1], points[14, 0] = (15.0, 66.0), 103.8, 103.6
    by_box, by_points = centres(box=Box(10, 0, 100, 100), height=110), centres(points, height=110)
    np.testing.assert_allclose(by_box, by_points, atol=1)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_every_kind_of_clip(kind, dtype, channels):
    levels = np.random.default_rng(0).integers(0, 256, (2, H, W)).astype(dtype)
    clip = levels if channels is None else np.repeat(levels[:, None], channels, 1)
    expected = eyes_and_mouth(levels.astype("float64"), face())
    for got, want in zip(eyes_and_mouth(clip if kind == "numpy" else torch.from_numpy(clip), face()), expected, strict=True):
        assert got.dtype == (torch.float64 if dtype == "float64" else torch.float32)
        torch.testing.assert_close(got, want.to(got.dtype), rtol=0, atol=1e-3)


def test_colour_becomes_gray_by_bt601():
    clip = np.zeros((1, 3, H, W))
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        one = clip.copy()
        one[:, channel] = 200
        eyes, _ = eyes_and_mouth(one, face())
        torch.testing.assert_close(eyes, torch.full_like(eyes, 200 * weight))


def test_arrays_of_any_stride():
    clip = clip_of()[::-1, ::-1, ::-1]
    for got, want in zip(eyes_and_mouth(clip, face()), eyes_and_mouth(clip.copy(), face()), strict=True):
        assert torch.equal(got, want)


def test_regions_are_cut_at_the_edge_of_the_frame():
    eyes, mouth = centres(face(-35, 25))
    np.testing.assert_allclose(eyes[:, 1], (0 + 45) / 2 - 0.5, atol=0.3)
    np.testing.assert_allclose(mouth[:, 0], (75 + 90) / 2 - 0.5, atol=0.3)


def broken(index, value):
    points = face()
    points[index] = value
    return points


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: eyes_and_mouth(clip_of(), face(500, 0)), "landmarks put the eyes at rows 20 to 40, columns 530 to 580"),
        (lambda: eyes_and_mouth(clip_of(), face(0, 45)), "landmarks put the mouth at rows 95 to 115"),
        (lambda: eyes_and_mouth(clip_of(), broken((1, 1), 20)), "landmarks put the eyes at rows 20 to 20"),
        (lambda: eyes_and_mouth(clip_of(), face()[:, ::-1][::-1]), "has no pixel: give pixels of these frames, x before y"),
        (lambda: eyes_and_mouth(clip_of(), broken(40, np.nan)), "landmarks must be finite"),
        (lambda: eyes_and_mouth(clip_of(), face()[:51]), r"landmarks must have shape \(68, 2\), or \(3, 68, 2\)"),
        (lambda: eyes_and_mouth(clip_of(), np.stack([face()] * 2)), r"one set a frame, got \(2, 68, 2\)"),
        (lambda: eyes_and_mouth(clip_of(), "face.txt"), "landmarks must be numbers, got str"),
        (lambda: eyes_and_mouth(clip_of(), face(), box=Box(0, 0, 9, 9)), "landmarks and box are both given"),
        (lambda: eyes_and_mouth(clip_of(), box=Box(200, 0, 50, 50)), "box put the eyes at"),
        (lambda: eyes_and_mouth(clip_of()[0], face()), r"clip must have shape \(T, H, W\) or \(T, C, H, W\) .* got \(90, 120\)"),
        (lambda: eyes_and_mouth(np.zeros((2, 4, 9, 9))), "with C 1 or 3"),
        (lambda: eyes_and_mouth(np.zeros((0, 9, 9))), r"got \(0, 9, 9\)"),
        (lambda: eyes_and_mouth(np.zeros((2, 9, 9), "int32")), "clip must be uint8 or float, got torch.int32"),
        (lambda: eyes_and_mouth([[1]]), "clip must be a NumPy array or a torch tensor, got list"),
        (lambda: eyes_and_mouth(clip_of(), face(), size=0), "size must be a whole number of pixels"),
        (lambda: Normalisation.of([]), "clips must hold at least one value"),
        (lambda: Normalisation.of([torch.ones(3)]), "clips must hold finite values that differ"),
        (lambda: Normalisation.of([torch.tensor([1.0, float("nan")])]), "clips must hold finite values"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(MerFastError, match=message):
        call()


def test_normalisation_is_the_published_one():
    clips = [torch.randint(0, 256, (1, 5, 8, 8), dtype=torch.uint8) for _ in range(3)]
    every = torch.stack(clips).numpy().astype("float64")
    every -= every.mean()
    every /= every.max()
    normalise = Normalisation.of(iter(clips))
    got = torch.stack([normalise(clip) for clip in clips])
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), every, atol=1e-6)
    assert normalise(clips[0].double()).dtype == torch.float64


def test_arrays_that_torch_cannot_take_as_they_are():
    clip = np.random.default_rng(0).random((2, 60, 60), dtype=np.float32)
    expected = eyes_and_mouth(clip)
    swapped, fixed = clip.astype(">f4"), clip.copy()
    fixed.flags.writeable = False
    for other in (swapped, fixed, clip[:, ::-1][:, ::-1]):
        for got, want in zip(eyes_and_mouth(other), expected, strict=True):
            assert torch.equal(got, want)
    with pytest.raises(MerFastError, match="clip must be uint8 or float, got object"):
        eyes_and_mouth(clip.astype(object))


@pytest.mark.parametrize("box", [(5, 40, 40), (float("nan"), 5, 40, 40), "face", 3])
def test_a_box_must_be_four_numbers(box):
    with pytest.raises(MerFastError, match="box must be four finite numbers"):
        eyes_and_mouth(torch.rand(2, 60, 60), box=box)
