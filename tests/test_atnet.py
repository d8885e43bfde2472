"""ATNet: its size, against its formula written out, and through compile, export and checkpoints."""

import io

import pytest
import torch
import torch.nn.functional as F

import mer_fast
from mer_fast import models

from .kit import assert_near


def small(width=2, hidden=5, **options):
    """A narrow network whose norms do something, in evaluation too."""
    network = models.ATNet(3, width=width, hidden=hidden, **options)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for values, low, high in ((module.weight, 0.5, 2), (module.bias, -0.3, 0.3),
                                          (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 2)):  # fmt: skip
                    values.uniform_(low, high)
    return network.eval()


def clips(count=2, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(3)
    made = torch.rand(count, 1, 224, 224, generator=generator), torch.randn(count, 64, 128, generator=generator)
    return tuple(one.to(device, dtype) for one in made)


# --- its size ------------------------------------------------------------------------------------------------------------
def size(width, hidden, classes):
    """Parameters, layer by layer; a norm has two a map."""
    count = 2 + (7 * 7 * width + width) + 2 * width
    count += 9 * width * width + 2 * width + 9 * width * width
    for maps in (width, 2 * width, 4 * width):
        twice = 2 * maps
        count += 2 * maps + 9 * maps * twice + 2 * twice + 9 * twice * twice + maps * twice
    count += 2 * 8 * width
    for channels in (128, hidden):
        count += 4 * hidden * (channels + hidden + 2)
    return count + (8 * width + hidden + 1) * classes


@pytest.mark.parametrize(
    ("options", "parameters"),
    [({}, 8_316_933), ({"width": 16}, 3_725_445), ({"width": 16, "hidden": 128}, 572_421)],
)
def test_size_is_the_sum_of_its_layers(options, parameters):
    with torch.device("meta"):
        network = models.create("ATNet", 3, **options)
    count = sum(one.numel() for one in network.parameters())
    assert count == parameters == size(options.get("width", 64), options.get("hidden", 512), 3)


# --- its formula ---------------------------------------------------------------------------------------------------------
def plain_lstm(p, name, x):
    """Gates i, f, g, o; (N, T, C) -> (N, T, H)."""
    hidden = p[f"weight_hh_{name}"].shape[1]
    h = c = torch.zeros(len(x), hidden, dtype=x.dtype, device=x.device)
    outputs = []
    for t in range(x.shape[1]):
        z = x[:, t] @ p[f"weight_ih_{name}"].T + p[f"bias_ih_{name}"] + h @ p[f"weight_hh_{name}"].T + p[f"bias_hh_{name}"]
        i, f, g, o = (z[:, k * hidden : (k + 1) * hidden] for k in range(4))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, 1)


def plain_atnet(p, apex, sequence, training):
    def norm(name, x):
        mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        scale = p[f"{name}.weight"] / (var + 1e-5).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + p[f"{name}.bias"][:, None, None]

    def residual(name, x, stride):
        x = F.conv2d(x, p[f"{name}.conv1.weight"], stride=stride, padding=1)
        return F.conv2d(norm(f"{name}.norm", x).clamp(min=0), p[f"{name}.conv2.weight"], padding=1)

    x = F.conv2d(norm("input_norm", apex), p["conv.weight"], p["conv.bias"], stride=2, padding=3)
    x = F.pad(norm("norm", x).clamp(min=0), (0, 1, 0, 1), value=-torch.inf)
    x = x.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))
    assert x.shape[2:] == (56, 56)
    x = x + residual("first", x, 1)
    for k in range(3):
        active = norm(f"blocks.{k}.input_norm", x).clamp(min=0)
        shortcut = F.conv2d(active, p[f"blocks.{k}.shortcut.weight"], stride=2)
        x = shortcut + residual(f"blocks.{k}", active, 2)
    assert x.shape[2:] == (7, 7)
    spatial = norm("last_norm", x).clamp(min=0).flatten(2).mean(2)

    lstm = {name.removeprefix("lstm."): value for name, value in p.items()}
    temporal = plain_lstm(lstm, "l1", plain_lstm(lstm, "l0", sequence)).mean(1)
    joined = torch.cat([x / x.square().sum(1, keepdim=True).sqrt() for x in (spatial, temporal)], 1)
    return joined @ p["classifier.weight"].T + p["classifier.bias"]


@pytest.mark.parametrize("training", [False, True])
def test_forward_and_gradients_are_those_of_the_formula(training, device):
    network = small(width=3, dropout=0.0).to(device, torch.float64).train(training)
    data = clips(3, torch.float64, device)
    plain = {name: value.detach().clone() for name, value in network.state_dict().items()}
    leaves = [plain[name].requires_grad_() for name, _ in network.named_parameters()]
    got, want = network(*data), plain_atnet(plain, *data, training)
    assert_near(got, want, torch.float64)
    weights = torch.randn(3, 3, dtype=torch.float64, device=device)
    gradients = [torch.autograd.grad((out * weights).sum(), of) for out, of in ((got, network.parameters()), (want, leaves))]
    assert_near(*(torch.cat([one.flatten() for one in each]) for each in gradients), torch.float64, gradient=True)


def test_the_lstm_is_that_of_torch():
    network, torchs = small().lstm, torch.nn.LSTM(128, 5, 2, batch_first=True)
    network.load_state_dict(torchs.state_dict())
    sequence = torch.randn(2, 64, 128)
    assert torch.equal(network(sequence), torchs(sequence)[0])
    assert_near(network.unrolled(sequence), torchs.double()(sequence.double())[0], torch.float32)


def test_scales_of_the_streams_do_not_matter():
    """In training the first norm takes away the apex frame's scale; each stream has unit length behind its own."""
    network = small(dropout=0.0).double().train()
    apex, sequence = clips(3, torch.float64)
    torch.testing.assert_close(network(255 * apex, sequence), network(apex, sequence), rtol=1e-3, atol=1e-4)
    joined = []
    network.classifier.register_forward_pre_hook(lambda module, inputs: joined.append(inputs[0]))
    network(apex, sequence)
    for stream in joined[0].split([16, 5], 1):
        assert_near(stream.norm(dim=1), torch.ones(3), torch.float64)


# --- learning ------------------------------------------------------------------------------------------------------------
def test_every_weight_learns():
    network = models.ATNet(3, width=4, hidden=8).eval()  # a norm in training takes the bias in front of it away
    F.cross_entropy(network(*clips()), torch.tensor([0, 2])).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() and one.grad.any() for one in network.parameters())


def test_dropout_is_the_callers():
    data = clips()
    still, moving = (models.ATNet(3, width=2, hidden=4, dropout=p).train() for p in (0.0, 0.5))
    assert torch.equal(still(*data), still(*data)) and not torch.equal(moving(*data), moving(*data))


def test_channels_last_is_the_same():
    network = small(width=8, dropout=0.0).train()
    data = clips()
    gradients = []
    for _ in range(2):
        network.zero_grad()
        network(*data).square().sum().backward()
        gradients.append([one.grad.clone() for one in network.parameters()])
        network.to(memory_format=torch.channels_last)
    assert_near(*(torch.cat([one.flatten() for one in each]) for each in gradients), torch.float32, gradient=True)


# --- one clip, checkpoints, export, compile ------------------------------------------------------------------------------
def test_a_clip_alone_is_as_in_a_batch():
    network, (apex, sequence) = small().double(), clips(3, torch.float64)
    with torch.no_grad():
        assert_near(network(apex[1:2], sequence[1:2]), network(apex, sequence)[1:2], torch.float64)


def test_checkpoints_come_back():
    network, data = small(), clips()
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = models.ATNet(3, width=2, hidden=5).eval()
    assert not torch.equal(other(*data), network(*data))
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(*data), network(*data))


def test_exports_for_any_batch():
    network = small()
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(network, clips(3), dynamic_shapes=(batch, batch))
    for count in (1, 2):
        torch.testing.assert_close(program.module()(*clips(count)), network(*clips(count)))


def test_compiles_and_trains_without_a_graph_break():
    torch.compiler.reset()
    network, data = small(), clips()
    told = []
    for called in (network, torch.compile(network, fullgraph=True, backend="aot_eager")):
        network.zero_grad()
        out = called(*data)
        out.square().sum().backward()
        told.append((out.detach(), *(one.grad.clone() for one in network.parameters())))
    for eager, compiled in zip(*told, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-6)


APEX, SEQUENCE = torch.rand(2, 1, 224, 224), torch.rand(2, 64, 128)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small()(APEX[0], SEQUENCE), r"apex must be a tensor of shape \(N, 1, 224, 224\), got \(1, 224, 224\)"),
        (lambda: small()(APEX[..., 1:], SEQUENCE), r"apex must be .*, got \(2, 1, 224, 223\)"),
        (lambda: small()(APEX.expand(2, 3, 224, 224), SEQUENCE), r"apex must be .*, got \(2, 3, 224, 224\)"),
        (lambda: small()(None, SEQUENCE), "apex must be .*, got NoneType"),
        (lambda: small()(APEX.to(torch.uint8), SEQUENCE), r"apex must be a float tensor, got torch.uint8; convert it to float32"),
        (lambda: small()(APEX, SEQUENCE[0]), r"sequence must be a tensor of shape \(N, 64, 128\), got \(64, 128\)"),
        (lambda: small()(APEX, SEQUENCE.mT), r"sequence must be .*, got \(2, 128, 64\)"),
        (lambda: small()(APEX, SEQUENCE[:1]), "apex and sequence must be of the same clips, got 2 and 1"),
        (lambda: models.ATNet(0), "num_classes must be at least 1"),
        (lambda: models.ATNet(3, width=0), "width must be at least 1"),
        (lambda: models.ATNet(3, hidden=1.5), "hidden must be a whole number"),
        (lambda: models.ATNet(3, width=2, dropout=2), "dropout must lie in 0..1, got 2"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(mer_fast.MerFastError, match="ATNet: " + message):
        call()
