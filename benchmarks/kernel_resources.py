"""`make kernels`: what the compiler gives every shipped CUDA kernel, against the committed table.

Each launcher `csrc/cuda/<op>.cu` is compiled for sm_80, sm_90 and sm_100: what ships is what it instantiates, so a new op
joins by its line in the registry. Registers, stack, spills and shared memory must equal `results/kernels.json`; a spill
or a stack is a failure whatever the table says. `--update` rewrites the table.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mer_fast.ops._registry import OPS  # noqa: E402

TABLE = Path(__file__).resolve().parent / "results" / "kernels.json"
ARCHS = ("sm_80", "sm_90", "sm_100")
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000")  # as in CMakeLists.txt

Resources = dict[str, int]  # registers, stack, spill_stores, spill_loads, shared
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
    return [
        f"{op}: {kernel} on {arch} has a stack of {r['stack']} bytes and {r['spill_stores'] + r['spill_loads']} bytes of spills"
        for op, kernels in found.items()
        for kernel, archs in kernels.items()
        for arch, r in archs.items()
        if r["stack"] or r["spill_stores"] or r["spill_loads"]
    ]


def differences(found: dict[str, Kernels], wanted: dict[str, Kernels]) -> tuple[list[str], list[str]]:
    """(differences of register counts alone, all others), one line each."""
    flat_found, flat_wanted = (
        {(op, kernel, arch): r for op, kernels in table.items() for kernel, archs in kernels.items() for arch, r in archs.items()}
        for table in (found, wanted)
    )
    registers, others = [], []
    for key in sorted(flat_found.keys() | flat_wanted.keys()):
        now, then = flat_found.get(key), flat_wanted.get(key)
        if now == then:
            continue
        where = "{}: {} on {}".format(*key)
        if now is None or then is None:
            others.append(f"{where} is {'no longer built' if now is None else 'new'}")
        elif {**now, "registers": 0} == {**then, "registers": 0}:
            registers.append(f"{where} has {now['registers']} registers, the table {then['registers']}")
        else:
            others.append(f"{where} has {now}, the table {then}")
    return registers, others


def table_text(version: str, found: dict[str, Kernels]) -> str:
    """The table as JSON, one kernel on one architecture a line, so that a change shows as such."""
    text = json.dumps({"nvcc": version, "ops": found}, indent=1)
    return re.sub(r"\{[^{}]*\}", lambda leaf: json.dumps(json.loads(leaf[0])), text) + "\n"


def show(found: dict[str, Kernels]) -> None:
    archs = " ".join(f"{arch:>7}" for arch in ARCHS)
    print("registers by architecture, and shared bytes\n")
    for op, kernels in found.items():
        print(f"{op:<52} {archs}  shared")
        for kernel, by_arch in kernels.items():
            counts = " ".join(f"{by_arch[arch]['registers'] if arch in by_arch else '-':>7}" for arch in ARCHS)
            print(f"  {kernel:<50} {counts} {max(r['shared'] for r in by_arch.values()):>7}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="rewrite the committed table")
    options = parser.parse_args(arguments)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("kernels: nvcc is not on the PATH; install the CUDA toolkit (no GPU is needed)", file=sys.stderr)
        return 1
    version, found = nvcc_version(nvcc), collect(nvcc)
    show(found)
    failures, warnings = spilled(found), []
    if options.update:
        if not failures:
            TABLE.parent.mkdir(exist_ok=True)
            TABLE.write_text(table_text(version, found))
    else:
        table = json.loads(TABLE.read_text())
        registers, others = differences(found, table["ops"])
        failures += others
        if version == table["nvcc"]:
            failures += registers
        elif registers:
            warnings = [f"nvcc is {version}, the table's was {table['nvcc']}; register counts that differ:", *registers]
    for line in warnings:
        print(f"warning: {line}")
    for line in failures:
        print(f"FAILED: {line}")
    print("\nkernels:", "failed" if failures else f"written to {TABLE}" if options.update else "as in the table")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
