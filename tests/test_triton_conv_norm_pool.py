"""The Triton kernels of conv_norm_pool, run by Triton's interpreter on a CPU, against the float64 reference.

As in test_triton_conv.py this file is also a script, which the tests run in a process of its own.
"""

import inspect
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mer_fast import launchers, reference
from mer_fast.errors import MerFastError
from mer_fast.launchers import _config, _implicit_gemm, conv_norm_pool
from tests.kit import TOLERANCE

ROOT = Path(__file__).resolve().parent.parent


def block(folds=2, slots=3, clips=4, channels=3, size=(7, 6), outputs=5, **options):
    """A case: shapes and the op's arguments. `plant` changes what the kernels are told, and the comparison has to notice."""
    usual = {
        "shared": True, "index": "random", "training": True, "padding": 1, "pool": (3, 3, 0), "dropout": 0.0, "average": 1,
        "bias": True, "affine": True, "mean": 0.3, "need_input": True, "eps": 1e-5, "wide": False, "plant": None, "seed": 0,
        "dtype": torch.float32, "rows": 32,
    }  # fmt: skip
    shapes = {"folds": folds, "slots": slots, "clips": clips, "channels": channels, "size": size, "outputs": outputs}
    return {**shapes, **usual, **options}


CASES = {
    "as in STSTNet": block(2, 2, 5, 3, (6, 7), 16, padding=2, pool=(3, 3, 1), dropout=0.5, average=2, rows=16),
    "an input a fold, no index": block(1, 3, shared=False, index=None, pool=(2, 2, 1), padding=2, size=(4, 5), dropout=0.3),
    "windows overlap": block(1, 3, pool=(3, 2, 1), average=2, size=(5, 6), rows=16),
    "windows with gaps": block(1, 3, pool=(2, 3, 0), padding=2, size=(6, 5), bias=False),
    "running statistics": block(2, 2, training=False, pool=(2, 2, 0), size=(6, 5), average=2, dropout=0.2),
    "many channels": block(1, 2, 3, 8, (5, 5), 17, pool=(2, 2, 0)),
    "a fold without clips": block(2, 2, size=(5, 5), pool=(2, 2, 0), index="a fold is empty", dropout=0.5),
    "far from zero": block(1, 4, 6, 1, (7, 8), 2, mean=1000.0, index="full"),
}
MORE = {  # in the long form
    "an input a fold": block(2, 3, shared=False, pool=(2, 2, 0), padding=0),
    "windows of two overlap": block(pool=(2, 1, 1), padding=0, size=(5, 4), affine=False),
    "windows overlap much": block(1, 3, pool=(3, 1, 0), padding=0, size=(6, 5), dropout=0.7),
    "windows with gaps and padding": block(1, 2, pool=(2, 4, 1), size=(7, 6)),
    "running statistics, overlap, no affine": block(1, 3, training=False, pool=(3, 2, 1), size=(5, 6), affine=False),
    "one channel, one slot": block(1, 1, 3, 1, (5, 9), 1, index="full"),
    "many channels, an input a fold": block(1, 2, 3, 9, (4, 5), 3, shared=False, pool=(2, 2, 0), dropout=0.5, average=2),
    "many outputs": block(1, 2, 3, 3, (5, 5), 17, pool=(3, 3, 1)),
    "no gradient of the input": block(need_input=False, size=(8, 5)),
    "no gradient of the input, many channels": block(1, 2, 3, 8, (4, 4), 4, pool=(2, 2, 0), need_input=False),
    "no clips at all": block(1, 2, index="empty", size=(5, 5)),
    "64-bit offsets": block(wide=True, size=(5, 5)),
    "all drops out": block(1, 2, dropout=1.0, size=(5, 5)),
}
PLANTED = {
    "a lost row": block(1, 2, index="full", size=(5, 5), pool=(2, 2, 0), plant="rows"),
    "another padding": block(1, 2, index="full", size=(5, 5), pool=(2, 2, 1), plant="padding"),
    "another sign": block(1, 2, index="full", size=(5, 5), pool=(2, 2, 0), plant="sign"),
    "another mask": block(1, 2, index="full", size=(5, 5), pool=(2, 2, 0), dropout=0.5, plant="threshold"),
}
DRAWN = 3, 200  # random cases: by default, and in the long form


def drawn(count):
    """Random cases."""
    draw = random.Random(count)
    while count:
        kernel, padding, average = draw.choice((2, 3)), draw.randint(0, 2), draw.choice((1, 1, 2))
        stride, around, size = draw.randint(1, 4), draw.randint(0, 1), (draw.randint(3, 7), draw.randint(3, 7))
        maps = [n + 2 * padding - 2 + 2 * around for n in size]
        if min(maps) < kernel or min((n - kernel) // stride + 1 for n in maps) < average or min(maps) < 4 + 2 * around:
            continue
        count -= 1
        yield block(
            draw.randint(1, 2), draw.randint(1, 4), draw.randint(1, 6), draw.choice((1, 2, 3, 5)), size, draw.choice((1, 4, 17)),
            shared=draw.random() < 0.6, training=draw.random() < 0.7, padding=padding, pool=(kernel, stride, around),
            dropout=draw.choice((0.0, 0.5)), average=average, bias=draw.random() < 0.8, affine=draw.random() < 0.8,
            need_input=draw.random() < 0.7, seed=draw.getrandbits(30),
        )  # fmt: skip


# --- in the interpreter -------------------------------------------------------------------------------------------------
def planted(plant, launch):
    """`launch`, or one that tells the kernels something else."""

    def other(kernel, blocks, *arguments, **constants):
        words = list(kernel.arg_names)
        named = dict(zip(words, arguments, strict=False))
        if plant == "rows" and "rows" in named:
            named["rows"] -= 1
        if plant == "padding" and "POOL" in constants:
            constants["POOL"] = (*constants["POOL"][:2], 0)
        if plant == "sign" and kernel.__name__ == "conv_norm_pool_maps":
            named["p_scale"] = None
        if plant == "threshold" and "threshold" in named:
            named["threshold"] //= 2
        launch(kernel, blocks, *named.values(), **constants)

    return launch if plant is None else other


def operands(case):
    """Input, index, weight, bias, scale, shift, running mean, running variance and keys, in the dtype of the case."""
    draw = torch.Generator().manual_seed(case["seed"])
    folds, slots, channels, outputs = (case[name] for name in ("folds", "slots", "channels", "outputs"))
    first = (case["clips"],) if case["shared"] else (folds, slots)
    x = torch.randn(*first, channels, *case["size"], generator=draw) + case["mean"]
    weight = torch.randn(folds, outputs, channels, 3, 3, generator=draw) / (9 * channels) ** 0.5
    if case["mean"] > 1:
        weight.abs_()
    scale = torch.rand(folds, outputs, generator=draw) + 0.5
    scale[:, ::3] *= -1
    if folds and outputs > 3:
        scale[0, 1] = 0
    bias, shift, mean = (torch.randn(folds, outputs, generator=draw) * 0.3 for _ in range(3))
    var = torch.rand(folds, outputs, generator=draw) + 0.5
    index = None
    if case["index"] is not None:
        index = torch.randint(-1, case["clips"], (folds, slots), generator=draw)
        index[:, :1] = case["clips"] - 1
        if case["index"] == "full":
            index = index.clamp(min=0)
        elif case["index"] == "a fold is empty":
            index[0] = -1
        elif case["index"] == "empty":
            index[:] = -1
    key = torch.randint(-(2**62), 2**62, (folds,), generator=draw)
    floats = [None if one is None else one.to(case["dtype"]) for one in (
        x, weight, bias if case["bias"] else None, *((scale, shift) if case["affine"] else (None, None)),
        *((None, None) if case["training"] else (mean, var)),
    )]  # fmt: skip
    return floats[0], index, *floats[1:], key


def run(case):
    """Output, statistics, gradients of examples, weight, bias, norm weight and bias by the launchers; the output's gradient."""
    x, index, weight, bias, scale, shift, mean, var, key = operands(case)
    rest = case["eps"], case["padding"], list(case["pool"]), case["dropout"], key, case["average"]
    out, winners, statistics = conv_norm_pool.conv_norm_pool(x, index, weight, bias, scale, shift, mean, var, *rest)
    grad = torch.linspace(-1, 1.7, out.numel(), dtype=torch.float64).mul(7).sin().view(out.shape)
    gradients = conv_norm_pool.conv_norm_pool_backward(
        grad.to(out), x, index, weight, bias, scale, winners, statistics, mean is None, *rest, case["need_input"]
    )
    return {"output": out, "statistics": statistics}, list(gradients), grad


def expected(case, grad):
    """The same by the reference in float64; gradients of what there is."""
    x, index, weight, bias, scale, shift, mean, var, key = operands(case)
    leaves = [None if one is None else one.double().requires_grad_() for one in (x, weight, bias, scale, shift)]
    kernel, stride, around = case["pool"]
    out = reference.conv_norm_pool(
        *leaves, *(None if one is None else one.double() for one in (mean, var)), index=index, training=case["training"],
        eps=case["eps"], padding=case["padding"], pool_kernel=kernel, pool_stride=stride, pool_padding=around,
        dropout=case["dropout"], dropout_key=key, average=case["average"],
    )  # fmt: skip
    asked = [one for one in leaves if one is not None]
    there = iter(torch.autograd.grad(out, asked, grad, allow_unused=True))
    gradients = [None if one is None else next(there) for one in leaves]
    return out.detach(), [torch.zeros_like(leaf) if g is None and leaf is not None else g
                          for g, leaf in zip(gradients, leaves, strict=True)]  # fmt: skip


def error(got, want, least=1e-30):
    """||got - want|| / ||want||; infinite where an element was not written."""
    if got.shape != want.shape or got.isnan().any():
        return float("inf")
    return float((got.double() - want).norm() / want.norm().clamp_min(least))


def errors_of(case):
    """The error of every result of a case. Gradients that a norm takes away are measured against the weights'."""
    results, gradients, grad = run(case)
    want, wanted = expected(case, grad)
    if case["need_input"] and case["shared"]:
        index = operands(case)[1]
        gradients[0] = torch.zeros_like(operands(case)[0]).index_add(0, index.clamp(min=0).flatten(), gradients[0].flatten(0, 1))
    found = {"output": error(results["output"], want)}
    least = 0.1 * float(wanted[1].norm())
    for name, got, one in zip(("input", "weight", "bias", "norm weight", "norm bias"), gradients, wanted, strict=True):
        if one is not None and (name != "input" or case["need_input"]):
            found[f"gradient of {name}"] = error(got, one, max(least, 1e-30))
    if not case["need_input"]:
        found["not asked"] = float(gradients[0].numel())
    return found


def same_whatever_runs_beside_it():
    """Elements of the second fold's results that change when it runs alone, or alone with empty slots behind."""
    case = block(3, 3, 5, size=(4, 4), dropout=0.5, pool=(2, 2, 1), need_input=False)
    x, index, *tensors, mean, var, key = operands(case)
    rest = case["eps"], case["padding"], list(case["pool"]), case["dropout"]

    def results(folds, more):
        own = [None if one is None else one[folds] for one in tensors]
        longer = torch.cat([index[folds], torch.full((len(index[folds]), more), -1)], 1)
        last = key[folds], case["average"]
        out, winners, statistics = conv_norm_pool.conv_norm_pool(x, longer, *own, mean, var, *rest, *last)
        grad = torch.ones_like(out) + out.detach()
        back = conv_norm_pool.conv_norm_pool_backward(
            grad, x, longer, *own[:3], winners, statistics, True, *rest, *last, case["need_input"]
        )
        return [out[:, :3], statistics, *back[1:]]

    together = [one[1] for one in results(slice(None), 0)]
    found = {}
    for name, folds, more in (("alone", slice(1, 2), 0), ("more slots", slice(1, 2), 5)):
        parts = [one[-1] for one in results(folds, more)]
        found[name] = float(sum((a != b).sum() for a, b in zip(together, parts, strict=True)))
    return found


def not_finite():
    """Elements whose finiteness is not the reference's, with a clip that is not finite and with a clip that there is not."""
    found = {}
    for bad in (float("nan"), float("inf"), "out of range"):
        for training in (True, False):
            case = block(2, 3, 4, size=(5, 4), pool=(2, 2, 0), training=training, index="full")
            x, index, weight, bias, scale, shift, *running, _ = operands(case)
            scale = scale.abs() + 0.1
            index = torch.tensor([[0, 1, 2], [0, 2, 3]])  # the second fold never sees what is bad
            if bad == "out of range":
                out_of = torch.tensor([[0, 4, 2], [0, 2, 3]])
            else:
                x[1, 0, 3, 2], out_of = bad, index
            rest = case["eps"], case["padding"], list(case["pool"]), 0.0, None, 1
            got = conv_norm_pool.conv_norm_pool(x, out_of, weight, bias, scale, shift, *running, *rest)[0]
            if bad == "out of range":
                x[1] = float("nan")
            want = reference.conv_norm_pool(
                x, weight, bias, scale, shift, *running, index=index, training=training, padding=1, pool_kernel=2
            )
            label = f"{bad}, {'batch' if training else 'running'} statistics"
            found[label] = float((got.isfinite() != want.isfinite()).sum()) + float(want.isfinite().all())
    return found


def run_in_interpreter(full):
    """Prints {case: {result: error}}."""
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    sizes = {"close": (128, 1), "open": (64, 1), "statistics": (2, 32), "total": (2, 256)}
    rows = 32

    def choose(kernel, *_):  # several blocks of everything, and yet not many programs
        cut = sizes.get(kernel.removeprefix("conv_norm_pool_"), (rows, 32))
        return _config.Config(*cut, 32, 4, 2)

    _config.choose, conv_norm_pool.SPLIT = choose, 2
    launch, narrow, found = launchers.launch, _implicit_gemm.NARROW, {}
    chosen = CASES | PLANTED | (MORE if full else {}) | {f"random {k}": c for k, c in enumerate(drawn(DRAWN[full]))}
    for name, one in chosen.items():
        rows, conv_norm_pool.launch = one["rows"], planted(one["plant"], launch)
        _implicit_gemm.NARROW = 0 if one["wide"] else narrow
        found[name] = errors_of(one)
    rows, conv_norm_pool.launch = 16, launch
    found["beside"], found["not finite"] = same_whatever_runs_beside_it(), not_finite()
    print(json.dumps(found))


@pytest.fixture(scope="module")
def errors(request):
    pytest.importorskip("triton", minversion="3.9", reason="Triton 3.6's interpreter fails with NumPy 2.4")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, *(["--full"] if request.config.getoption("--full") else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def judge(found, dtype):
    forward, gradient = TOLERANCE[dtype]
    for result, one in found.items():
        allowed = 0 if result == "not asked" else gradient if "gradient" in result else forward
        assert one <= allowed, f"{result}: error {one:.2e}, {allowed:.0e} is allowed"


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.full) for name in MORE)])
def test_kernels_in_the_interpreter(errors, name):
    judge(errors[name], torch.float32)


def test_random_cases_in_the_interpreter(errors, request):
    names = [name for name in errors if name.startswith("random")]
    assert len(names) == DRAWN[request.config.getoption("--full")]
    for name in names:
        judge(errors[name], torch.float32)


@pytest.mark.parametrize("name", PLANTED)
def test_the_comparison_notices_planted_bugs(errors, name):
    forward, gradient = TOLERANCE[torch.float32]
    assert errors[name]["output"] > 100 * forward
    assert errors[name]["gradient of weight"] > 100 * gradient
    assert errors[name]["gradient of input"] > 100 * gradient


def test_a_fold_gets_the_same_whatever_runs_beside_it(errors):
    assert errors["beside"] == {"alone": 0, "more slots": 0}


def test_what_is_not_finite_goes_where_pytorch_has_it(errors):
    """And a clip that there is not makes its fold NaN, where nothing waits to look at indices."""
    assert len(errors["not finite"]) == 6
    assert not any(errors["not finite"].values())


# --- what needs no interpreter ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_float64_by_the_library(name):
    judge(errors_of((CASES | MORE)[name] | {"dtype": torch.float64}), torch.float64)


def test_float64_by_the_library_at_random():
    for case in drawn(40):
        judge(errors_of(case | {"dtype": torch.float64}), torch.float64)


@pytest.mark.parametrize("launcher", [conv_norm_pool.conv_norm_pool, conv_norm_pool.conv_norm_pool_backward])
def test_launchers_take_what_the_schema_says(launcher):
    schema = getattr(torch.ops.mer_fast, launcher.__name__).default._schema
    assert list(inspect.signature(launcher).parameters) == [argument.name for argument in schema.arguments]
    assert torch._C._dispatch_has_kernel_for_dispatch_key(schema.name, "CUDA")


def launches(monkeypatch, case):
    """(kernel, programs) of a forward and of a backward, none of which run."""
    pytest.importorskip("triton")
    found = []
    monkeypatch.setattr(conv_norm_pool, "launch", lambda kernel, blocks, *_, **__: found.append((kernel.__name__, blocks)))
    results, gradients, _ = run(case)
    return [(name.removeprefix("conv_norm_pool_"), blocks) for name, blocks in found], results, gradients


@pytest.mark.parametrize(("folds", "slots"), [(1, 2), (68, 2), (3, 130)])
def test_as_many_launches_whatever_the_folds_and_slots(monkeypatch, folds, slots):
    step = {"pool": (3, 3, 1), "padding": 2, "size": (28, 28), "outputs": 16, "index": "full"}
    found, *_ = launches(monkeypatch, block(folds, slots, average=2, need_input=False, **step))
    cells, values = 11**2, 25 * 16 * slots  # the map's last row and column lie in no window
    blocks, smaller = -(-cells * slots // 64), -(-cells * slots // 32)
    assert found == [
        ("maps", folds * blocks), ("statistics", folds), ("close", folds * -(-values // 512)),
        ("open", folds * 16), ("map_gradient", folds * smaller), ("total", folds * 7),
    ]  # fmt: skip
    found, *_ = launches(monkeypatch, block(folds, slots, training=False, **step))
    names = ["maps", "close", "open", "map_gradient", "total", "input_gradient"]
    assert [name for name, _ in found] == names
    found, *_ = launches(monkeypatch, block(folds, slots, 4, 4, **step))
    names = ["maps", "statistics", "close", "open", "map_gradient", "weight_gradient", "total", "input_gradient"]
    assert [name for name, _ in found] == names
    assert dict(found)["weight_gradient"] == folds * -(-slots * 900 // (64 * conv_norm_pool.SPLIT)) * 2


@pytest.mark.parametrize(("folds", "slots"), [(0, 3), (2, 0)])
def test_nothing_to_compute(monkeypatch, folds, slots):
    for dtype in (torch.float32, torch.float64):
        found, results, gradients = launches(monkeypatch, block(folds, slots, 4, index="full", dtype=dtype))
        assert found == []
        assert results["output"].shape == (folds, slots, 5, 2, 2)
        assert [list(one.shape) for one in gradients] == [[folds, slots, 3, 7, 6], [folds, 5, 3, 3, 3], *[[folds, 5]] * 3]
        assert not any(one.any() for one in (results["statistics"], *gradients))


def test_halves_are_refused_as_on_a_cpu():
    with pytest.raises(MerFastError, match=r"conv_norm_pool: input must be float32 or float64, got torch.float16; convert"):
        run(block(dtype=torch.float16))


@pytest.mark.parametrize("name", ["as in STSTNet", "windows overlap", "an input a fold, no index", "running statistics"])
def test_shapes_are_told_before_anything_runs(name):
    """The operator's fake on a GPU that is not there gives what the launchers give."""
    x, index, weight, bias, scale, shift, mean, var, key = operands(CASES[name] | {"dtype": torch.float64})
    case = CASES[name]
    rest = case["eps"], case["padding"], list(case["pool"]), case["dropout"], key, case["average"]
    given = x, index, weight, bias, scale, shift, mean, var, *rest
    made = conv_norm_pool.conv_norm_pool(*given)
    back = [made[0], x, index, weight, bias, scale, *made[1:], mean is None, *rest, True]
    gradients = conv_norm_pool.conv_norm_pool_backward(*back)
    for operator, arguments, results in (("conv_norm_pool", given, made), ("conv_norm_pool_backward", back, gradients)):
        with FakeTensorMode():
            on_gpu = [torch.empty(one.shape, dtype=one.dtype, device="cuda") if isinstance(one, torch.Tensor) else one
                      for one in arguments]  # fmt: skip
            told = getattr(torch.ops.mer_fast, operator).default(*on_gpu)
        assert [(list(one.shape), one.stride(), one.dtype) for one in told] == [
            (list(one.shape), one.stride(), one.dtype) for one in results
        ]


if __name__ == "__main__":
    run_in_interpreter("--full" in sys.argv)
