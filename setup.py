"""Builds the C++ (and, with a CUDA toolkit, CUDA) half through CMake; everything else is in pyproject.toml.

Environment: MER_FAST_CUDA=0|1 (default: whether a toolkit is present), MER_FAST_CUDA_ARCHS="80;90;100", MAX_JOBS,
MER_FAST_SANITIZE=1 (sanitized kernels, see `make test-sanitized`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
TORCH_WANTED = (2, 11)


def fail(reason: str, mend: str) -> SystemExit:
    return SystemExit(f"mer_fast cannot be built: {reason}. {mend}, then run pip again.")


def torch_dir() -> Path | None:
    """The installed torch package. Inside an isolated build the environment's own one serves: only its headers and the
    names in its library are needed, and the stable ABI makes the result fit every torch from 2.11 on."""
    paths = [Path(p) for p in sys.path if p] + [Path(sysconfig.get_paths()[key]) for key in ("purelib", "platlib")]
    return next((p / "torch" for p in paths if (p / "torch" / "include" / "torch" / "csrc" / "stable").is_dir()), None)


def torch_version(torch: Path) -> tuple[int, int]:
    found = re.search(r"__version__ = '(\d+)\.(\d+)", (torch / "version.py").read_text())
    return (int(found[1]), int(found[2])) if found else (0, 0)


class CMakeBuild(build_ext):
    def run(self) -> None:
        torch = torch_dir()
        if torch is None:
            raise fail("torch is not installed", "Install torch 2.11 or later")
        if torch_version(torch) < TORCH_WANTED:
            raise fail(f"torch {'.'.join(map(str, torch_version(torch)))} is too old", "Install torch 2.11 or later")
        cmake = shutil.which("cmake")
        if cmake is None:
            raise fail("there is no cmake", "Install it (pip install cmake)")
        if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
            raise fail("there is no C++ compiler", "Install one (Debian: apt install g++; conda: conda install cxx-compiler)")
        import pybind11

        package = ROOT / "mer_fast" if self.inplace else Path(self.build_lib).resolve() / "mer_fast"
        build = Path(self.build_temp).resolve() / "cmake"
        options = {
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": package,
            "MER_FAST_TORCH_DIR": torch,
            "MER_FAST_PYBIND11_INCLUDE": pybind11.get_include(),
            "MER_FAST_PYTHON_INCLUDE": sysconfig.get_paths()["include"],
            "MER_FAST_MODULE_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
            "MER_FAST_VERSION": self.distribution.get_version(),
            "MER_FAST_CUDA": os.environ.get("MER_FAST_CUDA", "auto"),
            "MER_FAST_SANITIZE": os.environ.get("MER_FAST_SANITIZE", "0"),
        }
        if os.environ.get("MER_FAST_CUDA_ARCHS"):
            options["MER_FAST_CUDA_ARCHS"] = os.environ["MER_FAST_CUDA_ARCHS"]
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        try:
            subprocess.run([cmake, "-S", ROOT, "-B", build, *generator, *(f"-D{k}={v}" for k, v in options.items())], check=True)
            subprocess.run([cmake, "--build", build, "-j", jobs], check=True)
        except subprocess.CalledProcessError as error:
            raise fail(
                f"cmake failed (exit {error.returncode}; its own message is above)",
                "Mend what it names, or set MER_FAST_CUDA=0 if it is the CUDA toolkit",
            ) from None


here = torch_dir()
setup(
    # The two libraries come out of one CMake build; this entry makes setuptools treat the wheel as a binary one.
    ext_modules=[Extension("mer_fast._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    # Only an isolated build in an environment without torch has to bring one.
    setup_requires=[] if here else ["torch==2.13.0"],
)
