"""folds="batched" on a GPU, as far as that can be told without one."""

import importlib

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mer_fast import evaluation
from mer_fast.evaluation import graphed as graphed_steps
from mer_fast.evaluation.batched import _Group, _parts

from .test_batched_folds import FOLDS, RECIPES, clips, two_blocks


class Operators(TorchDispatchMode):
    """Counts the operators that run, and which of them take a tensor from the CPU."""

    def __init__(self):
        super().__init__()
        self.count, self.from_cpu = 0, []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        tensors = [one for one in (*args, *(kwargs or {}).values()) if isinstance(one, torch.Tensor)]
        if any(one.device.type == "cpu" and one.dim() for one in tensors):
            self.from_cpu.append(str(operator))
        self.count += 1
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.optimizer)
def test_a_step_on_a_gpu_waits_for_nothing(monkeypatch, recipe):
    """On tensors that hold no values whatever asks for one raises, as each of these would make the host wait for a GPU."""
    monkeypatch.setattr(importlib.import_module("mer_fast.ops.conv_norm_pool"), "chosen", lambda *_: "kernel")
    x, labels = clips()
    counts = []
    for folds in (FOLDS[:1], FOLDS[:3]):
        group = _Group([two_blocks(0.5) for _ in folds], x, labels, folds, recipe, list(range(len(folds))), "abc")
        group.run_epoch()
        group.network.to("meta")
        group.optimizer = recipe.make_optimizer(group.network)
        group.gradients.parameters = list(group.network.parameters())
        group.inputs, group.labels = group.inputs.to("meta"), group.labels.to("meta")
        if group.loss is not None and group.loss.weights is not None:
            group.loss.weights = group.loss.weights.to("meta")
        index, keys = group._indices()[0], group._keys(1)[0]
        assert index.device.type == keys.device.type == "meta"
        group._take_step(index, keys)
        with Operators() as ran:
            group._take_step(index, keys)
        assert ran.from_cpu == []
        counts.append(ran.count)
        with pytest.raises(RuntimeError, match="meta"):
            group.run_epoch()  # at the end of an epoch it does look
    assert counts[0] == counts[1]  # however many folds


class Graph:
    """Stands in for a CUDA graph: what is captured is not done before it is replayed, and then into the same memory."""

    def __init__(self, network):
        self.network, self.captures, self.replays = network, 0, 0

    def capture(self, run, device):
        before = [buffer.clone() for buffer in self.network.buffers()]
        self.captures, self.run = self.captures + 1, run
        losses, gradients = self.results = run()
        with torch.no_grad():
            for one in (losses, *gradients):
                one.fill_(torch.nan)
            for buffer, value in zip(self.network.buffers(), before, strict=True):
                buffer.copy_(value)
        return self.replay, self.results

    def replay(self):
        self.replays += 1
        losses, gradients = self.run()
        for mine, one in zip((self.results[0], *self.results[1]), (losses, *gradients), strict=True):
            mine.copy_(one)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.optimizer)
def test_steps_as_a_graph_are_the_same_steps(monkeypatch, recipe):
    """Bit for bit: every step reads its own clips and keys, and what one leaves is not what the next one begins with."""
    x, labels = clips()
    seen = []
    for graphed in (False, True):
        made = []
        for seed in range(3):
            torch.manual_seed(seed)
            made.append(two_blocks(0.5))
        group = _Group(made, x, labels, FOLDS[:3], recipe, [5, 6, 7], "abc")
        group.gradients.graphed = graphed
        graph = Graph(group.network)
        monkeypatch.setattr(graphed_steps, "captured", graph.capture)
        losses = []
        step = group._take_step
        group._take_step = lambda *given, step=step, losses=losses: losses.append(step(*given).clone()) or losses[-1]
        for _ in range(group.epochs):
            group.run_epoch()
        seen.append([*losses, *group.network.state_dict().values()])
        assert (graph.captures, graph.replays) == ((1, group.steps - 1) if graphed else (0, 0))
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_on_a_gpu_all_folds_go_at_once(monkeypatch):
    monkeypatch.setattr(evaluation.batched, "MOST_FOLDS", 2)
    assert _parts(list(range(5)), nn.Linear(2, 2)) == [[0], [1, 2], [3, 4]]
    assert _parts(list(range(5)), nn.Linear(2, 2, device="meta")) == [[0, 1, 2, 3, 4]]
