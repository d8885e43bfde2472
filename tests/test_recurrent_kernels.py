"""The CPU kernels of recurrent_conv2d, conv_lstm and conv_gru: an op's contract, values on odd sizes, threads, bad numbers."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mer_fast
from mer_fast import nn, ops, reference

from .kit import LAYOUTS, OpContract, assert_near, laid_out, relative_error
from .recurrent import Ran, assert_finite_where, deterministic, made, of, run, threads, values_and_gradients
from .test_recurrent_conv2d import Plain

KINDS = ("batch", "none", "lstm", "gru")
OPS = {"batch": "recurrent_conv2d", "none": "recurrent_conv2d", "lstm": "conv_lstm", "gru": "conv_gru"}
# channels, maps, size, kernel: around multiples of a vector's width, of tiles and of bands
SHAPES = [
    (33, 15, (1, 1), (3, 3)), (80, 16, (2, 3), (3, 3)), (16, 17, (4, 4), (5, 5)), (17, 33, (5, 31), (3, 3)),
    (1, 48, (33, 6), (3, 3)), (48, 80, (5, 31), (1, 1)), (80, 1, (4, 4), (7, 7)), (3, 17, (33, 6), (3, 5)),
    (16, 16, (5, 31), (5, 5)), (15, 80, (33, 6), (3, 3)),
]  # fmt: skip


class RecurrentContract(OpContract):
    """The contract with what is different of an op that convolves, and of which only the first input has a batch."""

    batch_dim = 0

    def results(self, *inputs):
        raise NotImplementedError

    def call(self, *inputs):
        """All results in one tensor."""
        return torch.cat([one.flatten(0, -4) for one in self.results(*inputs)])

    def test_every_element_is_written(self, device):
        """As the contract's, but that deterministic mode also computes by the formula."""
        inputs = self.inputs(torch.float32, device)
        with deterministic():
            out = self.call(*inputs)
        assert_near(out, self.call(*inputs), torch.float32)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_takes_any_memory_layout(self, device, layout):
        inputs = self.inputs(torch.float32, device)
        with Ran() as ran:
            out = self.call(*(laid_out(x, layout) for x in inputs))
        assert torch.equal(out, self.call(*inputs))
        assert device == "cuda" or len(ran.names) == 1

    def test_takes_expanded_input(self, device):
        x, *rest = self.inputs(torch.float32, device)
        first = x.narrow(self.batch_dim, 0, 1).expand_as(x)
        scalars = [one.flatten()[0].expand_as(one) for one in rest]
        assert torch.equal(self.call(first, *rest), self.call(first.contiguous(), *rest))
        assert torch.equal(self.call(x, *scalars), self.call(x, *(one.contiguous() for one in scalars)))

    def test_compiles_once_for_all_batch_sizes(self, device):
        torch.compiler.reset()
        compiled = torch.compile(self.call, fullgraph=True, backend="aot_eager", dynamic=True)
        for copies in (2, 3, 5):
            inputs = [torch.cat([x] * copies, dim) if dim is not None else x for x, dim in self.with_batch_dims(device)]
            assert torch.equal(compiled(*inputs), self.call(*inputs))

    def with_batch_dims(self, device):
        """Pairs of an input and its batch dimension, None where it has none."""
        x, *rest = self.inputs(torch.float32, device)
        return [(x, self.batch_dim), *((one, None) for one in rest)]

    def test_keeps_its_dtype_under_autocast(self, device):
        """As PyTorch's convolutions it runs in autocast's dtype; float64 is left alone."""
        inputs = self.inputs(torch.float32, device)
        with torch.autocast(device, dtype=torch.bfloat16):
            assert self.call(*inputs).dtype == torch.bfloat16
            assert self.call(*(x.double() for x in inputs)).dtype == torch.float64


class TestRecurrentConv2d(RecurrentContract):
    op = "recurrent_conv2d"
    dtypes = (torch.float64, torch.float32)  # in fewer bits ReLU's edge decides; test_recurrent_conv2d.py has these
    norm = "batch"

    def inputs(self, dtype, device):
        shapes = {(3, 5, 9, 11): 1, (17, 5, 3, 3): 0.2, (2, 17, 17, 3, 3): 0.1}
        tensors = [torch.randn(shape, dtype=dtype, device=device) * scale for shape, scale in shapes.items()]
        tensors += [torch.randn(3, 17, dtype=dtype, device=device) for _ in range(2)]
        return tensors if self.norm else tensors[:3]

    def results(self, x, first, recurrent, *affine):
        norms = dict(zip(("norm_weights", "norm_biases"), (one.unbind() for one in affine), strict=True)) if affine else {}
        return (ops.recurrent_conv2d(x, first, recurrent.unbind(), steps=2, norm=self.norm, **norms),)

    def call(self, *inputs):
        return self.results(*inputs)[0]

    def opcheck_arguments(self, device):
        x, first, recurrent, *affine = (one.requires_grad_() for one in self.inputs(torch.float32, device))
        affine = affine or [None, None]
        rest = 2, "feedforward", self.norm is not None, 1e-5
        forward = (x, first, recurrent, *affine, *rest, False)
        plain = [one if one is None else one.detach() for one in forward[:5]]
        out, maps, statistics = torch.ops.mer_fast.recurrent_conv2d_train(*plain, *rest, False)
        return {
            "recurrent_conv2d": (*plain, 2, "feedforward", [3, 4], False),
            "recurrent_conv2d_train": forward,
            "recurrent_conv2d_backward": (torch.randn_like(out), *plain, maps, statistics, *rest, True, False),
        }


class TestRecurrentConv2dWithoutNorm(TestRecurrentConv2d):
    norm = None
    test_compiles_once_for_all_batch_sizes = None  # as with norms


class Cell(RecurrentContract):
    batch_dim = 1
    kind: str

    names: tuple[str, ...]

    def inputs(self, dtype, device):
        return [one.to(device, dtype) for one in made(self.kind, batch=3, maps=17).values()]

    def results(self, *inputs):
        return run(self.kind, **dict(zip(self.names, inputs, strict=True)))

    def with_batch_dims(self, device):
        dims = [{"input": 1, "h0": 0, "c0": 0}.get(name) for name in self.names]
        return list(zip(self.inputs(torch.float32, device), dims, strict=True))

    def opcheck_arguments(self, device):
        operands = [one.requires_grad_() for one in self.inputs(torch.float32, device)]
        plain = [one.detach() for one in operands]
        lengths = torch.tensor([4, 5, 6], device=device)  # what is kept of steps behind an end is left as it was
        forward = getattr(torch.ops.mer_fast, self.op)
        *results, gates, states = forward(*plain, lengths, True, 3, True, False)
        grads = [torch.randn_like(one) for one in results]
        return {
            self.op: (*operands, lengths, True, 3, True, False),
            f"{self.op}_backward": (*grads, *plain, lengths, gates, states, True, 3, True, False),
        }


class TestConvLstm(Cell):
    op, kind = "conv_lstm", "lstm"
    names = ("input", "weight_ih", "weight_hh", "bias", "peephole", "h0", "c0")


class TestConvGru(Cell):
    op, kind = "conv_gru", "gru"
    names = ("input", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "h0")


# --- values and gradients ----------------------------------------------------------------------------------------------
def check(kind, tensors, exact=False, **options):
    """Values and all gradients of the kernels against the float64 reference; what ran."""
    wide = {name: one.double() for name, one in tensors.items()}
    checkpoint = options.pop("checkpoint", False) and kind in ("lstm", "gru")
    with deterministic(exact), Ran() as ran:
        got, got_gradients = values_and_gradients(of(kind, **options, **({"checkpoint": True} if checkpoint else {})), tensors)
        with torch.no_grad():
            plain = run(kind, **tensors, **options)
    assert ran.names[1] == f"{OPS[kind]}_backward" and len(ran.names) == 3
    want, want_gradients = values_and_gradients(of(kind, reference, **options), wide)
    for one, other, expected in zip(got, plain, want, strict=True):
        if expected.any():
            assert_near(one, expected, torch.float32)
            assert_near(other, expected, torch.float32)
        else:
            assert not one.any() and not other.any()
    for name, expected in want_gradients.items():
        if expected.any():
            assert_near(got_gradients[name], expected, torch.float32, gradient=True)
        else:
            assert not got_gradients[name].any(), name


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_sizes(kind, shape, exact):
    # Of few values a norm leaves little but rounding.
    batch = 50 if kind == "batch" and shape[2] in ((1, 1), (2, 3)) else 2
    check(kind, made(kind, *shape, batch=batch, steps=3, smooth=True), exact)


def test_random_calls(many):
    @settings(max_examples=many, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        kind=st.sampled_from(("lstm", "gru")),
        channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
        size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        kernel=st.sampled_from(((1, 1), (3, 3), (5, 5), (3, 1), (1, 5))),
        shape=st.tuples(st.integers(1, 3), st.integers(1, 11)),
        flags=st.tuples(*[st.booleans()] * 4),
        seed=st.integers(0, 2**31),
    )
    def calls(kind, channels, size, kernel, shape, flags, seed):
        torch.manual_seed(seed)
        reverse, with_lengths, checkpoint, exact = flags
        lengths = torch.randint(0, shape[1] + 1, shape[:1]) if with_lengths else None
        check(kind, made(kind, *channels, size, kernel, *shape), exact, reverse=reverse, lengths=lengths, checkpoint=checkpoint)

    calls()


@pytest.mark.parametrize("injection", ["feedforward", "input"])
@pytest.mark.parametrize("kind", ["batch", "none"])
def test_injections(kind, injection):
    for size in ((5, 31), (33, 6)):
        check(kind, made(kind, 17, 17, size, batch=3, smooth=True), injection=injection)


@pytest.mark.parametrize("kind", KINDS)
def test_what_runs(kind):
    """float32 goes to a kernel, other dtypes and the reference backend do not."""
    op, tensors = OPS[kind], made(kind)
    for dtype, backend, names in ((torch.float32, "auto", True), (torch.float64, "auto", False), (torch.bfloat16, "auto", False),
                                  (torch.float32, "reference", False), (torch.float32, "cpu", True)):  # fmt: skip
        given = {name: one.to(dtype).requires_grad_() for name, one in tensors.items()}
        with Ran() as ran, mer_fast.backend(backend):
            sum(one.sum() for one in run(kind, **given)).backward()
        forward = f"{op}_train" if op == "recurrent_conv2d" else op
        assert ran.names == ([forward, f"{op}_backward"] if names else [])
    with Ran() as ran, torch.no_grad():
        run(kind, **tensors)
    assert ran.names == [f"{op}_train" if kind == "batch" else op]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads(kind, exact):
    """Also more than images: repeated bit by bit, and alike within rounding."""
    for batch in (1, 4):
        tensors, first = made(kind, 5, 17, (13, 9), batch=batch, smooth=True), None
        for count in (1, 2, 3, 5):
            with threads(count), deterministic(exact):
                once, again = values_and_gradients(of(kind), tensors), values_and_gradients(of(kind), tensors)
            results = [*once[0], *once[1].values()]
            assert all(torch.equal(a, b) for a, b in zip(results, [*again[0], *again[1].values()], strict=True))
            first = first or results
            for one, other in zip(results, first, strict=True):
                assert_near(one, other, torch.float32, gradient=True)


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_lesser_instruction_sets_agree(isa, tmp_path):
    program = (
        "import sys, torch, mer_fast; from tests.recurrent import of, values_and_gradients\n"
        "out = {kind: values_and_gradients(of(kind), tensors) for kind, tensors in torch.load(sys.argv[1]).items()}\n"
        "torch.save((mer_fast.info()['build']['cpu_kernel_in_use'], out), sys.argv[2])"
    )
    tensors = {kind: made(kind, 17, 33, (9, 14), smooth=True) for kind in KINDS}
    torch.save(tensors, tmp_path / "in")
    files = [str(tmp_path / name) for name in ("in", "out")]
    subprocess.run([sys.executable, "-c", program, *files], check=True, env={**os.environ, "MER_FAST_ISA": isa})
    used, out = torch.load(tmp_path / "out")
    assert used == isa
    for kind, (results, gradients) in out.items():
        want, want_gradients = values_and_gradients(of(kind), tensors[kind])
        for one, other in zip([*results, *gradients.values()], [*want, *want_gradients.values()], strict=True):
            assert_near(one, other, torch.float32, gradient=True)


# --- numbers that are hard ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_infinity_only_where_pytorch_has_them(kind, gradient, exact, value):
    """Of an input or a state in the first of three images, of a weight in one map."""
    place = (0, 1, 6, 4)
    places = {"input": place if kind in ("batch", "none") else (1, *place), "h0": place, "c0": place}
    if value != value:  # in the middle: what another tap gives with the border's zeros is the library's choice
        places |= dict.fromkeys(("input_weight", "recurrent_weight", "weight_ih", "weight_hh"), (3, 1, 1, 1))
    tensors = made(kind, 3, 5, (13, 9), batch=3)
    for name in set(tensors) & set(places):
        changed = {key: one.clone() for key, one in tensors.items()}
        changed[name][places[name]] = value
        with deterministic(exact):
            got = run(kind, **{key: one.requires_grad_(gradient) for key, one in changed.items()})
        for one, other in zip(got, run(kind, reference, **changed), strict=True):
            assert_finite_where(one, other, value != value or name == "input", name)


def test_nan_stays_in_its_image_of_a_section_in_evaluation():
    """Also where running statistics are folded: the other images are computed to the end."""
    layer = nn.RecurrentConv2d(5, 5, steps=2).eval()
    x = torch.randn(4, 5, 9, 9)
    expected = layer(x).detach()
    x[0, 0, 4, 4] = float("nan")
    with torch.no_grad(), Ran() as ran:
        out = layer(x)
    assert ran.names == ["recurrent_conv2d"]
    assert_near(out[1:], expected[1:], torch.float32)
    assert out[0].isnan().any() and not out[0].isnan().all()


@pytest.mark.parametrize("exact", [False, True])
def test_an_infinite_gradient_stays_in_its_patch(exact):
    for kind in KINDS[1:]:
        tensors, found = made(kind, 3, 5, (17, 13)), []
        for module in (ops, reference):
            leaf = tensors["input"].clone().requires_grad_()
            with deterministic(exact):
                out = run(kind, module, **{**tensors, "input": leaf})[0]
                grad = torch.ones_like(out)
                grad[..., 9, 6] = float("inf")
                found.append(torch.autograd.grad(out, leaf, grad)[0])
        assert torch.equal(found[0].isfinite(), found[1].isfinite()), kind


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_what_is_behind_an_end_may_be_anything(kind):
    for reverse in (False, True):
        tensors = made(kind, steps=9, batch=4)
        lengths = torch.tensor([9, 0, 3, 5])
        clean = values_and_gradients(of(kind, lengths=lengths, reverse=reverse), tensors)
        for n, length in enumerate(lengths.tolist()):
            tensors["input"][length:, n] = float("nan")
        results, gradients = values_and_gradients(of(kind, lengths=lengths, reverse=reverse), tensors)
        for one, other in zip([*results, *gradients.values()], [*clean[0], *clean[1].values()], strict=True):
            assert torch.equal(one, other)
        for n, length in enumerate(lengths.tolist()):
            assert not gradients["input"][length:, n].any() and not results[0][length:, n].any()
        assert torch.equal(results[1][1], tensors["h0"][1])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_lengths_out_of_range_in_compiled_code(kind):
    torch.compiler.reset()
    tensors = made(kind)
    compiled = torch.compile(lambda lengths, **rest: run(kind, lengths=lengths, **rest), backend="eager", fullgraph=True)
    for one, other in zip(
        compiled(torch.tensor([-(2**40), 2**40]), **tensors), run(kind, lengths=[0, 4], **tensors), strict=True
    ):
        assert torch.equal(one, other)


def test_batch_norm_far_from_zero():
    """Mean 1e3 and variance 1: what goes into a norm has lost three digits, PyTorch's too."""
    x, first = torch.randn(4, 1, 24, 24) + 1e3, torch.ones(3, 1, 1, 1)
    recurrent = [torch.randn(3, 3, 3, 3) * 0.3]
    want = reference.recurrent_conv2d(x.double(), first.double(), [recurrent[0].double()], steps=2, norm="batch", training=True)
    with Ran() as ran:
        out = ops.recurrent_conv2d(x, first, recurrent, steps=2, norm="batch")
    plain = reference.recurrent_conv2d(x, first, recurrent, steps=2, norm="batch", training=True)
    assert ran.names == ["recurrent_conv2d_train"]
    assert relative_error(out, want) < max(1e-5, 2 * relative_error(plain, want)) < 2e-4


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_tiny_inputs_keep_their_digits(kind):
    tensors = {name: one * (1e-4 if one.dim() != 4 else 1) for name, one in made(kind, states=False).items()}
    tensors = {name: one for name, one in tensors.items() if name in ("input", "weight_ih", "weight_hh")}
    assert_near(run(kind, **tensors)[0], run(kind, reference, **{k: v.double() for k, v in tensors.items()})[0], torch.float32)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_saturated_gates(kind):
    """Biases far beyond where a sigmoid or a tanh moves, of either sign."""
    for far in (20.0, 90.0, 1e4, 1e30):
        tensors = made(kind, maps=8)
        for name in ("bias", "bias_ih"):
            if name in tensors:
                tensors[name] = torch.where(torch.rand_like(tensors[name]) < 0.5, far, -far)
        results, gradients = values_and_gradients(of(kind), tensors)
        want, _ = values_and_gradients(of(kind, reference), {name: one.double() for name, one in tensors.items()})
        for one, other in zip(results, want, strict=True):
            assert_near(one, other, torch.float32)
        assert all(one.isfinite().all() for one in gradients.values())


def test_running_statistics_are_those_of_batch_norm():
    """Over some training steps, also of another momentum, and then in evaluation."""
    for momentum in (0.1, 0.7):
        ours, plain = nn.RecurrentConv2d(3, 17, steps=2), Plain(3, 17, steps=2)
        plain.load_state_dict(ours.state_dict())
        for norm in (*ours.norms, *plain.norms):
            norm.momentum = momentum
        with Ran() as ran:
            for _ in range(3):
                x = torch.randn(2, 3, 9, 7) * 2 + 1
                assert_near(ours(x), plain(x), torch.float32)
            with torch.no_grad():
                assert_near(ours.eval()(x), plain.eval()(x), torch.float32)
        assert ran.names == ["recurrent_conv2d_train"] * 3 + ["recurrent_conv2d"]
        for (name, one), other in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(one, other, msg=name)
