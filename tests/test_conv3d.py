"""ops.conv3d: PyTorch's convolution and activation on every path, and the contract of an op."""

import logging

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings

import mer_fast
from mer_fast import ops
from mer_fast.ops._conv3d_path import conv3d_path
from mer_fast.reference.conv3d import ACTIVATIONS

from .kit import LAYOUTS, OpContract, assert_near, laid_out
from .test_conv3d_pool import TestConv3dPool, calls

# name: (channels, outputs, kernel, arguments)
PATHS = {
    "winograd": (2, 9, (3, 3, 3), dict(stride=(2, 1, 1), padding=1)),
    "pointwise": (3, 5, (3, 1, 1), dict(stride=(2, 1, 1), padding=(2, 0, 0), dilation=(2, 1, 1))),
    "one channel": (1, 17, (5, 4, 3), dict(stride=(3, 2, 1), padding=(1, 2, 0), dilation=(1, 2, 1))),
    "stride is kernel": (2, 16, (2, 3, 4), dict(stride=(2, 3, 4))),
    "few channels": (3, 33, (2, 5, 5), dict(stride=(1, 2, 2), padding=2)),
    "library": (4, 6, (3, 5, 5), dict(stride=(4, 1, 1), padding=2)),
}


class TestConv3d(OpContract):
    op = "conv3d"
    path = "winograd"
    activation = "relu"

    def inputs(self, dtype, device):
        channels, outputs, kernel, _ = PATHS[self.path]
        shapes = (3, channels, 13, 17, 19), (outputs, channels, *kernel), (outputs,)
        return [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]

    def call(self, input, weight, bias):
        return ops.conv3d(input, weight, bias, activation=self.activation, **PATHS[self.path][3])

    def opcheck_arguments(self, device):
        x, w, b = (t.requires_grad_() for t in self.inputs(torch.float64, device))
        return {"conv3d": (x, w, b, [2, 1, 1], [1, 1, 1], [1, 1, 1], 1, "relu", False)}

    def test_says_which_path_it_takes(self, caplog):
        inputs = self.inputs(torch.float32, "cpu")
        with caplog.at_level(logging.DEBUG, logger="mer_fast"):
            self.call(*inputs)
        who = "library" if self.path == "library" else "mer_fast"
        assert f"conv3d {tuple(inputs[1].shape)}: {who}, " in caplog.text

    test_every_element_is_written = TestConv3dPool.test_every_element_is_written
    test_keeps_its_dtype_under_autocast = TestConv3dPool.test_keeps_its_dtype_under_autocast


class TestConv3dPointwise(TestConv3d):
    path = "pointwise"
    activation = None

    def opcheck_arguments(self, device):
        x, w = (t.requires_grad_() for t in self.inputs(torch.float64, device)[:2])
        return {"conv3d": (x, w, None, [2, 1, 1], [2, 0, 0], [2, 1, 1], 1, "none", False)}


class TestConv3dOneChannel(TestConv3d):
    path = "one channel"
    activation = "gelu"


class TestConv3dStrideIsKernel(TestConv3d):
    path = "stride is kernel"
    activation = "leaky_relu"


class TestConv3dFewChannels(TestConv3d):
    path = "few channels"


class TestConv3dLibrary(TestConv3d):
    """The library sums in an order of its own for each memory layout."""

    path = "library"
    activation = "gelu"

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_takes_any_memory_layout(self, device, layout):
        inputs = self.inputs(torch.float32, device)
        assert_near(self.call(*(laid_out(x, layout) for x in inputs)), self.call(*inputs), torch.float32)

    def test_vmaps_over_an_extra_batch(self, device):
        inputs = [torch.stack([x, x.flip(-1), x.flip(0)], 1) for x in self.inputs(torch.float32, device)]
        out = torch.vmap(self.call, in_dims=1, out_dims=1)(*inputs)
        for k in range(3):
            assert_near(out[:, k], self.call(*(x[:, k] for x in inputs)), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_random_calls(device, dtype, conv_cases):
    """The operator itself, so that the kernel runs where the public op would call the library; then the public op."""

    @settings(max_examples=conv_cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(calls())
    def check(call):
        tensors, arguments, _ = call
        conv = {k: v for k, v in arguments.items() if k in ("stride", "padding", "dilation", "groups")}
        activation, rounded = arguments["activation"], [t.to(dtype) for t in tensors]
        expected = ACTIVATIONS[activation](F.conv3d(*(t.double() for t in rounded), **conv))
        spelled = [list(conv[k]) for k in ("stride", "padding", "dilation")]
        ours = [t.to(device) for t in rounded]
        out = torch.ops.mer_fast.conv3d(*ours, *spelled, conv["groups"], activation or "none", False)
        assert_near(out, expected, dtype)
        assert_near(ops.conv3d(*ours, activation=activation, **conv), expected, dtype)

    check()


@pytest.mark.parametrize("path", PATHS)
def test_gradients_of_every_path(device, path):
    channels, outputs, kernel, arguments = PATHS[path]
    shapes = (2, channels, 13, 17, 19), (outputs, channels, *kernel), (outputs,)
    for activation in ACTIVATIONS:
        tensors = [torch.randn(s) for s in shapes]
        ours = [t.to(device).requires_grad_() for t in tensors]
        wide = [t.double().requires_grad_() for t in tensors]
        out = ops.conv3d(*ours, activation=activation, **arguments)
        expected = mer_fast.reference.conv3d(*wide, activation=activation, **arguments)
        grad = torch.randn(out.shape[::-1]).permute(4, 3, 2, 1, 0)
        got = torch.autograd.grad(out, ours, grad.to(out))
        for one, other in zip(got, torch.autograd.grad(expected, wide, grad.double()), strict=True):
            assert_near(one, other, torch.float32, gradient=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("path", PATHS)
def test_nan_and_infinity(device, path, value):
    channels, outputs, kernel, arguments = PATHS[path]
    x, w = torch.randn(1, channels, 13, 17, 19), torch.randn(outputs, channels, *kernel)
    x[0, 0, 6, 8, 9] = value
    for activation in (None, "relu"):
        out = ops.conv3d(x.to(device), w.to(device), activation=activation, **arguments).cpu()
        expected = ACTIVATIONS[activation](F.conv3d(x, w, **arguments))
        assert torch.equal(out.isnan(), expected.isnan())
        torch.testing.assert_close(out, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_gelu_over_its_whole_range():
    x = torch.cat([torch.linspace(-12, 12, 4099), torch.tensor([float("nan"), float("inf"), 1e30, -1e30])]).view(1, 1, 1, 1, -1)
    out = torch.ops.mer_fast.conv3d(x, torch.ones(1, 1, 1, 1, 1), None, [1] * 3, [0] * 3, [1] * 3, 1, "gelu", False)
    expected = F.gelu(x.double()).float()
    assert torch.equal(out.isnan(), expected.isnan())
    torch.testing.assert_close(out, expected, equal_nan=True, rtol=2e-6, atol=1e-5)


def test_empty(device):
    x = torch.randn(0, 2, 7, 9, 9, device=device, requires_grad=True)
    w, b = torch.randn(4, 2, 3, 3, 3, device=device, requires_grad=True), torch.randn(4, device=device, requires_grad=True)
    out = ops.conv3d(x, w, b, padding=1)
    assert out.shape == (0, 4, 7, 9, 9)
    grads = torch.autograd.grad(out.sum(), (x, w, b))
    assert [g.shape for g in grads] == [x.shape, w.shape, b.shape]
    assert not grads[1].any()


def test_few_pixels_in_a_frame():
    """Fewer than the pointwise kernel's vectors hold."""
    for side in (1, 2, 5, 8):
        x, w = torch.randn(2, 3, 6, side, side), torch.randn(7, 3, 3, 1, 1)
        assert_near(ops.conv3d(x, w, stride=(2, 1, 1)), F.conv3d(x.double(), w.double(), stride=(2, 1, 1)), torch.float32)


def test_the_path_depends_on_the_weight_alone():
    geometry = mer_fast.ops._conv.geometry("conv3d", 1, 0, 1, 1, None)
    w = torch.randn(16, 4, 3, 3, 3)
    paths = {conv3d_path(torch.randn(n, 4, 5, h, 9), w, geometry) for n in (0, 1, 64) for h in (3, 40)}
    assert len(paths) == 1
    assert not conv3d_path(torch.randn(1, 4, 5, 9, 9).bfloat16(), w.bfloat16(), geometry).kernel


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (dict(input=(2, 3, 8, 9, 9)), {}, "input must have 4 channels"),
        (dict(weight=(6, 4, 9, 3, 3)), {}, r"weight of size \(9, 3, 3\) does not fit into input \(2, 4, 8, 9, 9\)"),
        ({}, dict(dilation=0), "dilation must be at least 1"),
        ({}, dict(activation="swish"), "activation must be None"),
    ],
)
def test_bad_arguments(device, change, arguments, message):
    shapes = {**dict(input=(2, 4, 8, 9, 9), weight=(6, 4, 3, 3, 3), bias=(6,)), **change}
    with pytest.raises(mer_fast.MerFastError, match=f"conv3d: {message}"):
        ops.conv3d(*(torch.randn(shape, device=device) for shape in shapes.values()), **arguments)
