"""CuPy's arrays on a GPU: through torch and through NVRTC, without a copy, on the caller's stream."""

import pytest
import torch

from mer_fast import ops
from mer_fast.ops import _arrays

pytestmark = pytest.mark.cuda

CALLS = {
    "tim": (lambda clip: ops.tim(clip, 12), (2, 7, 3, 10, 8)),
    "tim_of_single_pixels": (lambda clip: ops.tim(clip, 12), (2, 7, 3, 5, 9)),
    "optical_strain": (ops.optical_strain, (3, 2, 37, 19)),
}
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
