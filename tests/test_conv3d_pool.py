"""ops.conv3d_pool: PyTorch's chain of convolution, activation and max-pool, its winners, and the contract of an op."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mer_fast
from mer_fast import ops
from mer_fast.reference.conv3d import ACTIVATIONS

from .kit import TOLERANCE, OpContract, assert_near, relative_error

NOBODY = 255  # the winner of a window in which ReLU is off


class TestConv3dPool(OpContract):
    """3 x 3 kernels: Winograd on a CPU in float32."""

    op = "conv3d_pool"
    kernel = (4, 3, 3)

    def inputs(self, dtype, device):
        shapes = (3, 2, 13, 15, 17), (5, 2, *self.kernel), (5,)
        return [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]

    def call(self, input, weight, bias):
        return ops.conv3d_pool(input, weight, bias, stride=(2, 1, 1), padding=(0, 1, 0), pool_kernel=(2, 3, 2))

    def opcheck_arguments(self, device):
        x, w, b = (t.requires_grad_() for t in self.inputs(torch.float64, device))
        rest = [2, 1, 1], [0, 1, 0], [1, 1, 1], 1
        out, winners = torch.ops.mer_fast.conv3d_pool(x, w, b, *rest, "relu", [2, 3, 2], [2, 3, 2], True, False)
        backward = torch.randn_like(out), winners, x.detach(), w.detach(), *rest, [2, 3, 2], [2, 3, 2], True, True, True
        return {
            "conv3d_pool": (x, w, b, *rest, "relu", [2, 3, 2], [2, 3, 2], True, False),
            "conv3d_pool_backward": backward,
        }

    def test_every_element_is_written(self, device):
        """As the contract's, but that deterministic mode, which poisons new memory, also computes by the formula."""
        inputs = self.inputs(torch.float32, device)
        expected = self.call(*inputs)
        torch.use_deterministic_algorithms(True)
        try:
            out = self.call(*inputs)
        finally:
            torch.use_deterministic_algorithms(False)
        assert_near(out, expected, torch.float32)

    def test_keeps_its_dtype_under_autocast(self, device):
        """As PyTorch's convolutions it runs in autocast's dtype, forward and backward; float64 is left alone."""
        inputs = [t.requires_grad_() for t in self.inputs(torch.float32, device)]
        with torch.autocast(device, dtype=torch.bfloat16):
            out = self.call(*inputs)
            wide = self.call(*(t.double() for t in inputs))
        assert out.dtype == torch.bfloat16
        assert wide.dtype == torch.float64
        assert torch.equal(out, self.call(*(t.bfloat16() for t in inputs)))
        assert all(g.dtype == torch.float32 for g in torch.autograd.grad(out.float().sum(), inputs))


class TestConv3dPoolDirect(TestConv3dPool):
    """Other kernels: the formula."""

    kernel = (2, 5, 4)


def plain(input, weight, bias, *, activation="relu", pool_kernel=3, pool_stride=None, **conv):
    return F.max_pool3d(ACTIVATIONS[activation](F.conv3d(input, weight, bias, **conv)), pool_kernel, pool_stride)


def three(value):
    return (value,) * 3 if isinstance(value, int) else tuple(value)


def winners_of(input, weight, bias, *, activation, pool_kernel, pool_stride, stride, padding, dilation, groups):
    window, step = three(pool_kernel), three(pool_kernel if pool_stride is None else pool_stride)
    spelled = [list(three(v)) for v in (stride, padding, dilation)]
    arguments = *spelled, groups, activation or "none", list(window), list(step), True, False
    return torch.ops.mer_fast.conv3d_pool(input, weight, bias, *arguments)[1]


def through(winners, input, weight, bias, *, activation, pool_kernel, pool_stride, **conv):
    """The pool of the float64 reference with the winners given: (values, how much less they are than the largest)."""
    full = ACTIVATIONS[activation](F.conv3d(input, weight, bias, **conv))
    window, step = three(pool_kernel), three(pool_kernel if pool_stride is None else pool_stride)
    for dim, (k, s) in enumerate(zip(window, step, strict=True)):
        full = full.unfold(2 + dim, k, s)
    windows = full.flatten(-3)
    on = winners != NOBODY
    values = windows.gather(-1, winners.where(on, 0).long().unsqueeze(-1)).squeeze(-1)
    largest = windows.detach().amax(-1)
    return values * on, (largest - values.detach() * on).abs()


@st.composite
def calls(draw):
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    kernel = draw(st.sampled_from(((3, 3, 3), (5, 3, 3), (1, 3, 3), (3, 1, 1), (1, 1, 1), (2, 4, 3), (4, 2, 5), (7, 1, 3))))
    spatial = (1, 1) if kernel[1:] == (3, 3) and draw(st.booleans()) else None
    numbers = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(3))  # noqa: E731
    stride, padding, dilation = numbers(1, 3), numbers(0, 2), numbers(1, 2)
    if spatial:  # Winograd's
        stride, dilation = (stride[0], 1, 1), (dilation[0], 1, 1)
    pool = draw(st.sampled_from((1, 2, 3, (1, 2, 2), (3, 2, 3), (2, 3, 4))))
    step = draw(st.sampled_from((None, None, 1, (2, 1, 2), (4, 3, 2))))
    batch, channels, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.sampled_from((1, 3, 8, 16, 17, 33)))
    extent = [k + (d - 1) * (k - 1) + s * (draw(st.integers(0, 7)) + p) for k, d, s, p in
              zip(kernel, dilation, stride, three(pool), strict=True)]  # fmt: skip
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((batch, groups * channels, *extent), (groups * outputs, channels, *kernel), (groups * outputs,))
    ]
    arguments = dict(
        stride=stride, padding=padding, dilation=dilation, groups=groups, pool_kernel=pool, pool_stride=step,
        activation=draw(st.sampled_from(list(ACTIVATIONS))),
    )  # fmt: skip
    return tensors, arguments, draw(st.booleans())


def check_call(tensors, arguments, dtype, device):
    """Values and gradients of one call against the float64 reference that follows the same winners."""
    rounded = [t.to(dtype) for t in tensors]
    wide = [t.double().requires_grad_() for t in rounded]
    ours = [t.to(device).requires_grad_() for t in rounded]
    winners = winners_of(*(t.detach() for t in ours), **arguments).cpu()
    values, short = through(winners, *wide, **arguments)
    out = ops.conv3d_pool(*ours, **arguments)
    assert_near(out, plain(*wide, **arguments), dtype)
    # Another winner than the reference's is one as good: never short by more than rounding.
    scale = values.detach().abs().max().clamp_min(1)
    assert float(short.max()) <= max(TOLERANCE[torch.float32][0], TOLERANCE[dtype][0] * 1e-2) * float(scale) * 10
    generator = torch.Generator().manual_seed(out.numel())
    grad = torch.randn(out.shape[::-1], generator=generator).permute(4, 3, 2, 1, 0)  # of odd strides
    got = torch.autograd.grad(out, ours, grad.to(out))
    want = torch.autograd.grad(values, wide, grad.to(dtype).double())
    # A bias's gradient is a sum of all these, about as large as their norm unless they cancel.
    for one, other, least in zip(got, want, (1e-30, 1e-30, 0.2 * float(grad.norm())), strict=True):
        if other.norm() > 0:
            assert_near(one, other, dtype, gradient=True, least=least)
        else:
            assert not one.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_random_calls(device, dtype, conv_cases):
    @settings(max_examples=conv_cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(calls())
    def check(call):
        tensors, arguments, with_bias = call
        check_call(tensors, arguments, dtype, device)
        if not with_bias:
            assert torch.equal(
                ops.conv3d_pool(*(t.to(device, dtype) for t in tensors[:2]), None, **arguments),
                ops.conv3d_pool(*(t.to(device, dtype) for t in tensors[:2]), torch.zeros_like(tensors[2]).to(device, dtype),
                                **arguments),
            )  # fmt: skip

    check()


def test_the_layer_of_microexpstcnn(device):
    x, w, b = torch.randn(2, 1, 30, 64, 64), torch.randn(32, 1, 15, 3, 3), torch.randn(32)
    out = ops.conv3d_pool(*(t.to(device) for t in (x, w, b)))
    assert out.shape == (2, 32, 5, 20, 20)
    assert_near(out, plain(x.double(), w.double(), b.double()), torch.float32)


def test_first_of_equal_values_wins_in_deterministic_mode():
    """Small whole numbers are computed exactly, so that ties are ties, as in PyTorch."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (2, 2, 9, 14, 14), generator=generator).float()
    w = torch.randint(-1, 2, (6, 2, 3, 3, 3), generator=generator).float()
    torch.use_deterministic_algorithms(True)
    try:
        ours, theirs = ([t.clone().requires_grad_() for t in (x, w)] for _ in range(2))
        out, expected = ops.conv3d_pool(*ours, pool_kernel=2), plain(*theirs, None, pool_kernel=2)
        assert torch.equal(out, expected)
        torch.use_deterministic_algorithms(False)  # PyTorch's pool has no deterministic gradient on some devices
        grad = torch.randint(-3, 4, out.shape, generator=generator).float()
        pairs = zip(torch.autograd.grad(out, ours, grad), torch.autograd.grad(expected, theirs, grad), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (2, 2, 4)])
def test_nan_and_infinity_go_where_pytorch_sends_them(device, activation, value, kernel):
    x, w = torch.randn(2, 2, 9, 13, 13), torch.randn(5, 2, *kernel)
    x[0, 0, 4, 4, 4] = value
    x[1, 1, 0, 12, 0] = value
    out = ops.conv3d_pool(x.to(device), w.to(device), activation=activation, pool_kernel=2).cpu()
    expected = plain(x, w, None, activation=activation, pool_kernel=2)
    assert torch.equal(out.isnan(), expected.isnan())
    torch.testing.assert_close(out, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_what_relu_turns_off_gets_no_gradient(device):
    x, w = torch.randn(1, 1, 6, 8, 8, device=device), torch.randn(3, 1, 3, 3, 3, device=device).requires_grad_()
    out = ops.conv3d_pool(x, w, torch.full((3,), -1e4, device=device), pool_kernel=2)
    assert not out.any()
    assert not torch.autograd.grad(out.sum(), w)[0].any()


def test_only_the_gradients_asked_for(device):
    tensors = [torch.randn(s, device=device) for s in ((2, 2, 7, 9, 9), (4, 2, 3, 3, 3), (4,))]
    everything = [t.clone().requires_grad_() for t in tensors]
    full = torch.autograd.grad(ops.conv3d_pool(*everything, pool_kernel=2).square().sum(), everything)
    for which in itertools.product((False, True), repeat=3):
        if any(which):
            some = [t.clone().requires_grad_(on) for t, on in zip(tensors, which, strict=True)]
            wanted = [t for t in some if t.requires_grad]
            got = iter(torch.autograd.grad(ops.conv3d_pool(*some, pool_kernel=2).square().sum(), wanted))
            for on, expected in zip(which, full, strict=True):
                if on:
                    assert relative_error(next(got), expected) < 1e-6


def test_no_winners_are_kept_where_no_gradient_is_wanted():
    x, w = torch.randn(1, 1, 6, 8, 8), torch.randn(3, 1, 3, 3, 3)
    rest = [1, 1, 1], [0, 0, 0], [1, 1, 1], 1, "relu", [2, 2, 2], [2, 2, 2]
    assert torch.ops.mer_fast.conv3d_pool(x, w, None, *rest, False, False)[1].numel() == 0
    assert torch.ops.mer_fast.conv3d_pool(x, w, None, *rest, True, False)[1].dtype == torch.uint8


def test_the_output_may_be_changed_in_place(device):
    x, w = torch.randn(1, 1, 6, 8, 8, device=device), torch.randn(3, 1, 3, 3, 3, device=device).requires_grad_()
    for activation in ACTIVATIONS:
        expected = torch.autograd.grad((3 * ops.conv3d_pool(x, w, activation=activation, pool_kernel=2)).sum(), w)[0]
        out = ops.conv3d_pool(x, w, activation=activation, pool_kernel=2).mul_(3)
        assert torch.equal(torch.autograd.grad(out.sum(), w)[0], expected)


def test_windows_too_large_for_a_byte(device):
    x, w = torch.randn(1, 1, 10, 12, 12, device=device), torch.randn(3, 1, 3, 3, 3, device=device)
    out = ops.conv3d_pool(x, w, pool_kernel=(4, 8, 8))
    assert_near(out, plain(x.double(), w.double(), None, pool_kernel=(4, 8, 8)), torch.float32)
    assert_near(
        ops.conv3d_pool(x, w, pool_kernel=(3, 5, 5)), plain(x.double(), w.double(), None, pool_kernel=(3, 5, 5)), torch.float32
    )


def test_empty_batch(device):
    x = torch.randn(0, 2, 7, 9, 9, device=device, requires_grad=True)
    w, b = torch.randn(4, 2, 3, 3, 3, device=device, requires_grad=True), torch.randn(4, device=device, requires_grad=True)
    out = ops.conv3d_pool(x, w, b, pool_kernel=2)
    assert out.shape == (0, 4, 2, 3, 3)
    grads = torch.autograd.grad(out.sum(), (x, w, b))
    assert grads[0].shape == x.shape
    assert not grads[1].any() and not grads[2].any()


@pytest.mark.full
def test_beyond_2_to_the_31_elements():
    x = torch.zeros(2100, 1, 16, 256, 256, dtype=torch.bfloat16)  # 2.2e9 elements
    x[-1] = torch.randn(1, 16, 256, 256)
    w = torch.randn(2, 1, 16, 3, 3, dtype=torch.bfloat16)
    out = ops.conv3d_pool(x, w, pool_kernel=(1, 127, 2))
    assert not out[:-1].any()
    assert torch.equal(out[-1:], ops.conv3d_pool(x[-1:], w, pool_kernel=(1, 127, 2)))


GOOD = dict(input=(2, 4, 8, 9, 9), weight=(6, 4, 3, 3, 3), bias=(6,))


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (dict(input=(4, 8, 9, 9)), {}, r"input must have shape \(N, C, T, H, W\), got \(4, 8, 9, 9\)"),
        (dict(weight=(6, 4, 3, 3)), {}, r"weight must have shape \(O, C / groups, kt, kh, kw\)"),
        (dict(input=(2, 3, 8, 9, 9)), {}, r"input must have 4 channels for weight \(6, 4, 3, 3, 3\) in 1 group"),
        (dict(bias=(5,)), {}, r"bias must have shape \(6,\), got \(5,\)"),
        (dict(input=(2, 16, 8, 9, 9)), dict(groups=4), r"weight must have outputs divisible by 4 groups"),
        ({}, dict(pool_kernel=(1, 8, 1)), r"pool_kernel \(1, 8, 1\) is larger than the convolution's output \(6, 7, 7\)"),
        (dict(input=(2, 4, 2, 9, 9)), {}, r"weight of size \(3, 3, 3\) does not fit into input"),
        ({}, dict(stride=0), "stride must be at least 1"),
        ({}, dict(padding=-1), "padding must be at least 0"),
        ({}, dict(stride=(1, 2)), r"stride must be a whole number or three \(t, h, w\)"),
        ({}, dict(activation="tanh"), "activation must be None, 'relu', 'leaky_relu' or 'gelu', got 'tanh'"),
        ({}, dict(groups=0), "groups must be at least 1"),
        ({}, dict(pool_stride=0), "pool_stride must be at least 1"),
    ],
)
def test_bad_arguments(device, change, arguments, message):
    tensors = [torch.randn(shape, device=device) for shape in {**GOOD, **change}.values()]
    with pytest.raises(mer_fast.MerFastError, match=rf"conv3d_pool: {message}"):
        ops.conv3d_pool(*tensors, **arguments)


def test_mixed_dtypes_and_devices():
    x, w, b = (torch.randn(shape) for shape in GOOD.values())
    with pytest.raises(mer_fast.MerFastError, match=r"input and weight must have one dtype.*convert one with \.to"):
        ops.conv3d_pool(x, w.double(), b)
    with pytest.raises(mer_fast.MerFastError, match="input and bias must have one dtype"):
        ops.conv3d_pool(x, w, b.half())
    with pytest.raises(mer_fast.MerFastError, match=r"input and weight must be on one device.*move one with \.to"):
        ops.conv3d_pool(x, w.to("meta"), b)
    with pytest.raises(mer_fast.MerFastError, match="input must be a float tensor"):
        ops.conv3d_pool(x.byte(), w, b)
    with pytest.raises(mer_fast.MerFastError, match=r"input must be a torch\.Tensor, got list"):
        ops.conv3d_pool([1.0], w, b)


def test_the_operator_checks_what_reaches_it_past_python():
    x, w, b = (torch.randn(shape) for shape in GOOD.values())
    ones, zeros = [1, 1, 1], [0, 0, 0]

    def call(x=x, w=w, b=b, stride=ones, pool=(2, 2, 2), activation="relu"):
        return torch.ops.mer_fast.conv3d_pool(x, w, b, stride, zeros, ones, 1, activation, list(pool), list(pool), True, False)

    for bad, message in (
        (dict(x=x[0]), "input must have 5 dimensions"),
        (dict(b=b[:5]), r"bias must have shape \(6\)"),
        (dict(w=w.double()), "input and weight must have one dtype"),
        (dict(stride=[1, 1]), "stride must be three numbers"),
        (dict(pool=(1, 9, 9)), "pool_kernel 9 is larger"),
        (dict(pool=(8, 8, 8)), "at most 255 places"),
        (dict(activation="tanh"), "activation must be"),
    ):
        with pytest.raises(RuntimeError, match=f"conv3d_pool: .*{message}"):
            call(**bad)
    out, winners = call()
    rest = ones, zeros, ones, 1, [2, 2, 2], [2, 2, 2], True, True, True
    with pytest.raises(RuntimeError, match="grad and winners must have one shape"):
        torch.ops.mer_fast.conv3d_pool_backward(out[:1], winners, x, w, *rest)
    with pytest.raises(RuntimeError, match="winners must be uint8"):
        torch.ops.mer_fast.conv3d_pool_backward(out, winners.int(), x, w, *rest)


def test_more_channels_than_are_fused():
    x, w = torch.randn(1, 600, 4, 6, 6), torch.randn(5, 600, 2, 3, 3)
    ours, wide = ([t.to(d).requires_grad_() for t in (x, w)] for d in (torch.float32, torch.float64))
    out, expected = ops.conv3d_pool(*ours, pool_kernel=2), plain(*wide, None, pool_kernel=2)
    assert_near(out, expected, torch.float32)
    for a, b in zip(torch.autograd.grad(out.sum(), ours), torch.autograd.grad(expected.sum(), wide), strict=True):
        assert_near(a, b, torch.float32, gradient=True)


def test_few_windows_to_many_weights(device):
    """On a CPU the library's convolution, then its pool."""
    ours = [torch.randn(s, device=device).requires_grad_() for s in ((5, 32, 4, 4, 4), (7, 32, 3, 3, 3), (7,))]
    wide = [t.detach().double().requires_grad_() for t in ours]
    out, expected = ops.conv3d_pool(*ours, pool_kernel=2), plain(*wide, pool_kernel=2)
    for a, b in zip(torch.autograd.grad(out.sum(), ours), torch.autograd.grad(expected.sum(), wide), strict=True):
        assert_near(a, b, torch.float32, gradient=True)


@pytest.mark.parametrize("batch", [1, 3, 16, 17, 40])
def test_any_number_of_images_is_summed(batch):
    ours = [torch.randn(s).requires_grad_() for s in ((batch, 2, 6, 7, 8), (3, 2, 2, 3, 3), (3,))]
    wide = [t.detach().double().requires_grad_() for t in ours]
    for wanted in (slice(0, 3), slice(1, 3)):
        got = torch.autograd.grad(ops.conv3d_pool(*ours, pool_kernel=2).square().sum(), ours[wanted])
        want = torch.autograd.grad(plain(*wide, pool_kernel=2).square().sum(), wide[wanted])
        for a, b in zip(got, want, strict=True):
            assert_near(a, b, torch.float32, gradient=True)


def test_an_infinite_gradient_stays_in_its_patch():
    x, w = torch.randn(1, 1, 3, 8, 40), torch.ones(1, 1, 1, 3, 3)
    grads = []
    for function in (ops.conv3d_pool, plain):
        leaf = x.clone().requires_grad_()
        out = function(leaf, w, None, activation=None, pool_kernel=(1, 2, 2))
        grad = torch.ones_like(out)
        grad[0, 0, 1, 1, 5] = float("inf")
        grads.append(torch.autograd.grad(out, leaf, grad)[0])
    torch.testing.assert_close(*grads)


def test_a_stride_far_beyond_the_input():
    x, w = torch.randn(1, 2, 4, 8, 16), torch.randn(3, 2, 3, 3, 3)
    arguments = dict(stride=(1, 1, 2**31 - 1), pool_kernel=1)
    assert_near(ops.conv3d_pool(x, w, **arguments), plain(x.double(), w.double(), None, **arguments), torch.float32)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("op", [ops.conv3d, ops.conv3d_pool])
def test_derivatives_that_the_kernels_do_not_have(device, op, activation):
    """torch.func and forward mode run the plain form; a second derivative of the fused pool is an error, never wrong."""
    x, w = torch.randn(2, 2, 6, 9, 9, device=device), torch.randn(16, 2, 3, 3, 3, device=device)
    call = lambda x, w: op(x, w, activation=activation)  # noqa: E731

    def expected(function):
        with mer_fast.backend("reference"):
            return function()

    def loss(w):
        return call(x, w).square().sum()

    for function in (
        lambda: torch.func.grad(loss)(w),
        lambda: torch.vmap(torch.func.grad(lambda w, x: call(x[None], w).square().sum()), (None, 0))(w, x),
        lambda: torch.func.jvp(lambda x: call(x, w), (x,), (torch.ones_like(x),))[1],
    ):
        torch.testing.assert_close(function(), expected(function), rtol=1e-4, atol=1e-3)
    leaf = w.clone().requires_grad_()
    stacked = torch.stack([x, 2 * x])
    got = torch.autograd.grad(torch.vmap(lambda x: call(x, leaf))(stacked).square().sum(), leaf)[0]
    want = expected(lambda: torch.autograd.grad(torch.vmap(lambda x: call(x, leaf))(stacked).square().sum(), leaf)[0])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-2)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        assert torch.autograd.forward_ad.unpack_dual(call(dual, w)).tangent is not None


def test_a_second_derivative_is_an_error():
    x, w = torch.randn(1, 1, 9, 12, 12, requires_grad=True), torch.randn(4, 1, 3, 3, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(ops.conv3d_pool(x, w).square().sum(), x, create_graph=True)
    with pytest.raises(mer_fast.MerFastError, match=r'cannot be differentiated again.*mer_fast\.backend\("reference"\)'):
        grad.square().sum().backward()
    with mer_fast.backend("reference"):
        (grad,) = torch.autograd.grad(ops.conv3d_pool(x, w).square().sum(), x, create_graph=True)
        grad.square().sum().backward()
    assert w.grad is not None and w.grad.any()
