"""The dynamic shared memory that CUDA kernels ask for at launch: the most of every kernel, against what each GPU grants.

What the compiler reports leaves it out: it is the launch that asks. `launches/<op>.cu` runs an op's schedule, as its launcher
does, and lists the launches without a GPU. An op without such a program has no kernel that takes dynamic shared memory.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = Path(__file__).resolve().parent / "launches"


class Gpu(NamedTuple):
    """What an architecture grants."""

    cluster: int  # blocks
    shared: int  # bytes a block


# sm_86 runs the machine code of sm_80 with less shared memory.
GPUS = {arch: Gpu(cluster, 1024 * shared) for arch, cluster, shared in
        (("sm_80", 1, 163), ("sm_86", 1, 99), ("sm_90", 16, 227), ("sm_100", 16, 227))}  # fmt: skip

Table = dict[str, dict[str, dict[str, int]]]  # op -> kernel -> architecture -> bytes


class Launched(NamedTuple):
    """One launch as its launcher asks for it."""

    kernel: str
    blocks: int
    threads: int
    shared: int
    cluster: int


def parse(text: str) -> list[list[Launched]]:
    """The launches of each problem in what a program of `launches/` prints."""
    rows = ([line.split("\t") for line in block.splitlines()] for block in text.split("\n\n")[:-1])
    return [[Launched(name, *map(int, numbers)) for name, *numbers in block] for block in rows]


def tvl1_problems(gpu: Gpu) -> Iterator[str]:
    """One level of every height and of every number of columns of warps, up to levels that no cluster holds."""
    for width in range(32, 32 * 10, 32):
        for height in range(16, 513):
            yield f"float32 1 {height} {width} 0 {gpu.cluster} {gpu.shared} .25 .15 .3 1 .8 1 .01 1 1 5"


def farneback_problems(gpu: Gpu) -> Iterator[str]:
    """Every window at a narrow and a wide image, every radius of the expansion, and pyramids from gentle to steep."""

    def problem(width: int, pyr_scale: float, levels: int, winsize: int, poly_n: int, gaussian: int) -> str:
        return f"uint8 1 {width} {width} 0 {gpu.shared} 528 {pyr_scale} {levels} {winsize} 1 {poly_n} 1.2 {gaussian}"

    for gaussian in (0, 1):
        yield from (problem(width, 0.5, 0, winsize, 5, gaussian) for winsize in range(2, 1024) for width in (100, 2000))
    yield from (problem(64, 0.5, 0, 15, poly_n, 0) for poly_n in range(1, 64))
    yield from (problem(width, step, 20, 15, 5, 0) for width in range(64, 4096, 101) for step in (0.1, 0.3, 0.5, 0.8))
    yield problem(32767, 0.001, 1, 15, 5, 0)


PROBLEMS = {"tvl1_flow": tvl1_problems, "farneback_flow": farneback_problems}


def most(launches: Iterable[Launched]) -> dict[str, int]:
    """The most that any launch of each kernel asks for; kernels that ask for none are left out."""
    found: dict[str, int] = {}
    for launch in launches:
        if launch.shared:
            found[launch.kernel] = max(found.get(launch.kernel, 0), launch.shared)
    return found


def of_op(nvcc: str, source: Path, folder: Path) -> dict[str, dict[str, int]]:
    """kernel -> architecture -> bytes, of one program of `launches/`."""
    program = folder / source.stem
    command = [nvcc, "-std=c++17", "-arch=sm_90", "-I", ROOT / "kernels" / "cuda", source, "-o", program]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"kernels: {source.name} does not compile\n{done.stderr}")
    found: dict[str, dict[str, int]] = {}
    for arch, gpu in GPUS.items():
        problems = "\n".join(PROBLEMS[source.stem](gpu))
        told = subprocess.run([program], input=problems, capture_output=True, text=True, check=True).stdout
        for kernel, shared in most(launch for launches in parse(told) for launch in launches).items():
            found.setdefault(kernel, {})[arch] = shared
    return dict(sorted(found.items()))


def collect(nvcc: str) -> Table:
    """Every op with a program in `launches/`."""
    with tempfile.TemporaryDirectory() as folder:
        return {source.stem: of_op(nvcc, source, Path(folder)) for source in sorted(PROGRAMS.glob("*.cu"))}


def over(table: Table, static: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Launches that a GPU would refuse. `static`: op -> kernel -> bytes of static shared memory, which count too."""
    return [
        f"{op}: {kernel} on {arch} takes {of_kernel + shared} bytes of shared memory, and there are {GPUS[arch].shared}"
        for op, kernels in table.items()
        for kernel, archs in kernels.items()
        for of_kernel in [static[op][kernel]]
        for arch, shared in archs.items()
        if of_kernel + shared > GPUS[arch].shared
    ]


def differences(found: Table, wanted: Table) -> list[str]:
    """All differences, one line each."""
    lines = []
    for op, kernel in sorted({(op, kernel) for table in (found, wanted) for op, kernels in table.items() for kernel in kernels}):
        now, then = (table.get(op, {}).get(kernel, {}) for table in (found, wanted))
        for arch in GPUS:
            if now.get(arch) != then.get(arch):
                told = [f"{n} bytes" if n is not None else "nothing" for n in (now.get(arch), then.get(arch))]
                lines.append(f"{op}: {kernel} on {arch} asks for {told[0]} of shared memory, in the table for {told[1]}")
    return lines


def show(table: Table) -> None:
    limits = " ".join(f"{arch:>7}" for arch in GPUS)
    print(f"\n{'dynamic shared memory of a launch at most, bytes':<52} {limits}\n")
    for op, kernels in table.items():
        print(op)
        for kernel, archs in kernels.items():
            print(f"  {kernel:<50} " + " ".join(f"{archs.get(arch, '-'):>7}" for arch in GPUS))
    print(f"{'limit':<52} " + " ".join(f"{gpu.shared:>7}" for gpu in GPUS.values()))
