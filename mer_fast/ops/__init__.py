"""The ops. Each takes tensors on any device it has a kernel for; `mer_fast.backend` chooses the implementation."""

from .optical_strain import optical_strain
from .tim import tim
from .tvl1_flow import TVL1_PRESETS, tvl1_flow

__all__ = ["TVL1_PRESETS", "optical_strain", "tim", "tvl1_flow"]
