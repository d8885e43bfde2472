"""`make gpu-check`: builds, tests and times mer_fast on a machine with an NVIDIA GPU, with that machine's own python3.

Needs torch 2.11 or later with CUDA, nvcc, setuptools, pybind11, cmake and pytest; no network and no virtual environment.
Writes `results/<gpu>.json`, of the same form as `results/cpu.json`. Nothing is timed after a failed build or test. At the end
the kernels run under compute-sanitizer, where the machine has it: what it says is in the results, and a fault is exit code 1.
OpenCV's DualTVL1, a rival on the CPU, is in opencv-contrib-python-headless; PYTHONPATH can name a folder that holds it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT))

try:
    import torch
except ImportError:
    sys.exit(f"gpu-check: {sys.executable} has no torch; run it with a python3 that has torch 2.11 or later, with CUDA")

if TYPE_CHECKING:
    from benchmarks.cases import Case
    from benchmarks.measure import Ceilings

COMPILED = "torch.compile"  # in the name of a rival that has to be compiled first
COMPILE_UNTIL = 360.0  # seconds from the start after which none is any more
TESTS_WITHIN = 300  # seconds
ALL_WITHIN = 470.0  # seconds; what is left of them at the end is compute-sanitizer's
SHORT = 1e-4  # seconds; below it a call is also timed in a CUDA graph


# --- what is timed ----------------------------------------------------------------------------------------------------
def at_dtype(case: Case, dtype: torch.dtype) -> Case:
    """The case with its inputs in a 16-bit dtype."""
    return replace(
        case,
        shape=f"{case.shape}, {str(dtype).removeprefix('torch.')}",
        inputs=lambda device: tuple(x.to(dtype) for x in case.inputs(device)),
        bytes_moved=case.bytes_moved // 2,
    )


def tim_of_bytes(case: Case, frames: int) -> Case:
    """The TIM case on uint8 frames; the rival rounds and saturates as the op does."""
    from benchmarks.rivals import Rival
    from mer_fast.reference import tim_weights

    def product(clip: torch.Tensor) -> Callable[[], Any]:
        weights = tim_weights(clip.shape[0], frames).T.to(clip.device, torch.float32).contiguous()
        flat = clip.view(clip.shape[0], -1)
        return lambda: (weights @ flat.float()).round().clamp(0, 255).to(torch.uint8)

    return replace(
        case,
        shape=f"{case.shape}, uint8",
        inputs=lambda device: tuple((255 * x).to(torch.uint8) for x in case.inputs(device)),
        rivals=(Rival("matrix product (PyTorch)", product, ("cuda",)),),
        bytes_moved=case.bytes_moved // 4,
    )


def recurrent_cases() -> dict[str, list[Case]]:
    """The CPU's sections and cells at batch 32, and a larger cell, in bfloat16; the last of each op in float32 too.

    The CPU's own cases are left out: they are small for a GPU, and their rivals take long to compile.
    """
    from benchmarks.cases import cell_case, section_case
    from benchmarks.recurrent_cases import CELLS, SECTIONS

    sections = [section._replace(input=(32, *section.input[1:])) for section in SECTIONS]
    steps = {"recurrent_conv2d": [[section_case(one, backward=backward) for backward in (False, True)] for one in sections]}
    for cell in CELLS:
        cells = cell._replace(input=(cell.input[0], 32, *cell.input[2:])), cell._replace(input=(16, 16, 32, 56, 56), hidden=64)
        steps[cell.op] = [[cell_case(one, form) for form in ("", "training step")] for one in cells]
    return {
        op: [*(at_dtype(case, torch.bfloat16) for cases in of_op for case in cases), *of_op[-1]] for op, of_op in steps.items()
    }


def gpu_cases() -> dict[str, list[Case]]:
    """The CPU's cases of the ops with a GPU kernel, and larger ones that fill a GPU, in its dtypes.

    Flow and recurrent ops and blocks of folds have others in place of the CPU's.
    """
    from benchmarks.cases import CASES, conv_case, optical_strain_case, tim_case
    from benchmarks.conv_cases import PLAIN, POOLED
    from benchmarks.gpu_flow import flow_cases
    from benchmarks.gpu_folds import fold_cases
    from mer_fast.ops._registry import OPS

    tim, back = tim_case(60, 10, 1792, 1792), tim_case(10, 60, 1792, 1792)  # the pixels of 64 clips of 224x224
    strain, gradient = (optical_strain_case(1024, 224, backward=backward) for backward in (False, True))
    conv = {
        op: [
            at_dtype(conv_case(op, shape._replace(input=(32, *shape.input[1:])), backward=backward), torch.bfloat16)
            for shape in shapes
            for backward in (False, True)
        ]
        for op, shapes in (("conv3d", PLAIN), ("conv3d_pool", POOLED))
    }
    larger = {
        **conv,
        "tim": [tim, at_dtype(tim, torch.float16), tim_of_bytes(tim, 10), back],
        "optical_strain": [strain, at_dtype(strain, torch.float16), gradient],
    }
    shown = {op: [case for case in cases if case.group is None] for op, cases in CASES.items()}
    found = {op: [*cases, *larger.get(op, [])] for op, cases in shown.items()} | flow_cases() | recurrent_cases()
    found["conv_norm_pool"] = fold_cases()
    return {op: found.get(op, []) for op, entry in OPS.items() if {"cuda", "triton"} & {*entry.kernels}}


# --- timing -----------------------------------------------------------------------------------------------------------
def measure_case(
    case: Case, timer: Any, ceilings: Ceilings, device: str, may_compile: Callable[[], bool], rate: float | None = None
) -> dict[str, Any]:
    """One entry of the results: every candidate of the case, in turn. `rate`: float32 instructions a second."""
    from benchmarks.cases import OURS
    from benchmarks.gpu_flow import add_rivals_on_cpu, floor
    from benchmarks.measure import compare, figures

    def left_out(name: str) -> str | None:
        return "left out, for time" if COMPILED in name and not may_compile() else None

    found, ready = compare(case, timer, device, left_out)
    if found["seconds"][OURS] < SHORT:
        found["graph_seconds"] = {OURS: timer.replayed(ready[OURS])}
    if case.pairs is not None and device != "cpu":
        add_rivals_on_cpu(found, case)
    seconds = found["seconds"][OURS]
    return found | figures(case, seconds, ceilings) | floor(case, seconds, ceilings, rate)


# --- the machine, the build, the tests --------------------------------------------------------------------------------
def slug(gpu: str) -> str:
    """`NVIDIA GeForce RTX 4090` -> `geforce-rtx-4090`: the name of the results."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower().replace("nvidia", "")).strip("-")


def told(*command: str) -> str:
    """The first line that a command says, or "unknown"."""
    if shutil.which(command[0]) is None:
        return "unknown"
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else "unknown"


def nvcc_version() -> str:
    done = subprocess.run(["nvcc", "--version"], capture_output=True, text=True) if shutil.which("nvcc") else None
    found = re.search(r"V(\d+\.\d+\.\d+)", done.stdout) if done else None
    return found[1] if found else "unknown"


def gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "kind": "cuda",
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "driver": told("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
    }


def build() -> bool:
    """Builds in place, for every architecture that ships."""
    environment = {**os.environ, "MER_FAST_CUDA": "1", "MAX_JOBS": str(os.cpu_count() or 1)}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode == 0


def run_tests() -> dict[str, Any]:
    """The test-suite on CUDA: how many tests passed, failed (errors too), were skipped, and seconds."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "pytest", "tests", "-m", "cuda", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=TESTS_WITHIN)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"gpu-check: the tests took longer than {TESTS_WITHIN} s; nothing was timed") from None
    print(done.stdout)
    return {**outcome(done.stdout), "ok": done.returncode == 0, "seconds": round(time.monotonic() - begun, 1)}


def outcome(report: str) -> dict[str, int]:
    """The counts in the last line of pytest's report."""
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", report.strip().splitlines()[-1])}
    return {
        "passed": counts.get("passed", 0),
        "failed": counts.get("failed", 0) + counts.get("error", 0),
        "skipped": counts.get("skipped", 0),
    }


def why_not() -> str | None:
    """Why this machine cannot run the check, in one line."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA; use a python3 whose torch has it"
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU; check the driver with nvidia-smi"
    return None


# --- all of it --------------------------------------------------------------------------------------------------------
def check(options: argparse.Namespace, begun: float) -> dict[str, Any]:
    """What is written. The library is built by now: this is where mer_fast is imported first."""
    from benchmarks import environment, sanitizer
    from benchmarks.gpu_flow import instruction_rate
    from benchmarks.gpu_folds import Evaluation, evaluation
    from benchmarks.gpu_timer import DeviceTimer, gpu_ceilings

    chosen = gpu_cases()
    if options.only is not None:
        if options.only not in chosen:
            raise SystemExit(f"gpu-check: --only {options.only}: the ops with a CUDA kernel are {', '.join(chosen)}")
        chosen = {options.only: chosen[options.only]}
    tests = None if options.skip_tests else run_tests()
    if tests is not None and not tests["ok"]:
        raise SystemExit("gpu-check: tests failed; nothing was timed")
    timer, rate = DeviceTimer(), instruction_rate(told)
    ceilings, bfloat16 = gpu_ceilings(timer)

    def may_compile() -> bool:
        return not options.no_compile and time.monotonic() - begun < COMPILE_UNTIL

    cases = [case for of_op in chosen.values() for case in of_op]
    measured = [measure_case(case, timer, ceilings, "cuda", may_compile, rate) for case in cases]
    if "conv_norm_pool" in chosen:
        measured.append(evaluation(Evaluation(), "cuda", ceilings))
    checked = None if options.skip_tests else sanitizer.check(begun + ALL_WITHIN - time.monotonic())
    return {
        "device": gpu(),
        "cpu": environment.cpu(),
        "versions": {
            **environment.versions(), "CUDA": torch.version.cuda, "nvcc": nvcc_version(), "Python": sys.version.split()[0],
        },
        "commit": environment.commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "tests": tests,
        "sanitizer": checked,
        "ceilings": {
            "float32_instructions_per_s": rate,
            "copy_gb_per_s": ceilings.copy / 1e9,
            "product_gflop_per_s": ceilings.product / 1e9,
            "bfloat16_product_gflop_per_s": bfloat16 / 1e9,
        },
        "cases": measured,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-build", action="store_true", help="use the library that is there")
    parser.add_argument("--skip-tests", action="store_true", help="time without testing; the results then say `tests: null`")
    parser.add_argument("--no-compile", action="store_true", help="leave the rivals that torch.compile makes out")
    parser.add_argument("--only", metavar="OP", help="time one op; prints its table and writes nothing")
    options = parser.parse_args(arguments)
    reason = why_not()
    if reason is not None:
        print(f"gpu-check: {reason}", file=sys.stderr)
        return 1
    begun = time.monotonic()
    if not options.skip_build and not build():
        print("gpu-check: the build failed; nothing was tested or timed", file=sys.stderr)
        return 1
    result = check(options, begun)
    from benchmarks.table import render

    print(render([result]))
    if options.only is None:
        RESULTS.mkdir(exist_ok=True)
        target = RESULTS / f"{slug(result['device']['name'])}.json"
        target.write_text(json.dumps(result, indent=1) + "\n")
        print(f"\ngpu-check: wrote {target.relative_to(ROOT)}")
    print(f"gpu-check: {time.monotonic() - begun:.0f} s in all")
    wrong = [tool for tool, words in (result["sanitizer"] or {}).items() if words.startswith("found")]
    if wrong:
        print(f"gpu-check: compute-sanitizer found faults ({', '.join(wrong)})", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
