"""STSTNet: its size, against three streams written out, and through compile, export and checkpoints."""

import io

import pytest
import torch
import torch.nn.functional as F

import mer_fast
from mer_fast import models

from .kit import assert_near

STREAMS = (slice(0, 3), slice(3, 8), slice(8, 16))  # of 3, 5 and 8 filters


def varied(num_classes=3, **options):
    """A network whose norm does something, in evaluation too; one scale is negative."""
    network = models.STSTNet(num_classes, **options)
    with torch.no_grad():
        network.norm.weight.uniform_(0.5, 2)[4] *= -1
        network.norm.bias.uniform_(-0.3, 0.3)
        network.norm.running_mean.uniform_(0, 0.5)
        network.norm.running_var.uniform_(0.5, 2)
    return network.eval()


def inputs(count=5, dtype=torch.float32, device="cpu"):
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(3)).to(device, dtype)


@pytest.mark.parametrize(("num_classes", "parameters"), [(3, 1683), (5, 1683 + 2 * 401)])
def test_size_is_the_sum_of_its_layers(num_classes, parameters):
    streams = sum((3 * 3 * 3 + 1) * filters + 2 * filters for filters in (3, 5, 8))
    network = models.create("STSTNet", num_classes)
    count = sum(one.numel() for one in network.parameters())
    assert count == parameters == streams + (5 * 5 * 16 + 1) * num_classes


def plain_ststnet(p, maps, training):
    """Three networks side by side, on the same three channels."""
    pooled = []
    for own in STREAMS:
        x = F.conv2d(maps, p["conv.weight"][own], p["conv.bias"][own], padding=2).clamp(min=0)
        mean, var = p["norm.running_mean"][own], p["norm.running_var"][own]
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        scale = p["norm.weight"][own] / (var + 1e-5).sqrt()
        x = (x - mean[:, None, None]) * scale[:, None, None] + p["norm.bias"][own][:, None, None]
        x = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
        pooled.append(x.unfold(2, 3, 3).unfold(3, 3, 3).amax((4, 5)))
    features = torch.cat(pooled, 1).unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    assert features.shape[1:] == (16, 5, 5)
    return features.flatten(1) @ p["classifier.weight"].T + p["classifier.bias"]


@pytest.mark.parametrize("training", [False, True])
def test_forward_and_gradients_are_those_of_three_streams(training, device):
    network = varied(dropout=0.0).to(device, torch.float64).train(training)
    maps = inputs(dtype=torch.float64, device=device)
    plain = {name: value.detach().clone() for name, value in network.state_dict().items()}
    leaves = [plain[name].requires_grad_() for name, _ in network.named_parameters()]
    got, want = network(maps), plain_ststnet(plain, maps, training)
    assert_near(got, want, torch.float64)
    weights = torch.randn(5, 3, dtype=torch.float64, device=device)
    ours = torch.autograd.grad((got * weights).sum(), network.parameters())
    theirs = torch.autograd.grad((want * weights).sum(), leaves)
    for one, other in zip(ours, theirs, strict=True):
        assert_near(one, other, torch.float64, gradient=True)


def test_every_weight_learns():
    network = models.STSTNet(3, dropout=0.0).train()
    F.cross_entropy(network(inputs()), torch.tensor([0, 1, 2, 0, 1])).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() and one.grad.any() for one in network.parameters())


def test_dropout_is_the_callers():
    still, moving = (models.STSTNet(3, dropout=p).train() for p in (0.0, 0.5))
    assert torch.equal(still(inputs()), still(inputs())) and not torch.equal(moving(inputs()), moving(inputs()))


def test_takes_flow_and_its_strain():
    flow = torch.randn(2, 2, 28, 28)
    maps = torch.cat([flow, mer_fast.ops.optical_strain(flow)], 1)
    assert models.STSTNet(5).eval()(maps).shape == (2, 5)


def test_a_clip_alone_is_as_in_a_batch():
    network, maps = varied().double(), inputs(dtype=torch.float64)
    with torch.no_grad():
        assert_near(network(maps[1:2]), network(maps)[1:2], torch.float64)
        flipped = maps.flip(3).mT.contiguous().mT.flip(3)  # the same values, other strides
        assert_near(network(flipped), network(maps), torch.float64)


def test_checkpoints_come_back():
    network, other = varied(), models.STSTNet(3).eval()
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    assert not torch.equal(other(inputs()), network(inputs()))
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(inputs()), network(inputs()))


def test_exports_for_any_batch():
    network = varied()
    program = torch.export.export(network, (inputs(),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for count in (1, 7):
        torch.testing.assert_close(program.module()(inputs(count)), network(inputs(count)))


def test_compiles_and_trains_without_a_graph_break():
    torch.compiler.reset()
    network = varied()
    told = []
    for called in (network, torch.compile(network, fullgraph=True, backend="aot_eager")):
        network.zero_grad()
        out = called(inputs())
        out.square().sum().backward()
        told.append((out.detach(), *(one.grad.clone() for one in network.parameters())))
    for eager, compiled in zip(*told, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-6)


def test_folds_run_under_vmap():
    """Networks of several folds on one input, as torch.func.vmap runs them."""
    networks, maps = [varied() for _ in range(3)], inputs()
    parameters, buffers = torch.func.stack_module_state(networks)
    outs = torch.vmap(lambda p, b: torch.func.functional_call(networks[0], (p, b), (maps,)))(parameters, buffers)
    for out, network in zip(outs, networks, strict=True):
        assert_near(out, network(maps), torch.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: varied()(torch.rand(3, 28, 28)), r"maps must be a tensor of shape \(N, 3, 28, 28\): u, v .*; got \(3, 28, 28\)"),
        (lambda: varied()(torch.rand(2, 2, 28, 28)), r"maps must be .*; got \(2, 2, 28, 28\)"),
        (lambda: varied()(torch.rand(2, 3, 28, 29)), r"maps must be .*; got \(2, 3, 28, 29\)"),
        (lambda: varied()([1.0]), "maps must be .*; got list"),
        (lambda: varied()(torch.ones(2, 3, 28, 28, dtype=torch.int64)), "maps must be a float tensor, got torch.int64"),
        (lambda: models.STSTNet(0), "num_classes must be at least 1"),
        (lambda: models.STSTNet(3, dropout=-0.1), "dropout must lie in 0..1, got -0.1"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(mer_fast.MerFastError, match="STSTNet: " + message):
        call()
