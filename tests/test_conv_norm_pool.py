"""ops.conv_norm_pool: against each fold's torch.nn layers, and that no fold knows of another."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mer_fast
from mer_fast import ops
from mer_fast.reference import kept_by_dropout

from .kit import OpContract, assert_near, relative_error
from .recurrent import Ran, deterministic, threads

STSTNET = {"padding": 2, "pool_padding": 1}
NAMES = ("weight", "bias", "norm_weight", "norm_bias")


def operands(folds=3, slots=4, clips=6, channels=3, size=(9, 8), outputs=5, shared=True, dtype=torch.float32, device="cpu",
             flat=True):  # fmt: skip
    """Clips, then a block's tensors; norms turn some maps around, and one is flat unless that has no derivative."""
    x = torch.randn(*((clips, channels) if shared else (folds, slots, channels)), *size) + 0.3
    weight = torch.randn(folds, outputs, channels, 3, 3) / (channels * 9) ** 0.5
    scale = torch.rand(folds, outputs) + 0.5
    scale[:, ::3] *= -1
    if folds and flat:
        scale[0, -1] = 0
    rest = [torch.randn(folds, outputs) * 0.3, scale, torch.randn(folds, outputs)]
    return [one.to(device, dtype) for one in (x, weight, *rest)]


def keys(folds, device="cpu"):
    return (torch.arange(folds, device=device) + 1) * 0x1E3779B97F4A7C15


class TestContract(OpContract):
    op = "conv_norm_pool"

    def inputs(self, dtype, device):
        return operands(shared=False, dtype=dtype, device=device, flat=False)

    def call(self, *inputs):
        folds, slots = len(inputs[0]), inputs[0].shape[1]
        slot = torch.arange(slots, device=inputs[0].device)
        index = torch.where(slot == slots - 2, -1, 7).expand(folds, slots)  # one slot of every fold is empty
        drop = {"dropout": 0.4, "dropout_key": keys(folds, inputs[0].device)}
        return ops.conv_norm_pool(*inputs, index=index, training=True, padding=1, pool_kernel=2, average=2, **drop)

    def near(self, out, ref, dtype, gradient=False):
        # In halves a norm takes away most of the gradient of what stands before it.
        if dtype not in (torch.float16, torch.bfloat16) or not gradient:
            assert_near(out, ref, dtype, gradient)

    def opcheck_arguments(self, device):
        x, *rest = operands(device=device)
        index = torch.tensor([[0, 5, -1], [1, 1, 2], [-1, -1, -1]], device=device)
        leaves = [one.requires_grad_() for one in (x, *rest)]
        block = 1e-5, 2, [3, 2, 1], 0.3, keys(3, device)
        *_, winners, statistics = torch.ops.mer_fast.conv_norm_pool(x, index, *rest, None, None, *block, 2)
        grad = torch.randn(3, 3, 5, 3, 2, device=device)
        plain = [one.detach() for one in (x, *rest)]
        kept = winners.detach(), statistics.detach()
        return {
            "conv_norm_pool": (leaves[0], index, *leaves[1:], None, None, *block, 2),
            "conv_norm_pool_backward": (grad, plain[0], index, *plain[1:4], *kept, True, *block, 2, True),
        }


def run(tensors, *, backend="auto", statistics=None, **options):
    """Output, gradients of all tensors, and statistics afterwards."""
    leaves = [one.detach().clone().requires_grad_() for one in tensors]
    running = [] if statistics is None else [one.to(tensors[0].dtype).clone() for one in statistics]
    with mer_fast.backend(backend):
        out = ops.conv_norm_pool(*leaves, *running, **options)
        grad = torch.linspace(-1, 1.7, out.numel(), dtype=torch.float64).mul(7).sin().view(out.shape).to(out)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad), *running]


def test_random_configurations(many):
    @settings(max_examples=3 * many, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        folds=st.integers(1, 3),
        slots=st.sampled_from([1, 2, 5, 33]),
        channels=st.sampled_from([1, 2, 3, 17]),
        outputs=st.sampled_from([1, 4, 16, 19]),
        size=st.tuples(st.integers(3, 13), st.integers(3, 13)),
        pool=st.tuples(st.sampled_from([2, 3]), st.integers(1, 4), st.integers(0, 1)),
        options=st.tuples(st.integers(0, 2), st.sampled_from([1, 2]), st.booleans(), st.booleans(), st.sampled_from([0, 0.5])),
        seed=st.integers(0, 2**31),
    )
    def check(folds, slots, channels, outputs, size, pool, options, seed):
        torch.manual_seed(seed)
        padding, average, shared, training, dropout = options
        kernel, stride, around = pool
        pooled = [(n + 2 * padding - 2 + 2 * around - kernel) // stride + 1 for n in size]
        if min(n + 2 * padding - 2 + 2 * around for n in size) < kernel or min(pooled) < average:
            return
        index = torch.randint(-1, 6, (folds, slots))
        index[:, 0] = 0
        statistics = [torch.rand(folds, outputs), torch.rand(folds, outputs) + 0.5]
        block = {
            "index": index, "training": training, "padding": padding, "pool_kernel": kernel, "pool_stride": stride,
            "pool_padding": around, "average": average, "dropout": dropout, "dropout_key": keys(folds), "statistics": statistics,
        }  # fmt: skip
        wide = operands(folds, slots, 6, channels, size, outputs, shared, torch.float64)
        values = int((index >= 0).sum(1).min()) * (size[0] + 2 * padding - 2) * (size[1] + 2 * padding - 2)
        if values == 1 and training:  # the norm of one value: plain PyTorch refuses it
            return
        want = run(wide, backend="reference", **block)
        for got, expected in zip(run(wide, **block), want, strict=True):
            assert float((got - expected).norm()) <= 1e-9 * max(1.0, float(expected.norm()))
        # In float32 only where statistics of few values do not make rounding large.
        if values >= 50:
            got = run([one.float() for one in wide], **block)
            assert_near(got[0], want[0], torch.float32)
            for one, expected in zip(got[1:], want[1:], strict=True):
                assert float((one - expected).norm()) <= 1e-3 * max(0.1, float(expected.norm()))

    check()


def layers(fold, tensors):
    """A fold's block in torch.nn."""
    _, weight, bias, scale, shift = tensors
    conv = torch.nn.Conv2d(weight.shape[2], weight.shape[1], 3, padding=2)
    norm = torch.nn.BatchNorm2d(weight.shape[1])
    with torch.no_grad():
        for parameter, value in ((conv.weight, weight), (conv.bias, bias), (norm.weight, scale), (norm.bias, shift)):
            parameter.copy_(value[fold])
    return torch.nn.Sequential(conv, torch.nn.ReLU(), norm, torch.nn.MaxPool2d(3, padding=1)).to(weight.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_is_the_block_of_ststnet(dtype):
    tensors = operands(3, 20, 40, 3, (28, 28), 16, dtype=dtype)
    index = torch.stack([torch.randperm(40)[:20] for _ in range(3)])
    index[1, 13:] = -1
    statistics = torch.zeros(3, 16), torch.ones(3, 16)
    out, _, *gradients, mean, var = run(tensors, index=index, training=True, statistics=statistics, **STSTNET)
    grad = torch.linspace(-1, 1.7, out.numel(), dtype=torch.float64).mul(7).sin().view(out.shape)
    for fold in range(3):
        plain, there = layers(fold, tensors).double(), index[fold] >= 0
        want = plain(tensors[0][index[fold, there]].double())
        assert_near(out[fold, there], want, dtype)
        assert not out[fold, ~there].any()
        for got, expected in zip(gradients, torch.autograd.grad(want, list(plain.parameters()), grad[fold, there]), strict=True):
            assert_near(got[fold], expected, dtype, gradient=True)
        assert_near(mean[fold], plain[2].running_mean, dtype)
        assert_near(var[fold], plain[2].running_var, dtype)


def test_the_reference_is_torch_nn():
    tensors = operands(2, 6, 9, 3, (28, 28), 16, dtype=torch.float64)
    index = torch.stack([torch.randperm(9)[:6] for _ in range(2)])
    with mer_fast.backend("reference"):
        out = ops.conv_norm_pool(*tensors, index=index, training=True, average=2, **STSTNET)
    for fold in range(2):
        assert_near(out[fold], F.avg_pool2d(layers(fold, tensors)(tensors[0][index[fold]]), 2), torch.float64)


def test_held_out_clips_are_never_looked_at():
    tensors = operands(2, 4, 6)
    index = torch.tensor([[0, 1, 2, -1], [1, 4, 5, 2]])
    expected = run(tensors, index=index, training=True, **STSTNET)
    tensors[0][3] = torch.nan
    for got, want in zip(run(tensors, index=index, training=True, **STSTNET), expected, strict=True):
        assert torch.equal(got, want)
    assert not expected[1][3].any()  # the gradient of a clip that no fold has


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_fold_gets_the_same_whatever_runs_beside_it(dropout):
    tensors = operands(12, 40, 9)
    index = torch.randint(-1, 9, (12, 40))
    options = {"training": True, "dropout": dropout, **STSTNET}
    together = run(tensors, index=index, dropout_key=keys(12), **options)
    wider = torch.cat([index, torch.full((12, 70), -1)], 1)  # slots that no clip fills
    for count in (1, 2, 5):
        with threads(count):
            again = run(tensors, index=index, dropout_key=keys(12), **options)
            assert all(torch.equal(a, b) for a, b in zip(together, again, strict=True))
            leaves = [tensors[0], *(one[7:8].detach().requires_grad_() for one in tensors[1:])]
            alone = ops.conv_norm_pool(*leaves, index=wider[7:8], dropout_key=keys(12)[7:8], **options)
            assert torch.equal(alone[0, :40], together[0][7])
            # The gradient that `run` gives this fold.
            grad = torch.linspace(-1, 1.7, together[0].numel(), dtype=torch.float64).mul(7).sin().view(together[0].shape)[7:8]
            grad = torch.cat([grad.float(), torch.randn(1, 70, *grad.shape[2:])], 1)
            for got, want in zip(torch.autograd.grad(alone, leaves[1:], grad), together[2:], strict=True):
                assert torch.equal(got[0], want[7])


def test_blocks_stand_on_each_other():
    """The gradient of a second block's input, through empty slots, against plain PyTorch."""
    first, second = operands(2, 5, 6, 3, (12, 11), 4, dtype=torch.float64), operands(2, 5, channels=4, dtype=torch.float64)
    index = torch.tensor([[0, 5, -1, 2, 1], [3, 3, 4, -1, -1]])
    results = []
    for backend in ("auto", "reference"):
        leaves = [one.detach().requires_grad_() for one in (*first, *second[1:])]
        with mer_fast.backend(backend):
            x = ops.conv_norm_pool(*leaves[:5], index=index, padding=2, pool_kernel=2)
            y = ops.conv_norm_pool(x, *leaves[5:], index=index, padding=1, pool_padding=1)
            results.append([y, *torch.autograd.grad(y.sin().sum(), leaves)])
    for got, want in zip(*results, strict=True):
        assert relative_error(got, want) < 1e-9


def test_statistics_of_maps_far_from_zero():
    """Where the mean is a thousand times the deviation, sums around zero would drown the variance."""
    x, *rest = operands(1, 30, 30, 1, (8, 8), 2)
    rest[0].abs_()
    index = torch.arange(30)[None]
    got = ops.conv_norm_pool(x * 0.01 + 10, *rest, index=index, training=True)
    with mer_fast.backend("reference"):
        want = ops.conv_norm_pool((x * 0.01 + 10).double(), *(one.double() for one in rest), index=index, training=True)
        plain = ops.conv_norm_pool(x * 0.01 + 10, *rest, index=index, training=True)
    assert relative_error(got, want) < max(1e-4, 3 * relative_error(plain, want))


def test_among_equal_values_the_first_wins():
    """A flat picture: every window is a tie, and all gradient goes to its first place."""
    x = torch.ones(1, 1, 8, 8)
    weight = torch.zeros(1, 2, 1, 3, 3)
    weight[..., 1, 1] = 1
    scale = torch.tensor([[2.0, -2.0]])
    statistics = torch.zeros(1, 2), torch.ones(1, 2)
    for sign in (1, 0):
        tensors = [x, weight, torch.zeros(1, 2), scale * sign, torch.zeros(1, 2)]
        _, grad, *_ = run(tensors, index=torch.zeros(1, 1, dtype=torch.int64), statistics=statistics)
        _, want, *_ = run(tensors, backend="reference", index=torch.zeros(1, 1, dtype=torch.int64), statistics=statistics)
        torch.testing.assert_close(grad, want)
        assert bool(grad.any()) == bool(sign)


@pytest.mark.parametrize("training", [True, False])
def test_what_is_not_finite_goes_where_pytorch_has_it(training):
    statistics = torch.rand(2, 5), torch.rand(2, 5) + 0.5
    for bad in (torch.nan, torch.inf):
        tensors = operands(2, 3, 4)
        tensors[3].abs_().add_(0.1)
        tensors[0][1, 0, 4, 4] = bad
        index = torch.tensor([[0, 1, 2], [0, 2, 3]])  # the second fold never sees it
        block = {"index": index, "training": training, "padding": 1, "pool_kernel": 2}
        outs = []
        for backend in ("auto", "reference"):
            with mer_fast.backend(backend):
                outs.append(ops.conv_norm_pool(*tensors, *(one.clone() for one in statistics), **block))
        assert torch.equal(outs[0].isfinite(), outs[1].isfinite()) and not outs[0].isfinite().all()
        assert outs[0][1].isfinite().all()


# --- dropout -------------------------------------------------------------------------------------------------------------
def test_dropout_keeps_the_share_and_the_mean():
    tensors = operands(2, 60, 60, 3, (28, 28), 16)
    index = torch.arange(60).expand(2, 60)
    plain = ops.conv_norm_pool(*tensors, index=index, **STSTNET)
    for share in (0.1, 0.5, 0.9):
        out = ops.conv_norm_pool(*tensors, index=index, dropout=share, dropout_key=keys(2), **STSTNET)
        stays = out != 0
        assert abs(float(stays.float().mean()) - (1 - share)) < 0.005
        torch.testing.assert_close(out[stays], (plain / (1 - share))[stays])
        for dim in (1, 2, 3, 4):  # no slot, channel, row or column is served better
            rest = [d for d in range(1, 5) if d != dim]
            share_of = stays.float().mean(rest)
            deviation = (share * (1 - share) / (stays[0].numel() / stays.shape[dim])) ** 0.5
            assert float((share_of - (1 - share)).abs().max()) < 5 * deviation
        assert abs(float((stays[0] == stays[1]).float().mean()) - share**2 - (1 - share) ** 2) < 0.01


def test_masks_of_near_keys_and_of_neighbours_have_nothing_in_common():
    masks = kept_by_dropout(torch.arange(64) * 2**32 + torch.arange(64), 4096, 0.5).double() * 2 - 1
    correlation = masks @ masks.T / 4096
    assert float((correlation - torch.eye(64, dtype=torch.float64)).abs().max()) < 0.09
    masks = kept_by_dropout(torch.randint(-(2**62), 2**62, (64,)), 4096, 0.5).double() * 2 - 1
    for shift in range(1, 65):
        assert abs(float((masks[:, shift:] * masks[:, :-shift]).mean())) < 0.01


def test_dropout_of_everything_and_of_nothing():
    tensors = operands(2, 4, 6)
    index = torch.arange(4).expand(2, 4)
    out, *gradients = run(tensors, index=index, dropout=1.0, dropout_key=keys(2))
    assert not out.any() and not any(grad.any() for grad in gradients)
    plain = ops.conv_norm_pool(*tensors, index=index)
    assert torch.equal(ops.conv_norm_pool(*tensors, index=index, dropout=0.5), plain)  # no key, no dropout
    assert torch.equal(ops.conv_norm_pool(*tensors, index=index, dropout=0.0, dropout_key=keys(2)), plain)


# --- what runs -----------------------------------------------------------------------------------------------------------
def test_one_operator_a_direction_and_nothing_as_large_as_the_map():
    tensors = [one.requires_grad_() for one in operands(2, 4, 6)[1:]]
    x, index = torch.randn(6, 3, 9, 8), torch.arange(4).expand(2, 4)
    with Ran() as ran:
        ops.conv_norm_pool(x, *tensors, index=index, training=True).sum().backward()
    assert ran.names == ["conv_norm_pool", "conv_norm_pool_backward"]


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_float32(half):
    tensors = operands(2, 4, 6, dtype=half)
    index = torch.arange(4).expand(2, 4)
    out = ops.conv_norm_pool(*tensors, index=index, **STSTNET)
    assert out.dtype == half
    assert torch.equal(out, ops.conv_norm_pool(*(one.float() for one in tensors), index=index, **STSTNET).to(half))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weight": torch.randn(2, 5, 3, 5, 5)}, r"for 3x3 kernels, not \(5, 5\)"),
        ({"padding": 3}, "for a padding of at most 2"),
        ({"pool_kernel": 4}, "for pools of 2 or 3"),
        ({"weight": torch.randn(2, 65, 3, 3, 3), **{name: torch.randn(2, 65) for name in NAMES[1:]}}, "for at most 64 channels"),
    ],
)
def test_where_no_kernel_applies_it_is_said_and_plain_pytorch_runs(change, reason):
    x, *rest = operands(2, 4, 6)
    given = {**dict(zip(NAMES, rest, strict=True)), "index": torch.arange(4).expand(2, 4), **change}
    with Ran() as ran:
        out = ops.conv_norm_pool(x, **given)
    assert not ran.names
    with mer_fast.backend("reference"):
        assert torch.equal(out, ops.conv_norm_pool(x, **given))
    with pytest.raises(mer_fast.BackendError, match=f"conv_norm_pool: no cpu kernel .{reason}"), mer_fast.backend("cpu"):
        ops.conv_norm_pool(x, **given)


def test_a_second_derivative_is_an_error_and_torch_func_works():
    tensors = [one.requires_grad_() for one in operands(2, 4, 6, dtype=torch.float64)]
    index = torch.arange(4).expand(2, 4)
    out = ops.conv_norm_pool(*tensors, index=index)
    (grad,) = torch.autograd.grad(out.square().sum(), tensors[1], create_graph=True)
    with pytest.raises(mer_fast.MerFastError, match="conv_norm_pool: its gradient cannot be differentiated again"):
        grad.sum().backward()

    def loss(weight):
        return ops.conv_norm_pool(tensors[0], weight, *tensors[2:], index=index).square().sum()

    assert relative_error(torch.func.grad(loss)(tensors[1]), grad) < 1e-10


def test_empty():
    for folds, slots in ((0, 3), (2, 0)):
        out, *gradients = run(operands(folds, slots), index=torch.zeros(folds, slots, dtype=torch.int64), training=True)
        assert out.shape == (folds, slots, 5, 2, 2)
        assert not any(grad.any() for grad in gradients)
    statistics = torch.rand(2, 5), torch.rand(2, 5)
    *results, mean, var = run(operands(2, 3), index=torch.full((2, 3), -1), training=True, statistics=statistics)
    assert not any(one.any() for one in results)
    assert torch.equal(mean, statistics[0]) and torch.equal(var, statistics[1])  # a fold without a clip keeps its statistics


def test_new_memory_full_of_nan_is_never_read():
    tensors, index = operands(3, 35, 6), torch.randint(-1, 6, (3, 35))
    expected = run(tensors, index=index, training=True, **STSTNET)
    with deterministic():
        for got, want in zip(run(tensors, index=index, training=True, **STSTNET), expected, strict=True):
            assert torch.equal(got, want)


LESSER = """
import sys, torch, mer_fast
from mer_fast import ops
for case in torch.load(sys.argv[1]):
    leaves = [one.requires_grad_() for one in case["tensors"]]
    out = ops.conv_norm_pool(*leaves, **case["options"])
    case["results"] = [out.detach(), *torch.autograd.grad(out.sin().sum(), leaves)]
    case["tensors"] = [one.detach() for one in leaves]
    cases = globals().setdefault("done", [])
    cases.append(case["results"])
torch.save(done, sys.argv[2])
"""


@pytest.mark.parametrize("isa", ["avx2", "generic"])
def test_lesser_instruction_sets_agree(isa, tmp_path):
    """Every path of the kernel runs on any machine: MER_FAST_ISA lowers the choice."""
    cases, expected = [], []
    for dtype in (torch.float32, torch.float64):
        for size, outputs, options in (((28, 28), 16, STSTNET), ((7, 9), 19, {"pool_kernel": 2, "padding": 1, "average": 2})):
            tensors = operands(2, 5, 6, 3, size, outputs, dtype=dtype)
            more = {"index": torch.randint(-1, 6, (2, 5)), "training": True, "dropout": 0.3, "dropout_key": keys(2), **options}
            cases.append({"tensors": tensors, "options": more})
            leaves = [one.detach().double().requires_grad_() for one in tensors]
            with mer_fast.backend("reference"):
                out = ops.conv_norm_pool(*leaves, **more)
            expected.append([out, *torch.autograd.grad(out.sin().sum(), leaves)])
    torch.save(cases, tmp_path / "in")
    files = str(tmp_path / "in"), str(tmp_path / "out")
    subprocess.run([sys.executable, "-c", LESSER, *files], check=True, env={**os.environ, "MER_FAST_ISA": isa})
    for case, results, want in zip(cases, torch.load(tmp_path / "out"), expected, strict=True):
        for got, one in zip(results, want, strict=True):
            assert relative_error(got, one) < (1e-4 if case["tensors"][0].dtype == torch.float32 else 1e-9)
