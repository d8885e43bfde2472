"""swap_layers: which layers are swapped, which are left and why."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn as tnn

import mer_fast
from mer_fast import nn, swap_layers

from .kit import assert_near

CLIP = (2, 1, 10, 12, 12)


class Net(tnn.Module):
    """Layers by keyword, and a forward given as a function of the network and its input."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def sequential(*layers):
    return tnn.Sequential(*layers)


def conv(**arguments):
    return tnn.Conv3d(1, 4, 3, **arguments)


def kinds(model):
    return [type(m) for m in model.modules() if not list(m.children())]


def swapped_names(report):
    return [entry.names for entry in report.swapped]


def reasons(report):
    return {entry.name: entry.reason for entry in report.left}


def results(model, x):
    """Values and the gradients of all parameters."""
    out = model(x)
    grad = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).view_as(out)
    return out, *torch.autograd.grad(out, list(model.parameters()), grad)


def assert_same(model, original, shape=CLIP):
    """The same results in training and in evaluation, in float64."""
    model, original = copy.deepcopy(model).double(), copy.deepcopy(original).double()
    for mode in (True, False):
        x = torch.randn(shape, dtype=torch.float64)
        for got, want in zip(results(model.train(mode), x), results(original.train(mode), x), strict=True):
            assert_near(got, want, torch.float64, gradient=True)


def swap(model):
    """Swaps, and checks all that holds for every swap."""
    original = copy.deepcopy(model)
    parameters, keys = dict(model.named_parameters()), list(model.state_dict())
    report = swap_layers(model)
    assert list(model.state_dict()) == keys
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert_same(model, original)
    return report


# --- what is swapped -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("layers", "activation"),
    [
        ([], None),
        ([tnn.ReLU()], "relu"),
        ([tnn.ReLU(inplace=True)], "relu"),
        ([tnn.LeakyReLU()], "leaky_relu"),
        ([tnn.GELU()], "gelu"),
        ([tnn.Identity(), tnn.ReLU(), tnn.Identity()], "relu"),
    ],
)
def test_a_chain_becomes_one_layer(layers, activation):
    model = sequential(conv(padding="same", bias=False), *layers, tnn.MaxPool3d((2, 3, 2), stride=(1, 2, 2)))
    report = swap(model)
    assert kinds(model) == [nn.ConvPool3d, *[tnn.Identity] * (len(layers) + 1)]
    assert (model[0].activation, model[0].pool_kernel, model[0].pool_stride) == (activation, (2, 3, 2), (1, 2, 2))
    assert report.swapped[0].became.startswith("mer_fast.nn.ConvPool3d") and not report.left


def test_a_chain_across_containers():
    block = Net(lambda self, x: self.relu(self.conv(x)), conv=conv(), relu=tnn.ReLU())
    model = Net(lambda self, x: self.head(self.pool(self.block(x)).mean((2, 3, 4))), head=tnn.Linear(4, 3),
                pool=tnn.MaxPool3d(3), block=block)  # fmt: skip
    assert swapped_names(swap(model)) == [("block.conv", "block.relu", "pool")]


def test_every_chain_of_a_deep_model():
    model = sequential(
        conv(padding=1), tnn.ReLU(), tnn.MaxPool3d(2), sequential(tnn.Conv3d(4, 4, 3, padding=1), tnn.GELU(), tnn.MaxPool3d(2)),
        tnn.Conv3d(4, 2, 1), tnn.ReLU(), tnn.Conv3d(2, 2, 1),
    )  # fmt: skip
    report = swap(model)
    assert swapped_names(report) == [("0", "1", "2"), ("3.0", "3.1", "3.2"), ("4", "5"), ("6",)]
    assert [type(model[k]) for k in (0, 4, 5, 6)] == [nn.ConvPool3d, nn.Conv3d, tnn.Identity, nn.Conv3d]


def test_a_lone_convolution_even_as_the_model_itself():
    model = conv(padding=(1, 0, 2), groups=1, stride=2)
    assert swapped_names(swap(model)) == [("",)] and type(model) is nn.Conv3d


def test_our_own_convolution_takes_the_pool_behind_it():
    model = sequential(nn.Conv3d(1, 4, 3, activation="gelu"), tnn.MaxPool3d(2))
    assert swapped_names(swap(model)) == [("0", "1")] and model[0].activation == "gelu"


@pytest.mark.parametrize("activation", [tnn.ReLU, lambda: tnn.ReLU(inplace=True), tnn.LeakyReLU, tnn.GELU, None])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": None}])
def test_a_chain_with_a_batch_norm(activation, options):
    layers = [tnn.MaxPool3d(2)] if activation is None else [activation(), tnn.MaxPool3d(2)]
    model = sequential(conv(bias=not options), tnn.BatchNorm3d(4, **options), *layers)
    report = swap(model)
    assert report.swapped[0].names == tuple("0123"[: len(model)]) and "evaluation" in report.swapped[0].became
    assert isinstance(model[0], nn.ConvPool3d) and isinstance(model[1], tnn.BatchNorm3d) and not report.left


def with_norm():
    model = sequential(conv(), tnn.BatchNorm3d(4), tnn.ReLU(), tnn.MaxPool3d(2)).double()
    with torch.no_grad():
        for value in (model[1].weight, model[1].bias, model[1].running_mean):
            value.normal_()
        model[1].running_var.uniform_(0.5, 2)
    return model


def test_a_batch_norm_trains_as_before_and_is_folded_in_evaluation(monkeypatch):
    model, x = with_norm(), torch.randn(CLIP, dtype=torch.float64)
    original = copy.deepcopy(model)
    swap_layers(model)
    for network in (model, original):
        network.train()(x)
    for got, want in zip(model.buffers(), original.buffers(), strict=True):
        assert_near(got.double(), want.double(), torch.float64)
    expected = original.eval()(x)
    monkeypatch.setattr(F, "batch_norm", lambda *args, **kwargs: pytest.fail("the norm ran by itself"))
    assert_near(model.eval()(x), expected, torch.float64)


CHANGES = {
    "weights in place": lambda m: m[0].weight.data.mul_(2),
    "a new weight": lambda m: setattr(m[0], "weight", tnn.Parameter(m[0].weight.detach() * 2)),
    "a new running mean": lambda m: setattr(m[1], "running_mean", m[1].running_mean + 1),
    "running variance in place": lambda m: m[1].running_var.mul_(2),
    "eps": lambda m: setattr(m[1], "eps", 0.5),
    "a checkpoint": lambda m: m.load_state_dict({k: v * 2 for k, v in m.state_dict().items()}),
    "training": lambda m: m.train()(torch.ones(CLIP, dtype=torch.float64)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_folded_follows_every_change(change):
    model, x = with_norm(), torch.randn(CLIP, dtype=torch.float64)
    original = copy.deepcopy(model)
    swap_layers(model)
    before = model.eval()(x)
    for network in (model, original):
        CHANGES[change](network)
        network.eval()
    assert_near(model(x), original(x), torch.float64)
    assert not torch.allclose(model(x), before)


def test_a_frozen_norm_in_training_is_folded_with_its_gradients():
    model, x = with_norm(), torch.randn(CLIP, dtype=torch.float64)
    original = copy.deepcopy(model)
    swap_layers(model)
    for network in (model.train(), original.train()):
        network[1].eval()
    for got, want in zip(results(model, x), results(original, x), strict=True):
        assert_near(got, want, torch.float64, gradient=True)


@pytest.mark.parametrize("training", [True, False])
def test_a_part_replaced_after_the_swap_ends_the_folding(training):
    model, x = with_norm().train(training), torch.randn(CLIP, dtype=torch.float64)
    original = copy.deepcopy(model)
    swap_layers(model)
    model = tnn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert_near(model.eval()(x), original.eval()(x), torch.float64)


def test_a_convolution_with_two_consumers_keeps_what_is_behind_it():
    model = Net(lambda self, x: (y := self.conv(x)).mean() + self.pool(self.relu(y)), conv=conv(), relu=tnn.ReLU(inplace=False),
                pool=tnn.MaxPool3d(2))  # fmt: skip
    report = swap(model)
    assert swapped_names(report) == [("conv",)] and type(model.relu) is tnn.ReLU
    assert reasons(report)["conv"] == "its output is used 2 times, so that nothing behind it is fused"
    assert reasons(report)["pool"] == "it runs behind relu, not behind a convolution's chain"


def test_an_activation_with_two_consumers_is_fused_without_the_pool():
    model = Net(lambda self, x: (y := self.relu(self.conv(x))).mean() + self.pool(y), conv=conv(), relu=tnn.ReLU(),
                pool=tnn.MaxPool3d(2))  # fmt: skip
    report = swap(model)
    assert swapped_names(report) == [("conv", "relu")] and type(model.pool) is tnn.MaxPool3d
    assert "used 2 times" in reasons(report)["relu"]


def test_swapping_twice_does_no_more():
    model = sequential(
        conv(), tnn.BatchNorm3d(4), tnn.ReLU(), tnn.MaxPool3d(2), tnn.Conv3d(4, 4, 1), tnn.MaxPool3d(2, ceil_mode=True)
    )
    first, before = swap(model), kinds(model)
    second = swap(model)
    assert first.swapped and not second.swapped and second.left == first.left and kinds(model) == before


def test_mode_device_dtype_and_gradients_asked_for_stay():
    model = sequential(conv(), tnn.ReLU(), tnn.MaxPool3d(2)).to("meta", torch.bfloat16).eval()
    model[0].weight.requires_grad_(False)
    swap_layers(model)
    assert not any(m.training for m in model.modules())
    assert model[0].weight.device.type == "meta" and model[0].weight.dtype == torch.bfloat16
    assert (model[0].weight.requires_grad, model[0].bias.requires_grad) == (False, True)


def test_the_networks_of_the_package_have_nothing_to_swap():
    report = swap_layers(mer_fast.models.MicroExpSTCNN(3, frames=18))
    assert not report.swapped and not report.left


def test_the_report_reads_well():
    model = sequential(conv(), tnn.ReLU(), tnn.MaxPool3d(2), tnn.Conv3d(4, 4, 3, padding_mode="circular", padding=1))
    report = swap_layers(model)
    assert str(report) == (
        "swapped (1)\n"
        "  0 -> 1 -> 2: mer_fast.nn.ConvPool3d, activation='relu'\n"
        "left (1)\n"
        "  3: padding_mode='circular': only padding with zeros is fused"
    )


def test_takes_modules_only():
    with pytest.raises(mer_fast.MerFastError, match=r"swap_layers: model must be a torch\.nn\.Module, got function"):
        swap_layers(lambda x: x)


class TakesApart(torch.nn.Module):
    """Cannot be traced, and looks at what passes between the layers of a Sequential."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv3d(1, 3, 3), torch.nn.ReLU(), torch.nn.MaxPool3d(2))


class WalksIt(TakesApart):
    def forward(self, x):
        if x.sum() > 1e30:
            return x
        seen = 0
        for layer in self.features:
            x = layer(x)
            seen = seen + x.mean()
        return seen


class CallsIt(TakesApart):
    def forward(self, x):
        return x if x.sum() > 1e30 else self.features(x)


def test_a_sequential_that_is_walked_by_untraceable_code_is_not_fused():
    x = torch.randn(2, 1, 8, 8, 8)
    model = WalksIt()
    expected = model(x)
    report = mer_fast.swap_layers(model)
    torch.testing.assert_close(model(x), expected)
    assert "one by one" in str(report)
    model = CallsIt()
    expected = model(x)
    report = mer_fast.swap_layers(model)
    assert type(model.features[0]) is mer_fast.nn.ConvPool3d
    torch.testing.assert_close(model(x), expected)


def test_padding_and_dilation_changed_after_construction():
    for padding in (0, "same"):
        convolution = torch.nn.Conv3d(3, 8, 3, padding=padding)
        convolution.dilation = (2, 2, 2)
        if padding == 0:
            convolution.padding = (2, 2, 2)
        x, model = torch.randn(2, 3, 7, 12, 12), torch.nn.Sequential(convolution)
        expected = model(x) if padding == 0 else torch.nn.functional.conv3d(
            x, convolution.weight, convolution.bias, padding="same", dilation=2)  # fmt: skip
        mer_fast.swap_layers(model)
        torch.testing.assert_close(model(x), expected)


def test_shapes_are_inferred_on_the_meta_device():
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool3d(2), torch.nn.Conv3d(4, 2, 1))
    mer_fast.swap_layers(model)
    assert model.to("meta")(torch.empty(2, 1, 8, 8, 8, device="meta")).shape == (2, 2, 3, 3, 3)
