"""The examples: each trains, its loss falls, and the package's kernels run inside the trainer."""

import importlib
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

EXAMPLES = Path(__file__).parents[1] / "examples"


class Calls(TorchDispatchMode):
    """Names of the package's operators that run, forward and backward."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "mer_fast":
            self.names.add(function._opname)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Imports an example by its name, in an empty folder."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


def assert_falls(losses):
    early, late = (torch.tensor(part).mean() for part in (losses[:3], losses[-3:]))
    assert late < 0.5 * early, losses


@pytest.mark.parametrize(
    ("name", "needs", "kernels"),
    [
        ("handwritten_loop", None, {"conv3d_pool", "conv3d_pool_backward"}),
        ("lightning_module", "pytorch_lightning", {"tvl1_flow", "recurrent_conv2d_train", "recurrent_conv2d_backward"}),
        ("hf_trainer", "transformers", {"conv3d_pool", "conv3d_pool_backward"}),
    ],
)
def test_trains_with_the_kernels(example, name, needs, kernels):
    if needs:
        pytest.importorskip(needs)
    with Calls() as calls:
        losses = example(name).main()
    assert_falls(losses)
    assert kernels <= calls.names, calls.names


def test_an_exported_network_gives_the_same(example):
    losses, whole, loaded = example("export_model").main()
    assert_falls(losses)
    called = {str(node.target) for node in loaded.graph.nodes}
    assert {"mer_fast.tvl1_flow.default", "mer_fast.recurrent_conv2d.default"} <= called, called
    onset = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    apex = onset.roll(1, 2)
    with torch.no_grad():
        assert torch.equal(loaded.module()(onset, apex), whole(onset, apex))


def test_examples_are_short_and_every_one_is_tested():
    names = {path.stem: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert set(names) == {"synthetic_clips", "handwritten_loop", "lightning_module", "hf_trainer", "export_model"}
    assert max(names.values()) <= 75, names
