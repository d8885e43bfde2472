"""Compiles the programs of `cuda_host/` and runs them: CUDA kernels on a CPU, in two builds.

"bounds" is watched by the address and undefined-behaviour sanitizers; in "races" the compiler reports every access of the
kernel to a tracker, which finds races, uninitialised reads and addresses of no buffer. The runtime is compiled once, a
program at its first use.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from benchmarks.dynamic_shared import PROGRAMS, Launched, parse
from mer_fast._library import kernel_folder

SOURCES = Path(__file__).parent / "cuda_host"
COMPILER = shutil.which("g++")
LANGUAGE = ["-std=c++17", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]
KERNEL_FLAGS = {
    # without the checks that the address sanitizer makes needless, which take a third of the compiler's time
    "bounds": [
        "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize=null,vptr,pointer-overflow", "-fno-sanitize-recover=all"
    ],
    "races": ["-O1", "-g", "-fsanitize=thread"],
}  # fmt: skip
LINK_FLAGS = {"bounds": ["-fsanitize=address,undefined"], "races": []}  # the tracker has what the compiler calls
RUNTIME_FLAGS = ["-O2", "-Wextra"]
RUNTIME = {
    "both": ("fiber", "grid", "scheduler", "report"),
    "bounds": ("plain_memory",),
    "races": ("tracker", "order", "shadow", "statics", "findings"),
}
RUNS = (("bounds", "forward"), ("bounds", "backward"), ("races", "1"))


class Host:
    """Programs by name: those of `cuda_host/`, or any source file."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.parts: dict[str, Path] = {}  # compiled
        self.programs: dict[tuple[str | Path, str], Path] = {}

    def unwatched(self, source: Path) -> Path:
        """The program of a kernel file that neither sanitizer nor tracker watches."""
        runtime = [*RUNTIME["both"], *RUNTIME["bounds"]]
        self.compile({source.stem: (source, ["-O1"])} | {name: (SOURCES / f"{name}.cpp", RUNTIME_FLAGS) for name in runtime})
        target = source.with_suffix(".program")
        check_call([COMPILER, *(self.parts[name] for name in (source.stem, *runtime)), "-o", target])
        return target

    def launches(self, op: str, problems: Sequence[Sequence[object]]) -> list[list[Launched]]:
        """What the launcher of `op` launches for each problem, as benchmarks/launches/<op>.cu has them; nothing runs."""
        if (op, "launches") not in self.programs:
            if COMPILER is None:
                pytest.skip("needs GCC (g++)")
            source = self.folder / f"launches-{op}.cpp"
            source.write_text(f'#include "cuda_host.h"\n#include "{PROGRAMS / op}.cu"\n')
            self.programs[op, "launches"] = self.unwatched(source)
        text = "\n".join(" ".join(str(int(w)) if isinstance(w, bool) else str(w) for w in problem) for problem in problems)
        done = subprocess.run([self.programs[op, "launches"]], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return parse(done.stdout)

    def program(self, op: str | Path, build: str) -> Path:
        """The program that runs the kernels of `op` in that build ("bounds" or "races")."""
        if (op, build) not in self.programs:
            if COMPILER is None:
                pytest.skip("needs GCC (g++)")
            source = op if isinstance(op, Path) else SOURCES / f"{op}.cpp"
            kernels = {f"{source.stem}.{name}": (source, flags) for name, flags in KERNEL_FLAGS.items()}
            runtime = {name: (SOURCES / f"{name}.cpp", RUNTIME_FLAGS) for names in RUNTIME.values() for name in names}
            self.compile(kernels | runtime)
            parts = [self.parts[name] for name in (f"{source.stem}.{build}", *RUNTIME["both"], *RUNTIME[build])]
            target = self.folder / f"{source.stem}.{build}.program"
            check_call([COMPILER, *parts, *LINK_FLAGS[build], "-o", target])
            self.programs[op, build] = target
        return self.programs[op, build]

    def compile(self, sources: dict[str, tuple[Path, list[str]]]) -> None:
        """Those of `sources`, by name, that are not compiled yet, several at a time."""

        def job(name: str) -> None:
            source, flags = sources[name]
            target = self.folder / f"{name}.o"
            check_call([COMPILER, *LANGUAGE, *flags, *includes(), "-c", source, "-o", target])
            self.parts[name] = target

        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or 2)) as pool:
            list(pool.map(job, sources.keys() - self.parts.keys()))

    def execute(self, op: str | Path, build: str, order: str, arguments: Sequence[object], inputs: Sequence[torch.Tensor]):
        """The finished program, its result in `stdout`."""
        words = [str(int(a)) if isinstance(a, bool) else str(a) for a in (*arguments, order)]
        payload = b"".join(x.contiguous().view(torch.uint8).numpy().tobytes() for x in inputs)
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
        command = [str(self.program(op, build)), *words]
        return subprocess.run(command, input=payload, capture_output=True, env=environment, timeout=120)

    def run(self, op: str, arguments: Sequence[object], inputs: Sequence[torch.Tensor], shape: Sequence[int], dtype=None):
        """The kernels' result: clean in both builds, the same in every order of threads and over every poison."""
        results = []
        for build, order in RUNS:
            done = self.execute(op, build, order, arguments, inputs)
            assert done.returncode == 0, f"{op} {arguments}, {build}, {order}: {done.stderr.decode()}"
            results.append(done.stdout)
        assert all(r == results[0] for r in results), "the result depends on the order of threads or on uninitialised memory"
        return torch.frombuffer(bytearray(results[0]), dtype=dtype or inputs[0].dtype).reshape(tuple(shape))

    def count(self, op: str, arguments: Sequence[object], inputs: Sequence[torch.Tensor]) -> tuple[int, int]:
        """(launches, blocks of all launches together)."""
        done = self.execute(op, "races", "forward", arguments, inputs)
        assert done.returncode == 0, done.stderr.decode()
        launches, blocks = re.search(rb"launches (\d+) blocks (\d+)", done.stderr).groups()
        return int(launches), int(blocks)


def includes() -> list[str]:
    return [f"-I{SOURCES}", f"-I{kernel_folder() / 'cuda'}"]


def check_call(command: Sequence[str | Path | None]) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """Runs CUDA kernels on the CPU."""
    return Host(tmp_path_factory.mktemp("cuda_host"))
