"""Farneback's flow on CuPy's arrays without a CUDA half: the launches are those of the launcher in C++, the flow is the
reference's."""

import json

import numpy as np
import pytest
import torch

import mer_fast
from benchmarks import kernel_resources
from mer_fast import nvrtc as launchers
from mer_fast import ops, reference
from mer_fast.nvrtc import farneback_flow as launcher

from .kit.nvrtc import KERNELS
from .pairs import assert_flow_near, pair

DEFAULTS = {
    "pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2, "gaussian": False,
}  # fmt: skip


def frames(pairs, height, width, dtype="uint8"):
    made = [pair(height, width, seed=k) for k in range(pairs)]
    stacked = [np.stack([p[k].numpy() for p in made]) for k in (0, 1)]
    return stacked if dtype == "uint8" else [(x / 255).astype(dtype) for x in stacked]


def exact(given, initial=None, **parameters):
    scaled = [torch.from_numpy(x / 255 if x.dtype == np.uint8 else x).double() for x in given]
    start = None if initial is None else torch.from_numpy(initial).double()
    return reference.farneback_flow(*scaled, initial_flow=start, **parameters)


# --- the flow ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "parameters", "shared_bytes"),
    [
        ((2, 70, 66), {"iterations": 2}, 227 * 1024),
        ((1, 37, 45), {"gaussian": True, "winsize": 8, "poly_n": 7, "poly_sigma": 1.5}, 99 * 1024),
        ((1, 40, 45), {"winsize": 22, "iterations": 2}, 1024),  # off chip
    ],
)
def test_flow_is_the_references(cupy, size, parameters, shared_bytes):
    given, cupy.gpu.shared_bytes = frames(*size), max(shared_bytes, 48 * 1024)
    with pytest.MonkeyPatch.context() as patch:
        if shared_bytes < 48 * 1024:  # what the other kernels need is there on every GPU
            real, limits = launcher._farneback.step, launcher.Limits(shared_bytes, 4 * 132)
            patch.setattr(launcher._farneback, "step", lambda *words: real(*words[:-1], limits))
        out = ops.farneback_flow(*map(cupy.ndarray, given), **parameters)
    assert type(out) is cupy.ndarray and out.dtype == np.float32
    assert_flow_near(torch.from_numpy(out.host), exact(given, **parameters), share=0.999, mean=1e-4, near=1e-3)
    chip = "true" if shared_bytes > 1024 else "false"
    name = f"mer_fast::farneback_iterate<{str(parameters.get('gaussian', False)).lower()}, {chip}>"
    assert [launch.name for launch in cupy.launches].count(name) == sum("iterate" in launch.name for launch in cupy.launches) > 0


def test_initial_flow_shapes_and_dtypes(cupy):
    given, start = frames(1, 70, 64, "float32"), np.random.default_rng(0).standard_normal((1, 2, 70, 64)).astype(np.float32)
    parameters = {"iterations": 1}
    out = ops.farneback_flow(*map(cupy.ndarray, given), initial_flow=cupy.ndarray(start), **parameters)
    assert_flow_near(torch.from_numpy(out.host), exact(given, start, **parameters), share=0.999, mean=1e-4, near=1e-3)
    one = ops.farneback_flow(*(cupy.ndarray(x[0]) for x in given), initial_flow=cupy.ndarray(start[0]), **parameters)
    assert np.array_equal(one.host, out.host[0])
    half = ops.farneback_flow(*map(cupy.ndarray, frames(1, 20, 24, "float16")), **parameters)
    assert half.dtype == np.float16
    cupy.launches.clear()
    assert ops.farneback_flow(*(cupy.ndarray(x[:0]) for x in given)).shape == (0, 2, 70, 64)
    assert not cupy.launches


def test_bad_frames_are_nan_for_their_pair(cupy):
    given = frames(3, 18, 17, "float32")
    given[1][1, 3, 3] = np.nan
    given[0][2, 0, 0] = 7
    flow = ops.farneback_flow(*map(cupy.ndarray, given), iterations=1).host
    assert np.isfinite(flow[0]).all() and np.isnan(flow[1:]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: {"frame1": b[:-1]}, "frame0 and frame1 must have one shape"),
        (lambda a, b: {"winsize": 1}, "winsize must be at least 2"),
        (lambda a, b: {"gaussian": 1}, "gaussian must be True or False"),
        (lambda a, b: {x: np.zeros((1, 32768), np.uint8) for x in ("frame0", "frame1")}, "frame0 must be at most 32767 pixels"),
    ],
)
def test_bad_input_is_named(cupy, change, message):
    a, b = (x[0] for x in frames(1, 20, 20))
    given = {"frame0": a, "frame1": b, **change(a, b)}
    given = {name: cupy.ndarray(x) if isinstance(x, np.ndarray) else x for name, x in given.items()}
    with pytest.raises(mer_fast.MerFastError, match=f"^farneback_flow: {message}"):
        ops.farneback_flow(**given)
    assert not cupy.launches


# --- the launches -----------------------------------------------------------------------------------------------------
PROBLEMS = [
    ((3, 224, 224), {}), ((200, 128, 128), {}), ((1, 1, 1), {}), ((1, 480, 640), {"gaussian": True}),
    ((2, 33, 40), {"winsize": 101}), ((1, 300, 1100), {"winsize": 1023, "iterations": 1}),
    ((1, 700, 500), {"winsize": 301, "gaussian": True}), ((5, 97, 133), {"pyr_scale": 0.8, "levels": 9, "poly_n": 63}),
    ((1, 900, 400), {"pyr_scale": 0.1, "winsize": 40}), ((2, 65, 64), {"levels": 0, "winsize": 2, "poly_sigma": 0}),
]  # fmt: skip


def random_problems(count):
    draw = np.random.default_rng(3)
    for _ in range(count):
        given = {
            "pyr_scale": float(draw.uniform(0.2, 0.95)), "levels": int(draw.integers(0, 6)),
            "iterations": int(draw.integers(1, 4)),
            "winsize": int(draw.integers(2, 120)), "poly_n": int(draw.integers(1, 10)), "gaussian": bool(draw.integers(2)),
        }  # fmt: skip
        yield tuple(int(draw.integers(1, most)) for most in (6, 400, 400)), given


@pytest.mark.parametrize(("shared_bytes", "processors"), [(227 * 1024, 132), (99 * 1024, 28), (163 * 1024, 108)])
def test_launches_are_the_launchers(cupy, host, shared_bytes, processors, monkeypatch):
    seen = []
    cupy.gpu.shared_bytes, cupy.gpu.processors = shared_bytes, processors
    monkeypatch.setattr(launcher, "run", lambda op, launches, names: seen.extend(launches))
    for (pairs, height, width), changes in (*PROBLEMS, *random_problems(30)):
        given = DEFAULTS | changes
        for dtype, initial in (("uint8", False), ("float32", True)):
            seen.clear()
            images = [cupy.zeros((pairs, height, width), dtype) for _ in range(2)]
            start = cupy.zeros((pairs, 2, height, width), "float32") if initial else None
            ops.farneback_flow(*images, initial_flow=start, **given)
            problem = (dtype, pairs, height, width, initial, shared_bytes, 4 * processors, *given.values())
            (wanted,) = host.launches("farneback_flow", [problem])
            assert [launch._replace(arguments=()) for launch in seen] == [
                launchers.Launch(w.kernel, w.blocks, w.threads, (), w.shared, w.cluster) for w in wanted
            ], problem


def test_all_kernels_are_one_module(cupy):
    for side in (17, 40):
        ops.farneback_flow(*(cupy.zeros((side, side), np.uint8) for _ in range(2)), iterations=1)
    ((_, _, names),) = cupy.modules
    assert sorted(names) == sorted(KERNELS["farneback_flow"])
    # what the launcher in C++ is made of
    built = json.loads(kernel_resources.TABLE.read_text())["ops"]["farneback_flow"]
    assert sorted(names) == sorted(f"mer_fast::{kernel}" for kernel in built)
