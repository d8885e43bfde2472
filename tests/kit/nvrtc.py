"""NVRTC, the compiler that CuPy uses, by itself: it needs neither CuPy, a GPU nor a driver; and what it is asked for."""

import ctypes
import ctypes.util
import importlib.util
import os
from functools import cache
from pathlib import Path

ELEMENTS = {
    "uint8": "unsigned char", "float16": "mer_fast::Half", "bfloat16": "mer_fast::Bfloat16",
    "float32": "float", "float64": "double",
}  # fmt: skip
FLOATS = [name for name in ELEMENTS if name != "uint8"]
DERIVATIVES = ("central", "forward", "sobel")
# Every kernel that csrc/cuda/<op>.cu instantiates for the forward op.
KERNELS = {
    "tim": [
        *(f"mer_fast::tim_weights<{real}>" for real in ("float", "double")),
        *(
            f"mer_fast::tim_frames<{ELEMENTS[e]}, {tile}, {width}>"
            for e in ELEMENTS for tile in (4, 10, 16) for width in (1, 2 if e == "float64" else 4)
        ),
    ],
    "optical_strain": [
        f"mer_fast::optical_strain<{ELEMENTS[e]}, mer_fast::Derivative::{d}>" for e in FLOATS for d in DERIVATIVES
    ],
    "tvl1_flow": [
        *(f"mer_fast::tvl1_load<{ELEMENTS[e]}>" for e in ("float32", "uint8")),
        *(f"mer_fast::tvl1_solve<{rows}>" for rows in (8, 16, 24)),
        *(f"mer_fast::tvl1_{name}" for name in ("check", "resize", "warp", "iterate")),
    ],
    "farneback_flow": [
        *(f"mer_fast::farneback_image<{ELEMENTS[e]}>" for e in ("float32", "uint8")),
        *(f"mer_fast::farneback_expand<{radius}>" for radius in (0, 5)),
        *(f"mer_fast::farneback_iterate<{gaussian}, {chip}>" for gaussian in ("true", "false") for chip in ("true", "false")),
        "mer_fast::farneback_start",
    ],
}  # fmt: skip


@cache
def library():
    """libnvrtc of a CUDA toolkit or of the wheels nvidia-cuda-nvrtc, or None."""
    folders = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "lib64"]
    spec = importlib.util.find_spec("nvidia")
    folders += [p for root in (spec.submodule_search_locations if spec else ()) for p in Path(root).glob("*/lib")]
    found = [p for folder in folders for p in sorted(folder.glob("libnvrtc.so*")) if p.suffix != ".alt"]
    names = [*map(str, found), ctypes.util.find_library("nvrtc")]
    return next((ctypes.CDLL(name) for name in names if name), None)


def _check(code, what):
    library().nvrtcGetErrorString.restype = ctypes.c_char_p
    assert code == 0, f"{what}: {library().nvrtcGetErrorString(code).decode()}"


def _text(program, what):
    size = ctypes.c_size_t()
    _check(getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
    text = ctypes.create_string_buffer(size.value)
    _check(getattr(library(), f"nvrtcGet{what}")(program, text), what)
    return text.raw


def compile_kernels(code, options, names):
    """(cubin, {name expression: the kernel's name in it}) of CUDA source; the compiler's log where it fails."""
    program = ctypes.c_void_p()
    create = library().nvrtcCreateProgram
    _check(create(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None), "nvrtcCreateProgram")
    try:
        for name in names:
            _check(library().nvrtcAddNameExpression(program, name.encode()), name)
        words = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        failed = library().nvrtcCompileProgram(program, len(options), words)
        assert not failed, _text(program, "ProgramLog").decode()
        lowered = {}
        for name in names:
            found = ctypes.c_char_p()
            _check(library().nvrtcGetLoweredName(program, name.encode(), ctypes.byref(found)), name)
            lowered[name] = found.value.decode()
        return _text(program, "CUBIN"), lowered
    finally:
        library().nvrtcDestroyProgram(ctypes.byref(program))
