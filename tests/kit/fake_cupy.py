"""A stand-in for CuPy: arrays in host memory, kernels run by the CUDA stand-in from the same .cuh files.

It takes what CuPy takes and nothing else: compile options as a tuple, kernels by their name expressions, arguments that are
arrays (by pointer) or NumPy arrays of one element (by value). It writes down modules, launches and streams. A field of type
uint64 in a struct is a pointer: to the start of an array that lives, or null.
"""

import struct
import subprocess
import sys
import types
import weakref
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest

from mer_fast import nvrtc
from mer_fast._library import kernel_folder

from .cuda_host import COMPILER
from .nvrtc import KERNELS

# Runs one kernel of many: its arguments come by standard input, and the arrays among them go back.
SOURCE = """\
#include "driver.h"
// after the stand-in
#include "{op}.cuh"
#include <utility>

using namespace mer_fast;

struct Argument {{  // an array, or the bytes of a value
  Index is_array, bytes, before;
  void* memory;
  void* word() {{ return is_array ? static_cast<void*>(&memory) : memory; }}
}};
using Arguments = std::vector<Argument>;

template <auto kKernel, typename... Parameters, size_t... kPlaces>
void call(void (*)(Parameters...), const host::LaunchShape& shape, Arguments& all, Index parameters,
          std::index_sequence<kPlaces...>) {{
  if (parameters != static_cast<Index>(sizeof...(Parameters))) fail("the kernel has another number of parameters");
  const auto check = [](const Argument& one, size_t bytes) {{
    if (!one.is_array && one.bytes != static_cast<Index>(bytes)) fail("a parameter has another size");
  }};
  (check(all[kPlaces], sizeof(Parameters)), ...);
  launch<kKernel>(shape, *static_cast<Parameters*>(all[kPlaces].word())...);
}}

template <typename... Parameters>
constexpr std::index_sequence_for<Parameters...> places(void (*)(Parameters...)) {{ return {{}}; }}

template <auto kKernel>
void run(const host::LaunchShape& shape, Arguments& all, Index parameters) {{
  call<kKernel>(kKernel, shape, all, parameters, places(kKernel));
}}

void (*const kKernels[])(const host::LaunchShape&, Arguments&, Index) = {{{kernels}}};

int main(int count, char** words) {{
  Program program(count, words, "kernels KERNEL BLOCKS THREADS SHARED CLUSTER PARAMETERS ARGUMENTS POINTERS");
  Arguments all(program.integer("ARGUMENTS"));
  const auto read = [](void* memory, Index bytes) {{
    if (std::fread(memory, 1, bytes, stdin) != static_cast<size_t>(bytes)) fail("standard input is too short");
  }};
  for (Argument& one : all) {{
    read(&one, 3 * sizeof(Index));
    one.memory = host::allocate("argument", one.bytes, one.before);
    read(one.memory, one.bytes);
    host::host_writes(one.memory, one.bytes);
  }}
  for (Index k = 0; k < program.integer("POINTERS"); ++k) {{
    Index pointer[3];  // in argument, at byte, to argument
    read(pointer, sizeof(pointer));
    std::memcpy(static_cast<char*>(all[pointer[0]].memory) + pointer[1], &all[pointer[2]].memory, sizeof(void*));
  }}
  const host::LaunchShape shape(
      program.integer("BLOCKS"), program.integer("THREADS"), program.integer("SHARED"), program.integer("CLUSTER"));
  kKernels[program.integer("KERNEL")](shape, all, program.integer("PARAMETERS"));
  for (const Argument& one : all) {{
    if (one.is_array) std::fwrite(one.memory, 1, one.bytes, stdout);
  }}
}}
"""


def compile_kernels(host, op, names):
    """The program that runs any of the kernels `names`, name expressions of `<op>.cuh`."""
    source = host.folder / f"nvrtc-{op}.cpp"
    source.write_text(SOURCE.format(op=op, kernels=", ".join(f"run<{name}>" for name in names)))
    return host.unwatched(source)


def run_kernel(program, number, shape, words, array_at):
    """Runs kernel `number` and writes its arrays; `words` are (is an array, NumPy array)."""
    parameters, words, pointers = len(words), list(words), []
    for k, (is_array, x) in enumerate(words[:parameters]):
        for byte in () if is_array else pointers_in(x.dtype):
            address = int(x.view(np.uint8)[byte : byte + 8].view(np.uint64)[0])
            if address:
                place = next((j for j, (is_one, y) in enumerate(words) if is_one and y.ctypes.data == address), len(words))
                if place == len(words):
                    words.append((True, array_at(address)))
                pointers.append((k, byte, place))
    payload = b"".join(
        struct.pack("qqq", is_array, x.nbytes, x.ctypes.data % 256 if is_array else 0) + x.tobytes() for is_array, x in words
    ) + b"".join(struct.pack("qqq", *pointer) for pointer in pointers)  # fmt: skip
    command = [str(program), *map(str, (number, *shape, parameters, len(words), len(pointers), "forward"))]
    done = subprocess.run(command, input=payload, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    arrays, start = [x for is_array, x in words if is_array], 0
    for x in arrays:
        x.reshape(-1).view(np.uint8)[:] = np.frombuffer(done.stdout, np.uint8, x.nbytes, start)
        start += x.nbytes
    assert start == len(done.stdout)


def pointers_in(dtype, byte=0):
    """Where in a value of that dtype pointers are."""
    if dtype.fields is None:
        return [byte] if dtype == np.uint64 else []
    return [place for field, offset, *_ in dtype.fields.values() for place in pointers_in(field, byte + offset)]


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

    @property
    def compute_capability(self):
        return self.cupy.gpu.capability

    @property
    def attributes(self):
        gpu = self.cupy.gpu
        return {"MaxSharedMemoryPerBlockOptin": gpu.shared_bytes, "MultiProcessorCount": gpu.processors}


def make(kernels):
    """The module `cupy`. `kernels(code, options)` gives a module's program and the names of its kernels, in order."""
    cupy = types.ModuleType("cupy")
    cupy.entered, cupy.modules, cupy.launches, cupy.streams_asked = [0], [], [], []
    cupy.gpu = types.SimpleNamespace(capability="90", shared_bytes=227 * 1024, most_cluster=16, processors=132)
    alive = weakref.WeakSet()

    class ndarray:
        def __init__(self, host, device=0):
            self.host, self.device = host, Device(cupy, device)
            alive.add(self)

        shape, dtype, ndim, size, itemsize, strides = (
            property(lambda self, name=name: getattr(self.host, name))
            for name in ("shape", "dtype", "ndim", "size", "itemsize", "strides")
        )

        @property
        def data(self):
            return types.SimpleNamespace(ptr=self.host.ctypes.data)

        def reshape(self, *shape):
            return ndarray(self.host.reshape(shape), self.device.id)

        def __getitem__(self, where):
            return ndarray(self.host[where], self.device.id)

        def astype(self, dtype, copy=True):
            return ndarray(self.host.astype(dtype, copy=copy), self.device.id)

        def __dlpack__(self, **how):
            cupy.streams_asked.append(how.get("stream"))
            return self.host.__dlpack__()

        def __dlpack_device__(self):
            return 1, 0  # a torch without CUDA takes it then

    ndarray.__module__ = "cupy"

    def empty(shape, dtype):
        host = np.empty(shape, dtype)
        host.reshape(-1).view(np.uint8)[...] = 0xFF  # NaN in a float
        return ndarray(host, cupy.entered[-1])

    def array_at(address):
        found = [x.host for x in alive if x.host.size and x.host.ctypes.data == address]
        assert found, "a struct points to memory that no array holds"
        return max(found, key=lambda host: host.nbytes)

    class Kernel:
        def __init__(self, program, names, name):
            self.name, self.program, self.number = name, program, names.index(name)
            self.max_dynamic_shared_size_bytes = 48 << 10
            self.any_size = False

        def __call__(self, grid, block, args, *, shared_mem=0, cluster=1):
            assert shared_mem <= self.max_dynamic_shared_size_bytes <= cupy.gpu.shared_bytes
            told = {"name": self.name, "grid": grid, "block": block, "args": args, "shared": shared_mem, "cluster": cluster}
            cupy.launches.append(types.SimpleNamespace(**told, device=cupy.entered[-1]))
            words = [_word(ndarray, x) for x in args]
            run_kernel(self.program, self.number, (*grid, *block, shared_mem, cluster), words, array_at)

    class RawModule:
        def __init__(self, *, code, options=(), name_expressions):
            assert isinstance(code, str) and isinstance(options, tuple)
            self.program, self.names = kernels(code, options)
            self.name_expressions = name_expressions
            cupy.modules.append((code, options, name_expressions))

        def get_function(self, name):
            assert name in self.name_expressions
            return Kernel(self.program, self.names, name)

    current = Stream(0)

    @contextmanager
    def stream(ptr):
        nonlocal current
        previous, current = current, Stream(ptr)
        yield
        current = previous

    cupy.ndarray, cupy.empty, cupy.RawModule = ndarray, empty, RawModule
    cupy.zeros = lambda shape, dtype: ndarray(np.zeros(shape, dtype), cupy.entered[-1])
    cupy.ascontiguousarray = lambda x, dtype=None: ndarray(np.ascontiguousarray(x.host, dtype), x.device.id)
    cupy.from_dlpack = lambda x: ndarray(np.from_dlpack(x))
    cupy.cuda = types.SimpleNamespace(get_current_stream=lambda: current, stream=stream)
    return cupy


def _word(ndarray, x):
    if isinstance(x, ndarray):
        assert x.host.flags.c_contiguous
        return True, x.host
    assert isinstance(x, np.ndarray) and x.size == 1, f"CuPy takes no {type(x).__name__} by value"
    return False, x


@contextmanager
def installed(cupy):
    """`import cupy` gives the stand-in."""
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = cupy
    kept = (nvrtc._module, nvrtc._kernel)
    for one in kept:
        one.cache_clear()
    try:
        yield cupy
    finally:
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before
        for one in kept:
            one.cache_clear()


@pytest.fixture(scope="session")
def kernel_programs(host):
    """kernel_programs(op) -> the program that runs any kernel of that op."""
    return cache(lambda op: compile_kernels(host, op, KERNELS[op]))


@pytest.fixture
def cupy(kernel_programs):
    """`import cupy` gives the stand-in."""
    if COMPILER is None:
        pytest.skip("needs a C++ compiler")

    def kernels(code, options):
        op = code.removeprefix('#include "').removesuffix('.cuh"')
        assert "-std=c++17" in options and f"-I{kernel_folder() / 'cuda'}" in options
        return kernel_programs(op), KERNELS[op]

    with installed(make(kernels)) as module:
        yield module
