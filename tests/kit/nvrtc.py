"""NVRTC, the compiler that CuPy uses, by itself: it needs neither CuPy, a GPU nor a driver."""

import ctypes
import ctypes.util
import importlib.util
import os
from functools import cache
from pathlib import Path


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
