"""ops.conv_gru, nn.ConvGRU and its cell: against torch.nn.GRU, against plain code, and what belongs to a recurrent layer."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn as tnn

import mer_fast
from mer_fast import nn, ops, reference

from .kit import LAYOUTS, assert_near, laid_out, relative_error
from .recurrent import FLOATS, assert_agree, enough
from .test_conv_lstm import saved_bytes


def plain(x, w_ih, w_hh, b_ih, b_hh, h):
    """Gate by gate, with a convolution for each."""
    hidden, outputs = w_hh.shape[1], []

    def part(maps, w, b, k):
        rows = slice(k * hidden, (k + 1) * hidden)
        return F.conv2d(maps, w[rows], b[rows], padding=w.shape[-1] // 2)

    for step in x:
        r = torch.sigmoid(part(step, w_ih, b_ih, 0) + part(h, w_hh, b_hh, 0))
        z = torch.sigmoid(part(step, w_ih, b_ih, 1) + part(h, w_hh, b_hh, 1))
        n = torch.tanh(part(step, w_ih, b_ih, 2) + r * part(h, w_hh, b_hh, 2))
        h = n - z * n + z * h
        outputs.append(h)
    return torch.stack(outputs), h


def operands(steps=4, batch=2, channels=3, hidden=5, size=(6, 7), kernel=3, dtype=torch.float64, bias=True, states=True):
    """Named tensors for ops.conv_gru."""
    scale = 0.5 / (kernel * math.sqrt(hidden))
    made = {
        "input": torch.randn(steps, batch, channels, *size),
        "weight_ih": torch.randn(3 * hidden, channels, kernel, kernel) * scale,
        "weight_hh": torch.randn(3 * hidden, hidden, kernel, kernel) * scale,
    }
    if bias:
        made["bias_ih"], made["bias_hh"] = torch.randn(2, 3 * hidden) * 0.5
    if states:
        made["h0"] = torch.randn(batch, hidden, *size).tanh()
    return {name: one.to(dtype) for name, one in made.items()}


# --- against others' implementations -----------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
def test_a_kernel_of_one_is_torch_gru_at_every_pixel(options, device):
    gru = tnn.GRU(3, 4, **options).to(device, torch.float64)
    ours = nn.ConvGRU(3, 4, 1, **options).to(device, torch.float64)
    ours.load_state_dict({k: v[..., None, None] if k.startswith("weight") else v for k, v in gru.state_dict().items()})
    x = torch.randn(6, 2, 3, 5, 4, dtype=torch.float64, device=device)
    h = torch.randn(len(ours.suffixes), 2, 4, 5, 4, dtype=torch.float64, device=device)
    expected, last = gru(*(one.movedim(2, -1).flatten(1, 3) for one in (x, h)))
    for got, want in zip(ours(x, h), (expected, last), strict=True):
        assert_near(got.movedim(2, -1).flatten(1, 3), want, torch.float64)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_are_those_of_packed_sequences(bidirectional):
    gru = tnn.GRU(2, 3, 2, bidirectional=bidirectional).double()
    ours = nn.ConvGRU(2, 3, 1, 2, bidirectional=bidirectional).double()
    ours.load_state_dict({k: v[..., None, None] if k.startswith("weight") else v for k, v in gru.state_dict().items()})
    x, lengths = torch.randn(7, 4, 2, 1, 1, dtype=torch.float64), [3, 7, 1, 5]
    packed = tnn.utils.rnn.pack_padded_sequence(x[..., 0, 0], lengths, enforce_sorted=False)
    expected, last = gru(packed)
    expected, _ = tnn.utils.rnn.pad_packed_sequence(expected)
    x[3:, 0] = x[5:, 3] = float("nan")  # what is behind an end is not looked at
    output, after = ours(x, lengths=lengths)
    for got, want in zip((output, after), (expected, last), strict=True):
        assert_near(got[..., 0, 0], want, torch.float64)
    output.sum().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in ours.parameters())


def test_a_vector_by_hand():
    """One pixel, one channel, two steps, all by math alone."""
    def sigmoid(v):
        return 1 / (1 + math.exp(-v))

    w_ih, w_hh, b_ih, b_hh = [0.5, -0.25, 1.0], [0.1, 0.2, -0.3], [0.0, 1.0, -0.5], [0.25, -0.75, 0.4]
    h, outputs = 0.5, []
    for x in (1.5, -0.5):
        r, z = (sigmoid(w_ih[k] * x + b_ih[k] + w_hh[k] * h + b_hh[k]) for k in range(2))
        n = math.tanh(w_ih[2] * x + b_ih[2] + r * (w_hh[2] * h + b_hh[2]))
        h = (1 - z) * n + z * h
        outputs.append(h)

    def tensor(values, *shape):
        return torch.tensor(values, dtype=torch.float64).view(*shape)

    for run in (ops.conv_gru, reference.conv_gru):
        output, last = run(
            tensor([1.5, -0.5], 2, 1, 1, 1, 1), tensor(w_ih, 3, 1, 1, 1), tensor(w_hh, 3, 1, 1, 1), tensor(b_ih, 3),
            tensor(b_hh, 3), h0=tensor([0.5], 1, 1, 1, 1),
        )  # fmt: skip
        assert output.flatten().tolist() == pytest.approx(outputs, rel=1e-13)
        assert last.item() == pytest.approx(h, rel=1e-13)


def test_equals_gates_by_themselves(device):
    for dtype, allowed in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        named = {name: one.to(device, dtype) for name, one in operands(steps=5).items()}
        expected = plain(*(one.double() for one in named.values()))
        for got, want in zip(ops.conv_gru(**named), expected, strict=True):
            assert relative_error(got, want) < allowed


def test_random_configurations(conv_cases):
    @settings(max_examples=conv_cases, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        shape=st.tuples(*[st.integers(1, most) for most in (5, 3, 4, 4)]),
        size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        kernel=st.sampled_from([1, 3, 5]),
        flags=st.tuples(*[st.booleans()] * 5),
        seed=st.integers(0, 2**31),
    )
    def check(shape, size, kernel, flags, seed):
        torch.manual_seed(seed)
        bias, states, with_lengths, reverse, checkpoint = flags
        lengths = torch.randint(0, shape[0] + 1, (shape[1],)) if with_lengths else None
        for dtype in FLOATS if enough(shape, size, lengths) else FLOATS[:2]:
            named = operands(*shape, size, kernel, dtype, bias, states)

            def call(**tensors):
                return ops.conv_gru(**tensors, lengths=lengths, reverse=reverse, checkpoint=checkpoint)

            def truth(**tensors):
                return reference.conv_gru(**tensors, lengths=lengths, reverse=reverse)

            assert_agree(call, truth, named, dtype)

    check()


# --- what holds for any recurrent layer --------------------------------------------------------------------------------
def test_gradcheck_through_three_steps_and_two_layers():
    layer = nn.ConvGRU(2, 2, 3, 2, bidirectional=True).double()
    names, weights = zip(*layer.named_parameters(), strict=True)

    def call(x, h, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, h))

    x = torch.randn(3, 1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    h = torch.randn(4, 1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, h, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (x, h, *weights), fast_mode=True)


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"batch_first": True}])
def test_passing_the_state_on_equals_one_long_run(options):
    layer = nn.ConvGRU(3, 4, 3, **options).double()
    x = torch.randn(7, 2, 3, 5, 6, dtype=torch.float64)
    time = 1 if options.get("batch_first") else 0
    x = x.transpose(0, 1) if time else x
    whole, last = layer(x)
    parts, state = [], None
    for part in x.split([2, 4, 1], time):
        output, state = layer(part, state)
        parts.append(output)
    assert_near(torch.cat(parts, time), whole, torch.float64)
    assert state.shape == (layer.num_layers, 2, 4, 5, 6)
    assert_near(state, last, torch.float64)


def test_each_sequence_is_as_alone():
    """Lengths give what each sequence gives by itself, its padding cut off; a length of 0 leaves the state."""
    layer = nn.ConvGRU(2, 3, 3, 2, bidirectional=True).double()
    x, lengths = torch.randn(5, 4, 2, 4, 4, dtype=torch.float64), [5, 2, 0, 3]
    state = torch.randn(4, 4, 3, 4, 4, dtype=torch.float64)
    output, h = layer(x, state, torch.tensor(lengths))
    for k, length in enumerate(lengths):
        if length == 0:
            assert not output[:, k].any() and torch.equal(h[:, k], state[:, k])
            continue
        alone, own_h = layer(x[:length, k : k + 1], state[:, k : k + 1])
        assert_near(output[:length, k : k + 1], alone, torch.float64)
        assert not output[length:, k].any()
        assert_near(h[:, k : k + 1], own_h, torch.float64)


@pytest.mark.parametrize("lengths", [None, [5, 0, 9]])
def test_checkpointing_gives_the_same_gradients_and_keeps_less(lengths):
    kept, gradients = [], []
    layer = nn.ConvGRU(3, 4, 3, 2, bidirectional=True)
    x = torch.randn(9, 3, 3, 6, 6, requires_grad=True)
    for checkpoint in (False, True):
        layer.checkpoint = checkpoint
        size, (output, h) = saved_bytes(lambda: layer(x, lengths=lengths))
        kept.append(size)
        gradients.append(torch.autograd.grad(output.square().sum() + h.sum(), [x, *layer.parameters()]))
    for got, want in zip(*gradients, strict=True):
        assert_near(got, want, torch.float32)
    assert kept[1] < kept[0] / 2


def test_weights_changed_between_inference_calls_are_seen():
    layer = nn.ConvGRU(3, 4, 3)
    x = torch.randn(3, 2, 3, 5, 5)
    with torch.no_grad():
        before, _ = layer(x)
        for parameter in layer.parameters():
            parameter.add_(0.3)
        after, _ = layer(x)
        expected, _ = reference.conv_gru(x, layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
    assert_near(after, expected, torch.float32)
    assert relative_error(before, expected) > 0.01


def test_twenty_training_steps_follow_plain_pytorch():
    ours = nn.ConvGRU(2, 6, 3)
    weights = [parameter.detach().clone().requires_grad_() for parameter in ours.parameters()]
    clips, target = torch.randn(20, 5, 3, 2, 8, 8), torch.rand(20, 3, 6, 8, 8)
    zero = torch.zeros(3, 6, 8, 8)
    runs = ((ours.parameters(), lambda x: ours(x)[0]), (weights, lambda x: plain(x, *weights, zero)[0]))
    losses = []
    for parameters, run in runs:
        optimizer = torch.optim.SGD(parameters, lr=0.5, momentum=0.9)
        losses.append([])
        for x, y in zip(clips, target, strict=True):
            loss = F.mse_loss(run(x)[-1], y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1][-1] < 0.8 * losses[1][0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


# --- the ecosystem -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", LAYOUTS)
def test_takes_any_memory_layout(layout):
    named = operands(dtype=torch.float32)
    expected = ops.conv_gru(**named)
    for got, want in zip(ops.conv_gru(**{name: laid_out(one, layout) for name, one in named.items()}), expected, strict=True):
        assert_near(got, want, torch.float32)


def test_vmaps_over_an_extra_batch():
    named = operands()
    several = torch.stack([named["input"], named["input"].flip(0), named["input"] * 2], 1)
    states = torch.stack([named["h0"], named["h0"] + 1, -named["h0"]])
    rest = {name: one for name, one in named.items() if name not in ("input", "h0")}
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for x_dim, h_dim in ((1, 0), (1, None), (None, 0)):
                x, h = several if x_dim is not None else several[:, 0], states if h_dim is not None else states[0]
                out = torch.vmap(lambda x, h: ops.conv_gru(x, **rest, h0=h, lengths=[4, 2]), in_dims=(x_dim, h_dim))(x, h)
                for k in range(3):
                    own = (several[:, k] if x_dim is not None else x, states[k] if h_dim is not None else h)
                    for got, want in zip(out, ops.conv_gru(own[0], **rest, h0=own[1], lengths=[4, 2]), strict=True):
                        assert_near(got[k], want, torch.float64)


def test_compiles_without_a_graph_break_at_changing_lengths():
    torch.compiler.reset()
    layer = nn.ConvGRU(2, 3, 3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for steps in (2, 4, 3):
        x = torch.randn(steps, 2, 2, 5, 5)
        for lengths in (None, torch.tensor([steps, 1])):
            output, state = compiled(x, lengths=lengths)
            torch.testing.assert_close((output, state), layer(x, lengths=lengths))
            layer.zero_grad()
            output.sum().backward()
            assert layer.weight_hh_l0.grad.any()


def test_autocast_runs_in_its_dtype():
    layer = nn.ConvGRU(3, 4, 3)
    x = torch.randn(4, 2, 3, 5, 5)
    expected, _ = copy.deepcopy(layer).double()(x.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, h = layer(x)
    assert output.dtype == h.dtype == torch.bfloat16
    assert_near(output, expected, torch.bfloat16)
    output.float().sum().backward()
    assert layer.weight_ih_l0.grad.dtype == torch.float32


def test_backends():
    named = operands()
    with mer_fast.backend("reference"):
        expected = ops.conv_gru(**named)
    for got, want in zip(expected, reference.conv_gru(**named), strict=True):
        assert torch.equal(got, want)
    with pytest.raises(mer_fast.BackendError, match=r"conv_gru: no cpu kernel"), mer_fast.backend("cpu"):
        ops.conv_gru(**named)


# --- the layer's surface -----------------------------------------------------------------------------------------------
def test_parameters_have_the_names_and_shapes_of_the_contract():
    layer = nn.ConvGRU(3, 4, (3, 5), 2, bidirectional=True)
    expected = {}
    for k, channels in enumerate((3, 8)):
        for way in ("", "_reverse"):
            expected[f"weight_ih_l{k}{way}"] = (12, channels, 3, 5)
            expected[f"weight_hh_l{k}{way}"] = (12, 4, 3, 5)
            expected[f"bias_ih_l{k}{way}"] = expected[f"bias_hh_l{k}{way}"] = (12,)
    assert {name: tuple(one.shape) for name, one in layer.named_parameters()} == expected
    assert list(layer.state_dict()) == list(expected)
    assert list(nn.ConvGRU(1, 2, 3, bias=False).state_dict()) == ["weight_ih_l0", "weight_hh_l0"]
    assert list(nn.ConvGRUCell(1, 2, 3).state_dict()) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    bound = 1 / math.sqrt(4 * 15)
    assert all(one.abs().max() <= bound and one.abs().max() > 0.7 * bound for one in layer.parameters())


@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_is_one_step(bias):
    cell, layer = nn.ConvGRUCell(3, 4, 3, bias=bias), nn.ConvGRU(3, 4, 3, bias=bias)
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    x, h = torch.randn(3, 2, 3, 5, 6), None
    for step in x:
        h = cell(step, h)
    assert_near(h, layer(x)[1][0], torch.float32)


def test_copies_pickles_and_tells_its_arguments():
    layer = nn.ConvGRU(2, 3, 3, 2, batch_first=True, bidirectional=True)
    x = torch.randn(2, 3, 2, 4, 4)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], layer(x)[0]) and repr(other) == repr(layer)
    assert repr(layer) == "ConvGRU(2, 3, kernel_size=(3, 3), num_layers=2, batch_first=True, bidirectional=True)"


def changed(**values):
    return lambda: ops.conv_gru(**{**operands(), **values})


def zeros(*shape, **options):
    return torch.zeros(*shape, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (changed(input=operands()["input"][:0]), r"conv_gru: input must have at least one step, got \(0, 2, 3, 6, 7\)"),
        (changed(input=zeros(4, 2, 4, 6, 7).double()), r"conv_gru: input must have 3 channels for weight_ih \(15, 3, 3, 3\)"),
        (changed(weight_hh=zeros(20, 5, 3, 3).double()), r"weight_hh must have shape \(3 \* hidden, hidden, kh, kw\)"),
        (changed(weight_ih=zeros(15, 3, 3, 4).double()), "weight_ih must have odd kernel sizes"),
        (changed(bias_ih=zeros(5).double()), r"bias_ih must have shape \(15,\), got \(5,\)"),
        (changed(bias_hh=zeros(15)), "input and bias_hh must have one dtype"),
        (changed(h0=zeros(2, 5, 6, 6).double()), r"h0 must have shape \(2, 5, 6, 7\), got \(2, 5, 6, 6\)"),
        (changed(h0=zeros(2, 5, 6, 7, device="meta").double()), "input and h0 must be on one device, got cpu and meta; move one"),
        (changed(lengths=[4, 5]), "conv_gru: lengths must be at most the input's 4 steps, got 5"),
        (lambda: nn.ConvGRU(3, 5, 3)(zeros(4, 2, 3, 6, 7), zeros(2, 5, 6, 7)), r"ConvGRU: state .* here \(1, 2, 5, 6, 7\)"),
        (lambda: nn.ConvGRU(3, 5, 3)(zeros(4, 2, 3, 6, 7), (1, 2)), "ConvGRU: state must be a tensor .* got tuple"),
        (lambda: nn.ConvGRU(3, 5, 3)(zeros(3, 6, 7)), r"ConvGRU: x must be a tensor of shape \(T, N, C, H, W\)"),
        (lambda: nn.ConvGRU(3, 5, 4), "ConvGRU: kernel_size must be odd"),
        (lambda: nn.ConvGRUCell(3, 5, 2), "ConvGRUCell: kernel_size must be odd"),
        (lambda: nn.ConvGRUCell(3, 5, 3)(zeros(3, 6, 7)), r"ConvGRUCell: x must be a tensor of shape \(N, C, H, W\)"),
        (lambda: nn.ConvGRUCell(3, 5, 3)(zeros(1, 3, 6, 7), zeros(1, 4, 6, 7)), r"h0 must have shape \(1, 5, 6, 7\)"),
    ],
)  # fmt: skip
def test_says_what_is_wrong(call, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        call()
