"""Temporal augmentation: frames dropped at random, and interpolation over several lengths."""

import numpy as np
import pytest
import torch

import mer_fast
from mer_fast import ops
from mer_fast.data import DROP_RATIOS, drop_frames, tim_lengths
from mer_fast.reference import tim_weights

from .kit import assert_near


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ramp(count, frames, *rest):
    """Clips whose frames tell their number."""
    return torch.arange(frames, dtype=torch.float64).view(1, frames, *[1] * len(rest)).expand(count, frames, *rest).clone()


def test_ratios_are_the_papers():
    assert np.allclose(DROP_RATIOS, np.arange(0, 0.56, 0.05)) and len(DROP_RATIOS) == 12


def test_without_a_drop_it_is_tim():
    clips = torch.rand(3, 13, 2, 5, 6)
    assert_near(drop_frames(clips, 20, ratio=0.0), torch.stack([ops.tim(clip, 20) for clip in clips]).double(), torch.float32)
    assert torch.allclose(drop_frames(clips, 13, ratio=0), clips, atol=1e-6)


@pytest.mark.parametrize("ratio", DROP_RATIOS)
def test_a_share_of_frames_is_dropped_and_the_rest_stays_in_order(ratio):
    left = 40 - round(ratio * 40)
    out = drop_frames(ramp(50, 40), left, ratio=ratio, generator=seeded())  # as many frames as are left: TIM is the identity
    frames = out.round()
    assert_near(out, frames, torch.float64)
    assert (frames.diff(dim=1) >= 1).all() and frames.min() >= 0 and frames.max() <= 39
    if ratio:
        assert len({tuple(clip) for clip in frames.tolist()}) > 40  # each clip loses frames of its own
        dropped = [len(set(range(40)) - set(clip)) for clip in frames.int().tolist()]
        assert dropped == [40 - left] * 50
        counts = torch.bincount(frames.flatten().long(), minlength=40)  # every frame may go: the ends too
        assert counts.min() > 0 and (ratio < 0.2 or counts.max() < 50)


def test_the_frames_left_are_resampled_by_tim():
    clips = torch.rand(4, 10, 3, dtype=torch.float64)
    out = drop_frames(clips, 12, ratio=0.3, generator=seeded(3))
    order = drop_frames(ramp(4, 10), 7, ratio=0.3, generator=seeded(3)).round().long()
    for clip, frames, got in zip(clips, order, out, strict=True):
        assert_near(got, tim_weights(7, 12).T @ clip[frames], torch.float64)


def test_ratios_are_drawn_for_each_clip():
    """Of a clip of constant speed, what is left tells the ratio: all twelve are drawn, each about as often."""
    count = 600
    out = drop_frames(ramp(count, 200), 200, generator=seeded(1))
    speeds = out.diff(dim=1).abs().sum(1)  # nothing is lost at the ends but what was dropped there
    assert speeds.min() > 150
    drawn = torch.randint(12, (count,), generator=seeded(1))
    assert torch.bincount(drawn, minlength=12).min() > 25
    untouched = (out - ramp(count, 200)).abs().amax(1) < 1e-9
    assert torch.equal(untouched, drawn == 0)


def test_tim_at_several_lengths():
    clips = torch.rand(12, 11, 4, dtype=torch.float64)
    lengths = [5, 11, 30]
    out = tim_lengths(clips, 15, lengths, generator=seeded(2))
    drawn = torch.randint(3, (12,), generator=seeded(2)).tolist()
    assert len(set(drawn)) == 3
    for clip, k, got in zip(clips, drawn, out, strict=True):
        through = ops.tim(clip.view(11, 1, 1, 4), lengths[k])
        assert_near(got, ops.tim(through, 15).view(15, 4), torch.float64)


@pytest.mark.parametrize("augment", [drop_frames, lambda clips, n, **rest: tim_lengths(clips, n, [4, 9], **rest)])
def test_the_same_generator_gives_the_same_clips(augment):
    clips = torch.rand(8, 12, 1, 4, 4)
    one, again, other = (augment(clips, 10, generator=seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, again) and not torch.equal(one, other)
    torch.manual_seed(1)
    default = augment(clips, 10)
    torch.manual_seed(1)
    assert torch.equal(default, augment(clips, 10))


@pytest.mark.parametrize("augment", [drop_frames, lambda clips, n, **rest: tim_lengths(clips, n, [4, 9], **rest)])
def test_any_layout_and_dtype(augment):
    clips = torch.rand(3, 2, 12, 5, 6)
    first = augment(clips, 7, dim=2, generator=seeded())
    assert first.shape == (3, 2, 7, 5, 6)
    moved = augment(clips.transpose(1, 2), 7, generator=seeded())
    assert_near(first, moved.transpose(1, 2), torch.float32)
    assert_near(augment(clips, 7, dim=-3, generator=seeded()), first, torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        half = augment(clips.to(dtype), 7, dim=2, generator=seeded())
        assert half.dtype == dtype
        assert_near(half, first, dtype)
    grays = torch.randint(0, 2, (3, 2, 12, 5, 6), dtype=torch.uint8) * 255
    exact = augment(grays.double(), 7, dim=2, generator=seeded())
    assert exact.min() < 0 and exact.max() > 255, "the case has overshoot"
    out = augment(grays, 7, dim=2, generator=seeded())
    clear = (exact.frac().abs() - 0.5).abs() > 1e-3
    assert out.dtype == torch.uint8 and torch.equal(out[clear], exact.round().clamp(0, 255).to(torch.uint8)[clear])


def test_few_frames_and_clips():
    assert torch.allclose(drop_frames(torch.full((2, 1, 3), 4.0), 6, ratio=0.55), torch.full((2, 6, 3), 4.0))
    assert drop_frames(torch.rand(0, 5, 3), 6).shape == (0, 6, 3)
    kept = drop_frames(ramp(5, 3), 1, ratio=0.9, generator=seeded())
    assert kept.shape == (5, 1) and set(kept.flatten().round().tolist()) <= {0.0, 1.0, 2.0}


def test_gradients_flow():
    clips = torch.rand(2, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: drop_frames(x, 4, ratio=0.2, generator=seeded()), (clips,))


CLIPS = torch.rand(2, 6, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: drop_frames(CLIPS[:, :0], 4), "drop_frames: clips have no frame along dim 1"),
        (lambda: drop_frames(CLIPS.long(), 4), "drop_frames: clips must be uint8 or a float tensor"),
        (lambda: drop_frames(CLIPS.numpy(), 4), "drop_frames: clips must be a torch.Tensor"),
        (lambda: drop_frames(CLIPS, 0), "drop_frames: num_frames must be at least 1"),
        (lambda: drop_frames(CLIPS, 4, ratio=1.0), "drop_frames: ratio must lie between"),
        (lambda: drop_frames(CLIPS, 4, ratio=-0.1), "drop_frames: ratio must lie between"),
        (lambda: drop_frames(CLIPS, 4, dim=0), "drop_frames: dim must be the dimension of the frames"),
        (lambda: drop_frames(CLIPS, 4, dim=3), "drop_frames: dim must be the dimension of the frames"),
        (lambda: drop_frames(CLIPS[:, 0, 0], 4), "drop_frames: dim must be the dimension of the frames"),
        (lambda: tim_lengths(CLIPS, 4, []), "tim_lengths: lengths must be a list of at least one"),
        (lambda: tim_lengths(CLIPS, 4, [3, 0]), "tim_lengths: lengths must be at least 1"),
        (lambda: tim_lengths(CLIPS[:, :0], 4, [3]), "tim_lengths: clips have no frame"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        call()
