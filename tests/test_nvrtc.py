"""CuPy's arrays without a CUDA half: the launchers of mer_fast.nvrtc on a stand-in for CuPy that runs the same .cuh files on
the host, and every kernel they can ask for compiled by NVRTC. Never run on a GPU here."""

import ctypes
import os
import subprocess
import types
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import mer_fast
from mer_fast import _library, ops, reference
from mer_fast import nvrtc as launchers
from mer_fast._library import kernel_folder
from mer_fast.nvrtc import _cluster

from .kit import assert_near, nvrtc
from .kit.cuda_host import COMPILER, LANGUAGE, check_call, includes
from .kit.nvrtc import DERIVATIVES, ELEMENTS, FLOATS, KERNELS

# What the C++ launchers take from the .cuh files, to compare with.
FACTS = {
    "tim": """
extern "C" long long fact(const char* name, long long outer, long long in, long long out, long long inner, long long x) {
  const TimShape shape{outer, in, out, inner};
  const std::string asked = name;
  if (asked == "tile") return tim_tile(out);
  if (asked == "weights") return tim_weight_count(shape, x);
  if (asked == "weight_blocks") return tim_weight_blocks(shape, x);
  if (asked == "frame_blocks") return tim_frame_blocks(shape, tim_tile(out), x);
  if (asked == "pixels") return x == 8 ? tim_pixels<double>() : tim_pixels<float>();
  if (asked == "threads") return kTimThreads;
  if (asked == "bytes") return sizeof(TimShape);
  return -1;
}""",
    "optical_strain": """
extern "C" long long fact(const char* name, long long images, long long height, long long width) {
  const StrainShape shape{images, static_cast<int>(height), static_cast<int>(width)};
  const std::string asked = name;
  if (asked == "blocks") return strain_blocks(shape);
  if (asked == "threads") return kStrainThreads;
  if (asked == "bytes") return sizeof(StrainShape);
  return -1;
}""",
}


@pytest.fixture(scope="module")
def facts(host):
    """facts(op) -> a function that asks the .cuh file."""

    @cache
    def compiled(op):
        source, target = host.folder / f"facts.{op}.cpp", host.folder / f"facts.{op}.so"
        source.write_text(
            f'#include <string>\n#include "cuda_host.h"\n#include "{op}.cuh"\nusing namespace mer_fast;\n{FACTS[op]}'
        )
        check_call([COMPILER, *LANGUAGE, *includes(), "-fPIC", "-shared", source, "-o", target])
        library = ctypes.CDLL(str(target))
        library.fact.restype = ctypes.c_longlong
        return lambda name, *numbers: library.fact(name.encode(), *map(ctypes.c_longlong, numbers))

    return compiled


def random(shape, dtype):
    return np.random.randint(0, 256, shape).astype(dtype) if dtype == "uint8" else np.random.randn(*shape).astype(dtype)


@pytest.fixture(autouse=True)
def seeded():
    np.random.seed(7)


# --- the launchers ----------------------------------------------------------------------------------------------------
# packs and single pixels, one frame, several tiles and blocks
TIM_CASES = [((3, 5, 1, 4, 6), 3), ((2, 9, 1, 5, 7), 12), ((7, 6), 37), ((1, 1, 1, 2, 2), 5), ((2, 4, 3, 10, 11), 10)]


@pytest.mark.parametrize("dtype", [e for e in ELEMENTS if e != "bfloat16"])  # NumPy has no bfloat16
def test_tim(cupy, facts, dtype):
    fact = facts("tim")
    pixels = fact("pixels", 0, 0, 0, 0, np.dtype(dtype).itemsize)
    for shape, wanted in TIM_CASES:
        dim = 0 if len(shape) == 2 else 1
        clip = random(shape, dtype)
        cupy.launches.clear()
        out = ops.tim(cupy.ndarray(clip), wanted, dim=dim)
        assert type(out) is cupy.ndarray and out.dtype == clip.dtype
        exact = reference.tim(torch.from_numpy(clip).double(), wanted, dim=dim)
        if dtype == "uint8":
            clear = (exact.frac().abs() - 0.5).abs() > 1e-3
            assert torch.equal(torch.from_numpy(out.host)[clear], exact.round().clamp(0, 255).to(torch.uint8)[clear])
        else:
            assert_near(torch.from_numpy(out.host), exact, getattr(torch, dtype))

        weights, frames = cupy.launches
        view = np.prod(shape[:dim], dtype=int), shape[dim], wanted, np.prod(shape[dim + 1 :], dtype=int)
        tile = fact("tile", *view, 0)
        assert weights.grid == (fact("weight_blocks", *view, tile),) and frames.grid == (fact("frame_blocks", *view, pixels),)
        assert weights.block == frames.block == (fact("threads", *view, 0),)
        assert weights.args[0].size == fact("weights", *view, tile)
        assert weights.args[1].nbytes == frames.args[3].nbytes == fact("bytes", *view, 0)
        assert frames.name.endswith(f", {tile}, {pixels if view[3] % pixels == 0 else 1}>")
        assert [frames.args[0].host.ctypes.data, frames.args[2].host.ctypes.data] == [clip.ctypes.data, out.host.ctypes.data]


def test_tim_where_packs_do_not_fit(cupy):
    memory = np.random.randn(1 + 2 * 5 * 16).astype(np.float32)
    clip = memory[1:].reshape(2, 5, 1, 4, 4)
    assert clip.ctypes.data % 16 != 0
    out = ops.tim(cupy.ndarray(clip), 7)
    assert cupy.launches[-1].name.endswith(", 1>")
    assert np.array_equal(out.host, ops.tim(cupy.ndarray(_aligned(clip)), 7).host)
    assert cupy.launches[-1].name.endswith(", 4>")


def _aligned(array):
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("dtype", [e for e in FLOATS if e != "bfloat16"])
def test_optical_strain(cupy, facts, dtype, derivative):
    fact = facts("optical_strain")
    for images, height, width in [(1, 1, 1), (3, 9, 5), (2, 17, 33), (1, 40, 130)]:
        flow = random((images, 2, height, width), dtype)
        cupy.launches.clear()
        out = ops.optical_strain(cupy.ndarray(flow), derivative=derivative, shear=0.75)
        exact = reference.optical_strain(torch.from_numpy(flow).double(), derivative=derivative, shear=0.75)
        assert_near(torch.from_numpy(out.host), exact, getattr(torch, dtype))
        (launch,) = cupy.launches
        assert launch.grid == (fact("blocks", images, height, width),) and launch.block == (fact("threads", 0, 0, 0),)
        assert launch.args[2].nbytes == fact("bytes", 0, 0, 0)


def test_any_layout_and_nothing_at_all(cupy):
    flow = np.random.randn(3, 8, 2, 6).astype(np.float32).transpose(0, 2, 1, 3)[:, ::-1]
    out = ops.optical_strain(cupy.ndarray(flow))
    np.testing.assert_allclose(out.host, ops.optical_strain(flow), rtol=1e-5)
    cupy.launches.clear()
    assert ops.optical_strain(cupy.ndarray(np.empty((0, 2, 4, 4), np.float32))).shape == (0, 1, 4, 4)
    assert ops.tim(cupy.ndarray(np.empty((2, 5, 1, 0, 4), np.uint8)), 3).shape == (2, 3, 1, 0, 4)
    assert not cupy.launches


def test_the_arrays_device_is_current(cupy):
    ops.tim(cupy.ndarray(np.random.randn(4, 1, 2, 2), device=1), 3)
    assert [launch.device for launch in cupy.launches] == [1, 1]
    assert cupy.launches[-1].args[2].device.id == 1
    assert cupy.entered == [0]


def test_a_kernel_is_compiled_once(cupy):
    for _ in range(3):
        ops.tim(cupy.ndarray(np.random.randn(4, 1, 2, 2)), 3)
    assert len(cupy.modules) == 1
    ops.tim(cupy.ndarray(np.random.randn(4, 1, 2, 2)), 30)
    assert len(cupy.modules) == 2


def test_a_changed_source_is_another_module(cupy, tmp_path, monkeypatch):
    """CuPy keys its cache by code and options, and sees no file that the code includes."""
    ops.optical_strain(cupy.ndarray(np.ones((1, 2, 3, 3))))
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "element.cuh").write_text("// changed")
    monkeypatch.setattr(_library, "kernel_folder", lambda: tmp_path)
    launchers._module.cache_clear()
    monkeypatch.setattr(cupy, "RawModule", lambda **given: cupy.modules.append(given))
    launchers._module("optical_strain", ("x",))
    assert cupy.modules[0][1][-1] != cupy.modules[1]["options"][-1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda cp: ops.tim(cp.ndarray(np.ones((3, 1, 2, 2), int)), 3), "tim: clip must be uint8 or a float tensor, got"),
        (lambda cp: ops.tim(cp.ndarray(np.ones((3, 1, 2, 2))), 0), "tim: num_frames must be at least 1"),
        (lambda cp: ops.tim(cp.ndarray(np.ones((3, 1, 2, 2))), 3, dim=4), "tim: dim 4 is not a dimension"),
        (lambda cp: ops.optical_strain(cp.ndarray(np.ones((3, 3, 2, 2)))), "optical_strain: flow must have shape"),
        (lambda cp: ops.optical_strain(cp.ndarray(np.ones((1, 2, 2, 2))), derivative="x"), "optical_strain: derivative must be"),
        (
            lambda cp: ops.tvl1_flow(*(cp.ndarray(np.ones((32, 32), np.uint8), device=d) for d in (0, 1))),
            r"tvl1_flow: frame0 and frame1 must be on one device, got \[0, 1\]",
        ),
    ],
)
def test_bad_input(cupy, call, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        call(cupy)


def test_too_many_elements(cupy):
    with pytest.raises(mer_fast.MerFastError, match="tim: too many elements for one launch; split the batch"):
        launchers.run("tim", [launchers.Launch("tim_weights<float>", 2**31, 128, ())])


# --- clusters ---------------------------------------------------------------------------------------------------------
LAYOUT = """\
#include <cuda.h>
#include <stdio.h>
#include <stddef.h>
int main() {
  printf("%zu %zu %zu %zu %zu %zu %zu\\n", sizeof(CUlaunchConfig), offsetof(CUlaunchConfig, blockDimX),
         offsetof(CUlaunchConfig, sharedMemBytes), offsetof(CUlaunchConfig, hStream), offsetof(CUlaunchConfig, attrs),
         offsetof(CUlaunchConfig, numAttrs), sizeof(CUlaunchAttribute));
  printf("%zu %d %d\\n", offsetof(CUlaunchAttribute, value.clusterDim.x), CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
         CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED);
}
"""


def test_the_driver_s_structures(tmp_path):
    header = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
    if COMPILER is None or not (header / "cuda.h").exists():
        pytest.skip("needs a C++ compiler and cuda.h of a CUDA toolkit")
    (tmp_path / "layout.cpp").write_text(LAYOUT)
    words = [COMPILER, f"-I{header}", tmp_path / "layout.cpp", "-o", tmp_path / "layout"]
    subprocess.run(list(map(str, words)), check=True)
    told = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True).stdout.split()
    config, attribute = _cluster.Config, _cluster.Attribute
    ours = [ctypes.sizeof(config), *(getattr(config, n).offset for n in ("block", "shared", "stream", "attributes", "count"))]
    ours += [ctypes.sizeof(attribute), attribute.x.offset, _cluster.CLUSTER_DIMENSION, _cluster.NON_PORTABLE]
    assert list(map(int, told)) == ours


@pytest.fixture
def driver(monkeypatch):
    """A driver that writes down what it is asked to launch."""
    seen = []

    def launch(config, function, pointers, extra):
        config, first, second = config._obj, *(ctypes.cast(pointers[k], ctypes.POINTER(ctypes.c_int64))[0] for k in (0, 1))
        attribute = config.attributes[0]
        seen.append(dict(
            grid=[*config.grid], block=[*config.block], shared=config.shared, stream=config.stream, count=config.count,
            attribute=[attribute.id, attribute.x, attribute.y, attribute.z], function=function.value, arguments=[first, second],
        ))  # fmt: skip
        return len(seen) - 1  # the second one fails

    monkeypatch.setattr(_cluster, "driver", lambda: types.SimpleNamespace(cuLaunchKernelEx=launch))
    return seen


def test_clusters_go_through_the_driver(cupy, driver, monkeypatch):
    handle = types.SimpleNamespace(ptr=1234)
    kernel = types.SimpleNamespace(name="k", kernel=handle, max_dynamic_shared_size_bytes=48 << 10)
    monkeypatch.setattr(launchers, "_kernel", lambda op, names, name: kernel)
    x = cupy.ndarray(np.zeros(4))
    launch = launchers.Launch("k", 16, 256, (x, launchers.by_value(np.int64, 7)), shared=200_000, cluster=8)
    with cupy.cuda.stream(4096):
        launchers.run("tim", [launch])
    assert kernel.max_dynamic_shared_size_bytes == 200_000
    assert driver == [dict(
        grid=[16, 1, 1], block=[256, 1, 1], shared=200_000, stream=4096, count=1, attribute=[4, 8, 1, 1], function=1234,
        arguments=[x.host.ctypes.data, 7],
    )]  # fmt: skip
    with pytest.raises(mer_fast.MerFastError, match=r"k: the CUDA driver refuses the launch \(error 1\)"):
        launchers.run("tim", [launch])


def test_clusters_beyond_the_portable_size(monkeypatch):
    """They are allowed before the driver is asked whether one fits, and it is asked about the launch itself."""
    asked, clusters = [], []

    def most(count, function, config):
        config, attribute = config._obj, config._obj.attributes[0]
        asked.append((function.value, [*config.grid], [*config.block], config.shared, attribute.id, attribute.x))
        count._obj.value, code = clusters.pop()
        return code

    fake = types.SimpleNamespace(
        cuFuncSetAttribute=lambda function, name, value: asked.append((function.value, name, value)),
        cuOccupancyMaxActiveClusters=most,
    )
    monkeypatch.setattr(_cluster, "driver", lambda: fake)
    kernel = types.SimpleNamespace(name="k", kernel=types.SimpleNamespace(ptr=77), max_dynamic_shared_size_bytes=48 << 10)
    monkeypatch.setattr(launchers, "_kernel", lambda op, names, name: kernel)
    launch = launchers.Launch("k", 16, 224, (), shared=100_000, cluster=16)
    assert launchers.compiled("tvl1_flow", ("k",), launch) is kernel
    assert kernel.max_dynamic_shared_size_bytes == 100_000 and asked == [(77, 14, 1)]
    clusters[:] = [(3, 1), (0, 0), (8, 0)]
    assert [_cluster.holds(kernel, launch) for _ in range(3)] == [True, False, False]
    assert asked[1:] == 3 * [(77, [16, 1, 1], [224, 1, 1], 100_000, 4, 16)]
    asked.clear()
    launchers.compiled("tvl1_flow", ("k",), launch._replace(cluster=8))
    assert not asked


def test_an_op_without_a_launcher_says_so(cupy):
    with pytest.raises(mer_fast.BackendError, match=r"conv3d: no kernel for this CuPy array .*cupy.asnumpy"):
        launchers.call("conv3d", cupy.ndarray(np.ones(3)))


# --- NVRTC itself -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("archs", [["sm_90"], pytest.param(["sm_80", "sm_100"], marks=pytest.mark.full)])
@pytest.mark.parametrize("op", KERNELS)
def test_every_kernel_compiles_with_nvrtc(op, archs):
    if nvrtc.library() is None:
        pytest.skip("needs NVRTC: a CUDA toolkit with it, or `pip install nvidia-cuda-nvrtc`")
    folder = kernel_folder() / "cuda"
    # as CuPy calls it
    options = ("-std=c++17", f"-I{folder}", "-DMER_FAST_SOURCES=0x1", "-ftz=true", "--device-as-default-execution-space")

    def compile_for(arch):
        return nvrtc.compile_kernels(f'#include "{op}.cuh"', (*options, f"-arch={arch}"), KERNELS[op])

    with ThreadPoolExecutor() as pool:
        for cubin, lowered in pool.map(compile_for, archs):
            assert len(set(lowered.values())) == len(KERNELS[op])
            assert all(symbol.encode() in cubin for symbol in lowered.values())
