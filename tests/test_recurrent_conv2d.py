"""ops.recurrent_conv2d and nn.RecurrentConv2d: against plain torch.nn networks in the papers' form."""

import copy
import itertools
import pickle
from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn as tnn

import mer_fast
from mer_fast import nn, ops

from .kit import LAYOUTS, TOLERANCE, assert_near, laid_out, relative_error
from .recurrent import FLOATS

FORMS = list(itertools.product(("feedforward", "input"), (True, False), ("batch", "group", "lrn", None)))


class Plain(tnn.Module):
    """A section in torch.nn alone, with the names of our parameters."""

    def __init__(self, in_channels, out_channels, kernel_size=3, steps=3, *, injection="feedforward", share_weights=True,
                 norm="batch", pool=None):  # fmt: skip
        super().__init__()
        first = 1 if injection == "input" else kernel_size
        self.input_conv = tnn.Conv2d(in_channels, out_channels, first, padding=first // 2, bias=False)
        self.recurrent_convs = tnn.ModuleList(
            tnn.Conv2d(out_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
            for _ in range(1 if share_weights else steps)
        )
        kinds = {"batch": tnn.BatchNorm2d, "group": lambda maps: tnn.GroupNorm(2, maps)}
        self.norms = tnn.ModuleList(kinds[norm](out_channels) for _ in range(steps + 1 if norm in kinds else 0))
        self.lrn = tnn.LocalResponseNorm(out_channels // 8 + 1, 0.001, 0.75, 1.0) if norm == "lrn" else tnn.Identity()
        self.steps, self.injection, self.pool = steps, injection, pool

    def activated(self, z, k):
        return self.lrn(torch.relu(self.norms[k](z) if len(self.norms) else z))

    def forward(self, x):
        u = self.input_conv(x)
        y = self.activated(u, 0)
        for k in range(self.steps):
            convolution = self.recurrent_convs[k % len(self.recurrent_convs)]
            y = self.activated(convolution(y + x) if self.injection == "input" else convolution(y) + u, k + 1)
        return y if self.pool is None else F.max_pool2d(y, self.pool)


def pair(injection, share, norm, channels=6, **options):
    """Our layer and the plain one with the same random weights and statistics."""
    options = {"injection": injection, "share_weights": share, "norm": norm, **options}
    ours, plain = nn.RecurrentConv2d(channels, 6, **options), Plain(channels, 6, **options)
    with torch.no_grad():
        for name, value in plain.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if "norms" in name else torch.randn_like(value) * 0.2)
    ours.load_state_dict(plain.state_dict())
    return ours, plain


@pytest.mark.parametrize(("injection", "share", "norm"), FORMS)
def test_is_the_network_of_the_paper(injection, share, norm, device):
    for training in (True, False):
        ours, plain = (one.to(device, torch.float64).train(training) for one in pair(injection, share, norm, pool=2))
        assert list(ours.state_dict()) == list(plain.state_dict())
        x = torch.randn(3, 6, 9, 8, dtype=torch.float64, device=device, requires_grad=True)
        results = []
        for module in (ours, plain):
            out = module(x)
            grad = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype, device=device).view_as(out)
            results.append((out, *torch.autograd.grad(out, (x, *module.parameters()), grad)))
        for got, want in zip(*results, strict=True):
            assert_near(got, want, torch.float64, gradient=True)
        with torch.no_grad():
            assert_near(ours(x), plain(x), torch.float64)
        for (name, got), want in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
            assert torch.allclose(got, want, rtol=1e-12), name  # running statistics too
        if training and norm == "batch":
            assert int(ours.norms[0].num_batches_tracked) == 2
            assert not torch.allclose(ours.norms[1].running_mean, ours.norms[2].running_mean)


def test_a_vector_by_hand():
    """One pixel, one channel: y0 = relu(2 x), y1 = relu(3 (y0 + x)) = 9 x; fed forward relu(3 y0 + 2 x) = 8 x."""
    x = torch.tensor([[[[1.5]]], [[[-1.0]]]])
    weights = torch.tensor([[[[2.0]]]]), [torch.tensor([[[[3.0]]]])]
    assert ops.recurrent_conv2d(x, *weights, steps=1, injection="input").flatten().tolist() == [13.5, 0.0]
    assert ops.recurrent_conv2d(x, *weights, steps=1).flatten().tolist() == [12.0, 0.0]
    assert ops.recurrent_conv2d(x, *weights, steps=2).flatten().tolist() == [39.0, 0.0]


def named(layer):
    """The op's tensors of a layer, and how the op is called with others in their places."""
    convs, norms = list(layer.recurrent_convs), list(layer.norms)
    tensors = [layer.input_conv.weight, *(conv.weight for conv in convs), *(n.weight for n in norms), *(n.bias for n in norms)]
    statistics = {}
    if layer.norm == "batch":
        statistics = {"running_means": [n.running_mean for n in norms], "running_vars": [n.running_var for n in norms]}

    def call(x, first, *rest, training, **options):
        weights, affine = rest[: len(convs)], rest[len(convs) :]
        if layer.norm in ("batch", "group"):
            options = {"norm_weights": affine[: len(norms)], "norm_biases": affine[len(norms) :], "groups": 2, **options}
        kept = {key: [one.clone().to(x.dtype) for one in value] for key, value in statistics.items()}
        return ops.recurrent_conv2d(
            x, first, weights, steps=layer.steps, injection=layer.injection, norm=layer.norm, training=training, **kept, **options
        )  # fmt: skip

    return [one.detach() for one in tensors], call


def test_random_configurations(conv_cases):
    @settings(max_examples=conv_cases, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        form=st.sampled_from(FORMS),
        shape=st.tuples(st.integers(2, 4), st.integers(3, 11), st.integers(3, 11)),
        options=st.tuples(st.integers(1, 3), st.sampled_from([1, 3, 5]), st.sampled_from([None, 2, 3]), st.booleans()),
        channels=st.integers(1, 6),
        seed=st.integers(0, 2**31),
    )
    def check(form, shape, options, channels, seed):
        torch.manual_seed(seed)
        steps, kernel, pool, training = options
        channels = 6 if form[0] == "input" else channels
        layer, _ = pair(*form, channels=channels, steps=steps, kernel_size=kernel)
        tensors, call = named(layer)
        x = torch.randn(shape[0], channels, *shape[1:])
        # A norm over few values, of a map that is nearly constant, makes rounding large: in halves only over enough of them.
        for dtype in FLOATS if prod(shape) >= 100 else FLOATS[:2]:
            given = [one.to(dtype) for one in (x, *tensors)]
            with torch.no_grad():
                with mer_fast.backend("reference"):
                    want = call(*(one.double() for one in given), training=training, pool=pool)
                if dtype in (torch.float16, torch.bfloat16) and want.norm() < 0.05 * want.numel() ** 0.5:
                    continue  # almost all is cut off by ReLU: what is left is rounding
                got = call(*given, training=training, pool=pool)
            with_gradient = call(*(one.requires_grad_() for one in given), training=training, pool=pool)
            assert got.dtype == with_gradient.dtype == dtype and with_gradient.requires_grad
            assert_near(got, want, dtype)
            assert_near(with_gradient, want, dtype)

    check()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_in_every_dtype(dtype, training):
    """Of a smooth function: biases keep all that goes into a ReLU above 0, where a half cannot cross it by rounding."""
    for injection, norm in itertools.product(("feedforward", "input"), ("batch", "group")):
        layer, _ = pair(injection, False, norm, steps=2)
        with torch.no_grad():
            for one in layer.norms:
                one.weight.fill_(0.25)
                one.bias.fill_(2)
                if norm == "batch":
                    one.running_var.fill_(4)
                    one.running_mean.fill_(0)
        tensors, call = named(layer)
        given = [one.to(dtype) for one in (torch.randn(3, 6, 8, 8), *tensors)]

        def gradients(backend, inputs, call=call):
            inputs = [one.detach().requires_grad_() for one in inputs]
            with mer_fast.backend(backend):
                out = call(*inputs, training=training)
            grad = torch.linspace(-1, 1.5, out.numel(), dtype=torch.float64).sin().view_as(out).to(out)
            return torch.autograd.grad(out, inputs, grad)

        exact = gradients("reference", [one.double() for one in given])
        for got, want, plain in zip(gradients("auto", given), exact, gradients("reference", given), strict=True):
            # A norm takes away most of what the scale and shift before it do: there a half is off by its rounding's share.
            assert relative_error(got, want) <= max(TOLERANCE[dtype][1], 1.5 * relative_error(plain, want))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("injection", "norm"), [(form[0], form[2]) for form in FORMS if form[1]])
def test_gradcheck_through_three_steps(injection, norm, training):
    layer, _ = pair(injection, True, norm, kernel_size=3, steps=3)
    tensors, call = named(layer.double())
    inputs = [one.requires_grad_() for one in (torch.randn(2, 6, 3, 4, dtype=torch.float64), *tensors)]
    assert torch.autograd.gradcheck(lambda *given: call(*given, training=training), inputs, fast_mode=True)


def test_twenty_training_steps_follow_plain_pytorch():
    for form in FORMS:
        torch.manual_seed(1)
        ours, plain = pair(*form, steps=2, pool=2)
        clips, labels = torch.randn(20, 4, 6, 8, 8), torch.randint(6, (20, 4))
        losses = []
        for module in (ours, plain):
            optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
            losses.append([])
            for x, y in zip(clips, labels, strict=True):
                loss = F.cross_entropy(module(x).mean((2, 3)), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses[-1].append(loss.item())
        assert len(set(losses[1])) == 20
        assert losses[0] == pytest.approx(losses[1], rel=1e-3), form


def test_weights_changed_between_inference_calls_are_seen():
    ours, plain = pair("input", True, "batch")
    ours.eval(), plain.eval()
    x = torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        before = ours(x)
        for name, value in ours.state_dict().items():
            if value.is_floating_point():
                value.add_(0.1)
            plain.state_dict()[name].copy_(value)
        assert_near(ours(x), plain(x), torch.float32)
        assert relative_error(before, plain(x)) > 0.01


# --- the ecosystem -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", LAYOUTS)
def test_takes_any_memory_layout_and_leaves_the_input_alone(layout):
    x = torch.randn(2, 6, 7, 8)
    for form in FORMS:
        ours, plain = pair(*form)
        with torch.no_grad():
            given = laid_out(x, layout)
            out, expected = ours.eval()(given), plain.eval()(x)
            assert torch.equal(given, x)
        assert_near(out, expected, torch.float32)
        if layout == "contiguous":
            out.view(2, -1)  # as code behind a convolution does


def test_an_empty_batch_is_one():
    ours, _ = pair("input", True, "batch", pool=2)
    assert ours.eval()(torch.zeros(0, 6, 8, 8)).shape == (0, 6, 4, 4)


@pytest.mark.parametrize(("injection", "share", "norm"), FORMS)
def test_vmaps_over_an_extra_batch(injection, share, norm):
    ours, _ = pair(injection, share, norm, pool=(2, 3))
    ours.double().eval()
    several = torch.randn(2, 3, 6, 7, 8, dtype=torch.float64)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            out = torch.vmap(ours, in_dims=1, out_dims=1)(several)
            for k in range(3):
                assert_near(out[:, k], ours(several[:, k]), torch.float64)


@pytest.mark.parametrize("training", [True, False])
def test_compiles_without_a_graph_break(training):
    for injection, norm in (("input", "batch"), ("feedforward", "lrn"), ("feedforward", "batch")):
        torch.compiler.reset()
        ours, _ = pair(injection, False, norm, steps=2, pool=2)
        ours.train(training)
        twin = copy.deepcopy(ours)
        compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
        for batch in (2, 3, 5):
            x = torch.randn(batch, 6, 8, 8)
            torch.testing.assert_close(compiled(x), ours(x))
        compiled(x).sum().backward()
        assert twin.input_conv.weight.grad.any()
        ours(x)
        assert all(torch.allclose(a, b) for a, b in zip(ours.buffers(), twin.buffers(), strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["batch", "group", None])
def test_autocast_runs_in_its_dtype(norm, training):
    ours, _ = pair("input", False, norm, steps=2)
    ours.train(training)
    x = torch.randn(2, 6, 9, 9)
    expected = copy.deepcopy(ours).double()(x.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = ours(x)
    assert out.dtype == torch.bfloat16
    assert_near(out, expected, torch.bfloat16)
    out.float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in ours.parameters())


def test_backends():
    ours, plain = pair("input", True, "batch")
    x = torch.randn(2, 6, 8, 8)
    with mer_fast.backend("reference"):
        assert_near(ours(x), plain(x), torch.float32)
    message = r"recurrent_conv2d: no kernel for this cpu tensor .cuda: not written"
    with pytest.raises(mer_fast.BackendError, match=message), mer_fast.backend("cuda"):
        ours(x)


# --- the layer's surface -----------------------------------------------------------------------------------------------
def test_parameters_have_the_names_and_shapes_of_the_contract():
    layer = nn.RecurrentConv2d(4, 8, (3, 5), 2, share_weights=False)
    shapes = {name: tuple(one.shape) for name, one in layer.named_parameters()}
    assert shapes == {
        "input_conv.weight": (8, 4, 3, 5), "recurrent_convs.0.weight": (8, 8, 3, 5), "recurrent_convs.1.weight": (8, 8, 3, 5),
        **{f"norms.{k}.{name}": (8,) for k in range(3) for name in ("weight", "bias")},
    }  # fmt: skip
    shared = nn.RecurrentConv2d(8, 8, injection="input", norm=None)
    assert {name: tuple(one.shape) for name, one in shared.named_parameters()} == {
        "input_conv.weight": (8, 8, 1, 1), "recurrent_convs.0.weight": (8, 8, 3, 3)
    }  # fmt: skip
    assert nn.RecurrentConv2d(1, 6, norm="group").norms[0].num_groups == 2
    assert nn.RecurrentConv2d(1, 64, norm="group").norms[0].num_groups == 32
    assert nn.RecurrentConv2d(1, 2, 3, device="meta", dtype=torch.float16).norms[0].weight.dtype == torch.float16


def test_the_same_seed_gives_the_weights_of_plain_convolutions():
    made = []
    for kind in (nn.RecurrentConv2d, Plain):
        torch.manual_seed(3)
        made.append(kind(3, 6, 3, 2, share_weights=False))
    assert all(torch.equal(a, b) for a, b in zip(*(one.parameters() for one in made), strict=True))


def test_norms_that_stay_in_evaluation_keep_their_statistics():
    ours, plain = pair("input", True, "batch")
    for module in (ours.train(), plain.train()):
        module.norms.eval()
    before = [one.clone() for one in ours.buffers()]
    x = torch.randn(2, 6, 8, 8)
    assert_near(ours(x), plain(x), torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(before, ours.buffers(), strict=True))


def test_copies_pickles_and_tells_its_arguments():
    layer = nn.RecurrentConv2d(2, 4, 3, 2, norm="lrn", pool=2)
    x = torch.randn(1, 2, 6, 6)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x)) and repr(other) == repr(layer)
    assert "2, 4, kernel_size=(3, 3), steps=2, injection='feedforward', share_weights=True, norm='lrn', pool=2" in repr(layer)


def called(x=None, **changes):
    weights = {"input_weight": torch.zeros(4, 2, 3, 3), "recurrent_weights": [torch.zeros(4, 4, 3, 3)], "steps": 2}
    x = torch.zeros(2, 2, 6, 6) if x is None else x
    return lambda: ops.recurrent_conv2d(x, **{**weights, **changes})


def layer(*arguments, **options):
    return lambda: nn.RecurrentConv2d(*arguments, **options)


def synchronised():
    made = nn.RecurrentConv2d(2, 4)
    made.norms[1] = tnn.SyncBatchNorm(4)
    return made(torch.zeros(2, 2, 6, 6))


def of_four(count, **options):
    return [torch.ones(4, **options) for _ in range(count)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (called(steps=0), "recurrent_conv2d: steps must be at least 1"),
        (called(recurrent_weights=[torch.zeros(4, 4, 3, 3)] * 3), "recurrent_weights must be a list of 2 tensors, or of one"),
        (called(recurrent_weights=torch.zeros(4, 4, 3, 3)), "recurrent_weights must be a list"),
        (called(recurrent_weights=[torch.zeros(4, 4, 2, 3)]), r"recurrent_weights\[0\] must have odd kernel sizes"),
        (called(recurrent_weights=[torch.zeros(4, 2, 3, 3)]), r"recurrent_weights\[0\] must have 4 maps in and out"),
        (called(torch.zeros(2, 3, 6, 6)), r"input must have 2 channels for input_weight \(4, 2, 3, 3\), got \(2, 3, 6, 6\)"),
        (called(torch.zeros(2, 6, 6)), r"input must have shape \(N, C, H, W\)"),
        (called(torch.zeros(2, 2, 6, 6).double()), "input and input_weight must have one dtype"),
        (called(torch.zeros(2, 2, 6, 6, device="meta")), "input and input_weight must be on one device, got meta and cpu"),
        (called(torch.zeros(2, 2, 6, 6).long()), "input must be a float tensor"),
        (called(injection="input"), "input_weight must have as many outputs as inputs with injection='input'"),
        (called(injection="sum"), "injection must be 'feedforward' or 'input', got 'sum'"),
        (called(norm="layer"), "norm must be 'batch', 'group', 'lrn' or None, got 'layer'"),
        (called(norm_weights=of_four(3)), "norm_weights must be None with norm=None"),
        (called(norm="group", running_means=of_four(3)), "running_means must be None with norm='group'"),
        (called(norm="batch", norm_weights=of_four(2)), "norm_weights must be a list of 3 tensors, one a state"),
        (called(norm="batch", norm_biases=[torch.ones(5)] * 3), r"norm_biases\[0\] must have shape \(4,\), got \(5,\)"),
        (called(norm="batch", running_means=of_four(3)), "running_means and running_vars must both be given, or neither"),
        (called(norm="batch", norm_weights=of_four(3, dtype=torch.float64)), r"input and norm_weights\[0\] must have one dtype"),
        (called(torch.zeros(1, 2, 1, 1), norm="batch"), "input must have more than one value a channel in training"),
        (called(norm="batch", eps=-1), "eps must lie between"),
        (called(norm="batch", momentum=2), "momentum must lie between"),
        (called(norm="group", groups=3), "groups must divide 4 maps, got 3"),
        (called(pool=0), "pool must be at least 1"),
        (called(pool=(2, 7)), r"pool \(2, 7\) is larger than the input \(2, 2, 6, 6\)"),
        (called(pool=(2, 2, 2)), r"pool must be a whole number or two \(h, w\)"),
        (layer(2, 4, 3, 0), "RecurrentConv2d: steps must be at least 1"),
        (layer(2, 4, 2), "RecurrentConv2d: kernel_size must be odd"),
        (layer(2, 4, injection="input"), "RecurrentConv2d: in_channels must be out_channels with injection='input', got 2 and 4"),
        (layer(2, 4, injection=None), "RecurrentConv2d: injection must be"),
        (layer(2, 4, norm="layer"), "RecurrentConv2d: norm must be"),
        (layer(0, 4), "RecurrentConv2d: in_channels must be at least 1"),
        (synchronised, r"norms\.1 must be a torch.nn.BatchNorm2d .* got SyncBatchNorm"),
    ],
)  # fmt: skip
def test_says_what_is_wrong(call, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        call()
