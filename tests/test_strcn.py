"""STRCN-G and STRCN-A: against plain torch.nn, and the appearance step against scikit-image and NumPy."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn as tnn

import mer_fast
from mer_fast import models, reference
from mer_fast.models._appearance import appearance_mask, disk, energy_map, opened

from .kit import assert_near
from .test_recurrent_conv2d import Plain


class PlainSTRCNG(tnn.Module):
    """STRCN-G in torch.nn alone, with the names of its parameters."""

    def __init__(self, num_classes, width, share_weights=False, deeper=False):
        super().__init__()
        self.pools = (2, 2, 2, 2, 2) if deeper else (4, 4, 2, 2)
        self.conv, self.norm = tnn.Conv2d(2, width, 3, padding=1, bias=False), tnn.BatchNorm2d(width)
        self.sections = tnn.ModuleList(
            Plain(width, width, 3, 2, injection="input", share_weights=share_weights, pool=pool) for pool in self.pools[1:]
        )
        self.classifier = tnn.Conv2d(width, num_classes, 1)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.norm(self.conv(x))), self.pools[0])
        for section in self.sections:
            x = section(x)
        return self.classifier(F.adaptive_avg_pool2d(x, 1)).flatten(1)


FORMS = list(itertools.product((False, True), (False, True)))


def pair(share_weights, deeper, width=8):
    made = []
    for network in (models.STRCNG, PlainSTRCNG):
        torch.manual_seed(5)
        made.append(network(3, width=width, share_weights=share_weights, deeper=deeper))
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("share_weights", "deeper"), FORMS)
def test_twenty_training_steps_follow_plain_pytorch(share_weights, deeper, dtype):
    if deeper and dtype == torch.float32:
        pytest.skip("five pools choose other winners after any rounding: plain PyTorch drifts by 1e-2 when its layout changes")
    ours, plain = pair(share_weights, deeper)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    torch.manual_seed(1)  # one exchanged winner of a pool, which any rounding may bring about, is 1e-3 already
    flows, labels = torch.randn(20, 4, 2, 70, 66, dtype=dtype), torch.randint(3, (20, 4))
    losses = []
    for network in (ours.to(dtype).train(), plain.to(dtype).train()):
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
        losses.append([])
        for flow, label in zip(flows, labels, strict=True):
            loss = F.cross_entropy(network(flow), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert len(set(losses[1])) == 20
    assert losses[0] == pytest.approx(losses[1], rel=1e-3 if dtype == torch.float32 else 1e-9)
    assert_near(ours.eval()(flows[0]), copy.deepcopy(ours).double()(flows[0].double()), torch.float32)


def test_checkpoints_go_both_ways():
    ours, _ = pair(False, False)
    torch.manual_seed(0)
    other = PlainSTRCNG(3, 8)
    flow = torch.randn(2, 2, 64, 80)
    other(flow)  # statistics of its own
    ours.load_state_dict(other.state_dict())
    assert_near(ours.eval()(flow), other.eval()(flow), torch.float32)
    with torch.no_grad():
        assert_near(ours(flow), other(flow), torch.float32)


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("strcn-g", {"width": 512}, 14_963_716),
        ("STRCN-G", {"width": 256}, 3_746_308),
        ("STRCN-G", {"width": 128}, 939_268),
        ("strcn-g", {"width": 512, "share_weights": True}, 7_885_828),
        ("strcn-g", {"width": 128, "deeper": True}, 939_268 + 128 * 128 * 19 + 3 * 256),
        ("strcn-a", {}, 939_268 - 128 * 9),
    ],
)
def test_sizes_are_the_published_ones(name, options, parameters):
    with torch.device("meta"):
        network = models.create(name, 4, **options)
    count = sum(one.numel() for one in network.parameters())
    assert count == parameters
    published = {512: 14.95e6, 128: 0.94e6}.get(options.get("width", 0))
    if published and len(options) == 1:
        assert abs(count / published - 1) < 2e-3


def test_dropout_is_the_callers():
    flow = torch.randn(4, 2, 64, 64)
    still, moving = (models.STRCNG(3, width=8, dropout=p).train() for p in (0.0, 0.5))
    assert torch.equal(still(flow), still(flow)) and not torch.equal(moving(flow), moving(flow))


@pytest.mark.parametrize("deeper", [False, True])
def test_the_smallest_input(deeper):
    network = models.STRCNG(3, width=4, deeper=deeper).eval()
    side = 32 if deeper else 64
    assert network(torch.randn(1, 2, side, side)).shape == (1, 3)
    with pytest.raises(mer_fast.MerFastError, match=f"flow must be at least {side} pixels high and wide"):
        network(torch.randn(1, 2, side, side - 1))


# --- the appearance step -------------------------------------------------------------------------------------------------
def moving_clips(count=4, frames=12, height=40, width=36, block=slice(10, 22)):
    """Clips in which one block changes, over a little noise."""
    clips = 0.01 * torch.rand(count, frames, height, width, dtype=torch.float64)
    clips[:, :, block, block] += torch.linspace(0, 1, frames, dtype=torch.float64)[:, None, None]
    return list(clips)


def published_mask(clips, radius):
    morphology = pytest.importorskip("skimage.morphology")
    energies = []
    for clip in clips:
        frames = clip.numpy()
        energy = np.abs(frames - frames[:1]).sum(0)
        energies.append(energy / energy.max())
    energy = np.mean(energies, 0)
    return energy, morphology.opening(energy > np.percentile(energy, 75), morphology.disk(radius))


@pytest.mark.parametrize(("height", "radius"), [(64, 1), (99, 1), (100, 3), (199, 3), (200, 5)])
def test_the_mask_is_the_published_one(height, radius):
    generator = np.random.default_rng(3)
    grid = {1: 3, 3: 12, 5: 24}[radius]
    rough = torch.from_numpy(generator.random((3, 6, height // grid + 2, 48 // grid + 1)))
    clips = list(F.interpolate(rough, (height, 48), mode="bicubic"))  # changes of several pixels
    energy, expected = published_mask(clips, radius)
    assert_near(energy_map(clips), torch.from_numpy(energy), torch.float64)
    mask = appearance_mask(energy_map(clips))
    assert 0 < expected.sum() < 0.25 * expected.size and torch.equal(mask, torch.from_numpy(expected))


@pytest.mark.parametrize("radius", [1, 3, 5])
def test_opening_is_that_of_scikit_image(radius):
    morphology = pytest.importorskip("skimage.morphology")
    assert np.array_equal(disk(radius).numpy(), morphology.disk(radius).astype(bool))
    for density in (0.6, 0.8, 0.97):
        mask = torch.rand(41, 30) < density
        expected = morphology.opening(mask.numpy(), morphology.disk(radius))
        assert np.array_equal(opened(mask, radius).numpy(), expected)


def fitted(frames=20, **clips):
    network = models.STRCNA(3, frames=frames, width=8)
    network.fit_mask(moving_clips(**clips))
    return network


def test_the_mask_is_where_clips_move():
    network = fitted()
    inside = torch.zeros(40, 36, dtype=torch.bool)
    inside[10:22, 10:22] = True
    assert network.mask.dtype == torch.bool and network.mask[inside].float().mean() > 0.95
    assert (network.mask & ~inside).sum() < 0.2 * network.mask.sum()


def test_a_still_clip_adds_nothing_and_bytes_are_as_floats():
    clips = [(255 * clip).round().to(torch.uint8) for clip in moving_clips()]
    one, two, three = (models.STRCNA(3) for _ in range(3))
    one.fit_mask(clips)
    two.fit_mask(clip.float() / 255 for clip in clips)
    three.fit_mask([*clips, torch.full((3, 40, 36), 7, dtype=torch.uint8)])
    assert torch.equal(one.mask, two.mask) and torch.equal(one.mask, three.mask)


def test_the_image_is_masked_pixels_by_time():
    network = fitted(frames=20)
    clip = torch.rand(2, 11, 40, 36)
    image = network.image(clip)
    rows, columns = network.mask.nonzero(as_tuple=True)
    assert image.shape == (2, 1, len(rows), 20)
    expected = reference.tim(clip.double(), 20, dim=1)
    for pixel in (0, len(rows) // 2, len(rows) - 1):
        assert_near(image[:, 0, pixel], expected[:, :, rows[pixel], columns[pixel]], torch.float32)
    same = torch.rand(2, 20, 40, 36)
    assert torch.equal(network.image(same)[1, 0, 5], same[1, :, rows[5], columns[5]])
    grays = (255 * same).round().to(torch.uint8)
    torch.testing.assert_close(network.image(grays), network.image(grays / 255))


def test_loading_takes_over_the_mask_whatever_its_size():
    network = fitted().eval()
    clip = torch.rand(2, 9, 40, 36)
    expected = network(clip)
    for other in (models.STRCNA(3, frames=20, width=8), fitted(height=50), copy.deepcopy(network)):
        other.load_state_dict(network.state_dict())
        assert torch.equal(other.mask, network.mask) and torch.equal(other.eval()(clip), expected)
    inner = tnn.Sequential(models.STRCNA(3, frames=20, width=8))
    inner.load_state_dict({f"0.{name}": value for name, value in network.state_dict().items()})
    assert torch.equal(inner.eval()(clip), expected)
    assert torch.equal(pickle.loads(pickle.dumps(network))(clip), expected)
    before = network.mask.clone()
    other.fit_mask(moving_clips(block=slice(2, 9)))
    assert torch.equal(network.mask, before) and not torch.equal(other.mask, before)


def test_only_masked_pixels_count():
    network = fitted().eval()
    clip = torch.rand(2, 9, 40, 36)
    changed = clip.clone()
    changed[:, :, ~network.mask] = 5
    assert torch.equal(network(changed), network(clip))
    changed[:, 3, network.mask] = 0
    assert not torch.equal(network(changed), network(clip))


def test_every_weight_learns_and_it_compiles():
    network = fitted(frames=30)
    clip = torch.rand(4, 12, 40, 36)
    F.cross_entropy(network.train()(clip), torch.tensor([0, 1, 2, 0])).backward()
    assert all(parameter.grad.any() for parameter in network.parameters())
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(network.eval(), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(clip), network(clip))


def test_few_pixels_and_frames_are_filled_up():
    network = fitted(frames=3, height=14, width=14, block=slice(4, 9)).eval()
    assert len(network.kept) < 64
    out = network(torch.rand(2, 3, 14, 14))
    assert out.shape == (2, 3) and out.isfinite().all()


def nothing_moves():
    models.STRCNA(3).fit_mask([torch.zeros(5, 20, 20)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (nothing_moves, "STRCNA.fit_mask: clips give a mask that keeps no pixel: nothing moves"),
        (lambda: models.STRCNA(3).fit_mask([]), "STRCNA.fit_mask: clips must hold at least one clip"),
        (lambda: models.STRCNA(3).fit_mask([torch.rand(5, 1, 9, 9)]), r"clips\[0\] must be a tensor of shape \(T, H, W\)"),
        (lambda: models.STRCNA(3).fit_mask([torch.rand(5, 9, 9), torch.rand(5, 9, 8)]), r"clips\[1\] must have the size of the"),
        (lambda: models.STRCNA(3).fit_mask([torch.full((5, 9, 9), float("nan"))]), r"clips\[0\] must be finite"),
        (lambda: models.STRCNA(3)(torch.rand(1, 5, 9, 9)), "STRCNA: mask keeps no pixel: call fit_mask with the training clips"),
        (lambda: fitted()(torch.rand(1, 5, 36, 40)), r"clip must have frames of the mask's size \(40, 36\), got"),
        (lambda: fitted()(torch.rand(5, 40, 36)), r"clip must be a tensor of shape \(N, T, H, W\), got \(5, 40, 36\)"),
        (lambda: models.STRCNA(3, frames=0), "STRCNA: frames must be at least 1"),
        (lambda: models.STRCNG(0), "STRCNG: num_classes must be at least 1"),
        (lambda: models.STRCNG(3, width=0), "STRCNG: width must be at least 1"),
        (lambda: models.STRCNG(3, width=4, dropout=2), "STRCNG: dropout must lie in 0..1, got 2"),
        (lambda: models.STRCNG(3, width=4)(torch.rand(1, 3, 64, 64)), r"flow must be a tensor of shape \(N, 2, H, W\)"),
        (lambda: models.STRCNG(3, width=4)(torch.rand(2, 64, 64)), r"flow must be a tensor of shape \(N, 2, H, W\)"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        call()
