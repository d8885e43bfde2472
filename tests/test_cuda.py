"""The CUDA kernels on a GPU, beyond the contract that every op's test file runs there: each variant, streams, devices, size."""

import pytest
import torch

import mer_fast
from mer_fast import ops, reference
from mer_fast.ops.optical_strain import DERIVATIVES

from .kit import LAYOUTS, assert_near, laid_out

pytestmark = pytest.mark.cuda

GPU = "cuda"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
CALLS = {
    "tim": (lambda clip: ops.tim(clip, 12), (2, 7, 3, 10, 8)),
    "tim_scalar": (lambda clip: ops.tim(clip, 12), (2, 7, 3, 5, 9)),
    **{f"strain_{d}": (lambda flow, d=d: ops.optical_strain(flow, derivative=d), (3, 2, 37, 19)) for d in DERIVATIVES},
}
every_call = pytest.mark.parametrize(("call", "shape"), CALLS.values(), ids=CALLS)


def in_float64(call, *inputs):
    with mer_fast.backend("reference"):
        return call(*(x.double() for x in inputs))


def gradient(call, x, grad):
    leaf = x.detach().requires_grad_()
    out = call(leaf)
    return torch.autograd.grad(out, leaf, grad.to(out.dtype))[0]


def needs_memory(gigabytes):
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes * 2**30:
        pytest.skip(f"needs {gigabytes} GB of free GPU memory, there are {free / 2**30:.0f}")


# --- every variant ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("wanted", [1, 4, 5, 10, 11, 16, 17, 37])  # tiles of 4, 10 and 16 frames; several of them
@pytest.mark.parametrize("dtype", FLOATS)
def test_tim_with_every_tile(dtype, wanted):
    for shape in [(3, 9, 1, 12, 16), (3, 9, 1, 5, 7), (700, 3, 1, 1, 1), (1, 60, 3, 64, 80)]:
        clip = torch.randn(shape, device=GPU).to(dtype)
        assert_near(ops.tim(clip, wanted), in_float64(lambda x: ops.tim(x, wanted), clip), dtype)


@pytest.mark.parametrize("wanted", [3, 10, 40])
def test_tim_of_bytes(wanted):
    for side in (16, 17):
        clip = torch.randint(0, 256, (2, 12, 1, side, side), dtype=torch.uint8, device=GPU)
        exact = in_float64(lambda x: reference.tim(x, wanted), clip)
        clear = (exact.frac().abs() - 0.5).abs() > 1e-3  # away from ties
        assert torch.equal(ops.tim(clip, wanted)[clear], exact.round().clamp(0, 255).to(torch.uint8)[clear])


@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8])
def test_tim_where_packs_do_not_fit(dtype):
    """A view that starts anywhere takes the path of single pixels, with the same sums."""
    for start in range(1, 6):
        memory = torch.randint(0, 256, (start + 2 * 5 * 64,), device=GPU).to(dtype)
        clip = memory[start:].view(2, 5, 1, 8, 8)
        assert torch.equal(ops.tim(clip, 7), ops.tim(clip.clone(), 7))


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_strain_of_every_side(dtype, derivative):
    for size in [(1, 1), (1, 9), (9, 1), (2, 2), (3, 5), (8, 128), (9, 129), (70, 5), (224, 224)]:
        flow = torch.randn(2, 2, *size, device=GPU).to(dtype)
        grad = torch.randn(2, 1, *size, device=GPU).to(dtype)

        def call(x):
            return ops.optical_strain(x, derivative=derivative, shear=0.75)

        assert_near(call(flow), in_float64(call, flow), dtype)
        expected = gradient(lambda x: in_float64(call, x), flow.double(), grad)
        assert_near(gradient(call, flow, grad), expected, dtype, gradient=True)


@every_call
@pytest.mark.parametrize("layout", [*LAYOUTS, "expanded"])
def test_gradients_of_any_stride(call, shape, layout):
    x = torch.randn(shape, device=GPU)
    out = call(x)
    grad = torch.randn((), device=GPU).expand_as(out) if layout == "expanded" else laid_out(torch.randn_like(out), layout)
    got = gradient(call, x, grad)
    assert_near(got, gradient(lambda x: in_float64(call, x), x.double(), grad), torch.float32, gradient=True)
    assert torch.equal(got, gradient(call, x, grad.contiguous()))


@every_call
def test_empty(call, shape):
    for d in (0, len(shape) - 1):
        x = torch.empty([0 if k == d else s for k, s in enumerate(shape)], device=GPU, requires_grad=True)
        out = call(x)
        assert out.numel() == 0
        out.sum().backward()
        assert x.grad.shape == x.shape


# --- streams, graphs, devices -----------------------------------------------------------------------------------------
@every_call
def test_is_deterministic(call, shape):
    x = torch.randn(8, *shape[1:], device=GPU)
    grad = torch.randn_like(call(x))
    first, first_gradient = call(x), gradient(call, x, grad)
    for _ in range(5):
        assert torch.equal(call(x), first)
        assert torch.equal(gradient(call, x, grad), first_gradient)


@every_call
def test_never_waits_for_the_device(call, shape):
    x = torch.randn(shape, device=GPU)
    grad = torch.randn_like(call(x))
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradient(call, x, grad)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_call
def test_runs_on_the_current_stream(call, shape):
    """The input is made late on a side stream: a kernel on any other stream reads what was there before."""
    x, late = torch.zeros(shape, device=GPU), torch.randn(shape, device=GPU)
    expected = call(late)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        x.copy_(late)
        out = call(x)
    side.synchronize()
    assert torch.equal(out, expected)


@every_call
def test_a_graph_replays_with_new_input_and_gradient(call, shape):
    x = torch.randn(shape, device=GPU, requires_grad=True)
    grad = torch.randn_like(call(x))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            torch.autograd.grad(call(x), x, grad)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(x)
        (pulled,) = torch.autograd.grad(out, x, grad)
    fresh = torch.randn(shape, device=GPU)
    with torch.no_grad():
        x.copy_(fresh)
        out.fill_(float("nan"))
        pulled.fill_(float("nan"))
    graph.replay()
    assert torch.equal(out, call(fresh))
    assert torch.equal(pulled, gradient(call, fresh, grad))


@every_call
def test_a_second_gpu(call, shape):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = torch.randn(shape)
    with torch.cuda.device(0):
        out = call(x.to("cuda:1"))
        assert out.device == torch.device("cuda:1")
        assert torch.cuda.current_device() == 0
        assert torch.equal(out.cpu(), call(x.to("cuda:0")).cpu())
        assert torch.cuda.current_device() == 0


def test_tensors_on_two_devices_are_named():
    flow, grad = torch.randn(1, 2, 5, 6, device=GPU), torch.randn(1, 1, 5, 6)
    with pytest.raises(RuntimeError, match="grad and flow must be on one device"):
        torch.ops.mer_fast.optical_strain_backward(grad, flow, "central", 0.5)


# --- size -------------------------------------------------------------------------------------------------------------
def test_tim_beyond_32_bits():
    needs_memory(10)
    clip = torch.zeros(2, 1, 33000, 33000, dtype=torch.uint8, device=GPU)  # 2.2e9 elements
    clip[:, :, -1, -5:] = torch.arange(5, dtype=torch.uint8, device=GPU)
    clip[:, :, 16000] = 9
    out = ops.tim(clip, 2)
    assert torch.equal(out, clip)
    odd = clip.view(-1)[1:].view(1, -1)  # one frame, odd start: the path of single pixels
    assert torch.equal(ops.tim(odd, 1, dim=0), odd)


def test_strain_beyond_32_bits():
    needs_memory(16)
    flow = torch.zeros(1, 2, 33000, 33000, dtype=torch.float16, device=GPU)
    flow[0, 1, -1, -1] = 1.0
    out = ops.optical_strain(flow, derivative="forward")
    assert out[0, 0, -2, -1] == 1.0
    assert int(out.count_nonzero()) == 2
    grad = gradient(lambda x: ops.optical_strain(x, derivative="forward"), flow, torch.ones_like(out))
    assert grad[0, 1, -1, -1] > 1.0
