"""The CUDA kernels under NVIDIA's compute-sanitizer: bad addresses, races and misused barriers on a real GPU.

`python3 benchmarks/sanitizer.py` makes one small call of each kind of launch; `check()` runs it under each tool at once.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TOOLS = ("memcheck", "racecheck", "synccheck")
ENOUGH, LEAST = 90.0, 20.0  # seconds, all tools at once; with less than the least left none starts
FOUND = 99  # what the sanitizer exits with where it found something
DONE = "all calls made"


def calls(device: str) -> None:
    """Every op with a CUDA kernel, forward and backward, on inputs made on the CPU: no other kernels run."""
    import torch

    from mer_fast import ops
    from mer_fast.ops._registry import OPS

    short = {
        "tvl1_flow": {"scales": 2, "warps": 2, "inner_iterations": 7, "outer_iterations": 1},
        "farneback_flow": {"levels": 1, "iterations": 2},
    }
    for size in ((40, 45), (100, 90), (33, 270)):  # in TV-L1 one block, a cluster, tiles
        frames = [torch.rand(2, *size).to(device) for _ in range(2)]
        start = torch.randn(2, 2, *size).to(device)
        for op, given in short.items():
            if "cuda" in OPS[op].kernels:
                getattr(ops, op)(*frames, initial_flow=start, **given)
    flow = torch.randn(2, 2, 19, 37).to(device).requires_grad_()
    clip = torch.rand(2, 7, 1, 9, 12).to(device).requires_grad_()
    for out in (ops.optical_strain(flow), ops.tim(clip, 12), ops.tim(clip, 3)):
        out.backward(torch.rand(out.shape).to(device))
    if device != "cpu":
        torch.cuda.synchronize()
    print(DONE)


def outcome(code: int, report: str) -> str:
    """"clean", or what is wrong in a line."""
    lines = [line.strip("= ") for line in report.splitlines() if line.strip("= ")]
    summaries = [line for line in lines if re.search(r" SUMMARY: \d", line)]
    if any(not re.search(r" SUMMARY: 0 ", line) for line in summaries):
        first = next(line for line in lines if not line.startswith("COMPUTE-SANITIZER"))
        return f"found: {first}; {summaries[-1]}"
    if code == 0 and summaries and DONE in lines:
        return "clean"
    return f"did not run: {lines[-1] if lines else f'exit code {code}'}"


def run(tool: str, within: float) -> str:
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(FOUND), sys.executable, __file__]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=within)
    except subprocess.TimeoutExpired:
        return f"did not finish within {within:.0f} s"
    return outcome(done.returncode, done.stdout)


def check(seconds_left: float) -> dict[str, str]:
    """What each tool says: "clean", "found: ..." with the first fault, or why it says nothing."""
    if shutil.which("compute-sanitizer") is None:
        return dict.fromkeys(TOOLS, "not run: compute-sanitizer is not on this machine")
    if seconds_left < LEAST:
        return dict.fromkeys(TOOLS, "not run, for time")
    with ThreadPoolExecutor() as pool:
        told = dict(zip(TOOLS, pool.map(lambda tool: run(tool, min(ENOUGH, seconds_left)), TOOLS), strict=True))
    for tool, words in told.items():
        print(f"compute-sanitizer {tool}: {words}")
    return told


if __name__ == "__main__":
    calls("cuda")
