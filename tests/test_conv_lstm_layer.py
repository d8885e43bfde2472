"""nn.ConvLSTM and nn.ConvLSTMCell: names, shapes, initial values, copies, and every error of theirs and of ops.conv_lstm."""

import copy
import math
import pickle

import pytest
import torch

import mer_fast
from mer_fast import nn, ops

from .kit import assert_near
from .test_conv_lstm import operands


def test_parameters_have_the_names_and_shapes_of_the_contract():
    layer = nn.ConvLSTM(3, 4, (3, 5), 2, bidirectional=True, peephole=True)
    shapes = {name: tuple(one.shape) for name, one in layer.named_parameters()}
    expected = {}
    for k, channels in enumerate((3, 8)):
        for way in ("", "_reverse"):
            expected[f"weight_ih_l{k}{way}"] = (16, channels, 3, 5)
            expected[f"weight_hh_l{k}{way}"] = (16, 4, 3, 5)
            expected[f"bias_l{k}{way}"] = (16,)
            expected[f"peephole_l{k}{way}"] = (3, 4, 1, 1)
    assert shapes == expected and list(layer.state_dict()) == list(expected)
    assert list(nn.ConvLSTM(1, 2, 3, bias=False).state_dict()) == ["weight_ih_l0", "weight_hh_l0"]
    assert list(nn.ConvLSTMCell(1, 2, 3).state_dict()) == ["weight_ih", "weight_hh", "bias"]


def test_initial_values_fill_the_bound():
    layer = nn.ConvLSTM(8, 16, 3)
    bound = 1 / math.sqrt(16 * 9)
    for parameter in layer.parameters():
        assert parameter.abs().max() <= bound and parameter.std() > 0.4 * bound
    before = layer.weight_ih_l0.clone()
    layer.reset_parameters()
    assert not torch.equal(before, layer.weight_ih_l0)


def test_a_cell_is_one_step():
    cell, layer = nn.ConvLSTMCell(3, 4, 3), nn.ConvLSTM(3, 4, 3)
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    x, state = torch.randn(3, 2, 3, 5, 6), None
    for step in x:
        state = cell(step, state)
    _, (h, c) = layer(x)
    assert_near(state[0], h[0], torch.float32)
    assert_near(state[1], c[0], torch.float32)


@pytest.mark.parametrize("layer", [nn.ConvLSTM(2, 3, 3, 2, batch_first=True, peephole=True), nn.ConvLSTM(2, 3, 1, bias=False)])
def test_copies_pickles_and_tells_its_arguments(layer):
    x = torch.randn(2, 3, 2, 4, 4)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], layer(x)[0]) and repr(other) == repr(layer)
    told = repr(layer)
    assert told.startswith("ConvLSTM(2, 3, kernel_size=") and ("bias=False" in told) == (not layer.bias)
    assert ("peephole=True" in told) == layer.peephole and ("batch_first=True" in told) == layer.batch_first
    assert nn.ConvLSTM(1, 2, 3, device="meta", dtype=torch.bfloat16).bias_l0.dtype == torch.bfloat16


def changed(**values):
    return lambda: ops.conv_lstm(**{**operands(), **values})


def called(*arguments, **options):
    x = torch.randn(4, 2, 3, 6, 7)
    return lambda: nn.ConvLSTM(3, 5, 3, **options)(x, *arguments)


def zeros(*shape, **options):
    return torch.zeros(*shape, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (changed(input=operands()["input"][:0]), r"conv_lstm: input must have at least one step, got \(0, 2, 3, 6, 7\)"),
        (changed(input=zeros(2, 3, 6, 7)), r"conv_lstm: input must have shape \(T, N, C, H, W\), got \(2, 3, 6, 7\)"),
        (changed(input=zeros(4, 2, 4, 6, 7).double()), r"conv_lstm: input must have 3 channels for weight_ih \(20, 3, 3, 3\)"),
        (changed(input=operands()["input"].float()), "input and weight_ih must have one dtype, got torch.float32 and"),
        (changed(input=zeros(4, 2, 3, 6, 7, dtype=torch.long)), "input must be a float tensor, got torch.int64"),
        (changed(input=[1.0]), "input must be a torch.Tensor, got list"),
        (changed(weight_hh=zeros(20, 5, 2, 3).double()), r"weight_hh must have odd kernel sizes.* got \(20, 5, 2, 3\)"),
        (changed(weight_hh=zeros(20, 4, 3, 3).double()), r"weight_hh must have shape \(4 \* hidden, hidden, kh, kw\)"),
        (changed(weight_ih=zeros(16, 3, 3, 3).double()), r"weight_ih must have 20 outputs as weight_hh, got \(16, 3, 3, 3\)"),
        (changed(bias=zeros(5).double()), r"bias must have shape \(20,\), got \(5,\)"),
        (changed(peephole=zeros(3, 5).double()), r"peephole must have shape \(3, 5, 1, 1\) or \(3, 5, 6, 7\), got \(3, 5\)"),
        (changed(h0=zeros(2, 5, 6, 6).double()), r"h0 must have shape \(2, 5, 6, 7\), got \(2, 5, 6, 6\)"),
        (changed(c0=zeros(1, 5, 6, 7).double()), r"c0 must have shape \(2, 5, 6, 7\), got \(1, 5, 6, 7\)"),
        (changed(c0=zeros(2, 5, 6, 7)), "input and c0 must have one dtype, got torch.float64 and torch.float32"),
        (changed(h0=zeros(2, 5, 6, 7, device="meta").double()), "input and h0 must be on one device, got cpu and meta; move one"),
        (changed(lengths=[4, 5]), "lengths must be at most the input's 4 steps, got 5"),
        (changed(lengths=torch.tensor([4, -1])), "lengths must be at least 0 .* got -1"),
        (changed(lengths=[4]), "lengths must have one length a sequence, 2, got 1"),
        (changed(lengths=torch.tensor([[4, 4]])), r"lengths must have one length a sequence, 2, got \(1, 2\)"),
        (changed(lengths=torch.tensor([4.0, 3.0])), "lengths must be whole numbers, got torch.float32"),
        (changed(lengths=[4, 2.5]), "lengths must be a whole number, got 2.5"),
        (changed(lengths=4), "lengths must be a tensor or a list, got int"),
        (called((zeros(1, 2, 5, 6, 6),) * 2), r"ConvLSTM: state h must be .* here \(1, 2, 5, 6, 7\), got \(1, 2, 5, 6, 6\)"),
        (called((zeros(1, 2, 5, 6, 7),) * 2, num_layers=2), r"ConvLSTM: state h must be .* here \(2, 2, 5, 6, 7\)"),
        (called(zeros(1, 2, 5, 6, 7)), r"ConvLSTM: state must be the two tensors \(h, c\)"),
        (lambda: nn.ConvLSTM(3, 5, 3)(zeros(2, 3, 6, 7)), r"ConvLSTM: x must be a tensor of shape \(T, N, C, H, W\)"),
        (lambda: nn.ConvLSTM(3, 5, 3, batch_first=True)(zeros(2, 4, 2, 6, 7)), "ConvLSTM: x must have 3 channels, in_channels"),
        (lambda: nn.ConvLSTM(3, 5, 3)(zeros(0, 2, 3, 6, 7)), "at least one step"),
        (lambda: nn.ConvLSTM(3, 5, 4), "ConvLSTM: kernel_size must be odd"),
        (lambda: nn.ConvLSTM(3, 5, (3, 3, 3)), r"ConvLSTM: kernel_size must be a whole number or two \(h, w\)"),
        (lambda: nn.ConvLSTM(3, 5, 3, 0), "ConvLSTM: num_layers must be at least 1"),
        (lambda: nn.ConvLSTM(3, 0, 3), "ConvLSTM: hidden_channels must be at least 1"),
        (lambda: nn.ConvLSTMCell(3, 5, 2), "ConvLSTMCell: kernel_size must be odd"),
        (lambda: nn.ConvLSTMCell(3, 5, 3)(zeros(3, 6, 7)), r"ConvLSTMCell: x must be a tensor of shape \(N, C, H, W\)"),
        (lambda: nn.ConvLSTMCell(3, 5, 3)(zeros(1, 3, 6, 7), zeros(1)), r"ConvLSTMCell: state must be the two tensors"),
    ],
)  # fmt: skip
def test_says_what_is_wrong(call, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        call()
