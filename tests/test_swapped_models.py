"""What a swapped model has to go through: training, checkpoints, copies, compilers, several processes."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn as tnn

from mer_fast import swap_layers

from .kit import assert_near, in_ranks

CLIP = (4, 1, 9, 16, 16)


def network(seed=3):
    """A chain with a batch norm, one without, a lone convolution, and a head."""
    torch.manual_seed(seed)
    return tnn.Sequential(
        tnn.Conv3d(1, 4, 3, padding=1), tnn.BatchNorm3d(4), tnn.ReLU(inplace=True), tnn.MaxPool3d(2),
        tnn.Conv3d(4, 6, 3, padding="same"), tnn.LeakyReLU(), tnn.MaxPool3d(2),
        tnn.Conv3d(6, 6, (2, 1, 1)), tnn.GELU(), tnn.AdaptiveAvgPool3d(1), tnn.Flatten(), tnn.Linear(6, 3),
    )  # fmt: skip


def swapped(seed=3):
    model = network(seed)
    assert len(swap_layers(model).swapped) == 3
    return model


def batches(steps, size=4):
    data = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield torch.randn(size, *CLIP[1:], generator=data), torch.randint(3, (size,), generator=data)


def train(model, optimizer, steps):
    told = []
    for clips, labels in batches(steps):
        optimizer.zero_grad()
        loss = tnn.functional.cross_entropy(model(clips), labels)
        loss.backward()
        optimizer.step()
        told.append(loss.detach())
    return torch.stack(told)


def momentum(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def test_training_goes_on_as_before_with_an_optimizer_made_before_the_swap():
    plain, ours = network(), network()
    optimizer = momentum(ours)
    swap_layers(ours)
    torch.testing.assert_close(train(ours, optimizer, 8), train(plain, momentum(plain), 8), rtol=1e-4, atol=0)
    clips = next(iter(batches(1)))[0]
    assert_near(ours.eval()(clips), plain.eval()(clips), torch.float32, gradient=True)


def test_checkpoints_go_both_ways():
    plain, ours = network(1), swapped(2)
    train(plain, momentum(plain), 2)
    clips = torch.randn(CLIP)
    ours.load_state_dict(plain.state_dict())
    assert_near(ours.eval()(clips), plain.eval()(clips), torch.float32)
    other = network(4)
    other.load_state_dict(ours.state_dict())
    assert torch.equal(other.eval()(clips), plain(clips))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved])
def test_a_copy_folds_its_own_norm(copied):
    model, clips = swapped().eval(), torch.randn(CLIP)
    other = copied(model)
    before = model(clips)
    assert torch.equal(other(clips), before)
    with torch.no_grad():
        other[1].running_var.mul_(9)
        other[0].weight.mul_(2)
    plain = network()
    plain.load_state_dict(other.state_dict())
    assert_near(other(clips), plain.eval()(clips), torch.float32)
    assert torch.equal(model(clips), before) and not torch.allclose(other(clips), before)


@pytest.mark.parametrize("training", [True, False])
def test_compiles_without_a_graph_break(training):
    torch.compiler.reset()
    model, clips = swapped().train(training), torch.randn(CLIP)
    other = copy.deepcopy(model)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for out in (compiled(clips), model(clips)):
        out.square().sum().backward()
    for got, want in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad)
    with torch.no_grad():
        for each in (other, model):
            each[0].weight.mul_(2)
            each[1].running_mean.add_(0.5)
        torch.testing.assert_close(compiled(clips), model(clips))


def test_a_compiled_model_follows_a_change_of_mode():
    torch.compiler.reset()
    model, clips = swapped(), torch.randn(CLIP)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for mode in (True, False, True):
        model.train(mode)
        torch.testing.assert_close(compiled(clips), copy.deepcopy(model)(clips))


def test_exports():
    model, clips = swapped().eval(), torch.randn(CLIP)
    assert_near(torch.export.export(model, (clips,)).module()(clips), model(clips), torch.float32)


def test_functional_call_uses_the_parameters_it_is_given():
    model, clips = swapped().eval(), torch.randn(CLIP)
    values = {name: value + 0.1 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    expected = torch.func.functional_call(network().eval(), values, clips)
    assert_near(torch.func.functional_call(model, values, clips), expected, torch.float32)


def test_half_precision_under_autocast_and_as_weights():
    model, clips = swapped().eval(), torch.randn(CLIP)
    plain = network().eval()
    expected = plain(clips)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        error, theirs = ((m(clips).float() - expected).norm() for m in (model, plain))
    assert error <= 3 * theirs + 1e-3
    error, theirs = ((copy.deepcopy(m).bfloat16()(clips.bfloat16()).float() - expected).norm() for m in (model, plain))
    assert error <= 3 * theirs + 1e-3


def test_averaged_weights_take_their_own_statistics():
    model = swapped()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for step in range(3):
        train(model, momentum(model), step + 1)
        averaged.update_parameters(model)
    torch.optim.swa_utils.update_bn(batches(3), averaged)
    plain = network()
    plain.load_state_dict(averaged.module.state_dict())
    clips = torch.randn(CLIP)
    assert_near(averaged.eval()(clips), plain.eval()(clips), torch.float32)


def steps_of_a_rank(rank, world):
    """Parameters after two steps on this rank's share of every batch. The norm is frozen: ranks need not agree on its
    statistics."""
    model = tnn.parallel.DistributedDataParallel(swapped())
    steps(model, model.module, [(clips[rank::world], labels[rank::world]) for clips, labels in batches(2)])
    result = [p.detach().clone() for p in model.parameters()]
    model.train()(torch.randn(CLIP)).sum().backward()  # with the norm's own statistics too
    assert all(p.grad.isfinite().all() for p in model.parameters())
    return result


def steps(model, layers, data):
    optimizer = momentum(model)
    model.train()
    layers[1].eval()
    for clips, labels in data:
        optimizer.zero_grad()
        tnn.functional.cross_entropy(model(clips), labels).backward()
        optimizer.step()


@pytest.mark.parametrize("world", [1, 2])
def test_distributed_data_parallel_steps_as_one_process(world, tmp_path):
    plain = network()
    steps(plain, plain, batches(2))
    for got in in_ranks(steps_of_a_rank, world, tmp_path):
        for ours, theirs, start in zip(got, plain.parameters(), network().parameters(), strict=True):
            assert_near(ours, theirs, torch.float32, gradient=True)
            assert not torch.equal(ours, start)
