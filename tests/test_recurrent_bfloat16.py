"""conv_lstm and conv_gru in bfloat16 on a CPU's matrix units, which serve inference."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mer_fast import _library, nn, reference

from .kit import assert_near, laid_out
from .recurrent import Ran, assert_finite_where, deterministic, made, run, threads

BF16 = torch.bfloat16
CELLS = ("lstm", "gru")

pytestmark = pytest.mark.skipif(not _library.MATRIX_UNITS, reason="this processor has no matrix units for bfloat16")


def halves(kind, *arguments, **options):
    return {name: one.to(BF16) for name, one in made(kind, *arguments, **options).items()}


def truth(kind, tensors, **options):
    return run(kind, reference, **{name: one.double() for name, one in tensors.items()}, **options)


def check(kind, tensors, **options):
    with Ran() as ran:
        out = run(kind, **tensors, **options)
    assert ran.names == [f"conv_{kind}"]
    for one, other in zip(out, truth(kind, tensors, **options), strict=True):
        assert one.dtype == BF16
        if other.any():
            assert_near(one, other, BF16)
        else:
            assert not one.any()


@pytest.mark.parametrize("shape", [
    (1, 15, (1, 1), (3, 3)), (31, 16, (2, 3), (3, 3)), (32, 17, (4, 4), (5, 5)), (33, 33, (5, 31), (3, 3)),
    (15, 48, (33, 6), (3, 3)), (48, 80, (5, 31), (1, 1)), (80, 1, (5, 7), (7, 7)), (3, 32, (33, 6), (3, 5)),
    (64, 31, (3, 17), (3, 3)), (16, 16, (2, 16), (1, 3)),
])  # fmt: skip
@pytest.mark.parametrize("kind", CELLS)
def test_odd_sizes(kind, shape):
    check(kind, halves(kind, *shape, steps=3))


def test_random_calls(many):
    @settings(max_examples=many, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        kind=st.sampled_from(CELLS),
        channels=st.tuples(st.integers(1, 70), st.integers(4, 40)),
        size=st.tuples(st.integers(2, 9), st.integers(4, 35)),
        kernel=st.sampled_from(((1, 1), (3, 3), (5, 5), (3, 1), (1, 5))),
        shape=st.tuples(st.integers(1, 3), st.integers(1, 6)),
        flags=st.tuples(st.booleans(), st.booleans()),
        seed=st.integers(0, 2**31),
    )
    def calls(kind, channels, size, kernel, shape, flags, seed):
        torch.manual_seed(seed)
        lengths = torch.randint(0, shape[1] + 1, shape[:1]) if flags[0] else None
        check(kind, halves(kind, *channels, size, kernel, *shape), lengths=lengths, reverse=flags[1])

    calls()


@pytest.mark.parametrize("kind", CELLS)
def test_threads_and_layouts_change_nothing(kind):
    for batch in (1, 4):
        tensors, first = halves(kind, 5, 17, (13, 19), batch=batch), None
        for count in (1, 2, 3, 5):
            with threads(count), deterministic(count == 3):
                out = run(kind, **tensors)
            first = first or out
            assert all(torch.equal(one, other) for one, other in zip(out, first, strict=True))
        for layout in ("sliced", "permuted", "offset"):
            out = run(kind, **{name: laid_out(one, layout) for name, one in tensors.items()})
            assert all(torch.equal(one, other) for one, other in zip(out, first, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", CELLS)
def test_nan_and_infinity_only_where_pytorch_has_them(kind, value):
    tensors = halves(kind, 3, 5, (13, 9), batch=3)
    for name, place in {"input": (1, 0, 1, 6, 4), "h0": (0, 2, 6, 4), "c0": (0, 2, 6, 4), "weight_hh": (3, 1, 1, 1)}.items():
        if name in tensors and (name != "weight_hh" or value != value):
            changed = {**tensors, name: tensors[name].clone()}
            changed[name][place] = value
            for one, other in zip(run(kind, **changed), truth(kind, changed), strict=True):
                assert_finite_where(one, other, value != value or name == "input", name)


@pytest.mark.parametrize("kind", CELLS)
def test_what_is_behind_an_end_may_be_anything(kind):
    tensors, lengths = halves(kind, steps=5, batch=3), [5, 0, 3]
    expected = run(kind, **tensors, lengths=lengths)
    tensors["input"][3:, 2] = tensors["input"][:, 1] = float("nan")
    out = run(kind, **tensors, lengths=lengths)
    assert all(torch.equal(one, other) for one, other in zip(out, expected, strict=True))
    assert torch.equal(out[1][1], tensors["h0"][1]) and not out[0][3:, 2].any()


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_run_the_library(kind):
    tensors = {name: one.requires_grad_() for name, one in halves(kind).items()}
    with Ran() as ran:
        run(kind, **tensors)[0].sum().backward()
    assert not ran.names and tensors["input"].grad.any()
    operator = getattr(torch.ops.mer_fast, f"conv_{kind}")
    with pytest.raises(RuntimeError, match=f"conv_{kind}: gradients take float32 on a CPU"):
        operator(*(one.detach() for one in tensors.values()), None, False, 8, True, False)
    with pytest.raises(RuntimeError, match=f"conv_{kind}: input and weight_hh must have one dtype"):
        mixed = {**tensors, "weight_hh": tensors["weight_hh"].float()}
        operator(*(one.detach() for one in mixed.values()), None, False, 0, False, False)


@pytest.mark.parametrize("layer", [nn.ConvLSTM(3, 17, 3, 2, bidirectional=True), nn.ConvGRU(3, 17, 5)])
def test_layers_under_autocast_compiled_and_exported(layer):
    x = torch.randn(4, 2, 3, 9, 7)
    torch.compiler.reset()
    with torch.no_grad(), torch.autocast("cpu", dtype=BF16):
        with Ran() as ran:
            expected, _ = layer(x)
        assert expected.dtype == BF16 and len(ran.names) == len(layer.suffixes)
        assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0], expected)
    with torch.no_grad():
        half = layer.to(BF16)
        program = torch.export.export(half, (x.to(BF16),))
        assert torch.equal(program.module()(x.to(BF16))[0], half(x.to(BF16))[0])
    layer.float()
