"""The ops in plain PyTorch, in any float dtype: the truth that every kernel is tested against."""

from .conv3d import conv3d
from .conv3d_pool import conv3d_pool
from .optical_strain import optical_strain
from .tim import tim, tim_weights
from .tvl1_flow import tvl1_flow

__all__ = ["conv3d", "conv3d_pool", "optical_strain", "tim", "tim_weights", "tvl1_flow"]
