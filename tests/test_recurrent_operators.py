"""The operators of recurrent_conv2d, conv_lstm and conv_gru straight at torch.ops.mer_fast: what is kept, and every error."""

import itertools
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from mer_fast import reference

from .kit import assert_near
from .recurrent import made, of, values_and_gradients

OPS = torch.ops.mer_fast
CELLS = ("lstm", "gru")


def cell(kind, tensors, lengths=None, reverse=False, segment=4, keep=True, exact=False):
    """(results, gates, states) of a cell's operator."""
    *results, gates, states = getattr(OPS, f"conv_{kind}")(*tensors.values(), lengths, reverse, segment, keep, exact)
    return results, gates, states


def cell_backward(kind, tensors, grads, gates, states, lengths=None, reverse=False, segment=4, need_input=True, exact=False):
    arguments = *grads, *tensors.values(), lengths, gates, states, reverse, segment, need_input, exact
    return getattr(OPS, f"conv_{kind}_backward")(*arguments)


# --- what is kept ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_segments_and_gates_made_again_give_the_same_gradients(kind, reverse, exact):
    tensors, lengths = made(kind, 3, 17, (6, 9), steps=9, batch=3), torch.tensor([9, 5, 0])
    given = {"lengths": lengths, "reverse": reverse}
    want, gradients = values_and_gradients(of(kind, reference, **given), {name: one.double() for name, one in tensors.items()})
    grads = [torch.linspace(-1, 1.5, one.numel(), dtype=torch.float64).view(one.shape).float() for one in want]
    for segment, keep in itertools.product((1, 2, 4, 9, 100), (True, False)):
        results, gates, states = cell(kind, tensors, segment=segment, keep=keep, exact=exact, **given)
        for one, other in zip(results, want, strict=True):
            assert_near(one, other, torch.float32)
        assert gates.shape == (9 if keep else 0, 3, 6, 9, 4 * 32)
        assert states.shape == (max(2, -(-9 // segment)), *([2] if kind == "lstm" else []), 3, 6, 9, 32)
        got = cell_backward(kind, tensors, grads, gates, states, segment=segment, exact=exact, **given)
        for name, one in zip(tensors, got, strict=True):
            assert_near(one, gradients[name], torch.float32, gradient=True)
        short = cell_backward(kind, tensors, grads, gates, states, segment=segment, exact=exact, need_input=False, **given)
        assert short[0].numel() == 0 and all(torch.equal(a, b) for a, b in zip(short[1:], got[1:], strict=True))


@pytest.mark.parametrize("kind", CELLS)
def test_nothing_is_kept_without_segments(kind):
    tensors = {name: one.requires_grad_() for name, one in made(kind).items()}
    results, gates, states = cell(kind, tensors, segment=0)
    assert gates.numel() == states.numel() == 0
    with pytest.raises(RuntimeError, match=f"conv_{kind}: it was traced without gradients"):
        results[0].sum().backward()


@pytest.mark.parametrize("kind", CELLS)
def test_operands_that_are_not_there(kind):
    tensors = {name: one if name in ("input", "weight_ih", "weight_hh") else None for name, one in made(kind).items()}
    want, gradients = values_and_gradients(
        of(kind, reference), {name: None if one is None else one.double() for name, one in tensors.items()}
    )
    results, gates, states = cell(kind, tensors)
    grads = [torch.linspace(-1, 1.5, one.numel(), dtype=torch.float64).view(one.shape).float() for one in want]
    for name, one in zip(tensors, cell_backward(kind, tensors, grads, gates, states), strict=True):
        if tensors[name] is None:
            assert one.numel() == 0
        else:
            assert_near(one, gradients[name], torch.float32, gradient=True)
    assert_near(results[0], want[0], torch.float32)


@pytest.mark.parametrize("kind", CELLS)
def test_lengths_out_of_range_are_the_nearest_in_it(kind):
    tensors = made(kind, batch=3)
    results, gates, states = cell(kind, tensors, torch.tensor([-(2**62), 2, 2**62]))
    expected, *kept = cell(kind, tensors, torch.tensor([0, 2, 4]))
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    grads = [torch.ones_like(one) for one in results]
    got = cell_backward(kind, tensors, grads, gates, states, torch.tensor([-(2**62), 2, 2**62]))
    want = cell_backward(kind, tensors, grads, *kept, torch.tensor([0, 2, 4]))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_the_statistics_of_one_norm():
    """The operator's own: mean and biased variance of what goes into each norm."""
    x, first, recurrent = torch.randn(2, 3, 9, 7), torch.randn(17, 3, 3, 3), torch.randn(1, 17, 17, 3, 3)
    rest = 1, "feedforward", True, 1e-5
    _, maps, statistics = OPS.recurrent_conv2d_train(x, first, recurrent, None, None, *rest, False)
    u = F.conv2d(x.double(), first.double(), padding=1)
    y = F.batch_norm(u, None, None, training=True).relu()
    for k, z in enumerate((u, F.conv2d(y, recurrent[0].double(), padding=1) + u)):
        assert_near(maps[k, ..., :17].permute(0, 3, 1, 2), z, torch.float32)
        variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
        assert_near(statistics[k], torch.stack([mean, variance]), torch.float32)


def test_empty():
    for batch, size in ((0, (6, 7)), (2, (0, 7)), (2, (6, 0))):
        for kind in CELLS:
            tensors = made(kind, batch=batch, size=size)
            results, gates, states = cell(kind, tensors)
            assert results[0].shape == (4, batch, 5, *size)
            gradients = cell_backward(kind, tensors, results, gates, states)
            assert all(one.shape == other.shape and not one.any() for one, other in zip(gradients, tensors.values(), strict=True))
        tensors = list(made("batch", batch=batch, size=size).values())
        tensors[2] = tensors[2][None]
        rest = 2, "feedforward", True, 1e-5
        out, maps, statistics = OPS.recurrent_conv2d_train(*tensors, *rest, False)
        assert out.shape == (batch, 5, *size)
        gradients = OPS.recurrent_conv2d_backward(out, *tensors, maps, statistics, *rest, True, False)
        assert all(one.shape == other.shape and not one.any() for one, other in zip(gradients, tensors, strict=True))


# --- errors ------------------------------------------------------------------------------------------------------------
def zeros(*shape, **options):
    return torch.zeros(shape, **options)


SECTION = {
    "input": zeros(2, 3, 6, 7), "input_weight": zeros(5, 3, 3, 3), "recurrent_weights": zeros(1, 5, 5, 3, 3),
    "norm_weight": zeros(3, 5), "norm_bias": zeros(3, 5),
}  # fmt: skip
SECTION_ERRORS = [
    ({"input": zeros(3, 6, 7)}, "input must have 4 dimensions"),
    ({"input": zeros(2, 3, 6, 7).double()}, "input must be float32 on a CPU"),
    ({"input": zeros(2, 4, 6, 7)}, r"input_weight \(5, 3, 3, 3\) does not fit input \(2, 4, 6, 7\)"),
    ({"input_weight": zeros(5, 3, 3)}, "input_weight must have 4 dimensions"),
    ({"input_weight": zeros(5, 3, 3, 3).half()}, "input and input_weight must have one dtype"),
    ({"input_weight": zeros(5, 3, 2, 3)}, "kernels must have odd sides, got 2"),
    ({"input_weight": zeros(5, 3, 3, 0)}, "kernels must have odd sides, got 0"),
    ({"input": zeros(2, 0, 6, 7), "input_weight": zeros(5, 0, 3, 3)}, "input_weight must not be empty"),
    ({"input_weight": zeros(6, 3, 3, 3)}, r"recurrent_weights must have shape \(1 or 2, 6, 6, kh, kw\), got \(1, 5, 5, 3, 3\)"),
    ({"recurrent_weights": zeros(5, 5, 3, 3)}, "recurrent_weights must have 5 dimensions"),
    ({"recurrent_weights": zeros(3, 5, 5, 3, 3)}, "recurrent_weights must have shape"),
    ({"recurrent_weights": zeros(0, 5, 5, 3, 3)}, "recurrent_weights must have shape"),
    ({"recurrent_weights": zeros(1, 5, 5, 3, 4)}, "kernels must have odd sides, got 4"),
    ({"recurrent_weights": zeros(1, 5, 5, 3, 3).double()}, "input and recurrent_weights must have one dtype"),
    ({"norm_weight": zeros(2, 5)}, r"(norm_weight|scale) must be float32 of shape \(3, 5\), got \(2, 5\)"),
    ({"norm_weight": zeros(3, 5).double()}, "(norm_weight|scale) must be float32"),
    ({"norm_bias": zeros(15)}, r"(norm_bias|shift) must be float32 of shape \(3, 5\), got \(15\)"),
    ({"steps": 0}, "steps must be at least 1, got 0"),
    ({"steps": -3}, "steps must be at least 1, got -3"),
    ({"injection": "sum"}, "injection must be 'input' or 'feedforward', got sum"),
    ({"injection": "input"}, "input_weight .* does not fit input"),
]


def refused(op, message, *arguments):
    with pytest.raises(RuntimeError, match=f"^{op}: .*{message}") as error:
        getattr(OPS, op)(*arguments)
    assert ".cpp" not in str(error.value)


@pytest.mark.parametrize(("change", "message"), SECTION_ERRORS)
def test_a_section_names_what_is_wrong(change, message):
    given = {**SECTION, "steps": 2, "injection": "feedforward", **change}
    *tensors, steps, injection = given.values()
    refused("recurrent_conv2d", message, *tensors, steps, injection, [2, 2], False)
    refused("recurrent_conv2d_train", message, *tensors, steps, injection, True, 1e-5, False)
    kept = zeros(3, 2, 6, 7, 16), zeros(3, 2, 5)
    refused("recurrent_conv2d_backward", message, zeros(2, 5, 6, 7), *tensors, *kept, steps, injection, True, 1e-5, True, False)


@pytest.mark.parametrize("pool", [[], [2], [2, 2, 2], [0, 2], [2, -1], [7, 1], [1, 8], [2**62, 2**62]])
def test_a_pool_that_does_not_fit(pool):
    refused("recurrent_conv2d", "pool", *SECTION.values(), 2, "feedforward", pool, False)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("size", [(9, 14), (16, 8), (5, 31)])
def test_a_pool_is_that_of_pytorch(size, exact):
    for kernel in ((3, 3), (5, 5), (3, 1)):
        tensors = made("batch", 3, 17, size, kernel)
        tensors["recurrent_weight"] = tensors["recurrent_weight"][None]
        whole = OPS.recurrent_conv2d(*tensors.values(), 2, "feedforward", [1, 1], exact)
        for pool in ((2, 2), (4, 4), (2, 4), (3, 2), (5, 7)):
            out = OPS.recurrent_conv2d(*tensors.values(), 2, "feedforward", list(pool), exact)
            torch.testing.assert_close(out, F.max_pool2d(whole, pool), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": zeros(2, 5, 6, 6)}, "grad must have the shape of the output"),
        ({"grad": zeros(5, 6, 7)}, "grad must have the shape of the output"),
        ({"grad": zeros(2, 5, 6, 7).double()}, "grad and input must have one dtype"),
        ({"maps": zeros(3, 2, 6, 7, 5)}, "maps are not those of the forward pass"),
        ({"maps": zeros(3 * 2 * 6 * 7 * 16)}, "maps are not those of the forward pass"),
        ({"maps": zeros(3, 2, 6, 7, 16).half()}, "maps are not those of the forward pass"),
        ({"maps": zeros(16, 7, 6, 2, 3).permute(4, 3, 2, 1, 0)}, "maps are not those of the forward pass"),
        ({"statistics": zeros(2, 2, 5)}, "statistics are not those of the forward pass"),
        ({"statistics": zeros(3, 2, 5).double()}, "statistics are not those of the forward pass"),
        ({"normalise": False}, "statistics are not those of the forward pass"),
    ],
)
def test_the_gradient_of_a_section_names_what_is_wrong(change, message):
    kept = {"maps": zeros(3, 2, 6, 7, 16), "statistics": zeros(3, 2, 5)}
    rest = {"steps": 2, "injection": "feedforward", "normalise": True, "eps": 1e-5, "need_input": True, "exact": False}
    refused("recurrent_conv2d_backward", message, *{"grad": zeros(2, 5, 6, 7), **SECTION, **kept, **rest, **change}.values())


def cell_operands(kind):
    return {name: torch.zeros_like(one) for name, one in made(kind).items()} | {"lengths": torch.tensor([4, 2])}


CELL_ERRORS = [
    ({"input": zeros(4, 3, 6, 7)}, "input must have 5 dimensions"),
    ({"input": zeros(0, 2, 3, 6, 7)}, "input must have at least one step"),
    ({"input": zeros(4, 2, 4, 6, 7)}, r"weight_ih .* do not fit input \(4, 2, 4, 6, 7\)"),
    ({"input": zeros(4, 2, 3, 6, 7).double()}, "input must be float32 on a CPU"),
    ({"weight_ih": zeros(20, 3, 3)}, "weight_ih must have 4 dimensions"),
    ({"weight_ih": zeros(21, 3, 3, 3)}, "weight_ih .* and weight_hh .* do not fit input"),
    ({"weight_ih": zeros(5, 3, 3, 3)}, "weight_ih .* and weight_hh .* do not fit input"),
    ({"weight_hh": zeros(20, 20, 3, 3)}, "weight_ih .* and weight_hh .* do not fit input"),
    ({"weight_hh": zeros(20, 0, 3, 3)}, "weight_ih .* and weight_hh .* do not fit input"),
    ({"weight_hh": zeros(20)}, "weight_hh must have 4 dimensions"),
    ({"h0": zeros(2, 5, 7, 6)}, r"h0 must have shape \(2, 5, 6, 7\), got \(2, 5, 7, 6\)"),
    ({"h0": zeros(5, 6, 7)}, "h0 must have shape"),
    ({"h0": zeros(2, 5, 6, 7).double()}, "input and h0 must have one dtype"),
    ({"lengths": torch.tensor([1])}, r"lengths must be int64 of shape \(2\)"),
    ({"lengths": torch.tensor([1, 2]).int()}, "lengths must be int64"),
    ({"lengths": torch.tensor([[1, 2]])}, "lengths must be int64"),
]
OF_A_KIND = {
    "lstm": [
        ({"weight_ih": zeros(20, 3, 5, 5)}, "weight_ih and weight_hh must have kernels of one size with odd sides"),
        ({"weight_ih": zeros(20, 3, 2, 2), "weight_hh": zeros(20, 5, 2, 2)}, "kernels of one size with odd sides"),
        ({"bias": zeros(5)}, r"bias must have shape \(20\)"),
        ({"bias": zeros(20).double()}, "input and bias must have one dtype"),
        ({"peephole": zeros(3, 5, 6, 7)}, r"peephole must have shape \(3, 5, 1, 1\), got \(3, 5, 6, 7\)"),
        ({"peephole": zeros(3, 5, 1, 1).half()}, "input and peephole must have one dtype"),
        ({"c0": zeros(1, 5, 6, 7)}, "c0 must have shape"),
    ],
    "gru": [
        ({"weight_ih": zeros(15, 3, 5, 5)}, "weight_ih and weight_hh must have kernels of one size with odd sides"),
        ({"weight_ih": zeros(20, 3, 3, 3), "weight_hh": zeros(20, 5, 3, 3)}, "do not fit input"),
        ({"bias_ih": zeros(20)}, r"bias_ih must have shape \(15\)"),
        ({"bias_hh": zeros(5)}, r"bias_hh must have shape \(15\)"),
    ],
}


@pytest.mark.parametrize(("kind", "change", "message"), [(k, *case) for k in CELLS for case in (*CELL_ERRORS, *OF_A_KIND[k])])
def test_a_cell_names_what_is_wrong(kind, change, message):
    operands = {**cell_operands(kind), **change}
    refused(f"conv_{kind}", message, *operands.values(), False, 4, True, False)
    results, gates, states = cell(kind, made(kind))
    refused(f"conv_{kind}_backward", message, *results, *operands.values(), gates, states, False, 4, True, False)


@pytest.mark.parametrize("kind", CELLS)
def test_the_gradient_of_a_cell_names_what_is_wrong(kind):
    given = cell_operands(kind)
    grads, gates, states = cell(kind, made(kind))
    good = {"grad_output": grads[0], "grad_h": grads[1], "gates": gates, "states": states, "segment": 4}
    for change, message in (
        ({"grad_output": grads[0][:3]}, "grad_output must have the shape of the output"),
        ({"grad_output": grads[0][0]}, "grad_output must have the shape of the output"),
        ({"grad_output": grads[0].double()}, "grad_output and input must have one dtype"),
        ({"grad_h": grads[1][:1]}, "grad_h must have shape"),
        ({"grad_h": grads[1].double()}, "input and grad_h must have one dtype"),
        ({"gates": gates[:3]}, "gates and states are not those of the forward pass"),
        ({"gates": gates.double()}, "gates and states are not"),
        ({"gates": gates.transpose(0, 1)}, "gates and states are not"),
        ({"states": states[:0]}, "gates and states are not"),
        ({"states": states.half()}, "gates and states are not"),
        ({"segment": 0}, "gates and states are not"),
        ({"segment": -4}, "gates and states are not"),
        ({"segment": 1}, "gates and states are not"),
    ):
        grad_output, grad_h, *kept, segment = {**good, **change}.values()
        arguments = grad_output, grad_h, *grads[2:], *given.values(), *kept, False, segment, True, False
        refused(f"conv_{kind}_backward", message, *arguments)


ABSURD = """
import torch, mer_fast
ops = torch.ops.mer_fast
x, w_ih, w_hh = torch.randn(3, 2, 3, 6, 7), torch.randn(20, 3, 3, 3), torch.randn(20, 5, 3, 3)
section = torch.randn(2, 3, 6, 7), torch.randn(5, 3, 3, 3), torch.randn(1, 5, 5, 3, 3), None, None
calls = [lambda s=s: ops.conv_lstm(x, w_ih, w_hh, None, None, None, None, None, False, s, True, False) for s in SEGMENTS]
calls += [lambda s=s: ops.conv_gru(x, w_ih[:15], w_hh[:15], None, None, None, None, False, s, True, False) for s in SEGMENTS]
calls += [lambda s=s: ops.recurrent_conv2d(*section, s, "feedforward", [1, 1], False) for s in STEPS]
calls += [lambda s=s: ops.recurrent_conv2d_train(*section, s, "feedforward", True, 1e-5, False) for s in STEPS]
for call in calls:
    try:
        call()
    except RuntimeError as error:
        print(error)
print("done")
"""


@pytest.mark.parametrize("numbers", ["SEGMENTS, STEPS = (-1, -(2**62), 2**62), ()", "SEGMENTS, STEPS = (), (2**61, 2**62)"])
def test_absurd_numbers_are_no_crash(numbers):
    """In a process of its own, which a crash would end."""
    ran = subprocess.run([sys.executable, "-c", numbers + ABSURD], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.endswith("done\n"), (ran.returncode, ran.stderr[-500:])
