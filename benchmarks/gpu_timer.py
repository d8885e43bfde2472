"""Times on a GPU: device events, the second-level cache flushed, candidates in turn; and what the GPU can do at most."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from .measure import Ceilings, Timing

Call = Callable[[], Any]


class DeviceTimer:
    """Medians of the seconds that the device is busy with a call; the host's part stays out."""

    def __init__(self, rounds: int = 51, warmup: int = 5) -> None:
        self.rounds, self.warmup = rounds, warmup
        level2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self.flush = torch.empty(2 * max(level2, 32 << 20), dtype=torch.uint8, device="cuda")

    def __call__(self, candidates: dict[str, Call]) -> dict[str, Timing]:
        """Times the candidates in turn, A B C A B C, each over a cache that holds none of its data."""
        for call in candidates.values():
            for _ in range(self.warmup):
                call()
        events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in candidates}
        for _ in range(self.rounds):
            for name, call in candidates.items():
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self.flush.fill_(1)
                torch.cuda._sleep(1_000_000)  # about half a millisecond, in which the host issues the call
                start.record()
                call()
                end.record()
                events[name].append((start, end))
            torch.cuda.synchronize()
        return {
            name: Timing(statistics.median(start.elapsed_time(end) / 1e3 for start, end in pairs), len(pairs))
            for name, pairs in events.items()
        }

    def replayed(self, call: Call, inner: int = 20) -> float:
        """Seconds a call in the replay of a CUDA graph of `inner` calls: what a small one costs in a pipeline."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(inner):
                call()
        return self({"graph": graph.replay})["graph"].seconds / inner


def gpu_ceilings(timer: Callable[[dict[str, Call]], dict[str, Timing]]) -> tuple[Ceilings, float]:
    """A large copy and a large float32 matrix product (no TF32), and the rate of a bfloat16 one, in operations a second."""
    free, _ = torch.cuda.mem_get_info()
    source = torch.randn(min(2 << 30, free // 8) // 4, device="cuda")
    target = torch.empty_like(source)
    size = 8192
    torch.backends.cuda.matmul.allow_tf32 = False
    single = torch.randn(size, size, device="cuda")
    half = single.bfloat16()
    calls = {"copy": lambda: target.copy_(source), "float32": lambda: single @ single, "bfloat16": lambda: half @ half}
    found = {name: timing.seconds for name, timing in timer(calls).items()}
    rates = {name: 2 * size**3 / found[name] for name in ("float32", "bfloat16")}
    return Ceilings(2 * 4 * source.numel() / found["copy"], rates["float32"]), rates["bfloat16"]
