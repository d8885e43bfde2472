"""Random numbers that follow from a seed and a name alone: not from the order, the process or what ran before."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """A seed of its own for what is called `names`, from 0 to below 2^63."""
    text = json.dumps([int(seed), *names])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, *names))


def set_seed(seed: int) -> None:
    """Seeds PyTorch's global generators, NumPy's and Python's."""
    # Not torch.manual_seed, which where no GPU is in use yet looks through the stack: much longer than a small network's step.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seeds the global generators, also of a GPU that is first used inside, and gives them back as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            torch.manual_seed(seed)
            set_seed(seed)
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
