"""A stand-in for CuPy: arrays in host memory, kernels compiled by the host compiler from the same .cuh files.

It takes what CuPy takes and nothing else: compile options as a tuple, kernels by their name expressions, arguments that are
arrays (by pointer) or NumPy arrays of one element (by value). It writes down modules, launches and streams.
"""

import ctypes
import shutil
import subprocess
import sys
import types
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mer_fast import nvrtc

HOST = Path(__file__).parent / "cuda_host"
COMPILER = shutil.which("g++") or shutil.which("clang++")
# A kernel as a C function: its arguments come as CUDA takes them, a pointer to each.
SOURCE = """\
#include "driver.h"
// after the stand-in
{code}
#include <utility>

using namespace mer_fast;

template <auto kKernel, typename... Parameters, size_t... kPlaces>
void call(void (*)(Parameters...), Index blocks, int threads, void** words, std::index_sequence<kPlaces...>) {{
  launch(false, kKernel, blocks, threads, *static_cast<Parameters*>(words[kPlaces])...);
}}

template <typename... Parameters>
constexpr std::index_sequence_for<Parameters...> places(void (*)(Parameters...)) {{ return {{}}; }}
{functions}
"""
FUNCTION = """
extern "C" void kernel_{k}(long long blocks, int threads, void** words) {{
  call<{name}>({name}, blocks, threads, words, places({name}));
}}"""


def compile_for_host(folder, code, options, names, more=""):
    """{name expression: the kernel as a C function (blocks, threads, pointers to the arguments)} and the library."""
    functions = "".join(FUNCTION.format(k=k, name=name) for k, name in enumerate(names)) + more
    source, target = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(SOURCE.format(code=code, functions=functions))
    words = [o for o in options if o.startswith(("-I", "-D"))]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wno-unknown-pragmas", f"-I{HOST}", *words]
    command = [COMPILER, *flags, source, "-o", target]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(target))
    return {name: library[f"kernel_{k}"] for k, name in enumerate(names)}, library


class Stream:
    def __init__(self, ptr):
        self.ptr = ptr


class Device:
    """A context manager that makes the device current, as CuPy's."""

    def __init__(self, cupy, number):
        self.cupy, self.id = cupy, number

    def __enter__(self):
        self.cupy.entered.append(self.id)

    def __exit__(self, *error):
        self.cupy.entered.pop()


def make(kernels):
    """The module `cupy`. `kernels(code, options, names)` gives the compiled kernels of a module."""
    cupy = types.ModuleType("cupy")
    cupy.entered, cupy.modules, cupy.launches, cupy.streams_asked = [0], [], [], []

    class ndarray:
        def __init__(self, host, device=0):
            self.host, self.device = host, Device(cupy, device)

        shape, dtype, ndim, size, itemsize, strides = (
            property(lambda self, name=name: getattr(self.host, name))
            for name in ("shape", "dtype", "ndim", "size", "itemsize", "strides")
        )

        @property
        def data(self):
            return types.SimpleNamespace(ptr=self.host.ctypes.data)

        def __dlpack__(self, **how):
            cupy.streams_asked.append(how.get("stream"))
            return self.host.__dlpack__()

        def __dlpack_device__(self):
            return 1, 0  # a torch without CUDA takes it then

    ndarray.__module__ = "cupy"

    def empty(shape, dtype):
        host = np.empty(shape, dtype)
        host.view(np.uint8)[...] = 0xFF  # NaN in a float
        return ndarray(host, cupy.entered[-1])

    class Kernel:
        def __init__(self, name, function):
            self.name, self.function, self.max_dynamic_shared_size_bytes = name, function, 48 << 10

        def __call__(self, grid, block, args, *, shared_mem=0):
            assert shared_mem <= self.max_dynamic_shared_size_bytes
            cupy.launches.append(types.SimpleNamespace(
                name=self.name, grid=grid, block=block, args=args, shared=shared_mem, device=cupy.entered[-1]
            ))  # fmt: skip
            words = [_word(ndarray, x) for x in args]
            (blocks,), (threads,) = grid, block
            pointers = (ctypes.c_void_p * len(words))(*(w.ctypes.data for w in words))
            self.function(ctypes.c_longlong(blocks), threads, pointers)

    class RawModule:
        def __init__(self, *, code, options=(), name_expressions):
            assert isinstance(code, str) and isinstance(options, tuple)
            self.kernels = kernels(code, options, name_expressions)
            cupy.modules.append((code, options, name_expressions))

        def get_function(self, name):
            return Kernel(name, self.kernels[name])

    current = Stream(0)

    @contextmanager
    def stream(ptr):
        nonlocal current
        previous, current = current, Stream(ptr)
        yield
        current = previous

    cupy.ndarray, cupy.empty, cupy.RawModule = ndarray, empty, RawModule
    cupy.ascontiguousarray = lambda x: ndarray(np.ascontiguousarray(x.host), x.device.id)
    cupy.from_dlpack = lambda x: ndarray(np.from_dlpack(x))
    cupy.cuda = types.SimpleNamespace(get_current_stream=lambda: current, stream=stream)
    return cupy


def _word(ndarray, x):
    """Memory with the argument's value."""
    if isinstance(x, ndarray):
        return np.array([x.host.ctypes.data], np.uintp)
    assert isinstance(x, np.ndarray) and x.size == 1, f"CuPy takes no {type(x).__name__} by value"
    return x


@contextmanager
def installed(cupy):
    """`import cupy` gives the stand-in."""
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = cupy
    caches = (nvrtc._module, nvrtc._kernel)
    for cache in caches:
        cache.cache_clear()
    try:
        yield cupy
    finally:
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before
        for cache in caches:
            cache.cache_clear()
