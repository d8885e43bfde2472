"""Augmentation: what it does to pixels, flow and ATNet's feature, each clip by a draw of its own."""

import pytest
import torch

from mer_fast.data.apex_time import apex_time_sequence
from mer_fast.errors import MerFastError
from mer_fast.training import AUGMENTATIONS
from mer_fast.training.augmentation import augment

from .mer_sets import one_thread  # noqa: F401 (the fixture)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(*shape, dtype=torch.float32):
    values = torch.rand(shape, generator=generator(9))
    return (255 * values).to(torch.uint8) if dtype == torch.uint8 else values


def test_mirror():
    clips, others = batch(40, 1, 3, 6, 8), batch(40, 5, 6, 8, dtype=torch.uint8)
    out, other = AUGMENTATIONS["mirror"]((clips, others), generator())
    flipped = torch.tensor([not torch.equal(a, b) for a, b in zip(out, clips, strict=True)])
    assert 10 < flipped.sum() < 30
    assert torch.equal(out[flipped], clips[flipped].flip(-1)) and torch.equal(other[flipped], others[flipped].flip(-1))
    assert torch.equal(other[~flipped], others[~flipped]) and other.dtype == torch.uint8


def test_mirrored_flow_is_the_flow_of_mirrored_frames():
    """u changes its sign, v and strain do not."""
    flow = batch(40, 3, 6, 8)
    (out,) = AUGMENTATIONS["mirror_flow"]((flow,), generator())
    for before, after in zip(flow, out, strict=True):
        expected = before.flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None]
        assert torch.equal(after, before) or torch.equal(after, expected)
    assert 10 < sum(torch.equal(a, b) for a, b in zip(flow, out, strict=True)) < 30


def test_mirror_of_atnets_feature_is_the_feature_of_the_mirrored_flow():
    flow = torch.randn(20, 2, 24, 32, generator=generator())
    flow[3] = 0
    flow[4, 1] = 0
    turned = flow.flip(-1) * torch.tensor([-1.0, 1])[:, None, None]
    one, other = apex_time_sequence(flow, 9), apex_time_sequence(turned, 9)
    pixels = batch(16, 1, 8, 8)
    images, sequences = AUGMENTATIONS["mirror"]((pixels, one.expand(16, -1, -1)), generator())
    for image, before, sequence in zip(images, pixels, sequences, strict=True):
        expected = one if torch.equal(image, before) else other
        angle, magnitude = sequence.view(64, 64, 2).unbind(2)
        wanted, length = expected.view(64, 64, 2).unbind(2)
        torch.testing.assert_close(magnitude, length)
        torch.testing.assert_close(magnitude * angle.cos(), length * wanted.cos(), atol=1e-5, rtol=0)
        torch.testing.assert_close(magnitude * angle.sin(), length * wanted.sin(), atol=1e-5, rtol=0)
        assert (angle[magnitude == 0] == 0).all() and angle.abs().max() <= torch.pi + 1e-6


@pytest.mark.parametrize("shape", [(30, 1, 41, 61), (30, 1, 3, 61, 41), (30, 2, 41, 41)])
def test_rotate(shape):
    """A line through the middle is turned by up to 5 degrees, all frames of a clip alike, whatever the sides' ratio."""
    clips = torch.zeros(shape)
    height, width = shape[-2:]
    clips[..., height // 2, :] = 1
    (out,) = AUGMENTATIONS["rotate"]((clips,), generator())
    frames = out.flatten(1, -3)
    assert all(torch.equal(frame, clip[0]) for clip in frames for frame in clip)
    rows = torch.arange(height, dtype=torch.float32)[:, None]
    centre = (frames[:, 0] * rows).sum(1) / frames[:, 0].sum(1)  # (N, W): the row of the line in each column
    slope = (centre[:, -8] - centre[:, 7]) / (width - 15)
    degrees = torch.rad2deg(torch.atan(slope))
    assert degrees.abs().max() < 5.3 and degrees.min() < -2.5 and degrees.max() > 2.5
    assert (centre[:, width // 2] - height // 2).abs().max() < 0.1


def test_intensity():
    floats, bytes_ = batch(50, 1, 4, 4), torch.full((50, 2, 4, 4), 128, dtype=torch.uint8)
    light, bytes_out = AUGMENTATIONS["intensity"]((floats, bytes_), generator())
    shift = (light - floats).flatten(1)
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-6, rtol=0)
    assert shift.abs().max() <= 10 / 255 + 1e-6 and shift.min() < -8 / 255 and shift.max() > 8 / 255
    assert torch.equal(bytes_out[:, 0, 0, 0].int() - 128, (255 * shift[:, 0]).round().int())
    assert AUGMENTATIONS["intensity"]((torch.full((50, 1, 2, 2), 250, dtype=torch.uint8),), generator())[0].max() == 255


def test_dropped_frames():
    clips = batch(12, 20, 4, 4, dtype=torch.uint8)
    (out,) = AUGMENTATIONS["dropped_frames"]((clips,), generator())
    assert out.shape == clips.shape and out.dtype == torch.uint8 and not torch.equal(out, clips)


def test_dropped_frames_of_volumes_are_the_same_in_all_inputs():
    clips = batch(12, 20, 4, 4)
    (out,) = AUGMENTATIONS["dropped_frames"]((clips,), generator())
    one, other = AUGMENTATIONS["dropped_frames"]((clips[:, None], clips[:, None, :, :2]), generator())
    assert torch.equal(one[:, 0], out) and torch.equal(other, one[..., :2, :])


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("mirror", (4, 2, 6, 6), r"mirror: inputs must be gray pixels, got \(4, 2, 6, 6\), which is flow: take mirror_flow"),
        ("mirror", (4, 3, 6, 6), "take mirror_flow"),
        ("mirror", (4, 6, 6), "or ATNet's feature"),
        ("mirror_flow", (4, 5, 6, 6), "mirror_flow: inputs must be flow"),
        ("mirror_flow", (4, 1, 5, 6, 6), "take mirror for gray pixels"),
        ("dropped_frames", (4, 3, 6, 6), "dropped_frames: inputs must be gray clips"),
        ("dropped_frames", (4, 1, 6, 6), "must be gray clips"),
        ("dropped_frames", (4, 64, 128), "must be gray clips"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(name, shape, message):
    with pytest.raises(MerFastError, match=message):
        AUGMENTATIONS[name]((batch(*shape),), generator())


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_generator_decides_and_the_clips_stay(name):
    clips = batch(16, 2 if name == "mirror_flow" else 5, 9, 9)
    kept = clips.clone()
    torch.manual_seed(0)
    one = AUGMENTATIONS[name]((clips,), generator(3))[0]
    torch.manual_seed(1)
    assert torch.equal(one, AUGMENTATIONS[name]((clips,), generator(3))[0]) and torch.equal(clips, kept)
    assert not torch.equal(one, AUGMENTATIONS[name]((clips,), generator(4))[0])


def test_one_after_the_other():
    clips = batch(16, 5, 9, 9)
    one = augment((clips,), ("mirror", "intensity"), generator())[0]
    draw = generator()
    assert torch.equal(one, AUGMENTATIONS["intensity"](AUGMENTATIONS["mirror"]((clips,), draw), draw)[0])
    assert augment((clips,), lambda inputs, draw: (inputs[0] + 1,), generator())[0].min() >= 1
    assert augment((clips,), (), generator())[0] is clips
