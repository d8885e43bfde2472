"""`make kernels`: what the compiler gives every shipped kernel, CUDA and Triton, against the committed table.

Each launcher `csrc/cuda/<op>.cu` is compiled for sm_80, sm_90 and sm_100: what ships is what it instantiates, so a new op
joins by its line in the registry. `triton_resources.py` does the same for Triton's configurations, and `dynamic_shared.py`
finds the most shared memory that a launch asks for. Registers, stack, spills and shared memory must equal
`results/kernels.json`. A spill or a stack is a failure whatever the table says, and so are a 16-bit or TF32 product without
tensor cores and a launch that asks for more shared memory than the GPU has. `--update` rewrites the table.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import dynamic_shared, triton_resources  # noqa: E402
from mer_fast.ops._registry import OPS  # noqa: E402

TABLE = Path(__file__).resolve().parent / "results" / "kernels.json"
ARCHS = ("sm_80", "sm_90", "sm_100")
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000")  # as in CMakeLists.txt

Resources = dict[str, Any]  # registers, stack, spill_stores, spill_loads, shared; of Triton's as in triton_resources.py
Kernels = dict[str, dict[str, Resources]]  # kernel -> architecture -> resources

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<spill_stores>\d+) bytes spill stores, (?P<spill_loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def demangle(symbol: str) -> str:
    """`tim_frames<float, 10, 4>` from its symbol: without namespace, return type and parameters."""
    library = ctypes.CDLL("libstdc++.so.6")
    library.__cxa_demangle.restype = ctypes.c_char_p
    name = (library.__cxa_demangle(symbol.encode(), None, None, None) or symbol.encode()).decode()
    name = name.replace("mer_fast::", "").removeprefix("void ")
    depth = 0
    for k, letter in enumerate(name):  # the parameters start at the first parenthesis outside <>
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:k]
    return name


def parse(log: str) -> Kernels:
    """The kernels in what `ptxas -v` says."""
    kernels: Kernels = {}
    for entry in ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        resources = {key: int(entry[key]) for key in ("registers", "stack", "spill_stores", "spill_loads")}
        resources["shared"] = int(shared[1]) if shared else 0
        kernels.setdefault(demangle(entry["name"]), {})[entry["arch"]] = resources
    return kernels


def nvcc_version(nvcc: str) -> str:
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V(\d+\.\d+\.\d+)", told)
    return found[1] if found else "unknown"


def compile_op(nvcc: str, op: str, arch: str, folder: Path) -> Kernels:
    source, target = ROOT / "csrc" / "cuda" / f"{op}.cu", folder / f"{op}.{arch}.cubin"
    include = ["-I", ROOT / "kernels" / "cuda", "-isystem", Path(torch.__file__).parent / "include"]
    command = [nvcc, *FLAGS, "-Xptxas", "-v", f"-arch={arch}", *include, "-cubin", source, "-o", target]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"kernels: {op} does not compile for {arch}\n{done.stderr}")
    return parse(done.stderr)


def collect(nvcc: str) -> dict[str, Kernels]:
    """Every op with a CUDA kernel: op -> kernel -> architecture -> resources."""
    ops = [op for op, entry in OPS.items() if "cuda" in entry.kernels]
    jobs = [(op, arch) for op in ops for arch in ARCHS]
    found: dict[str, Kernels] = {op: {} for op in ops}
    workers = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        for (op, _), kernels in zip(jobs, pool.map(lambda job: compile_op(nvcc, *job, Path(folder)), jobs), strict=True):
            for kernel, archs in kernels.items():
                found[op].setdefault(kernel, {}).update(archs)
    return {op: dict(sorted(kernels.items())) for op, kernels in found.items()}


def spilled(found: dict[str, Kernels]) -> list[str]:
    """What no kernel may have: values that the compiler put into memory."""

    def spills(r: Resources) -> int:  # Triton's are in the stack
        return r.get("spill_stores", 0) + r.get("spill_loads", 0)

    return [
        f"{op}: {kernel} on {arch} has a stack of {r['stack']} bytes and {spills(r)} bytes of spills"
        for op, kernels in found.items()
        for kernel, archs in kernels.items()
        for arch, r in archs.items()
        if r["stack"] or spills(r)
    ]


def differences(found: dict[str, Kernels], wanted: dict[str, Kernels], other_compilers: set[str]) -> tuple[list[str], list[str]]:
    """(what another compiler may change, all other differences), one line each.

    `other_compilers`: which of "nvcc" and "triton" are not of the table's version. That changes register counts, and
    Triton's shared memory.
    """
    flat_found, flat_wanted = (
        {(op, kernel, arch): r for op, kernels in table.items() for kernel, archs in kernels.items() for arch, r in archs.items()}
        for table in (found, wanted)
    )
    excused, others = [], []
    for key in sorted(flat_found.keys() | flat_wanted.keys()):
        now, then = flat_found.get(key), flat_wanted.get(key)
        if now == then:
            continue
        where = "{}: {} on {}".format(*key)
        if now is None or then is None:
            others.append(f"{where} is {'no longer built' if now is None else 'new'}")
            continue
        changed = [name for name in now if now[name] != then.get(name)]
        triton = "tensor_cores" in now
        line = f"{where} has " + ", ".join(f"{now[name]} {name}, the table {then.get(name)}" for name in changed)
        free = {"registers", "shared"} if triton else {"registers"}
        is_excused = ("triton" if triton else "nvcc") in other_compilers and free.issuperset(changed)
        (excused if is_excused else others).append(line)
    return excused, others


def static_shared(found: dict[str, Kernels]) -> dict[str, dict[str, int]]:
    """op -> kernel -> bytes, of the architecture that takes most."""
    return {
        op: {kernel: max(r["shared"] for r in archs.values()) for kernel, archs in kernels.items()}
        for op, kernels in found.items()
    }


def table_text(versions: dict[str, str], found: dict[str, Kernels], dynamic: dynamic_shared.Table) -> str:
    """The table as JSON, one kernel on one architecture a line, so that a change shows as such."""
    text = json.dumps({**versions, "ops": found, "dynamic_shared": dynamic}, indent=1)
    return re.sub(r"\{[^{}]*\}", lambda leaf: json.dumps(json.loads(leaf[0])), text) + "\n"


def show(found: dict[str, Kernels]) -> None:
    archs = " ".join(f"{arch:>7}" for arch in ARCHS)
    print("registers by architecture, shared bytes, and Triton's tensor-core instructions\n")
    for op, kernels in found.items():
        print(f"{op:<52} {archs}  shared")
        for kernel, by_arch in kernels.items():
            counts = " ".join(f"{by_arch[arch]['registers'] if arch in by_arch else '-':>7}" for arch in ARCHS)
            products = " ".join(str(r["tensor_cores"] or "-") for r in by_arch.values() if "tensor_cores" in r)
            print(f"  {kernel:<50} {counts} {max(r['shared'] for r in by_arch.values()):>7}  {products}".rstrip())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="rewrite the committed table")
    options = parser.parse_args(arguments)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("kernels: nvcc is not on the PATH; install the CUDA toolkit (no GPU is needed)", file=sys.stderr)
        return 1
    if importlib.util.find_spec("triton") is None:
        print("kernels: triton is not installed; run `pip install triton` (no GPU is needed)", file=sys.stderr)
        return 1
    versions = {"nvcc": nvcc_version(nvcc), "triton": importlib.metadata.version("triton")}
    found, dynamic = {**collect(nvcc), **triton_resources.collect()}, dynamic_shared.collect(nvcc)
    show(found)
    dynamic_shared.show(dynamic)
    failures = spilled(found) + triton_resources.misused_tensor_cores(found) + dynamic_shared.over(dynamic, static_shared(found))
    warnings: list[str] = []
    if options.update:
        if not failures:
            TABLE.parent.mkdir(exist_ok=True)
            TABLE.write_text(table_text(versions, found, dynamic))
    else:
        table = json.loads(TABLE.read_text())
        other_compilers = {name for name, version in versions.items() if table[name] != version}
        excused, others = differences(found, table["ops"], other_compilers)
        failures += others + dynamic_shared.differences(dynamic, table["dynamic_shared"])
        if excused:
            told = ", ".join(f"{name} is {versions[name]}, the table's was {table[name]}" for name in sorted(other_compilers))
            warnings = [f"{told}; what differs by that:", *excused]
    for line in warnings:
        print(f"warning: {line}")
    for line in failures:
        print(f"FAILED: {line}")
    print("\nkernels:", "failed" if failures else f"written to {TABLE}" if options.update else "as in the table")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
