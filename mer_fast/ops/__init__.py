"""The ops. Each takes tensors on any device it has a kernel for; `mer_fast.backend` chooses the implementation."""

from .conv3d import conv3d
from .conv3d_pool import conv3d_pool
from .optical_strain import optical_strain
from .tim import tim
from .tvl1_flow import TVL1_PRESETS, tvl1_flow

__all__ = ["TVL1_PRESETS", "conv3d", "conv3d_pool", "optical_strain", "tim", "tvl1_flow"]
