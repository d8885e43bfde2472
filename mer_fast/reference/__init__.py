"""The ops in plain PyTorch, in any float dtype: the truth that every kernel is tested against."""

from .optical_strain import optical_strain
from .tim import tim, tim_weights
from .tvl1_flow import tvl1_flow

__all__ = ["optical_strain", "tim", "tim_weights", "tvl1_flow"]
