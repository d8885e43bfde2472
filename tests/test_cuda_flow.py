"""The flow ops on a GPU, beyond the contract that each one's test file runs there: every way through a level, bad frames,
batches, streams, graphs, devices, size."""

import pytest
import torch

from mer_fast import ops
from mer_fast.ops._registry import OPS

from .pairs import assert_flow_near, pair

pytestmark = pytest.mark.cuda

GPU = "cuda"
FLOWS = [op for op in ("tvl1_flow", "farneback_flow") if "cuda" in OPS[op].kernels]
every_flow = pytest.mark.parametrize("op", FLOWS)
# On sm_90 TV-L1 holds these in a cluster of 1, 2, 4, 8, 16, 16 and 16 blocks, and tiles the last two.
SIZES = [(40, 40), (90, 90), (128, 128), (160, 160), (224, 224), (256, 256), (300, 245), (245, 300), (37, 500)]
SMALL = [(40, 45), (40, 290)]  # resident and tiled
# Five levels make frames of 40 pixels ill-conditioned: the CPU's own kernel leaves the float64 reference by more than 0.1 px.
QUICK = {"tvl1_flow": {"scales": 2, "warps": 2}, "farneback_flow": {"levels": 1}}
every_size = pytest.mark.parametrize("size", SMALL, ids=lambda size: "x".join(map(str, size)))


def frames(pairs, height, width, dtype=torch.uint8):
    """Frames (pairs, height, width) on the GPU, each pair another motion."""
    made = [pair(height, width, (1.3 - 0.4 * k, 0.5 * k - 0.6), seed=k) for k in range(pairs)]
    stacked = (torch.stack([p[k] for p in made]).to(GPU) for k in (0, 1))
    return [x if dtype == torch.uint8 else (x.double() / 255).to(dtype) for x in stacked]


def run(op, given, **parameters):
    return getattr(ops, op)(*given, **{**QUICK[op], **parameters})


def cpu_flow(op, given, **parameters):
    """The CPU kernel's flow of the same frames."""
    return run(op, [x.float().cpu() if x.is_floating_point() else x.cpu() for x in given], **parameters)


# --- values -----------------------------------------------------------------------------------------------------------
@every_flow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_flow_is_the_cpus(op, size):
    given = frames(3, *size)
    flow = run(op, given)
    assert flow.device.type == GPU and flow.dtype == torch.float32
    assert_flow_near(flow, cpu_flow(op, given))


@every_flow
@pytest.mark.parametrize("size", [(128, 128), (224, 224), (300, 245)], ids=lambda size: "x".join(map(str, size)))
def test_flow_at_the_defaults_is_the_cpus(op, size):
    given = frames(3, *size)
    assert_flow_near(getattr(ops, op)(*given), getattr(ops, op)(*(x.cpu() for x in given)))


@pytest.mark.parametrize("size", [(200, 180), (180, 320)])
@pytest.mark.parametrize(
    "changes", [ops.TVL1_PRESETS["ipol"], {"median": 3, "inner_iterations": 7}, {"median": 0, "scales": 1, "epsilon": 0.0}]
)
def test_tvl1_with_other_parameters(size, changes):
    given, parameters = frames(2, *size), {"warps": 2, "outer_iterations": 3, **changes}
    assert_flow_near(ops.tvl1_flow(*given, **parameters), cpu_flow("tvl1_flow", given, **parameters))


@every_flow
@every_size
def test_float_frames_of_any_dtype(op, size):
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        given = frames(2, *size, dtype)
        flow = run(op, given)
        assert flow.dtype == dtype
        # the frames are rounded before, the flow after: half of bfloat16's last place of 1 px is 0.004
        assert_flow_near(flow, cpu_flow(op, given))


@every_flow
@every_size
def test_starts_from_an_initial_flow(op, size):
    given = frames(2, *size)
    start = torch.randn(2, 2, *size, device=GPU)
    flow = run(op, given, initial_flow=start)
    assert_flow_near(flow, cpu_flow(op, given, initial_flow=start.cpu()))
    start[1, 0, 3, 5] = float("inf")
    again = run(op, given, initial_flow=start)
    assert torch.equal(again[0], flow[0]) and again[1].isnan().all()


@every_flow
@every_size
def test_bad_frames_are_nan_and_no_other_pairs(op, size):
    given = frames(5, *size, torch.float32)
    expected = run(op, given)
    for which, k, value in ((0, 1, float("nan")), (1, 2, 255.0), (0, 4, -1.5)):
        given[which][k, -1, k] = value
    flow = run(op, given)
    assert flow[[1, 2, 4]].isnan().all()
    assert torch.equal(flow[[0, 3]], expected[[0, 3]])


@every_flow
def test_empty(op):
    for dtype in (torch.uint8, torch.float16):
        flow = run(op, [torch.empty(0, 40, 50, dtype=dtype, device=GPU) for _ in range(2)])
        assert flow.shape == (0, 2, 40, 50)
        assert flow.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
        assert flow.device.type == GPU


# --- batches, streams, graphs, devices --------------------------------------------------------------------------------
@every_flow
@pytest.mark.parametrize("size", [*SMALL, (224, 224)], ids=lambda size: "x".join(map(str, size)))
def test_a_pair_does_not_depend_on_its_batch_nor_on_the_run(op, size):
    given = frames(5, *size)
    many = [x.repeat(60, 1, 1) for x in given]  # more than run at a time
    together = run(op, many)
    for _ in range(3):
        assert torch.equal(run(op, many), together)
    for k in range(5):
        alone = run(op, [x[k : k + 1] for x in given])
        assert torch.equal(together[k::5], alone.expand(60, -1, -1, -1))


@every_flow
@every_size
def test_never_waits_for_the_device(op, size):
    given, start = frames(2, *size), torch.zeros(2, 2, *size, device=GPU)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(op, given, initial_flow=start)
        run(op, [x.half() for x in given])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_flow
@every_size
def test_runs_on_the_current_stream(op, size):
    """The frames are made late on a side stream: a kernel on any other stream reads what was there before."""
    late = frames(2, *size)
    given, expected = [torch.zeros_like(x) for x in late], run(op, late)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        for x, new in zip(given, late, strict=True):
            x.copy_(new)
        flow = run(op, given)
    side.synchronize()
    assert torch.equal(flow, expected)


@every_flow
@pytest.mark.parametrize("size", [*SMALL, (224, 224)], ids=lambda size: "x".join(map(str, size)))
def test_a_graph_replays_with_new_frames(op, size):
    given = frames(4, *size)
    run(op, given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        flow = run(op, given)
    fresh = [x.roll(2, 0).flip(-1) for x in given]  # other stop tests, too
    for _ in range(2):
        for x, new in zip(given, fresh, strict=True):
            x.copy_(new)
        flow.fill_(float("nan"))
        graph.replay()
        assert torch.equal(flow, run(op, fresh))
        fresh = [x.flip(-2) for x in fresh]


@every_flow
@every_size
def test_a_second_gpu(op, size):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    given = frames(2, *size)
    with torch.cuda.device(0):
        flow = run(op, [x.to("cuda:1") for x in given])
        assert flow.device == torch.device("cuda:1")
        assert torch.cuda.current_device() == 0
        assert torch.equal(flow.cpu(), run(op, given).cpu())
    with pytest.raises(RuntimeError, match="frame0 and frame1 must"):
        getattr(ops, op)(given[0], given[1].to("cuda:1"))


# --- size -------------------------------------------------------------------------------------------------------------
SHORT = {
    "tvl1_flow": {"scales": 1, "warps": 1, "outer_iterations": 1}, "farneback_flow": {"levels": 0, "iterations": 1}
}  # fmt: skip


@pytest.mark.parametrize(
    ("op", "pairs", "size", "gigabytes"),
    [
        ("tvl1_flow", 262_150, (64, 64), 25), ("tvl1_flow", 11_700, (288, 320), 100), ("farneback_flow", 262_150, (64, 64), 100)
    ],
)  # fmt: skip
def test_beyond_32_bits(op, pairs, size, gigabytes):
    """More than 2^31 values of flow, and 2^30 pixels; all pairs but the first and the last are black."""
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes * 2**30:
        pytest.skip(f"needs {gigabytes} GB of free GPU memory, there are {free / 2**30:.0f}")
    few = frames(2, *size)
    many = [torch.zeros(pairs, *size, dtype=torch.uint8, device=GPU) for _ in few]
    for x, made in zip(many, few, strict=True):
        x[0], x[-1] = made
    flow = getattr(ops, op)(*many, **SHORT[op])
    assert torch.equal(flow[[0, -1]], getattr(ops, op)(*few, **SHORT[op]))
    assert not flow[1:-1].any()


@every_flow
def test_a_large_image(op):
    parameters = {"scales": 3, "warps": 2, "outer_iterations": 2} if op == "tvl1_flow" else {}
    given = frames(1, 1080, 1920)
    assert_flow_near(run(op, given, **parameters), cpu_flow(op, given, **parameters))
