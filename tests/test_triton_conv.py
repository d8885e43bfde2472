"""The Triton kernels of conv3d and conv3d_pool, run by Triton's interpreter on a CPU, against the float64 reference.

The interpreter has to be chosen before Triton is imported, so this file is also a script: it runs every case in one
process and prints the errors, which the tests then judge. It knows float32 and float16 (its bfloat16 is wrong).
"""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mer_fast
from mer_fast import backends, launchers
from mer_fast.launchers import _config, _implicit_gemm, conv3d, conv3d_pool
from mer_fast.reference.conv3d import ACTIVATIONS
from tests.kit import LAYOUTS, TOLERANCE, laid_out

ROOT = Path(__file__).resolve().parent.parent
HALF = torch.float16


def case(input, weight, *, dtype=torch.float32, bias=True, layout="contiguous", whole=False, wide=False, plant=None, **options):
    """What `errors_of` takes; `plant` changes what the kernels are told, and the comparison has to notice."""
    pool = options.pop("pool", (2, 2, 2))
    arguments = {"stride": (1, 1, 1), "padding": (0, 0, 0), "dilation": (1, 1, 1), "groups": 1, "activation": None, **options}
    pooling = {"pool_kernel": pool, "pool_stride": arguments.pop("pool_stride", pool)}
    return {
        "input": input, "weight": weight, "dtype": dtype, "bias": bias, "layout": layout, "whole": whole, "wide": wide,
        "plant": plant, "arguments": arguments, "pooling": pooling,
    }  # fmt: skip


CASES = {
    "gray": case((2, 1, 7, 8, 9), (3, 1, 3, 3, 3)),
    "gray, relu, padding": case((2, 1, 6, 7, 8), (5, 1, 3, 2, 3), activation="relu", padding=(1, 1, 0), pool=(3, 2, 2)),
    "gelu, temporal stride": case((2, 3, 7, 6, 7), (5, 3, 3, 2, 3), activation="gelu", stride=(2, 1, 1), padding=(1, 1, 0)),
    "groups, dilation, overlap": case(
        (1, 4, 6, 5, 7), (6, 2, 2, 2, 3), activation="leaky_relu", padding=(2, 0, 1), dilation=(2, 1, 2), groups=2,
        pool=(3, 2, 2), pool_stride=(2, 1, 1),
    ),
    "all strides, dilation, no bias": case(
        (2, 2, 6, 9, 9), (4, 2, 2, 3, 2), bias=False, stride=(1, 2, 2), dilation=(1, 2, 1), padding=(0, 1, 1), activation="relu"
    ),
    "depthwise": case((1, 4, 4, 5, 5), (4, 1, 2, 2, 2), groups=4, activation="relu"),
    "more outputs than a block": case((1, 2, 4, 5, 5), (35, 2, 2, 2, 1), activation="relu", pool=(3, 2, 2)),
    "pool with gaps": case((2, 2, 5, 6, 6), (3, 2, 2, 2, 2), pool=(2, 1, 1), pool_stride=(3, 2, 1), activation="gelu"),
    "pool of one": case((1, 2, 4, 4, 5), (3, 2, 2, 1, 2), pool=(1, 1, 1), activation="leaky_relu"),
    "pool of everything": case((2, 1, 4, 5, 4), (3, 1, 2, 2, 2), pool=(3, 4, 3)),
    "a tap a block": case((1, 32, 4, 4, 4), (6, 32, 2, 2, 2), padding=(1, 0, 1), activation="relu", pool=(2, 1, 2)),
    "channels in vectors": case((1, 24, 3, 4, 4), (6, 24, 2, 2, 2), padding=(1, 0, 0), pool=(2, 1, 2)),
    "half": case((1, 16, 4, 5, 5), (17, 16, 2, 2, 2), dtype=HALF, activation="relu", padding=(0, 0, 1), pool=(2, 2, 1)),
    "half, gray, gelu": case((2, 1, 6, 7, 7), (4, 1, 3, 3, 3), dtype=HALF, activation="gelu"),
    "half, overlap": case((1, 2, 4, 6, 6), (4, 2, 2, 2, 2), dtype=HALF, activation="leaky_relu", pool_stride=(1, 1, 2)),
    "64-bit offsets": case((2, 2, 5, 6, 5), (3, 2, 2, 2, 2), wide=True, activation="relu"),
    "whole numbers": case((2, 2, 5, 6, 6), (4, 2, 2, 2, 2), whole=True, activation="relu"),
    "whole numbers, leaky": case((1, 1, 5, 6, 6), (4, 1, 2, 2, 2), whole=True, activation="leaky_relu", pool_stride=(1, 2, 2)),
    **{
        f"{layout} tensors": case((2, 2, 5, 5, 6), (3, 2, 2, 2, 2), layout=layout, activation="relu")
        for layout in LAYOUTS
        if layout != "contiguous"
    },
}
PLANTED = {
    "a lost row": case((2, 1, 5, 6, 6), (3, 1, 2, 2, 2), plant="rows"),
    "another dilation": case((2, 1, 6, 6, 6), (3, 1, 2, 2, 2), plant="dilation"),
    "other windows": case((2, 1, 6, 7, 7), (3, 1, 2, 2, 2), plant="windows"),
}


# --- in the interpreter -------------------------------------------------------------------------------------------------
def planted(plant, launch):
    """`launch`, or one that tells the kernels something else."""

    def other(kernel, blocks, *arguments, **constants):
        if plant == "rows":
            rows = next(k for k, a in enumerate(arguments) if isinstance(a, int))
            arguments = (*arguments[:rows], arguments[rows] - 1, *arguments[rows + 1 :])
        elif plant == "dilation":
            constants["DILATION"] = (1, 1, 2)
        elif "POOL_STRIDE" in constants:
            constants["POOL_STRIDE"] = (2, 1, 2)
        launch(kernel, blocks, *arguments, **constants)

    return launch if plant is None else other


def error(out, ref):
    """||out - ref|| / ||ref||; infinite where an element was not written."""
    if out.shape != ref.shape or out.isnan().any():
        return float("inf")
    return float((out.double() - ref).detach().norm() / ref.norm().clamp_min(1e-30))


def operands(case):
    def made(shape):
        x = torch.randint(-2, 3, shape).float() if case["whole"] else torch.randn(shape)
        return laid_out(x.to(case["dtype"]), case["layout"] if len(shape) == 5 else "contiguous")

    return [made(case["input"]), made(case["weight"]), made(case["weight"][:1]) if case["bias"] else None]


def errors_of(case):
    """The error of every result of a case; for whole numbers, how many winners are not PyTorch's."""
    x, weight, bias = operands(case)
    leaves = [t.double().requires_grad_() for t in (x, weight, bias) if t is not None]
    words = case["arguments"]
    plain = (*list(words.values())[:4], words["activation"] or "none")
    pool = tuple(case["pooling"].values())
    full = mer_fast.reference.conv3d(*leaves, **words)
    found = {"conv3d": error(conv3d.conv3d(x, weight, bias, *plain, False), full.detach())}

    out, winners = conv3d_pool.conv3d_pool(x, weight, bias, *plain, *pool, True, False)
    last = ACTIVATIONS[words["activation"]] if plain[-1] in ("gelu", "leaky_relu") else lambda t: t
    expected = mer_fast.reference.conv3d_pool(*leaves, **words, **case["pooling"])
    found["conv3d_pool"] = error(last(out), expected.detach())
    bare, none = conv3d_pool.conv3d_pool(x, weight, bias, *plain, *pool, False, False)
    found["without winners"] = float(none.numel()) + (not torch.equal(bare.nan_to_num(), out.nan_to_num()))
    if case["whole"]:
        exact = conv3d_pool.conv3d_pool(*(t.double() for t in (x, weight, bias)), *plain, *pool, True, False)
        found["winners"] = float((winners != exact[1]).sum())

    at = out.detach().requires_grad_()
    grad = laid_out(torch.randn_like(out), case["layout"])
    before = torch.autograd.grad(last(at), at, grad)[0]
    got = conv3d_pool.conv3d_pool_backward(before, winners, x, weight, *plain[:-1], *pool, True, True, bias is not None)
    want = torch.autograd.grad(expected, leaves, grad.double())
    for name, g, w in zip(("input", "weight", "bias"), got, want, strict=False):
        found[f"gradient of {name}"] = error(g, w)
    return found


def nan_errors():
    """Elements where NaN is and PyTorch's is not, and the error of the rest, for each activation."""
    found = {}
    for activation in (None, "relu", "leaky_relu", "gelu"):
        x, weight = torch.randn(1, 1, 4, 6, 12), torch.randn(2, 1, 2, 2, 2)
        x[0, 0, 2, 3, 4] = x[0, 0, 0, 0, 0] = float("nan")
        full = ((1, 1, 1), (0, 0, 0), (1, 1, 1), 1, activation or "none", (2, 2, 2), (1, 2, 3))
        out, winners = conv3d_pool.conv3d_pool(x, weight, None, *full, True, False)
        exact, places = conv3d_pool.conv3d_pool(x.double(), weight.double(), None, *full, True, False)
        bad = exact.isnan()
        found[f"{activation}: misplaced"] = float((out.isnan() != bad).sum() + (winners[bad] != places[bad]).sum())
        found[f"{activation}: rest"] = error(out[~bad], exact[~bad]) if 0 < bad.sum() < bad.numel() else float("inf")
    return found


def run_in_interpreter():
    """Prints {case: {result: error}}."""
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    _config.choose = lambda *_: _config.Config(64, 16, 32, 4, 2)
    conv3d_pool.PROGRAMS = 4
    launch, narrow, found = launchers.launch, _implicit_gemm.NARROW, {}
    for name, one in (CASES | PLANTED).items():
        torch.manual_seed(len(name))
        conv3d.launch = conv3d_pool.launch = planted(one["plant"], launch)
        _implicit_gemm.NARROW = 0 if one["wide"] else narrow
        found[name] = errors_of(one)
    conv3d.launch = conv3d_pool.launch = launch
    found["NaN"] = nan_errors()
    print(json.dumps(found))


@pytest.fixture(scope="module")
def errors():
    pytest.importorskip("triton", minversion="3.9", reason="Triton 3.6's interpreter fails with NumPy 2.4")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_kernels_in_the_interpreter(errors, name):
    forward, gradient = TOLERANCE[CASES[name]["dtype"]]
    for result, found in errors[name].items():
        allowed = gradient if "gradient" in result else 0 if "winners" in result else forward
        assert found <= allowed, f"{result}: error {found:.2e}, {allowed:.0e} is allowed"


@pytest.mark.parametrize("name", PLANTED)
def test_the_comparison_notices_planted_bugs(errors, name):
    found, (forward, gradient) = errors[name], TOLERANCE[torch.float32]
    assert found["conv3d_pool"] > forward
    assert found["gradient of weight"] > gradient
    assert found["gradient of input"] > gradient


def test_nan_wins_where_it_does_in_pytorch(errors):
    for result, found in errors["NaN"].items():
        assert found <= (0 if "misplaced" in result else 1e-5), result


# --- what needs no interpreter ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "gelu"])
def test_float64_by_the_library(activation):
    one = case(
        (2, 4, 6, 7, 8), (6, 2, 2, 3, 2), groups=2, stride=(1, 1, 2), padding=(1, 0, 2), activation=activation,
        pool=(2, 3, 2), pool_stride=(1, 2, 2), dtype=torch.float64,
    )  # fmt: skip
    for result, found in errors_of(one).items():
        assert found <= 1e-12, result


@pytest.mark.parametrize("launcher", [conv3d.conv3d, conv3d_pool.conv3d_pool, conv3d_pool.conv3d_pool_backward])
def test_launchers_take_what_the_schema_says(launcher):
    schema = getattr(torch.ops.mer_fast, launcher.__name__).default._schema
    assert list(inspect.signature(launcher).parameters) == [argument.name for argument in schema.arguments]
    assert torch._C._dispatch_has_kernel_for_dispatch_key(schema.name, "CUDA")


def test_nothing_to_compute():
    arguments = ((1, 1, 1), (0, 0, 0), (1, 1, 1), 1, "relu")
    pool = (2, 2, 2), (2, 2, 2)
    x, weight = torch.empty(0, 2, 5, 5, 5), torch.randn(3, 2, 2, 2, 2)
    assert conv3d.conv3d(x, weight, None, *arguments, False).shape == (0, 3, 4, 4, 4)
    out, winners = conv3d_pool.conv3d_pool(x, weight, None, *arguments, *pool, True, False)
    assert out.shape == winners.shape == (0, 3, 2, 2, 2)
    gradients = conv3d_pool.conv3d_pool_backward(out, winners, x, weight, *arguments[:-1], *pool, True, True, False)
    assert [g.shape for g in gradients] == [x.shape, weight.shape, (0,)]
    assert not gradients[1].any()


def test_tf32_where_pytorch_allows_it(monkeypatch):
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        for setting, precision in (("ieee", "float32"), ("tf32", "tf32")):
            torch.backends.cudnn.conv.fp32_precision = setting
            assert _config.precision_of(torch.float32) == precision
            assert _config.precision_of(torch.bfloat16) == "bfloat16"
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


def test_parameters_of_a_tuned_gpu(monkeypatch, tmp_path):
    tuned = {"rows": 32, "columns": 16, "reduction": 64, "warps": 8, "stages": 4}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a100-test.json").write_text(json.dumps({"conv3d": {"float16 narrow": tuned}}))
    monkeypatch.setattr(_config._library, "kernel_folder", lambda: tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-test")
    gpu = torch.device("cuda", 0)
    assert _config.choose("conv3d", "float16", 32, gpu) == _config.Config(**tuned)
    assert _config.choose("conv3d", "float16", 33, gpu) == _config.default("conv3d", "float16", "wide")
    assert _config.choose("conv3d_pool", "float16", 32, gpu) == _config.default("conv3d_pool", "float16", "narrow")


def test_says_that_triton_is_missing(monkeypatch):
    assert backends.why_not("conv3d", "triton", "cuda") == launchers.MISSING
    monkeypatch.setattr(launchers, "MISSING", "triton is not installed; run `pip install triton`")
    assert backends.why_not("conv3d_pool", "triton", "cuda") == "triton is not installed; run `pip install triton`"
    assert mer_fast.info()["ops"]["conv3d"]["triton"] == "triton is not installed; run `pip install triton`"
    assert backends.why_not("conv3d", "triton", "cpu") == "for CUDA tensors"
    assert backends.why_not("conv3d", "cuda", "cuda") == "not written"


def test_a_build_in_place_finds_the_kernels():
    pytest.importorskip("triton")
    script = (  # without site, so that no installation of mer_fast is seen
        f"import sys; sys.path[:0] = {[str(ROOT), *(p for p in sys.path if p.endswith('-packages'))]!r}\n"
        "from mer_fast import launchers\n"
        "assert 'triton' not in sys.modules\n"
        "print(launchers.kernels('conv3d_pool').__file__)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == str(ROOT / "kernels" / "triton" / "conv3d_pool.py"), done.stderr


if __name__ == "__main__":
    run_in_interpreter()
