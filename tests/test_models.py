"""The published networks: sizes, shapes, and training as their plain PyTorch forms train."""

import pytest
import torch
from torch import nn as tnn

import mer_fast
from mer_fast import models

from .kit import assert_near


class PlainSTCNN(tnn.Module):
    """MicroExpSTCNN in torch.nn alone, with the names of its parameters."""

    def __init__(self, num_classes, frames, dropout):
        super().__init__()
        self.conv = tnn.Conv3d(1, 32, (15, 3, 3))
        self.dropout = tnn.Dropout(dropout)
        self.hidden = tnn.Linear(32 * ((frames - 14) // 3) * 20 * 20, 128)
        self.classifier = tnn.Linear(128, num_classes)

    def forward(self, clip):
        x = torch.nn.functional.max_pool3d(torch.relu(self.conv(clip)), 3)
        return self.classifier(self.dropout(torch.relu(self.hidden(self.dropout(x).flatten(1)))))


def pair(frames=18, dropout=0.5):
    made = []
    for network in (lambda: models.MicroExpSTCNN(3, frames=frames, dropout=dropout), lambda: PlainSTCNN(3, frames, dropout)):
        torch.manual_seed(5)
        made.append(network())
    return made


def losses(network, steps, dropout_seed, device="cpu"):
    """A loss a step of momentum descent; clips and labels are the same for every network."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    data = torch.Generator().manual_seed(11)
    torch.manual_seed(dropout_seed)
    told = []
    for _ in range(steps):
        clips, labels = torch.randn(4, 1, 18, 64, 64, generator=data), torch.randint(3, (4,), generator=data)
        loss = tnn.functional.cross_entropy(network(clips.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(loss.detach())
    return torch.stack(told)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_ten_steps_follow_plain_pytorch(dropout):
    ours, plain = pair(dropout=dropout)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    got, want = (losses(network.train(), 10, dropout_seed=3) for network in (ours, plain))
    assert want[-1] != want[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=0)


def test_checkpoints_go_both_ways():
    ours, plain = pair()
    torch.manual_seed(0)
    other = PlainSTCNN(3, 18, 0.5)
    clip = torch.randn(2, 1, 18, 64, 64)
    ours.load_state_dict(other.state_dict())
    assert_near(ours.eval()(clip), other.eval()(clip), torch.float32)
    plain.load_state_dict(ours.state_dict())
    assert torch.equal(plain.eval()(clip), other(clip))


@pytest.mark.parametrize(
    ("name", "options", "parameters", "millions"),
    [
        ("MicroExpSTCNN", {}, 44_241_667, 44.2),
        ("microexpfusenet", {}, 177_088_515, 177.1),
        ("MicroExpFuseNet", {"fusion": "late"}, 177_221_123, 177.2),
    ],
)
def test_sizes_are_the_published_ones(name, options, parameters, millions):
    with torch.device("meta"):
        network = models.create(name, 3, **options)
    count = sum(p.numel() for p in network.parameters())
    assert count == parameters and round(count / 1e6, 1) == millions


@pytest.mark.parametrize("kernel_depth", [3, 7, 15, 19])
def test_kernels_of_the_ablation(kernel_depth):
    least = kernel_depth + 2
    network = models.MicroExpSTCNN(5, frames=least, kernel_depth=kernel_depth)
    assert network.conv.weight.shape == (32, 1, kernel_depth, 3, 3)
    assert network(torch.rand(2, 1, least, 64, 64)).shape == (2, 5)
    with pytest.raises(mer_fast.MerFastError, match=f"frames must be at least {least} for a kernel {kernel_depth} frames"):
        models.MicroExpSTCNN(5, frames=least - 1, kernel_depth=kernel_depth)


@pytest.mark.parametrize("fusion", ["intermediate", "late"])
def test_both_streams_of_fusenet_learn(fusion):
    network = models.MicroExpFuseNet(3, fusion=fusion, frames=18)
    out = network(torch.randn(2, 1, 18, 32, 32), torch.randn(2, 1, 18, 32, 32))
    assert out.shape == (2, 3)
    tnn.functional.cross_entropy(out, torch.tensor([0, 2])).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("fusion", ["intermediate", "late"])
def test_fusenet_is_linear_behind_its_pools(fusion):
    """No activation stands between the linear layers, as published."""
    network = models.MicroExpFuseNet(3, fusion=fusion, frames=18).eval().double()
    eyes, mouth = torch.randn(2, 1, 1, 18, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        for stem in (network.eyes, network.mouth):
            stem.bias.zero_()  # then ReLU and the pool scale with their input
        one, two, three = (network(k * eyes, k * mouth) for k in (1, 2, 3))
    assert_near(three - two, two - one, torch.float64, gradient=True)
    assert (two - one).abs().max() > 1e-3


def test_fusenet_tells_eyes_from_mouth():
    network = models.MicroExpFuseNet(3, frames=18).eval()
    eyes, mouth = torch.randn(2, 1, 1, 18, 32, 32)
    assert (network(eyes, mouth) - network(mouth, eyes)).abs().max() > 1e-4


def test_dropout_is_the_callers():
    clip = torch.randn(2, 1, 18, 64, 64)
    still, moving = (models.MicroExpSTCNN(3, frames=18, dropout=p).train() for p in (0.0, 0.5))
    assert torch.equal(still(clip), still(clip)) and not torch.equal(moving(clip), moving(clip))
    pair_of = torch.randn(2, 2, 1, 18, 32, 32)
    still, moving = (models.MicroExpFuseNet(3, fusion="late", frames=18, dropout=p).train() for p in (0.0, 0.5))
    assert torch.equal(still(*pair_of), still(*pair_of)) and not torch.equal(moving(*pair_of), moving(*pair_of))


def test_compiles_without_a_graph_break():
    torch.compiler.reset()
    network = models.MicroExpSTCNN(3, frames=18).eval()
    clip = torch.randn(2, 1, 18, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(network, fullgraph=True, backend="aot_eager")(clip), network(clip))


def small():
    return models.MicroExpSTCNN(3, frames=18)


def fuse(**options):
    return models.MicroExpFuseNet(3, frames=18, **options)


CROP = torch.rand(2, 1, 18, 32, 32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.create("resnet", 3), "name must be one of atnet, microexpfusenet, .*strcn-g, ststnet, got 'resnet'"),
        (lambda: models.create(None, 3), "name must be one of atnet, microexpfusenet, .*strcn-g, ststnet, got None"),
        (lambda: small()(torch.rand(2, 1, 96, 64, 64)), "clip must have frames=18 .* got 96; resample the clip with ops.tim"),
        (lambda: small()(torch.rand(2, 1, 18, 32, 32)), r"clip must have shape \(N, 1, 18, 64, 64\), got \(2, 1, 18, 32, 32\)"),
        (lambda: small()(torch.rand(2, 3, 18, 64, 64)), r"clip must have shape \(N, 1, 18, 64, 64\)"),
        (lambda: small()(torch.rand(18, 64, 64)), r"clip must be a tensor of shape \(N, 1, 18, 64, 64\)"),
        (lambda: models.MicroExpSTCNN(0), "num_classes must be at least 1"),
        (lambda: models.MicroExpSTCNN(3, frames=18, kernel_depth=0), "kernel_depth must be at least 1"),
        (lambda: models.MicroExpSTCNN(3, frames=18.5), "frames must be a whole number"),
        (lambda: fuse(fusion="early"), "fusion must be 'intermediate' or 'late', got 'early'"),
        (lambda: fuse()(CROP, torch.rand(2, 1, 17, 32, 32)), "mouth must have frames=18"),
        (lambda: fuse()(torch.rand(2, 1, 18, 64, 64), CROP), r"eyes must have shape \(N, 1, 18, 32, 32\)"),
        (lambda: fuse()(CROP, CROP[:1]), "eyes and mouth must be of the same clips, got 2 and 1"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        call()


@pytest.mark.cuda
def test_ten_steps_on_a_gpu_follow_plain_pytorch():
    ours, plain = (network.cuda() for network in pair(dropout=0.0))
    with torch.backends.cudnn.flags(allow_tf32=False):
        got, want = (losses(network, 10, dropout_seed=3, device="cuda") for network in (ours, plain))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=0)


def test_a_lightning_trainer_fits_a_network():
    lightning = pytest.importorskip("pytorch_lightning")

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = small()

        def training_step(self, batch, index):
            return tnn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    task = Task()
    before = task.network.conv.weight.detach().clone()
    data = torch.utils.data.TensorDataset(torch.randn(4, 1, 18, 64, 64), torch.tensor([0, 1, 2, 0]))
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(task, torch.utils.data.DataLoader(data, batch_size=2))
    assert not torch.equal(task.network.conv.weight, before)
