"""What the benchmarks share. They never fail on a time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

# pytest puts the checkout first: an installed mer_fast goes before a checkout that is not built.
ROOT = str(Path(__file__).resolve().parent.parent)
sys.path[:] = [*(path for path in sys.path if path != ROOT), ROOT]

from mer_fast import MerFastError  # noqa: E402

from .cases import CASES, Case  # noqa: E402
from .measure import SLOW, Ceilings, cpu_ceilings, figures, once  # noqa: E402
from .rivals import MissingRival  # noqa: E402


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`bench_<op>.py` runs every candidate of every case of its op."""
    if {"case", "candidate"} <= set(metafunc.fixturenames):
        op = metafunc.module.__name__.rpartition("bench_")[2]
        chosen = [pytest.param(case, name, id=f"{case.shape}-{name}") for case in CASES[op] for name in case.names()]
        metafunc.parametrize(("case", "candidate"), chosen)


@pytest.fixture(scope="session")
def ceilings() -> Ceilings:
    return cpu_ceilings()


@pytest.fixture
def compete(benchmark: Any, ceilings: Ceilings) -> Any:
    """Times one candidate in the group of its case."""

    def run(case: Case, candidate: str) -> None:
        try:
            call = case.candidate(candidate)
        except (MissingRival, MerFastError) as missing:  # a rival, or what makes the frames, is not installed
            pytest.skip(str(missing))
        benchmark.group = case.name
        if once(call) > SLOW:
            benchmark.pedantic(call, rounds=2)
        else:
            benchmark(call)
        benchmark.extra_info.update(shape=case.shape, threads=torch.get_num_threads())
        if benchmark.stats is not None:  # there are none with --benchmark-disable
            benchmark.extra_info.update(figures(case, benchmark.stats.stats.median, ceilings))

    return run
