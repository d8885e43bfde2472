"""The launchers of the recurrent operators: float64, schemas, counts of launches, empty tensors; and all cases on a GPU."""

import inspect

import pytest
import torch

from mer_fast.launchers import conv_gru, conv_lstm, recurrent_conv2d

from .test_triton_recurrent import (
    CASES,
    CELL_CASES,
    CELLS,
    MODULES,
    SECTIONS,
    cell,
    cell_errors,
    cell_operands,
    errors_of,
    exact_enough,
    section_errors,
)

DOUBLE = {
    name: {**CASES[name], "dtype": torch.float64}
    for name in (
        "section", "section, own weights", "section, input", "section, input, shared, no norm", "section, no affine",
        "lstm", "lstm, peephole", "lstm, reverse, lengths", "lstm, no states, no bias", "lstm, gates again, reverse, lengths",
        "gru", "gru, reverse, lengths", "gru, no states, no bias", "gru, gates again, reverse, lengths",
    )
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBLE)
def test_float64_by_the_library(name):
    found = errors_of(DOUBLE[name])
    assert exact_enough({result: error for result, error in found.items() if "dtype" not in result}, torch.float64) == []


LAUNCHERS = [
    recurrent_conv2d.recurrent_conv2d, recurrent_conv2d.recurrent_conv2d_train, recurrent_conv2d.recurrent_conv2d_backward,
    conv_lstm.conv_lstm, conv_lstm.conv_lstm_backward, conv_gru.conv_gru, conv_gru.conv_gru_backward,
]  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.__name__)
def test_launchers_take_what_the_schema_says(launcher):
    schema = getattr(torch.ops.mer_fast, launcher.__name__).default._schema
    assert list(inspect.signature(launcher).parameters) == [argument.name for argument in schema.arguments]
    assert torch._C._dispatch_has_kernel_for_dispatch_key(schema.name, "CUDA")


def count_launches(monkeypatch):
    names = []
    for module in MODULES:
        monkeypatch.setattr(module, "launch", lambda kernel, blocks, *rest, **constants: names.append(kernel.__name__))
    return names


def test_launches_of_a_section(monkeypatch):
    pytest.importorskip("triton")
    names, steps = count_launches(monkeypatch), 3
    x, first, recurrent = torch.randn(2, 4, 5, 5), torch.randn(4, 4, 1, 1), torch.randn(1, 4, 4, 3, 3)
    recurrent_conv2d.recurrent_conv2d(x, first, recurrent, None, None, steps, "input", (1, 1), False)
    assert names == ["recurrent_conv2d_step"] * (steps + 1)
    names.clear()
    out, maps, statistics = recurrent_conv2d.recurrent_conv2d_train(
        x, first, recurrent, None, None, steps, "input", True, 1e-5, False
    )
    assert names == ["recurrent_conv2d_train", "recurrent_conv2d_statistics"] * (steps + 1) + ["recurrent_conv2d_state"]
    names.clear()
    rest = (None, None, maps, statistics, steps, "input", True, 1e-5, True, False)
    recurrent_conv2d.recurrent_conv2d_backward(out, x, first, recurrent, *rest)
    norm = ["recurrent_conv2d_sums", "recurrent_conv2d_gradient"]
    assert names == [*norm, "recurrent_conv2d_state"] * steps + norm


@pytest.mark.parametrize("op", CELLS)
def test_launches_of_a_cell(monkeypatch, op):
    pytest.importorskip("triton")
    names, steps = count_launches(monkeypatch), 4
    _, forward, backward = CELLS[op]
    for segment, keep, again in ((steps, True, []), (2, False, [f"conv_{op}_step"] * 2)):
        tensors = list(cell_operands(cell(op, (steps, 2, 3, 4, 4))).values())
        names.clear()
        *results, gates, states = forward(*tensors, None, False, segment, keep, False)
        assert names == [f"conv_{op}_step"] * steps
        names.clear()
        backward(*results, *tensors, None, gates, states, False, segment, True, False)
        of_segment = [*again, f"conv_{op}_replay", *[f"conv_{op}_gradient"] * segment]
        assert names == of_segment * (steps // segment) + ["first_state_gradient"]


def test_nothing_to_compute():
    x, first, recurrent = torch.empty(0, 2, 5, 4), torch.randn(3, 2, 3, 3), torch.randn(1, 3, 3, 3, 3)
    out = recurrent_conv2d.recurrent_conv2d(x, first, recurrent, None, None, 2, "feedforward", (1, 1), False)
    assert out.shape == (0, 3, 5, 4)
    out, maps, statistics = recurrent_conv2d.recurrent_conv2d_train(
        x, first, recurrent, None, None, 2, "feedforward", True, 1e-5, False
    )
    assert [out.shape, maps.shape, statistics.shape] == [(0, 3, 5, 4), (3, 0, 5, 4, 3), (3, 2, 3)]
    rest = (None, None, maps, statistics, 2, "feedforward", True, 1e-5, True, False)
    gradients = recurrent_conv2d.recurrent_conv2d_backward(out, x, first, recurrent, *rest)
    assert [g.shape for g in gradients] == [x.shape, first.shape, recurrent.shape, (0,), (0,)]
    assert not gradients[1].any() and not gradients[2].any()
    for op, (_, forward, backward) in CELLS.items():
        tensors = cell_operands(cell(op, (3, 0, 2, 4, 4), hidden=3))
        *results, gates, states = forward(*tensors.values(), None, False, 2, True, False)
        assert [gates.shape, states.shape] == [(3, 0, 4, 4, 12), (2, 2, 0, 4, 4, 3) if op == "lstm" else (2, 0, 4, 4, 3)]
        got = backward(*results, *tensors.values(), None, gates, states, False, 2, True, False)
        assert [g.shape for g in got] == [(0,) if one is None else one.shape for one in tensors.values()]
        assert not got[1].any()


# --- on a GPU -----------------------------------------------------------------------------------------------------------
def on_gpu(case):
    """A forward and backward call of a case's operator, on CUDA tensors; both are functions of nothing."""
    _, forward, backward = CELLS[case["op"]]
    tensors = {name: None if one is None else one.cuda() for name, one in cell_operands(case).items()}
    lengths = None if case["lengths"] is None else torch.tensor(case["lengths"]).cuda()
    ends = (case["reverse"], case["segment"])

    def call():
        *results, gates, states = forward(*tensors.values(), lengths, *ends, case["keep"], False)
        return [*results, *backward(*results, *tensors.values(), lengths, gates, states, *ends, True, False)]

    return tensors, call


@pytest.mark.cuda
@pytest.mark.parametrize("name", CELL_CASES)
def test_steps_never_wait_and_replay_in_a_graph(name):
    tensors, call = on_gpu({**CASES[name], "layout": "contiguous"})
    first = call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        call()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    tensors["input"].copy_(torch.randn_like(tensors["input"]))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, call(), strict=True))


@pytest.mark.cuda
@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_on_a_gpu(name):
    """The cases of the interpreter, on the device."""
    with torch.device("cuda"):
        assert exact_enough(section_errors({**SECTIONS[name], "wide": False}), SECTIONS[name]["dtype"]) == []


@pytest.mark.cuda
@pytest.mark.parametrize("name", sorted(set(CASES) - set(SECTIONS)))
def test_a_cell_on_a_gpu(name):
    with torch.device("cuda"):
        assert exact_enough(cell_errors(CASES[name]), CASES[name]["dtype"]) == []
