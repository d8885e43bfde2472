"""swap_layers: every reason to leave a layer, and models that torch.fx cannot read as a whole."""

import copy
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn as tnn

from mer_fast import nn, swap_layers

from .kit import assert_near
from .test_swap import CLIP, Net, conv, kinds, reasons, sequential, swap, swapped_names


class OwnConv3d(tnn.Conv3d):
    def forward(self, input):
        return super().forward(input) * 2


class OwnPool(tnn.MaxPool3d):
    def forward(self, input):
        return super().forward(input) + 1


def pooled(**arguments):
    return sequential(conv(), tnn.ReLU(), tnn.MaxPool3d(**{"kernel_size": 2, **arguments}))


def hooked(layer):
    layer.register_forward_hook(lambda module, args, out: out * 2)
    return layer


def watched(layer):
    layer.register_full_backward_hook(lambda module, inputs, outputs: None)
    return layer


def with_forward(layer):
    layer.forward = lambda x: type(layer).forward(layer, x)
    return layer


def normed(**arguments):
    return sequential(conv(), tnn.BatchNorm3d(4, **arguments), tnn.ReLU(), tnn.MaxPool3d(2))


def weight_normed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old form, which works by a hook
        return tnn.utils.weight_norm(conv())


# name: model, the module that is left, why, what is swapped all the same
LEFT = {
    "padding": (lambda: pooled(padding=1), "2", "padding=1: only a pool without padding", [("0", "1")]),
    "dilation": (lambda: pooled(dilation=(1, 2, 1)), "2", r"dilation=\(1, 2, 1\): only", [("0", "1")]),
    "ceil": (lambda: pooled(ceil_mode=True, stride=3), "2", "ceil_mode=True", [("0", "1")]),
    "window": (lambda: pooled(kernel_size=(7, 6, 7), stride=1), "2", "294 positions: at most 255", [("0", "1")]),
    "slope": (lambda: sequential(conv(), tnn.LeakyReLU(0.2), tnn.MaxPool3d(2)), "1", "negative_slope=0.2", [("0",)]),
    "tanh": (lambda: sequential(conv(), tnn.GELU("tanh"), tnn.MaxPool3d(2)), "1", "approximate='tanh'", [("0",)]),
    "other": (lambda: sequential(conv(), tnn.ELU(), tnn.MaxPool3d(2)), "2", "it runs behind 1, not behind", [("0",)]),
    "order": (lambda: sequential(conv(), tnn.ReLU(), tnn.BatchNorm3d(4), tnn.MaxPool3d(2)), "3", "it runs behind 2",
              [("0", "1")]),
    "first": (lambda: sequential(tnn.MaxPool3d(2), conv()), "0", "it runs behind an input of forward", [("1",)]),
    "no statistics": (lambda: normed(track_running_stats=False), "1", "no running statistics", [("0",)]),
    "F.relu": (lambda: Net(lambda s, x: s.pool(F.relu(s.conv(x))), conv=conv(), pool=tnn.MaxPool3d(2)), "conv",
               "relu behind it is a function call: only modules are fused", [("conv",)]),
    "pool behind F.relu": (lambda: Net(lambda s, x: s.pool(F.relu(s.conv(x))), conv=conv(), pool=tnn.MaxPool3d(2)), "pool",
                           "it runs behind the function call relu", [("conv",)]),
    "x.relu()": (lambda: Net(lambda s, x: s.conv(x).relu(), conv=conv()), "conv", "relu behind it is a function call",
                 [("conv",)]),
    "F.max_pool3d": (lambda: Net(lambda s, x: F.max_pool3d(s.relu(s.conv(x)), 2), conv=conv(), relu=tnn.ReLU()), "relu",
                     "max_pool3d behind it is a function call", [("conv", "relu")]),
    "hook on the convolution": (lambda: sequential(hooked(conv()), tnn.MaxPool3d(2)), "0", "it has hooks", []),
    "hook on the activation": (lambda: sequential(conv(), hooked(tnn.ReLU()), tnn.MaxPool3d(2)), "1", "it has hooks", [("0",)]),
    "hook on the pool": (lambda: sequential(conv(), tnn.ReLU(), watched(tnn.MaxPool3d(2))), "2", "it has hooks", [("0", "1")]),
    "hook between": (lambda: sequential(hooked(sequential(conv(), tnn.ReLU())), tnn.MaxPool3d(2)), "1",
                     "0 has hooks, which have to see what passes between 0.0 and it", [("0.0", "0.1")]),
    "forward": (lambda: sequential(with_forward(conv()), tnn.MaxPool3d(2)), "0", "its forward was replaced", []),
    "parametrized": (lambda: sequential(tnn.utils.parametrizations.weight_norm(conv()), tnn.MaxPool3d(2)), "0",
                     "parametrized", []),
    "weight norm": (lambda: sequential(weight_normed(), tnn.MaxPool3d(2)), "0", "it has hooks", []),
    "padding mode": (lambda: sequential(conv(padding=1, padding_mode="reflect"), tnn.MaxPool3d(2)), "0",
                     "padding_mode='reflect'", []),
    "own convolution": (lambda: sequential(OwnConv3d(1, 4, 3), tnn.MaxPool3d(2)), "0", "OwnConv3d may do more", []),
    "own pool": (lambda: sequential(conv(), OwnPool(2)), "1", "OwnPool may do more", [("0",)]),
    "called twice": (lambda: Net(lambda s, x: s.pool(s.conv(s.conv(x))), conv=tnn.Conv3d(1, 1, 3), pool=tnn.MaxPool3d(2)),
                     "conv", "shared: it is called more than once", []),
    "activation called twice": (lambda: Net(lambda s, x: s.relu(s.pool(s.relu(s.conv(x)))), conv=conv(), relu=tnn.ReLU(),
                                            pool=tnn.MaxPool3d(2)), "relu", "shared: it is called more than once", [("conv",)]),
}  # fmt: skip


NO_COPY = ("forward", "weight norm")  # of these PyTorch makes no copy that works by itself, to compare with


@pytest.mark.parametrize("case", LEFT)
def test_left_with_the_reason(case):
    make, name, reason, swapped = LEFT[case]
    model = make()
    report = swap_layers(model) if case in NO_COPY else swap(model)
    assert name in reasons(report)
    assert re.search(reason, reasons(report)[name]), reasons(report)
    assert swapped_names(report) == swapped


def test_left_with_indices():
    model = Net(lambda self, x: self.pool(self.conv(x))[0], conv=conv(), pool=tnn.MaxPool3d(2, return_indices=True))
    assert reasons(swap(model))["pool"] == "return_indices=True: the fused layer gives none"


def test_left_when_registered_twice():
    layer = conv()
    model = Net(lambda self, x: self.a(x), a=layer, b=layer)
    assert reasons(swap(model)) == {"a": "shared: it is registered as a and b"}
    assert type(model.a) is tnn.Conv3d


def test_left_when_lazy_complex_or_quantized():
    lazy = tnn.LazyConv3d(4, 3)
    assert "it is lazy" in reasons(swap_layers(sequential(lazy)))["0"]
    assert "complex64, not floats" in reasons(swap_layers(sequential(conv(dtype=torch.complex64))))["0"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.nn.quantized.Conv3d(1, 4, 3)
    assert reasons(swap_layers(sequential(quantized))) == {"0": "it is quantized"}


# --- what another way through the model would show --------------------------------------------------------------------
class Auxiliary(tnn.Module):
    """In training the convolution has a second consumer."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = conv(), tnn.MaxPool3d(2)

    def forward(self, x):
        y = self.conv(x)
        return self.pool(y) + y.mean() if self.training else self.pool(y)


class Features(tnn.Module):
    """An argument asks for what is between the layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = conv(), tnn.MaxPool3d(2)

    def forward(self, x, features=False, *, add=None):
        y = self.conv(x)
        if features:
            return self.pool(y) + y.mean()
        return self.pool(y) if add is None else self.pool(y + add)


@pytest.mark.parametrize("make", [Auxiliary, Features])
@pytest.mark.parametrize("training", [True, False])
def test_a_chain_has_to_be_one_on_every_way_through(make, training):
    model = make().train(training)
    report = swap(model)
    assert swapped_names(report) == [("conv",)]
    assert reasons(report)["conv"] == "what follows it depends on training or on an optional argument of forward"
    if isinstance(model, Features):
        x = torch.randn(CLIP)
        y = model.conv(x)
        torch.testing.assert_close(model(x, True), model.pool(y) + y.mean())
        torch.testing.assert_close(model(x, add=1), model.pool(y + 1))


class PoolAlone(tnn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool = tnn.Conv3d(1, 1, 3), tnn.MaxPool3d(2)

    def forward(self, x, skip=False):
        return self.pool(x) if skip else self.pool(self.conv(x))


class Frozen(tnn.Sequential):
    """Keeps its norm as it is in training."""

    def train(self, mode=True):
        super().train(mode)
        self[1].eval()


def test_a_train_method_of_the_models_own_is_respected():
    model = Frozen(conv(), tnn.BatchNorm3d(4), tnn.ReLU(), tnn.MaxPool3d(2))
    report = swap_layers(model)
    assert swapped_names(report) == [("0", "1", "2", "3")] and not report.left
    model.train()
    x = torch.randn(CLIP)
    expected = F.max_pool3d(model[1].weight[0] * F.relu(F.conv3d(x, model[0].weight, model[0].bias) / (1 + 1e-5) ** 0.5), 2)
    assert model.training and not model[1].training
    assert_near(model(x), expected, torch.float32)


def test_a_pool_that_also_runs_alone_is_left():
    model = PoolAlone()
    report = swap(model)
    assert swapped_names(report) == [("conv",)] and "it also runs without conv before it" in reasons(report)["pool"]
    x = torch.randn(CLIP)
    assert torch.equal(model(x, skip=True), F.max_pool3d(x, 2))


# --- models that cannot be traced as a whole -------------------------------------------------------------------------
class Deciding(tnn.Module):
    """Asks about the values of its input, which torch.fx cannot follow."""

    def __init__(self):
        super().__init__()
        self.features = sequential(conv(), tnn.ReLU(), tnn.MaxPool3d(2))
        self.conv, self.pool = tnn.Conv3d(4, 4, 1), tnn.MaxPool3d(2)

    def forward(self, x):
        if x.sum() > 1e9:
            raise ValueError("too bright")
        return self.pool(self.conv(self.features(x)))


def test_of_a_model_that_cannot_be_traced_the_parts_are_swapped():
    model = Deciding()
    report = swap(model)
    assert swapped_names(report) == [("features.0", "features.1", "features.2"), ("conv",)]
    assert reasons(report)[""].startswith("it cannot be traced as a whole (symbolically traced variables cannot be used")
    assert reasons(report)["pool"] == "no convolution was seen to run right before it"
    assert "(the model): it cannot be traced" in str(report)


def test_a_part_that_cannot_be_traced_does_not_hide_the_rest():
    model = sequential(Deciding(), tnn.Conv3d(4, 4, 1), tnn.ReLU(), tnn.MaxPool3d(2))
    report = swap(model)
    assert swapped_names(report) == [("0.features.0", "0.features.1", "0.features.2"), ("0.conv",), ("1", "2", "3")]
    assert "0" in reasons(report) and "" not in reasons(report)


def test_modules_in_a_list_are_followed_where_forward_calls_them():
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    model = Net(forward, layers=tnn.ModuleList([conv(), tnn.ReLU(), tnn.MaxPool3d(2)]))
    assert swapped_names(swap(model)) == [("layers.0", "layers.1", "layers.2")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_model_is_left():
    model = torch.jit.script(sequential(conv(), tnn.MaxPool3d(2)))
    report = swap_layers(sequential(model))
    assert not report.swapped and "compiled by TorchScript; swap before" in reasons(report)["0"]
    assert "TorchScript" in reasons(swap_layers(model))[""]


def test_a_model_that_cannot_be_copied_still_has_its_convolutions_swapped():
    model = sequential(conv(), tnn.MaxPool3d(2))
    model.stream = iter(open(__file__))  # noqa: SIM115
    report = swap_layers(model)
    model.stream.close()
    assert kinds(model) == [nn.Conv3d, tnn.MaxPool3d] and "no copy of it can be made" in reasons(report)[""]


def test_reading_a_model_leaves_nothing_behind():
    seen = []

    def forward(self, x):
        self.last = self.conv(x * torch.rand(1))
        return self.last

    model = sequential(Net(forward, conv=conv()), tnn.MaxPool3d(2))
    model[0].register_forward_hook(lambda module, args, out: seen.append(out))
    model.eval()
    torch.manual_seed(0)
    report, drawn = swap_layers(model), torch.rand(1)
    assert not seen and not hasattr(model[0], "last") and not model.training
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    assert "0 has hooks" in reasons(report)["1"]


def test_a_compiled_model_is_swapped_inside():
    torch.compiler.reset()
    model = torch.compile(sequential(conv(), tnn.ReLU(), tnn.MaxPool3d(2)), backend="eager")
    x = torch.randn(CLIP)
    before, plain = model(x), copy.deepcopy(model._orig_mod)
    report = swap_layers(model)
    assert len(report.swapped) == 1 and len(report.swapped[0].names) == 3
    assert_near(model(x), before, torch.float32)
    assert_near(plain(x), before, torch.float32)
