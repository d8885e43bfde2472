"""ops.conv_lstm, nn.ConvLSTM and its cell: against torch.nn.LSTM, against plain code, and what belongs to a recurrent layer."""

import copy
import math

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


def plain(x, w, b, h, c):
    """The common public form: one convolution over the concatenated input and state; gates i, f, g, o."""
    outputs = []
    for step in x:
        i, f, g, o = F.conv2d(torch.cat([step, h], 1), w, b, padding=w.shape[-1] // 2).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs), h, c


def operands(steps=4, batch=2, channels=3, hidden=5, size=(6, 7), kernel=3, dtype=torch.float64, peephole=False, states=True):
    """Named tensors for ops.conv_lstm."""
    scale = 0.5 / (kernel * math.sqrt(hidden))
    made = {
        "input": torch.randn(steps, batch, channels, *size),
        "weight_ih": torch.randn(4 * hidden, channels, kernel, kernel) * scale,
        "weight_hh": torch.randn(4 * hidden, hidden, kernel, kernel) * scale,
        "bias": torch.randn(4 * hidden) * 0.5,
    }
    if peephole:
        made["peephole"] = torch.randn(3, hidden, 1, 1) * 0.5
    if states:
        made["h0"], made["c0"] = torch.randn(2, batch, hidden, *size).tanh()
    return {name: one.to(dtype) for name, one in made.items()}


# --- against others' implementations -----------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
def test_a_kernel_of_one_is_torch_lstm_at_every_pixel(options, device):
    lstm = tnn.LSTM(3, 4, **options).to(device, torch.float64)
    ours = nn.ConvLSTM(3, 4, 1, **options).to(device, torch.float64)
    state = {}
    for name, value in lstm.state_dict().items():
        if name.startswith("weight"):
            state[name] = value[..., None, None]
        elif name.startswith("bias_ih"):  # it has two biases, ours is their sum
            state[name.replace("bias_ih", "bias")] = value + lstm.state_dict()[name.replace("bias_ih", "bias_hh")]
    ours.load_state_dict(state)
    x = torch.randn(6, 2, 3, 5, 4, dtype=torch.float64, device=device)
    h, c = torch.randn(2, len(ours.suffixes), 2, 4, 5, 4, dtype=torch.float64, device=device)
    pixels = [one.movedim(2, -1).flatten(1, 3) for one in (x, h, c)]  # each pixel a sequence of its own
    expected, last = lstm(pixels[0], tuple(pixels[1:]))
    output, after = ours(x, (h, c))
    for got, want in zip((output, *after), (expected, *last), strict=True):
        assert_near(got.movedim(2, -1).flatten(1, 3), want, torch.float64)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_are_those_of_packed_sequences(bidirectional):
    lstm = tnn.LSTM(2, 3, 2, bidirectional=bidirectional).double()
    ours = nn.ConvLSTM(2, 3, 1, 2, bidirectional=bidirectional).double()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.startswith("weight"):
                parameter.copy_(getattr(lstm, name)[..., None, None])
            else:
                parameter.copy_(getattr(lstm, name.replace("bias", "bias_ih")) + getattr(lstm, name.replace("bias", "bias_hh")))
    x, lengths = torch.randn(7, 4, 2, 1, 1, dtype=torch.float64), [3, 7, 1, 5]
    packed = tnn.utils.rnn.pack_padded_sequence(x[..., 0, 0], lengths, enforce_sorted=False)
    expected, last = lstm(packed)
    expected, _ = tnn.utils.rnn.pad_packed_sequence(expected)
    x[3:, 0] = x[5:, 3] = float("nan")  # what is behind an end is not looked at
    output, after = ours(x, lengths=torch.tensor(lengths))
    for got, want in zip((output, *after), (expected, *last), strict=True):
        assert_near(got[..., 0, 0], want, torch.float64)
    assert not output[3:, 0].any() and not output[5:, 3].any()
    output.sum().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in ours.parameters())


def test_the_vector_of_tensorflow():
    """Of TensorFlow's own test of its ConvLSTMCell (1-D, kernel 3, weights 1/2, forget gate's bias 1)."""
    weights = torch.full((4, 1, 1, 3), 0.5), torch.full((4, 1, 1, 3), 0.5), torch.tensor([0.0, 1.0, 0.0, 0.0])
    x = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 1, 2)
    with torch.no_grad():
        _, h, c = ops.conv_lstm(x, *weights, h0=torch.zeros(2, 1, 1, 2), c0=x[0])
    for got, want in ((c, (1.4375670191, 2.7542609292)), (h, (0.6529865603, 0.8736877431))):
        assert_near(got, torch.tensor(want, dtype=torch.float64).view(2, 1, 1, 1).expand(2, 1, 1, 2), torch.float32)


def test_a_vector_by_hand():
    """One pixel, one channel, two steps, all by math alone."""
    def sigmoid(v):
        return 1 / (1 + math.exp(-v))

    w_ih, w_hh, b = [0.5, -0.25, 1.0, 0.75], [0.1, 0.2, -0.3, 0.4], [0.0, 1.0, -0.5, 0.25]
    peephole, h, c, outputs = [0.3, -0.2, 0.6], 0.5, -1.0, []
    for x in (1.5, -0.5):
        i, f, g, o = (w_ih[k] * x + w_hh[k] * h + b[k] for k in range(4))
        c, before = sigmoid(f + peephole[1] * c) * c + sigmoid(i + peephole[0] * c) * math.tanh(g), c
        h = sigmoid(o + peephole[2] * c) * math.tanh(c)
        assert c != before
        outputs.append(h)

    def tensor(values, *shape):
        return torch.tensor(values, dtype=torch.float64).view(*shape)

    for run in (ops.conv_lstm, reference.conv_lstm):
        output, last_h, last_c = run(
            tensor([1.5, -0.5], 2, 1, 1, 1, 1), tensor(w_ih, 4, 1, 1, 1), tensor(w_hh, 4, 1, 1, 1), tensor(b, 4),
            peephole=tensor(peephole, 3, 1, 1, 1), h0=tensor([0.5], 1, 1, 1, 1), c0=tensor([-1.0], 1, 1, 1, 1),
        )  # fmt: skip
        assert output.flatten().tolist() == pytest.approx(outputs, rel=1e-13)
        assert last_h.item() == pytest.approx(h, rel=1e-13) and last_c.item() == pytest.approx(c, rel=1e-13)


def test_equals_one_convolution_over_input_and_state(device):
    for dtype, allowed in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        named = {name: one.to(device, dtype) for name, one in operands(steps=5).items()}
        weight = torch.cat([named["weight_ih"], named["weight_hh"]], 1)
        expected = plain(*(one.double() for one in (named["input"], weight, named["bias"], named["h0"], named["c0"])))
        for got, want in zip(ops.conv_lstm(**named), expected, strict=True):
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
        peephole, states, with_lengths, reverse, checkpoint = flags
        lengths = torch.randint(0, shape[0] + 1, (shape[1],)) if with_lengths else None
        for dtype in FLOATS if enough(shape, size, lengths) else FLOATS[:2]:
            named = operands(*shape, size, kernel, dtype, peephole, states)

            def call(**tensors):
                return ops.conv_lstm(**tensors, lengths=lengths, reverse=reverse, checkpoint=checkpoint)

            def truth(**tensors):
                return reference.conv_lstm(**tensors, lengths=lengths, reverse=reverse)

            assert_agree(call, truth, named, dtype)

    check()


# --- what holds for any recurrent layer --------------------------------------------------------------------------------
def test_gradcheck_through_three_steps_and_two_layers():
    layer = nn.ConvLSTM(2, 2, 3, 2, peephole=True, bidirectional=True).double()
    names, weights = zip(*layer.named_parameters(), strict=True)

    def call(x, h, c, *values):
        output, (h, c) = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, (h, c)))
        return output, h, c

    x = torch.randn(3, 1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    h, c = torch.randn(2, 4, 1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, h, c, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (x, h, c, *weights), fast_mode=True)


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"batch_first": True}, {"peephole": True}])
def test_passing_the_state_on_equals_one_long_run(options):
    layer = nn.ConvLSTM(3, 4, 3, **options).double()
    x = torch.randn(7, 2, 3, 5, 6, dtype=torch.float64)
    time = 1 if options.get("batch_first") else 0
    x = x.transpose(0, 1) if time else x
    whole, last = layer(x)
    parts, state = [], None
    for part in x.split([2, 4, 1], time):
        output, state = layer(part, state)
        parts.append(output)
    assert_near(torch.cat(parts, time), whole, torch.float64)
    for got, want in zip(state, last, strict=True):
        assert got.shape == (layer.num_layers, 2, 4, 5, 6)
        assert_near(got, want, torch.float64)


def test_batch_first_swaps_two_dimensions():
    layer = nn.ConvLSTM(3, 4, 3, bidirectional=True)
    x = torch.randn(5, 2, 3, 6, 6)
    expected, (h, c) = layer(x, lengths=[4, 5])
    layer.batch_first = True
    output, (h2, c2) = layer(x.transpose(0, 1), lengths=[4, 5])
    assert torch.equal(output.transpose(0, 1), expected) and torch.equal(h, h2) and torch.equal(c, c2)


def test_the_way_back_is_a_run_on_the_reversed_sequence():
    layer = nn.ConvLSTM(3, 4, 3, bidirectional=True).double()
    x = torch.randn(5, 2, 3, 6, 6, dtype=torch.float64)
    output, (h, _) = layer(x)
    back, last, _ = reference.conv_lstm(
        x.flip(0), layer.weight_ih_l0_reverse, layer.weight_hh_l0_reverse, layer.bias_l0_reverse
    )
    assert_near(output[:, :, 4:], back.flip(0), torch.float64)
    assert_near(h[1], last, torch.float64)


def test_each_sequence_is_as_alone():
    """Lengths give what each sequence gives by itself, its padding cut off; a length of 0 leaves the state."""
    layer = nn.ConvLSTM(2, 3, 3, 2, bidirectional=True).double()
    x, lengths = torch.randn(5, 4, 2, 4, 4, dtype=torch.float64), [5, 2, 0, 3]
    state = tuple(torch.randn(2, 4, 4, 3, 4, 4, dtype=torch.float64))
    output, (h, c) = layer(x, state, lengths)
    for k, length in enumerate(lengths):
        own = tuple(one[:, k : k + 1] for one in state)
        if length == 0:
            assert not output[:, k].any() and torch.equal(h[:, k], state[0][:, k]) and torch.equal(c[:, k], state[1][:, k])
            continue
        alone, (own_h, own_c) = layer(x[:length, k : k + 1], own)
        assert_near(output[:length, k : k + 1], alone, torch.float64)
        assert not output[length:, k].any()
        assert_near(h[:, k : k + 1], own_h, torch.float64)
        assert_near(c[:, k : k + 1], own_c, torch.float64)


def saved_bytes(call):
    """Memory that autograd keeps for the backward pass of a call."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    return sum(kept.values()), result


@pytest.mark.parametrize("lengths", [None, [5, 0, 9]])
def test_checkpointing_gives_the_same_gradients_and_keeps_less(lengths):
    kept, gradients = [], []
    layer = nn.ConvLSTM(3, 4, 3, 2, bidirectional=True)
    x = torch.randn(9, 3, 3, 6, 6, requires_grad=True)
    for checkpoint in (False, True):
        layer.checkpoint = checkpoint
        size, (output, (h, c)) = saved_bytes(lambda: layer(x, lengths=lengths))
        kept.append(size)
        total = output.square().sum() + h.sum() + c.square().sum()
        gradients.append(torch.autograd.grad(total, [x, *layer.parameters()]))
    for got, want in zip(*gradients, strict=True):
        assert_near(got, want, torch.float32)
    assert kept[1] < kept[0] / 2


def test_weights_changed_between_inference_calls_are_seen():
    layer = nn.ConvLSTM(3, 4, 3)
    x = torch.randn(3, 2, 3, 5, 5)
    with torch.no_grad():
        before, _ = layer(x)
        for parameter in layer.parameters():
            parameter.add_(0.3)
        after, _ = layer(x)
        expected, _, _ = reference.conv_lstm(x, layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_l0)
    assert_near(after, expected, torch.float32)
    assert relative_error(before, expected) > 0.01


def test_twenty_training_steps_follow_plain_pytorch():
    ours = nn.ConvLSTM(2, 6, 3)
    weight = torch.cat([ours.weight_ih_l0, ours.weight_hh_l0], 1).detach().clone().requires_grad_()
    bias = ours.bias_l0.detach().clone().requires_grad_()
    clips, target = torch.randn(20, 5, 3, 2, 8, 8), torch.rand(20, 3, 6, 8, 8)
    zero = torch.zeros(3, 6, 8, 8)
    runs = ((ours.parameters(), lambda x: ours(x)[0]), ([weight, bias], lambda x: plain(x, weight, bias, zero, zero)[0]))
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
    named = operands(dtype=torch.float32, peephole=True)
    expected = ops.conv_lstm(**named)
    for got, want in zip(ops.conv_lstm(**{name: laid_out(one, layout) for name, one in named.items()}), expected, strict=True):
        assert_near(got, want, torch.float32)


def test_vmaps_over_an_extra_batch():
    named = operands(dtype=torch.float64)
    several = torch.stack([named["input"], named["input"].flip(0), named["input"] * 2], 1)
    states = torch.stack([named["c0"], named["c0"] + 1, -named["c0"]])
    rest = {name: one for name, one in named.items() if name not in ("input", "c0", "h0")}

    def call(x, c0):
        return ops.conv_lstm(x, **rest, h0=named["h0"], c0=c0, lengths=[4, 2])

    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            out = torch.vmap(call, in_dims=(1, 0))(several, states)
            for k in range(3):
                for got, want in zip(out, call(several[:, k], states[k]), strict=True):
                    assert_near(got[k], want, torch.float64)


def test_vmaps_over_weights():
    named = operands(dtype=torch.float64, states=False)
    names = ("weight_ih", "weight_hh", "bias")
    several = {name: torch.stack([named[name], named[name] * 0.5]) for name in names}
    out = torch.vmap(lambda weights: ops.conv_lstm(named["input"], **weights)[0])(several)
    for k in range(2):
        assert_near(out[k], ops.conv_lstm(named["input"], **{name: one[k] for name, one in several.items()})[0], torch.float64)


def test_compiles_without_a_graph_break_at_changing_lengths():
    torch.compiler.reset()
    layer = nn.ConvLSTM(2, 3, 3, bidirectional=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for steps in (2, 4, 3):
        x = torch.randn(steps, 2, 2, 5, 5)
        for lengths in (None, torch.tensor([steps, 1])):
            output, state = compiled(x, lengths=lengths)
            expected = layer(x, lengths=lengths)
            torch.testing.assert_close((output, state), expected)
            layer.zero_grad()
            output.sum().backward()
            assert layer.weight_hh_l0.grad.any()


def test_autocast_runs_in_its_dtype():
    layer = nn.ConvLSTM(3, 4, 3)
    x = torch.randn(4, 2, 3, 5, 5)
    expected, _ = copy.deepcopy(layer).double()(x.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, (h, c) = layer(x)
    assert output.dtype == h.dtype == c.dtype == torch.bfloat16
    assert_near(output, expected, torch.bfloat16)
    output.float().sum().backward()
    assert layer.weight_ih_l0.grad.dtype == torch.float32


def test_backends():
    named = operands()
    with mer_fast.backend("reference"):
        expected = ops.conv_lstm(**named)
    for got, want in zip(expected, reference.conv_lstm(**named), strict=True):
        assert torch.equal(got, want)
    with pytest.raises(mer_fast.BackendError, match=r"conv_lstm: no triton kernel"), mer_fast.backend("triton"):
        ops.conv_lstm(**named)
