"""nn.Conv3d and nn.ConvPool3d: torch.nn's arguments, weights and results."""

import copy
import pickle

import pytest
import torch
from torch import nn as tnn

import mer_fast
from mer_fast import nn

from .kit import assert_near

ACTIVATION = {None: tnn.Identity, "relu": tnn.ReLU, "leaky_relu": tnn.LeakyReLU, "gelu": tnn.GELU}

CONVOLUTIONS = {
    "plain": {},
    "strided": {"stride": (2, 1, 2), "padding": (1, 0, 2), "dilation": (1, 2, 1)},
    "grouped, no bias": {"groups": 2, "bias": False},
    "valid": {"padding": "valid"},
    "same, odd": {"padding": "same", "kernel_size": (3, 1, 5), "dilation": (2, 1, 1)},
    "same, even": {"padding": "same", "kernel_size": (2, 3, 4)},
    "reflect": {"padding": (1, 2, 1), "padding_mode": "reflect"},
    "circular, same": {"padding": "same", "padding_mode": "circular", "kernel_size": (2, 3, 3)},
    "replicate": {"padding": 1, "padding_mode": "replicate"},
}


def arguments(case):
    return {"in_channels": 2, "out_channels": 6, "kernel_size": 3, "dtype": torch.float64, **case}


def same_results(ours, plain, x):
    """Values and all gradients of two modules with the same parameters, on a float64 input."""
    results = []
    for module in (ours, plain):
        x = x.detach().requires_grad_()
        out = module(x)
        grad = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
        results.append((out, *torch.autograd.grad(out, (x, *module.parameters()), grad)))
    for got, want in zip(*results, strict=True):
        assert_near(got, want, torch.float64, gradient=True)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv3d_is_torch_conv3d(case, device):
    plain = tnn.Conv3d(**arguments(CONVOLUTIONS[case])).to(device)
    ours = nn.Conv3d(**arguments(CONVOLUTIONS[case])).to(device)
    ours.load_state_dict(plain.state_dict())
    same_results(ours, plain, torch.randn(2, 2, 7, 8, 9, dtype=torch.float64, device=device))


@pytest.mark.parametrize("activation", ACTIVATION)
def test_conv3d_with_an_activation(activation):
    ours = nn.Conv3d(2, 5, 3, activation=activation, dtype=torch.float64)
    plain = tnn.Sequential(tnn.Conv3d(2, 5, 3, dtype=torch.float64), ACTIVATION[activation]())
    plain[0].load_state_dict(ours.state_dict())
    same_results(ours, plain, torch.randn(2, 2, 6, 7, 8, dtype=torch.float64))


POOLS = {
    "as in MicroExpSTCNN": {"kernel_size": (4, 3, 3)},
    "overlapping": {"pool_kernel": (2, 3, 2), "pool_stride": (1, 2, 1)},
    "no activation": {"activation": None, "pool_kernel": 2},
    "leaky_relu": {"activation": "leaky_relu", "pool_kernel": 2, "stride": (2, 1, 1), "padding": 1},
    "gelu": {"activation": "gelu", "pool_kernel": (1, 2, 2), "bias": False},
    "same": {"padding": "same", "kernel_size": (2, 3, 4), "groups": 2},
    "a large window": {"pool_kernel": (6, 7, 7), "padding": 1},
}


def plain_chain(case):
    convolution = arguments(case)
    names = ("pool_kernel", "pool_stride", "activation")
    kernel, stride, activation = (convolution.pop(n, d) for n, d in zip(names, (3, None, "relu"), strict=True))
    return tnn.Sequential(tnn.Conv3d(**convolution), ACTIVATION[activation](), tnn.MaxPool3d(kernel, stride))


@pytest.mark.parametrize("case", POOLS)
def test_conv_pool3d_is_the_three_layers(case, device):
    plain, ours = plain_chain(POOLS[case]).to(device), nn.ConvPool3d(**arguments(POOLS[case])).to(device)
    ours.load_state_dict(plain[0].state_dict())
    same_results(ours, plain, torch.randn(2, 2, 9, 10, 11, dtype=torch.float64, device=device))


@pytest.mark.parametrize("layer", [nn.Conv3d, nn.ConvPool3d])
def test_the_same_seed_gives_the_weights_of_torch_conv3d(layer):
    torch.manual_seed(7)
    plain = tnn.Conv3d(3, 8, (5, 3, 3))
    torch.manual_seed(7)
    ours = layer(3, 8, (5, 3, 3))
    assert list(ours.state_dict()) == ["weight", "bias"]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("layer", [nn.Conv3d(1, 2, 3, padding="same"), nn.ConvPool3d(1, 2, 3, pool_kernel=2)])
def test_takes_a_clip_without_a_batch(layer):
    x = torch.randn(1, 6, 7, 8)
    assert torch.equal(layer(x), layer(x.unsqueeze(0)).squeeze(0))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(1, 2, 3, activation="gelu"),
        nn.Conv3d(1, 2, (2, 3, 3), padding="same", padding_mode="reflect"),
        nn.ConvPool3d(1, 2, 3, pool_kernel=2),
        nn.ConvPool3d(1, 2, 2, padding="same", activation=None),
    ],
    ids=str,
)
def test_compiles_without_a_graph_break(layer):
    torch.compiler.reset()
    x = torch.randn(2, 1, 7, 8, 9)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for module in (layer, compiled):
        layer.zero_grad()
        out = module(x)
        out.sum().backward()
        if module is layer:
            expected = out, layer.weight.grad.clone()
    torch.testing.assert_close((out, layer.weight.grad), expected)


@pytest.mark.parametrize("layer", [nn.Conv3d(1, 2, 3, activation="relu"), nn.ConvPool3d(1, 2, 3, pool_stride=2)])
def test_copies_and_pickles(layer):
    x = torch.randn(1, 1, 8, 8, 8)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x)) and other.weight is not layer.weight and repr(other) == repr(layer)


def test_tells_its_arguments():
    assert repr(nn.Conv3d(1, 2, 3)) == repr(tnn.Conv3d(1, 2, 3))
    assert repr(nn.Conv3d(1, 2, 3, activation="relu")).endswith("stride=(1, 1, 1), activation='relu')")
    assert repr(nn.ConvPool3d(1, 2, 3, pool_stride=2)).endswith(
        "activation='relu', pool_kernel=(3, 3, 3), pool_stride=(2, 2, 2))"
    )


@pytest.mark.parametrize("layer", [nn.Conv3d, nn.ConvPool3d])
def test_is_made_on_a_device_in_a_dtype(layer):
    made = layer(1, 2, 3, device="meta", dtype=torch.bfloat16)
    assert made.weight.device.type == "meta" and made.bias.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    ours = nn.ConvPool3d(2, 4, 3, pool_kernel=2).to(dtype)
    x = torch.randn(1, 2, 7, 8, 9, dtype=dtype)
    with mer_fast.backend("reference"):
        expected = copy.deepcopy(ours).double()(x.double())
    assert ours(x).dtype == dtype
    assert_near(ours(x), expected, dtype)


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.ConvPool3d(1, 4, 3, pool_kernel=2, activation=activation) for activation in ACTIVATION),
        *(nn.Conv3d(1, 4, 3, activation=activation) for activation in (None, "leaky_relu", "gelu")),
    ],
    ids=lambda layer: f"{type(layer).__name__}-{layer.activation}",
)
def test_what_follows_may_change_the_output_in_place(layer):
    """As behind PyTorch's own layers, ReLU excepted: dropout in place, or `x += y`."""
    x = torch.randn(2, 1, 8, 8, 8)
    gradients = []
    for change in (lambda out: out.mul_(2), lambda out: out * 2):
        layer.zero_grad()
        change(layer(x)).square().sum().backward()
        gradients.append(layer.weight.grad.clone())
    assert_near(*gradients, torch.float32, gradient=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv3d(1, 2, 3, activation="tanh"), "Conv3d: activation must be None, 'relu'"),
        (lambda: nn.ConvPool3d(1, 2, 3, activation="elu"), "ConvPool3d: activation must be None, 'relu'"),
        (lambda: nn.ConvPool3d(1, 2, 3, pool_kernel=(2, 2)), "ConvPool3d: pool_kernel must be a whole number or three"),
        (lambda: nn.ConvPool3d(1, 2, 3, pool_stride=0), "ConvPool3d: pool_stride must be at least 1"),
        (lambda: nn.ConvPool3d(1, 2, 3)(torch.rand(1, 1, 4, 9, 9)), "pool_kernel .* larger than the convolution's output"),
        (lambda: nn.Conv3d(2, 2, 3)(torch.rand(1, 1, 4, 9, 9)), "input must have 2 channels"),
        (lambda: nn.Conv3d(2, 2, 3)(torch.rand(4, 9, 9)), "input must have shape"),
    ],
)
def test_says_what_is_wrong(make, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        make()
