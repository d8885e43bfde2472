"""Recurrent layers in training: gradients taken in every way, the memory kept for them, compilers and processes around them."""

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

from mer_fast import nn, ops, reference

from .kit import assert_near, in_ranks
from .recurrent import Ran, made, of, run, values_and_gradients
from .test_conv_gru import plain as plain_gru
from .test_conv_lstm import plain as plain_lstm
from .test_conv_lstm import saved_bytes
from .test_recurrent_conv2d import Plain

KINDS = ("batch", "none", "lstm", "gru")
LAYERS = {
    "section": lambda: nn.RecurrentConv2d(3, 17, steps=2),
    "input": lambda: nn.RecurrentConv2d(17, 17, steps=2, injection="input", share_weights=False, norm=None),
    "lstm": lambda: nn.ConvLSTM(3, 17, 3, peephole=True),
    "gru": lambda: nn.ConvGRU(3, 17, 3, bidirectional=True),
}


def clip(name, batch=2, steps=4):
    shape = (batch, 17 if name == "input" else 3, 9, 7)
    return torch.randn(shape if name in ("section", "input") else (steps, *shape))


def first(out):
    return out[0] if isinstance(out, tuple) else out


def leaves(tensors, names=None):
    return {name: one.clone().requires_grad_(names is None or name in names) for name, one in tensors.items()}


# --- gradients ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_only_some_operands_want_gradients(kind):
    tensors = made(kind, smooth=True)
    _, want = values_and_gradients(of(kind), tensors)
    for names in (*((name,) for name in tensors), ("input", list(tensors)[-1])):
        given = leaves(tensors, names)
        with Ran() as ran:
            results = run(kind, **given)
            weights = (torch.linspace(-1, 1.5, one.numel(), dtype=torch.float64).view(one.shape).float() for one in results)
            sum((one * weight).sum() for one, weight in zip(results, weights, strict=True)).backward()
        assert len(ran.names) == 2
        for name, one in given.items():
            if name in names:
                assert_near(one.grad, want[name], torch.float32)
            else:
                assert one.grad is None


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_results_that_nobody_uses(kind):
    tensors = made(kind)
    for k in range(3 if kind == "lstm" else 2):
        found = []
        for module, dtype in ((ops, torch.float32), (reference, torch.float64)):
            given = {name: one.to(dtype).requires_grad_() for name, one in tensors.items()}
            found.append(torch.autograd.grad(run(kind, module, **given)[k].square().sum(), list(given.values())))
        for one, other in zip(*found, strict=True):
            assert_near(one, other, torch.float32, gradient=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_is_gone_through_again_only_where_it_is_retained(kind):
    given = leaves(made(kind))
    total = sum(one.square().sum() for one in run(kind, **given))
    total.backward(retain_graph=True)
    once = {name: one.grad.clone() for name, one in given.items()}
    total.backward()
    for name, one in given.items():
        torch.testing.assert_close(one.grad, 2 * once[name])
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


@pytest.mark.parametrize("kind", KINDS)
def test_an_operand_changed_before_the_backward_pass_is_noticed(kind):
    given = leaves(made(kind))
    total = run(kind, **given)[0].sum()
    with torch.no_grad():
        given["input"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind):
    tensors, found = made(kind, 3, 17, steps=3, smooth=True), []
    directions = [torch.randn_like(one) for one in tensors.values()]
    for module, dtype in ((ops, torch.float32), (reference, torch.float64)):
        given = {name: one.to(dtype).requires_grad_() for name, one in tensors.items()}
        with Ran() as ran:
            results = run(kind, module, **given)
        assert len(ran.names) == (module is ops)
        weights = (torch.linspace(-1, 1.5, one.numel(), dtype=torch.float64).view(one.shape).to(dtype) for one in results)
        total = sum((one.square() * weight).sum() for one, weight in zip(results, weights, strict=True))
        grads = torch.autograd.grad(total, list(given.values()), create_graph=True)
        total = sum((one * direction).sum() for one, direction in zip(grads, directions, strict=True))
        found.append([*grads, *torch.autograd.grad(total, list(given.values()))])
    for one, other in zip(*found, strict=True):
        assert_near(one, other, torch.float32, gradient=True)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_changed_between_training_steps_are_seen(kind):
    given = leaves(made(kind, smooth=True))
    for _ in range(2):
        values_and_gradients(of(kind), given)
        with torch.no_grad():
            for name in given:
                given[name].mul_(1.1)
    _, got = values_and_gradients(of(kind), given)
    _, want = values_and_gradients(of(kind, reference), {name: one.double() for name, one in given.items()})
    for name, one in want.items():
        assert_near(got[name], one, torch.float32, gradient=True)


def test_calls_from_several_threads_at_once():
    from concurrent.futures import ThreadPoolExecutor

    for kind in ("batch", "lstm"):
        cases = [made(kind, 3, 17, (9 + k, 8), smooth=True) for k in range(4)]
        expected = [values_and_gradients(of(kind), one) for one in cases]
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(lambda one, kind=kind: values_and_gradients(of(kind), one), cases * 3)
            for got, want in zip(found, expected * 3, strict=True):
                for a, b in zip([*got[0], *got[1].values()], [*want[0], *want[1].values()], strict=True):
                    assert_near(a, b, torch.float32, gradient=True)


# --- the memory kept ---------------------------------------------------------------------------------------------------
def test_a_section_keeps_at_most_six_tenths():
    for options in ({"injection": "input", "share_weights": False}, {}):
        ours, plain = nn.RecurrentConv2d(16, 16, steps=2, **options), Plain(16, 16, steps=2, **options)
        x = torch.randn(8, 16, 32, 32, requires_grad=True)
        with Ran() as ran:
            kept, _ = saved_bytes(lambda ours=ours, x=x: ours(x))
        assert ran.names == ["recurrent_conv2d_train"]
        assert kept <= 0.6 * saved_bytes(lambda plain=plain, x=x: plain(x))[0]


@pytest.mark.parametrize(("kind", "share", "with_checkpoint"), [("lstm", 0.66, 0.16), ("gru", 0.86, 0.19)])
def test_what_a_cell_keeps(kind, share, with_checkpoint):
    """The input, four gates a step and states at every eighth; with checkpointing no gates."""
    layer = {"lstm": nn.ConvLSTM, "gru": nn.ConvGRU}[kind](32, 32, 3)
    x, zero = torch.randn(16, 2, 32, 16, 16), torch.zeros(2, 32, 16, 16)
    weights = sum(one.nbytes for one in layer.parameters())
    if kind == "lstm":
        weight = torch.cat([layer.weight_ih_l0, layer.weight_hh_l0], 1)
        plain, _ = saved_bytes(lambda: plain_lstm(x, weight, layer.bias_l0, zero, zero))
    else:
        plain, _ = saved_bytes(lambda: plain_gru(x, *layer.parameters(), zero))
    states = 2 * (2 if kind == "lstm" else 1)
    for checkpoint, gates, most in ((False, 4, share), (True, 0, with_checkpoint)):
        layer.checkpoint = checkpoint
        with Ran() as ran:
            kept, _ = saved_bytes(lambda: layer(x))
        assert ran.names == [f"conv_{kind}"]
        assert kept - weights == x.nbytes * (1 + gates) + x[0].nbytes * states
        assert kept - weights <= most * (plain - weights)


def test_nothing_is_kept_without_gradients():
    for name, make in LAYERS.items():
        with torch.no_grad():
            assert saved_bytes(lambda make=make, name=name: make()(clip(name)))[0] == 0


# --- around the layers -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_compiles_at_most_twice_for_all_lengths(name, training, lengths):
    torch.compiler.reset()
    layer, counter = LAYERS[name](), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for steps in (3, 5, 12, 7, 17):
        x = clip(name, steps=steps)
        given = {"lengths": torch.tensor([steps, 1])} if lengths else {}
        with torch.set_grad_enabled(training):
            out, _ = compiled(x, **given)
            assert torch.equal(out, layer(x, **given)[0])
        if training:
            parameters = list(layer.parameters())
            got = torch.autograd.grad(out.square().sum(), parameters)
            for one, other in zip(got, torch.autograd.grad(layer(x, **given)[0].square().sum(), parameters), strict=True):
                torch.testing.assert_close(one, other)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("name", LAYERS)
def test_vmaps_over_an_extra_batch(name):
    layer = LAYERS[name]().eval()
    several = torch.stack([clip(name) for _ in range(3)])
    with torch.no_grad(), Ran() as ran:
        out = first(torch.vmap(layer)(several))
        for k in range(3):
            assert torch.equal(out[k], first(layer(several[k])))
    assert len(ran.names) == 6 * (2 if name == "gru" else 1)


@pytest.mark.parametrize("name", LAYERS)
def test_exports(name):
    layer, x = LAYERS[name]().eval(), clip(name)
    dims = {x.dim() - 4: torch.export.Dim("batch")}
    with torch.no_grad():
        program = torch.export.export(layer, (x,), dynamic_shapes=(dims,))
        other = clip(name, batch=5)
        assert any("mer_fast" in str(node.target) for node in program.graph.nodes)
        assert torch.equal(first(program.module()(other)), first(layer(other)))


def gradients_of_a_rank(rank, world, state, clips):
    layer = nn.RecurrentConv2d(3, 8, steps=2, norm=None)
    layer.load_state_dict(state)
    parallel = torch.nn.parallel.DistributedDataParallel(layer)
    parallel(clips[rank]).square().mean().backward()
    return [one.grad for one in layer.parameters()]


def test_gradients_over_two_processes_are_their_mean(tmp_path):
    layer, clips = nn.RecurrentConv2d(3, 8, steps=2, norm=None), torch.randn(2, 2, 3, 9, 7)
    want = torch.autograd.grad(sum(layer(x).square().mean() for x in clips) / 2, list(layer.parameters()))
    for of_rank in in_ranks(gradients_of_a_rank, 2, tmp_path, layer.state_dict(), clips):
        for got, expected in zip(of_rank, want, strict=True):
            assert_near(got, expected, torch.float32, gradient=True)


def test_trains_in_lightning(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")

    class Section(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.losses = nn.RecurrentConv2d(3, 8, steps=2), []

        def training_step(self, batch, _):
            loss = F.mse_loss(self.layer(batch[0]), batch[1])
            self.losses.append(float(loss))
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 9, 7), torch.rand(8, 8, 9, 7))
    trainer = lightning.Trainer(
        max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    module = Section()
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))
    assert len(module.losses) == 10 and module.losses[-1] < module.losses[0]
