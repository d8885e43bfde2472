"""conv_norm_pool and batched folds on a GPU, beyond the contract that the op's test file runs there."""

import pytest
import torch

from mer_fast import models, ops
from mer_fast.evaluation import train_folds
from mer_fast.evaluation.batched import _Group
from mer_fast.training import Recipe

from .kit import relative_error
from .test_triton_conv_norm_pool import CASES, MORE, drawn, operands

pytestmark = pytest.mark.cuda

GPU = "cuda"
STSTNET = {"padding": 2, "pool_padding": 1, "training": True, "dropout": 0.5}


def run(case, device):
    """Output and gradients of a case's tensors by the public op."""
    x, index, *tensors, mean, var, key = (None if one is None else one.to(device) for one in operands(case))
    leaves = [None if one is None else one.requires_grad_() for one in (x, *tensors)]
    kernel, stride, around = case["pool"]
    out = ops.conv_norm_pool(
        *leaves, mean, var, index=index, training=case["training"], eps=case["eps"], padding=case["padding"], pool_kernel=kernel,
        pool_stride=stride, pool_padding=around, dropout=case["dropout"], dropout_key=key, average=case["average"],
    )  # fmt: skip
    grad = torch.linspace(-1, 1.7, out.numel(), dtype=torch.float64).mul(7).sin().view(out.shape).to(out)
    return [out.detach(), *torch.autograd.grad(out, [one for one in leaves if one is not None], grad)]


def near(got, want, forward=1e-5, gradient=1e-4):
    least = 0.1 * float(want[2].norm())  # of the weights': a norm takes most of some others away
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        error = float((g.cpu().double() - w.cpu().double()).norm()) / max(float(w.norm()), least if k else 1e-30, 1e-30)
        assert error <= (gradient if k else forward), k


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.full) for name in MORE)])
def test_gives_what_the_cpu_gives(name):
    case = (CASES | MORE)[name]
    near(run(case, GPU), run(case | {"dtype": torch.float64}, "cpu"))
    near(run(case | {"dtype": torch.float64}, GPU), run(case | {"dtype": torch.float64}, "cpu"), 1e-11, 1e-10)


def test_gives_what_the_cpu_gives_at_random(request):
    """Few values make rounding large, so gradients may be less near. Most of the time is the compiler's."""
    for case in drawn(100 if request.config.getoption("--full") else 6):
        near(run(case, GPU), run(case | {"dtype": torch.float64}, "cpu"), 1e-5, 1e-3)


def ststnet(folds=5, slots=64, channels=3, outputs=16):
    """A block's operands, index and keys on the GPU."""
    x = torch.randn(90, channels, 28, 28, device=GPU)
    weight = torch.randn(folds, outputs, channels, 3, 3, device=GPU) / (9 * channels) ** 0.5
    rest = [torch.randn(folds, outputs, device=GPU) for _ in range(3)]
    index = torch.stack([torch.randperm(90, device=GPU)[:slots] for _ in range(folds)])
    index[1, 40:] = -1
    return [x, weight, *rest], index, torch.randint(-(2**62), 2**62, (folds,), device=GPU)


def gradients(tensors, index, key):
    leaves = [one.detach().requires_grad_() for one in tensors]
    out = ops.conv_norm_pool(*leaves, index=index, dropout_key=key, **STSTNET)
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), leaves[1:])]


@pytest.mark.parametrize(("channels", "outputs"), [(3, 16), (8, 32), (33, 64)])
def test_blocks_of_every_width(channels, outputs):
    tensors, index, key = ststnet(2, 12, channels, outputs)
    want = gradients([one.double() for one in tensors], index, key)
    for got, one in zip(gradients(tensors, index, key), want, strict=True):
        assert relative_error(got, one) < 1e-3
    torch.backends.cudnn.allow_tf32 = True
    try:
        assert relative_error(gradients(tensors, index, key)[0], want[0]) < 2e-3
    finally:
        torch.backends.cudnn.allow_tf32 = False


def test_a_fold_gets_the_same_whatever_runs_beside_it():
    tensors, index, key = ststnet()
    together = gradients(tensors, index, key)
    for more in (0, 37):
        longer = torch.cat([index, index.new_full((len(index), more), -1)], 1)
        for fold in (0, 1, 4):
            own = [tensors[0], *(one[fold : fold + 1] for one in tensors[1:])]
            out, *rest = gradients(own, longer[fold : fold + 1], key[fold : fold + 1])
            for got, want in zip((out[:, :64], *rest), together, strict=True):
                assert torch.equal(got[0], want[fold])
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(gradients(tensors, index, key), together, strict=True))


def test_a_clip_that_there_is_not_makes_its_fold_nan():
    tensors, index, key = ststnet()
    index[2, 5] = 90
    out = ops.conv_norm_pool(*tensors, index=index, dropout_key=key, **STSTNET | {"dropout": 0.0})
    assert out[2].isnan().all() and out[[0, 1, 3, 4]].isfinite().all()


def test_never_waits_and_is_captured_with_its_gradient():
    tensors, index, key = ststnet()
    want = gradients(tensors, index, key)
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(tensors, index, key)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = gradients(tensors, index, key)
    for one in got:
        one.fill_(float("nan"))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


# --- whole folds ----------------------------------------------------------------------------------------------------------
FOLDS = [[i for i in range(40) if i % 7 != k] for k in range(5)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_step_never_waits(optimizer):
    x, labels = torch.randn(40, 3, 28, 28, device=GPU), torch.randint(0, 3, (40,))
    recipe = Recipe(lr=1e-3, epochs=4, batch_size=16, optimizer=optimizer, clip_norm=1.0, loss="focal", class_weights="inverse")
    group = _Group([models.STSTNet(3).to(GPU).train() for _ in FOLDS], x, labels, FOLDS, recipe, range(5), "abcde")
    group.run_epoch()
    indices = group._indices()
    keys = group._keys(len(indices))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index, its_keys in zip(indices, keys, strict=True):
            group._take_step(index, its_keys)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_steps_as_a_graph_are_the_same_steps(optimizer):
    x, labels = torch.randn(40, 3, 28, 28, device=GPU), torch.randint(0, 3, (40,))
    recipe = Recipe(lr=1e-3, epochs=3, batch_size=16, optimizer=optimizer, clip_norm=0.5, schedule="cosine")
    seen = []
    for graphed in (False, True):
        torch.manual_seed(3)
        group = _Group([models.STSTNet(3).to(GPU).train() for _ in FOLDS], x, labels, FOLDS, recipe, range(5), "abcde")
        assert group.gradients.graphed
        group.gradients.graphed = graphed
        for _ in range(recipe.epochs):
            group.run_epoch()
        seen.append(list(group.network.state_dict().values()))
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_folds_are_trained_as_on_a_cpu():
    x, labels = torch.randn(40, 3, 28, 28), torch.randint(0, 3, (40,))
    recipe = Recipe(lr=1e-3, epochs=3, batch_size=16)
    trained = [
        train_folds(lambda: models.STSTNet(3).to(device), x.to(device), labels, FOLDS, recipe, seed=3)  # noqa: B023
        for device in ("cpu", GPU)
    ]
    for cpu, gpu in zip(*trained, strict=True):
        for name, value in cpu.state_dict().items():
            assert relative_error(gpu.state_dict()[name], value) < 1e-3, name
