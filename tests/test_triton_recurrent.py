"""The Triton kernels of the recurrent operators, run by Triton's interpreter on a CPU, against the float64 reference.

As in test_triton_conv.py this file is also a script, which the tests run in a process of its own.
"""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mer_fast import launchers, reference
from mer_fast.launchers import _config, _implicit_gemm, _recurrent, conv_gru, conv_lstm, recurrent_conv2d
from tests.kit import TOLERANCE, laid_out

ROOT = Path(__file__).resolve().parent.parent
HALF = torch.float16
MODULES = (_recurrent, conv_gru, conv_lstm, recurrent_conv2d)
CELLS = {
    "lstm": (4, conv_lstm.conv_lstm, conv_lstm.conv_lstm_backward),
    "gru": (3, conv_gru.conv_gru, conv_gru.conv_gru_backward),
}


def section(input=(2, 3, 5, 6), outputs=5, **options):
    """A case of recurrent_conv2d; `plant` changes what the kernels are told, and the comparison has to notice."""
    usual = {
        "kernel": (3, 3), "stem": (3, 3), "steps": 2, "shared": True, "injection": "feedforward", "normalise": True,
        "affine": True, "dtype": torch.float32, "layout": "contiguous", "wide": False, "plant": None, "mean": 0.0,
        "need_input": True,
    }  # fmt: skip
    return {"op": "section", "input": input, "outputs": outputs, **usual, **options}


def cell(op, input=(5, 2, 3, 4, 5), hidden=5, **options):
    """A case of conv_lstm or conv_gru."""
    usual = {
        "kernel": (3, 3), "bias": True, "peephole": False, "states": True, "lengths": None, "reverse": False, "segment": 5,
        "keep": True, "dtype": torch.float32, "layout": "contiguous", "wide": False, "plant": None,
        "need_input": True,
    }  # fmt: skip
    return {"op": op, "input": input, "hidden": hidden, **usual, **options}


SECTIONS = {
    "section": section(),
    "section, own weights": section(shared=False, steps=3, kernel=(3, 1), stem=(1, 5)),
    "section, input": section((2, 5, 4, 5), injection="input", stem=(1, 1), shared=False),
    "section, input, no gradient of it": section((2, 5, 4, 5), injection="input", stem=(1, 1), need_input=False),
    "section, input, shared, no norm": section((1, 4, 4, 4), 4, injection="input", stem=(1, 1), normalise=False),
    "section, no norm": section(normalise=False, steps=1),
    "section, no affine": section(affine=False),
    "section, many blocks": section((3, 4, 9, 8), 19, steps=1),
    "section, a tap a block": section((1, 32, 4, 4), 32, steps=1, injection="input", stem=(1, 1)),
    "section, far from zero": section((2, 3, 8, 8), mean=1000.0, steps=1),
    "section, half": section((2, 3, 6, 6), 16, dtype=HALF),
    "section, half, input": section((2, 16, 5, 6), 16, dtype=HALF, injection="input", stem=(1, 1), shared=False),
    "section, 64-bit offsets": section(wide=True),
    "section, permuted": section(layout="permuted"),
    "section, channels last": section((2, 8, 4, 4), 8, layout="channels_last", injection="input", stem=(1, 1)),
}
CELL_CASES = {
    f"{op}{name}": cell(op, **options)
    for op in CELLS
    for name, options in {
        "": {},
        ", no states, no bias": {"states": False, "bias": False},
        ", reverse, lengths": {"reverse": True, "lengths": [3, 5]},
        ", lengths beyond": {"lengths": [-2, 9]},
        ", lengths, no states": {"lengths": [0, 4], "states": False},
        ", segments of two": {"segment": 2, "need_input": False},
        ", segments, gates again": {"segment": 2, "keep": False},
        ", gates again, reverse, lengths": {"segment": 3, "keep": False, "reverse": True, "lengths": [4, 2]},
        ", a long kernel": {"kernel": (1, 5), "input": (3, 1, 2, 3, 7), "segment": 3},
        ", many blocks": {"input": (2, 3, 2, 6, 6), "hidden": 18, "segment": 1},
        ", a tap a block": {"input": (2, 1, 4, 3, 4), "hidden": 32, "segment": 2},
        ", one step": {"input": (1, 2, 3, 4, 4), "segment": 1},
        ", half": {"dtype": HALF, "hidden": 8, "input": (4, 2, 3, 5, 5), "lengths": [4, 3], "segment": 4},
        ", half, gates again": {"dtype": HALF, "hidden": 8, "input": (4, 2, 3, 5, 5), "segment": 2, "keep": False},
        ", 64-bit offsets": {"wide": True},
        ", sliced": {"layout": "sliced", "lengths": [5, 2]},
    }.items()
}
CASES = {
    **SECTIONS,
    **CELL_CASES,
    "lstm, peephole": cell("lstm", peephole=True),
    "lstm, peephole, no bias": cell("lstm", peephole=True, bias=False, lengths=[2, 5], reverse=True),
    "lstm, peephole, half": cell("lstm", (4, 2, 3, 5, 5), 8, peephole=True, dtype=HALF, keep=False, segment=2),
}
PLANTED = {
    **{f"{name}, a lost row": {**case, "plant": "rows"} for name, case in (("section", section()), ("lstm", cell("lstm")))},
    "section, a wider kernel": section(plant="kernel"),
    "section, injected nowhere": section((2, 5, 4, 5), injection="input", stem=(1, 1), plant="injection"),
    "lstm, another time": cell("lstm", lengths=[3, 5], plant="time"),
    "gru, a lost row": cell("gru", plant="rows"),
    "gru, another time": cell("gru", lengths=[3, 5], plant="time"),
    "gru, a wider kernel": cell("gru", plant="kernel"),
}


# --- in the interpreter -------------------------------------------------------------------------------------------------
def planted(plant, launch):
    """`launch`, or one that tells the kernels something else."""

    def other(kernel, blocks, *arguments, **constants):
        names = kernel.arg_names if hasattr(kernel, "arg_names") else list(inspect.signature(kernel.fn).parameters)
        told = dict(zip(names, arguments, strict=False))
        if plant == "rows" and "rows" in told:
            told["rows"] -= 1
        elif plant == "kernel" and "KERNEL" in constants:
            constants["KERNEL"] = constants["KERNEL"][::-1] if constants["KERNEL"][0] != constants["KERNEL"][1] else (1, 9)
        elif plant == "injection" and "p_added" in told:
            told["p_added"] = None
        elif plant == "injection" and "p_after" in told:
            told["p_after"] = None
        elif plant == "time":
            told |= {name: told[name] + 1 for name in ("t", "first") if name in told}
        launch(kernel, blocks, *told.values(), **constants)

    return launch if plant is None else other


def error(out, ref):
    """||out - ref|| / ||ref||; infinite where an element was not written."""
    if out.shape != ref.shape or out.isnan().any():
        return float("inf")
    return float((out.double() - ref).detach().norm() / ref.detach().norm().clamp_min(1e-30))


def made(case, *shape, scale=1.0):
    x = (scale * torch.randn(shape)).to(case["dtype"])
    return laid_out(x, case["layout"]) if len(shape) > 1 else x


def leaves_of(tensors):
    return {name: None if x is None else x.detach().double().requires_grad_() for name, x in tensors.items()}


def grads_of(results, leaves, weights):
    """Gradients of the leaves that are there, for these gradients of the results."""
    total = sum((one * weight.double()).sum() for one, weight in zip(results, weights, strict=True))
    given = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    return dict(zip(given, torch.autograd.grad(total, given.values(), allow_unused=True, materialize_grads=True), strict=True))


def gradient_errors(case, tensors, got, want):
    """Of each gradient that is wanted its error, whether its dtype is another and its memory has gaps; else its elements."""
    found = {}
    for (name, tensor), gradient in zip(tensors.items(), got, strict=True):
        if tensor is None or (name == "input" and not case["need_input"]):
            found[f"{name} is nothing"] = float(gradient.numel())
        else:
            found[f"gradient of {name}"] = error(gradient, want[name])
            found[f"{name} has another dtype"] = float(gradient.dtype != tensor.dtype)
            found[f"{name} has gaps"] = float(not gradient.is_contiguous())
    return found


def section_errors(case):
    inputs, outputs, steps = case["input"][1], case["outputs"], case["steps"]
    x = made(case, *case["input"]) + case["mean"]
    first = made(case, outputs, inputs, *case["stem"], scale=0.5)
    recurrent = made(case, 1 if case["shared"] else steps, outputs, outputs, *case["kernel"], scale=0.3)
    affine = case["normalise"] and case["affine"]
    scale, shift = ((torch.rand(steps + 1, outputs) + 0.5, torch.randn(steps + 1, outputs)) if affine else (None, None))
    leaves = leaves_of({"input": x, "input_weight": first, "recurrent_weights": recurrent, "weight": scale, "bias": shift})
    plain = {"steps": steps, "injection": case["injection"]}

    def truth(**norm):
        return reference.recurrent_conv2d(
            leaves["input"], leaves["input_weight"], list(leaves["recurrent_weights"].unbind()), norm_weights=leaves["weight"],
            norm_biases=leaves["bias"], **norm, **plain,
        )  # fmt: skip

    fixed = {"norm": None}
    if affine:
        fixed = {"norm": "batch", "running_means": torch.zeros(steps + 1, outputs).double(), "eps": 0.0,
                 "running_vars": torch.ones(steps + 1, outputs).double()}  # fmt: skip
    found = {}
    if case["mean"] == 0:
        out = recurrent_conv2d.recurrent_conv2d(x, first, recurrent, scale, shift, steps, case["injection"], (1, 1), False)
        found["evaluation"] = error(out, truth(**fixed))
    eps = 1e-5
    out, maps, statistics = recurrent_conv2d.recurrent_conv2d_train(
        x, first, recurrent, scale, shift, steps, case["injection"], case["normalise"], eps, False
    )
    expected = truth(norm="batch", training=True, eps=eps) if case["normalise"] else truth(norm=None)
    found["training"] = error(out, expected)
    if case["normalise"]:
        variance, mean = torch.var_mean(maps.double(), (1, 2, 3), correction=0)
        found["mean"], found["variance"] = error(statistics[:, 0], mean), error(statistics[:, 1], variance)
    grad = made(case, *out.shape)
    want = grads_of([expected], leaves, [grad])
    got = recurrent_conv2d.recurrent_conv2d_backward(
        grad, x, first, recurrent, scale, shift, maps, statistics, steps, case["injection"], case["normalise"], eps,
        case["need_input"], False,
    )  # fmt: skip
    given = {"input": x, "input_weight": first, "recurrent_weights": recurrent, "weight": scale, "bias": shift}
    return found | gradient_errors(case, given, got, want)


def cell_operands(case):
    gates, hidden, lstm = CELLS[case["op"]][0], case["hidden"], case["op"] == "lstm"
    _, batch, channels, height, width = case["input"]
    tensors = {
        "input": made(case, *case["input"]),
        "weight_ih": made(case, gates * hidden, channels, *case["kernel"], scale=0.3),
        "weight_hh": made(case, gates * hidden, hidden, *case["kernel"], scale=0.3),
    }
    for name in ("bias",) if lstm else ("bias_ih", "bias_hh"):
        tensors[name] = made(case, gates * hidden) if case["bias"] else None
    if lstm:
        tensors["peephole"] = made(case, 3, hidden, 1, 1) if case["peephole"] else None
    for name in ("h0", "c0") if lstm else ("h0",):
        tensors[name] = made(case, batch, hidden, height, width) if case["states"] else None
    return tensors


def cell_errors(case):
    _, forward, backward = CELLS[case["op"]]
    tensors = cell_operands(case)
    leaves = leaves_of(tensors)
    lengths = None if case["lengths"] is None else torch.tensor(case["lengths"])
    clipped = None if lengths is None else lengths.clamp(0, case["input"][0])
    expected = getattr(reference, f"conv_{case['op']}")(**leaves, lengths=clipped, reverse=case["reverse"])
    if clipped is not None:  # what stands behind an end is never seen
        for n, end in enumerate(clipped.tolist()):
            tensors["input"][end:, n] = float("nan")
    ends = (case["reverse"], case["segment"], case["keep"])
    *results, gates, states = forward(*tensors.values(), lengths, *ends, False)
    found = {f"result {k}": error(a, b) for k, (a, b) in enumerate(zip(results, expected, strict=True))}
    *bare, none, nothing = forward(*tensors.values(), lengths, case["reverse"], 0, False, False)
    found["nothing kept"] = float(none.numel() + nothing.numel())
    found["differs without gradients"] = float(any(not torch.equal(a, b) for a, b in zip(bare, results, strict=True)))
    steps = case["input"][0]
    found["states"] = float(states.shape[0] != -(-steps // case["segment"]) or states.isnan().any().item())
    weights = [made(case, *one.shape) for one in results]
    want = grads_of(expected, leaves, weights)
    got = backward(*weights, *tensors.values(), lengths, gates, states, *ends[:2], case["need_input"], False)
    return found | gradient_errors(case, tensors, got, want)


def errors_of(case):
    return section_errors(case) if case["op"] == "section" else cell_errors(case)


def run_in_interpreter(chosen):
    """Prints {case: {result: error}}."""
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    _config.choose = lambda *_: _config.Config(64, 16, 32, 4, 2)
    recurrent_conv2d.PROGRAMS = 4
    launch, narrow, found = launchers.launch, _implicit_gemm.NARROW, {}
    for name, one in (CASES | PLANTED).items():
        if chosen and name not in chosen:
            continue
        torch.manual_seed(len(name))
        for module in MODULES:
            module.launch = planted(one["plant"], launch)
        _implicit_gemm.NARROW = 0 if one["wide"] else narrow
        found[name] = errors_of(one)
    print(json.dumps(found))


@pytest.fixture(scope="module")
def errors():
    pytest.importorskip("triton", minversion="3.9", reason="Triton 3.6's interpreter fails with NumPy 2.4")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def allowed(result, dtype):
    forward, gradient = TOLERANCE[dtype]
    if result in ("mean", "variance"):
        return 1e-5  # of the maps as they are kept
    return gradient if "gradient" in result else forward if result.startswith(("evaluation", "training", "result")) else 0


def exact_enough(found, dtype):
    """What is wrong, in words."""
    return [f"{result}: {error:.2e}" for result, error in found.items() if not error <= allowed(result, dtype)]


@pytest.mark.parametrize("name", CASES)
def test_kernels_in_the_interpreter(errors, name):
    assert exact_enough(errors[name], CASES[name]["dtype"]) == []


@pytest.mark.parametrize("name", PLANTED)
def test_the_comparison_notices_planted_bugs(errors, name):
    wrong = " ".join(exact_enough(errors[name], torch.float32))
    assert "result" in wrong or "training" in wrong
    assert "gradient of weight_hh" in wrong or "gradient of recurrent_weights" in wrong


if __name__ == "__main__":
    run_in_interpreter(sys.argv[1:])
