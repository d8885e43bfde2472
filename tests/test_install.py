"""What an install that cannot build says: one line, the reason and the mend."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mer_fast

ROOT = Path(__file__).resolve().parent.parent


def build(tmp_path, **environment):
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temp"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_no_cmake(tmp_path):
    done = build(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "mer_fast cannot be built: there is no cmake. Install it (pip install cmake), then run pip again."
    )


def test_no_compiler(tmp_path):
    script(tmp_path / "bin" / "cmake", "#!/bin/sh\nexit 1\n")
    done = build(tmp_path, PATH=str(tmp_path / "bin"), CXX="")
    assert done.returncode == 1
    assert "there is no C++ compiler. Install one" in done.stderr.strip().splitlines()[-1]


def test_cmake_fails(tmp_path):
    for name, text in (("cmake", "echo the compiler is broken >&2; exit 1"), ("c++", "exit 1")):
        script(tmp_path / "bin" / name, f"#!/bin/sh\n{text}\n")
    done = build(tmp_path, PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert done.returncode == 1
    assert "the compiler is broken" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("mer_fast cannot be built: cmake failed (exit 1")


def test_a_missing_library_is_told_at_the_call_not_at_import(tmp_path):
    program = (
        "import torch, mer_fast\n"
        "try: mer_fast.ops.tim(torch.rand(3, 1, 4, 4), 5)\n"
        "except mer_fast.BackendError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "MER_FAST_LIBRARY": str(tmp_path / "_ops.so")},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "tim: no kernel for this cpu tensor (cpu: the C++ kernels are not built" in done.stdout
    assert "pip install ." in done.stdout


def test_info_tells_what_runs_and_why_the_rest_does_not():
    info = mer_fast.info()
    assert info["ops"]["tim"]["reference"] == info["ops"]["tim"]["cpu"] == "ready"
    assert info["build"]["cpu_kernel_in_use"] in info["build"]["cpu_kernels"].split(",")
    assert info["version"] == info["build"]["version"] == mer_fast.__version__
    assert info["cupy"].startswith("not installed; `pip install") or "(cupy" in info["cupy"]
    if info["gpu"] is not None:
        assert info["ops"]["tim"]["cuda"] not in ("ready", "")


def test_backend_is_restored_and_checked():
    with mer_fast.backend("reference"):
        assert mer_fast.info()["backend"] == "reference"
        unknown = mer_fast.backend("fast")
        with pytest.raises(mer_fast.BackendError, match="'fast' is not one of auto, reference"):
            unknown.__enter__()
    assert mer_fast.info()["backend"] == "auto"
