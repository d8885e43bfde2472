"""CuPy's arrays on a GPU: through torch and through NVRTC, without a copy, on the caller's stream."""

import pytest
import torch

from mer_fast import ops
from mer_fast.ops import _arrays
from mer_fast.ops._registry import OPS

from .pairs import assert_flow_near, pair

pytestmark = pytest.mark.cuda

CALLS = {
    "tim": (lambda clip: ops.tim(clip, 12), (2, 7, 3, 10, 8)),
    "tim_of_single_pixels": (lambda clip: ops.tim(clip, 12), (2, 7, 3, 5, 9)),
    "optical_strain": (ops.optical_strain, (3, 2, 37, 19)),
}
FLOWS = [op for op in ("tvl1_flow", "farneback_flow") if "cuda" in OPS[op].kernels]
every_call = pytest.mark.parametrize(("call", "shape"), CALLS.values(), ids=CALLS)


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture(params=["torch", "nvrtc"])
def route(request, monkeypatch):
    """Both ways that CuPy's arrays can go."""
    if request.param == "nvrtc":
        monkeypatch.setattr(_arrays, "_torch_serves", lambda op: False)


@every_call
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_result_is_that_of_a_tensor(cupy, route, call, shape, dtype):
    x = torch.randn(shape, device="cuda", dtype=getattr(torch, dtype))
    expected = call(x)
    out = call(cupy.from_dlpack(x))
    assert isinstance(out, cupy.ndarray) and out.dtype == dtype
    torch.testing.assert_close(torch.from_dlpack(out), expected, rtol=1e-3 if dtype == "float16" else 1e-5, atol=1e-5)


@every_call
def test_the_caller_s_stream_is_respected(cupy, route, call, shape):
    """The input is made late on a side stream: a kernel on any other stream reads what was there before."""
    x, late = cupy.zeros(shape, "float32"), cupy.random.standard_normal(shape, dtype="float32")
    expected = call(late)
    side = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with side:
        with torch.cuda.stream(torch.cuda.ExternalStream(side.ptr)):
            torch.cuda._sleep(50_000_000)
        x[...] = late
        out = call(x)
    side.synchronize()
    assert bool((out == expected).all())


@pytest.mark.parametrize("op", FLOWS)
@pytest.mark.parametrize("size", [(40, 45), (224, 224), (245, 300)])  # TV-L1: a block, 16 blocks of a cluster, tiles
def test_flow(cupy, route, op, size):
    given = [torch.stack([pair(*size, seed=k)[which] for k in range(3)]).cuda() for which in (0, 1)]
    few = {"scales": 2, "warps": 2} if op == "tvl1_flow" else {}
    for dtype in ("uint8", "float32", "float16"):
        frames = given if dtype == "uint8" else [(x / 255).to(getattr(torch, dtype)) for x in given]
        start = torch.zeros(3, 2, *size, device="cuda")
        expected = getattr(ops, op)(*frames, initial_flow=start, **few)
        arrays, first = map(cupy.from_dlpack, frames), cupy.from_dlpack(start)
        flow = getattr(ops, op)(*arrays, initial_flow=first, **few)
        assert isinstance(flow, cupy.ndarray) and flow.dtype == ("float32" if dtype == "uint8" else dtype)
        assert_flow_near(torch.from_dlpack(flow), expected)
    frames[1][1, 5, 5] = float("nan")
    bad = cupy.isnan(getattr(ops, op)(*map(cupy.from_dlpack, frames), **few)).all((1, 2, 3))
    assert bad.tolist() == [False, True, False]


@pytest.mark.parametrize("op", FLOWS)
def test_flow_runs_on_the_caller_s_stream(cupy, route, op):
    """As above."""
    late = [cupy.asarray(x.numpy()) for x in pair(40, 290)]
    given, expected = [cupy.zeros_like(x) for x in late], getattr(ops, op)(*late)
    side = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with side:
        with torch.cuda.stream(torch.cuda.ExternalStream(side.ptr)):
            torch.cuda._sleep(50_000_000)
        for x, new in zip(given, late, strict=True):
            x[...] = new
        flow = getattr(ops, op)(*given)
    side.synchronize()
    assert bool((flow == expected).all())


@every_call
def test_turned_arrays(cupy, route, call, shape):
    x = cupy.random.standard_normal(shape, dtype="float32")
    turned = cupy.asfortranarray(x)[..., ::-1]
    assert bool((call(turned) == call(cupy.ascontiguousarray(turned))).all())


def test_nothing_is_copied(cupy):
    seen = []
    probe = _arrays.takes_arrays("x")(lambda x: seen.append(x.data_ptr()) or x)
    x = cupy.zeros(5)
    assert probe(x).data.ptr == x.data.ptr == seen[0]
