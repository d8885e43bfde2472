"""TV-L1 on CuPy's arrays without a CUDA half: the launches are those of the launcher in C++, and the flow is the reference's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import mer_fast
from benchmarks import kernel_resources
from mer_fast import nvrtc as launchers
from mer_fast import ops, reference
from mer_fast.nvrtc import _cluster
from mer_fast.nvrtc import tvl1_flow as launcher

from .kit.nvrtc import KERNELS
from .pairs import assert_flow_near, pair

QUICK = {"scales": 2, "warps": 1, "outer_iterations": 2, "inner_iterations": 8}
ORDER = ("tau", "lam", "theta", "scales", "scale_step", "warps", "epsilon", "inner_iterations", "outer_iterations", "median")
# compute capability, shared memory, the largest cluster
GPUS = {
    "sm_80": ("80", 163 * 1024, 1), "sm_86": ("86", 99 * 1024, 1), "sm_90": ("90", 227 * 1024, 16),
    "sm_90 of 8 blocks": ("90", 227 * 1024, 8),
}  # fmt: skip


@pytest.fixture
def gpu(cupy, monkeypatch):
    """gpu(name) makes the stand-in that GPU; clusters that the driver would launch run there too."""

    def launch(kernel, wanted, *, stream):
        assert wanted.cluster <= min(_cluster.PORTABLE if not kernel.any_size else 16, cupy.gpu.most_cluster)
        kernel((wanted.blocks,), (wanted.threads,), wanted.arguments, shared_mem=wanted.shared, cluster=wanted.cluster)

    def holds(kernel, wanted):
        assert kernel.any_size
        return wanted.cluster <= cupy.gpu.most_cluster

    monkeypatch.setattr(_cluster, "launch", launch)
    monkeypatch.setattr(_cluster, "holds", holds)
    monkeypatch.setattr(_cluster, "allow_any_size", lambda kernel: setattr(kernel, "any_size", True))

    def become(name):
        cupy.gpu.capability, cupy.gpu.shared_bytes, cupy.gpu.most_cluster = GPUS[name]
        return cupy

    return become


def frames(pairs, height, width, dtype="uint8"):
    made = [pair(height, width, seed=k) for k in range(pairs)]
    stacked = [np.stack([p[k].numpy() for p in made]) for k in (0, 1)]
    return stacked if dtype == "uint8" else [(x / 255).astype(dtype) for x in stacked]


def exact(given, initial=None, **parameters):
    scaled = [torch.from_numpy(x / 255 if x.dtype == np.uint8 else x).double() for x in given]
    start = None if initial is None else torch.from_numpy(initial).double()
    return reference.tvl1_flow(*scaled, initial_flow=start, **{**QUICK, **parameters})


# --- the flow ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "size", "parameters", "kernels"),
    [
        ("sm_80", (2, 37, 45), {}, {"solve<16>", "solve<8>"}),  # one block
        ("sm_86", (1, 64, 70), {"inner_iterations": 13}, {"warp", "iterate"}),  # too large for 99 KB
        ("sm_90", (1, 70, 90), {"scales": 1}, {"solve<24>"}),  # two blocks
    ],
)
def test_flow_is_the_references(gpu, name, size, parameters, kernels):
    cupy, given = gpu(name), frames(*size)
    out = ops.tvl1_flow(*(cupy.ndarray(x) for x in given), **{**QUICK, **parameters})
    assert type(out) is cupy.ndarray and out.dtype == np.float32
    assert_flow_near(torch.from_numpy(out.host), exact(given, **parameters))
    used = {launch.name.removeprefix("mer_fast::tvl1_") for launch in cupy.launches}
    assert used == {"load<unsigned char>", *kernels, *({"resize"} if parameters.get("scales") != 1 else ())}


@pytest.mark.parametrize("name", ["sm_80", "sm_86"])
def test_initial_flow(gpu, name):
    cupy, given = gpu(name), frames(1, 60, 66, "float32")
    start = np.random.default_rng(0).standard_normal((1, 2, 60, 66)).astype(np.float32)
    parameters = {"outer_iterations": 1}
    out = ops.tvl1_flow(*map(cupy.ndarray, given), initial_flow=cupy.ndarray(start), **{**QUICK, **parameters})
    assert_flow_near(torch.from_numpy(out.host), exact(given, start, **parameters))


def test_shapes_and_dtypes(gpu):
    cupy, given = gpu("sm_90"), frames(1, 20, 24)
    flow = ops.tvl1_flow(*map(cupy.ndarray, given), **QUICK).host
    one = ops.tvl1_flow(*(cupy.ndarray(x[0]) for x in given), **QUICK)
    assert one.shape == (2, 20, 24) and np.array_equal(one.host, flow[0])
    channel = ops.tvl1_flow(*(cupy.ndarray(x[:, None]) for x in given), **QUICK)
    assert channel.shape == (1, 2, 20, 24) and np.array_equal(channel.host, flow)
    turned = ops.tvl1_flow(*(cupy.ndarray(np.asfortranarray(x)) for x in given), **QUICK)
    assert np.array_equal(turned.host, flow)
    for dtype in ("float16", "float64"):
        out = ops.tvl1_flow(*map(cupy.ndarray, frames(1, 20, 24, dtype)), **QUICK)
        assert out.dtype == dtype
        assert np.abs(out.host - flow).mean() < 0.02
    cupy.launches.clear()
    assert ops.tvl1_flow(*(cupy.ndarray(x[:0]) for x in given)).shape == (0, 2, 20, 24)
    assert not cupy.launches


def test_bad_frames_are_nan_for_their_pair(gpu):
    cupy, given = gpu("sm_90"), frames(3, 18, 17, "float32")
    given[1][1, 3, 3] = np.nan
    given[0][2, 0, 0] = 7
    flow = ops.tvl1_flow(*map(cupy.ndarray, given), **QUICK).host
    assert np.isfinite(flow[0]).all() and np.isnan(flow[1:]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: {"frame1": b[:-1]}, "frame0 and frame1 must have one shape"),
        (lambda a, b: {"frame0": a[:15], "frame1": b[:15]}, "frame0 must be at least 16 pixels a side"),
        (lambda a, b: {"initial_flow": np.zeros((2, 9, 9), np.float32)}, "initial_flow must be a float tensor of shape"),
        (lambda a, b: {"median": 4}, "median must be 3 or 5"),
        (lambda a, b: {"theta": 1e-50}, "theta must be at least 1.175e-38, a normal float32, got 1e-50"),
        (lambda a, b: {"warps": 2**32}, "warps must be at least 1"),
    ],
)
def test_bad_input_is_named(gpu, change, message):
    cupy, (a, b) = gpu("sm_90"), (x[0] for x in frames(1, 20, 20))
    given = {"frame0": a, "frame1": b, **change(a, b)}
    given = {name: cupy.ndarray(x) if isinstance(x, np.ndarray) else x for name, x in given.items()}
    with pytest.raises(mer_fast.MerFastError, match=f"^tvl1_flow: {message}"):
        ops.tvl1_flow(**given)
    assert not cupy.launches


# --- the launches -----------------------------------------------------------------------------------------------------
PROBLEMS = [
    ((3, 224, 224), {}), ((2, 128, 128), {}), ((1, 16, 16), {}), ((1, 300, 245), {}), ((2, 256, 256), {"scales": 3}),
    ((1, 245, 300), {"warps": 2}), ((5, 97, 33), {"scale_step": 0.5, "scales": 9}),
    ((1, 61, 500), {"inner_iterations": 7, "warps": 1}),
    ((1, 385, 256), {"scale_step": 0.83, "inner_iterations": 31, "outer_iterations": 1}),
]  # fmt: skip


def random_problems(count):
    draw = np.random.default_rng(5)
    for _ in range(count):
        given = {
            "scale_step": float(draw.uniform(0.4, 0.95)), "scales": int(draw.integers(1, 7)), "warps": int(draw.integers(1, 4)),
            "inner_iterations": int(draw.integers(1, 40)), "outer_iterations": int(draw.integers(1, 4)),
        }  # fmt: skip
        yield tuple(int(draw.integers(least, most)) for least, most in ((1, 6), (16, 420), (16, 300))), given


@pytest.mark.parametrize("name", GPUS)
def test_launches_are_the_launchers(gpu, host, name, monkeypatch):
    cupy, seen = gpu(name), []
    monkeypatch.setattr(launcher, "run", lambda op, launches, names: seen.extend(launches))
    for (pairs, height, width), changes in (*PROBLEMS, *random_problems(30)):
        given = ops.TVL1_PRESETS["opencv"] | changes
        for dtype, initial in (("uint8", False), ("float32", True)):
            seen.clear()
            images = [cupy.zeros((pairs, height, width), dtype) for _ in range(2)]
            start = cupy.zeros((pairs, 2, height, width), "float32") if initial else None
            ops.tvl1_flow(*images, initial_flow=start, **given)
            _, shared, cluster = GPUS[name]
            problem = (dtype, pairs, height, width, initial, cluster, shared, *(given[key] for key in ORDER))
            (wanted,) = host.launches("tvl1_flow", [problem])
            assert [launch._replace(arguments=()) for launch in seen] == [
                launchers.Launch(w.kernel, w.blocks, w.threads, (), w.shared, w.cluster) for w in wanted
            ], problem


def test_all_kernels_are_one_module(gpu):
    cupy = gpu("sm_90")
    for side in (17, 40):
        ops.tvl1_flow(*(cupy.zeros((side, side), np.uint8) for _ in range(2)), **QUICK)
    ((_, _, names),) = cupy.modules
    assert sorted(names) == sorted(KERNELS["tvl1_flow"])
    # what the launcher in C++ is made of
    built = json.loads(Path(kernel_resources.TABLE).read_text())["ops"]["tvl1_flow"]
    assert sorted(names) == sorted(f"mer_fast::{kernel}" for kernel in built)
