"""The ops. Each takes tensors on any device it has a kernel for; `mer_fast.backend` chooses the implementation."""

from .conv3d import conv3d
from .conv3d_pool import conv3d_pool
from .conv_gru import conv_gru
from .conv_lstm import conv_lstm
from .conv_norm_pool import conv_norm_pool
from .farneback_flow import farneback_flow
from .optical_strain import optical_strain
from .recurrent_conv2d import recurrent_conv2d
from .tim import tim
from .tvl1_flow import TVL1_PRESETS, tvl1_flow

__all__ = [
    "TVL1_PRESETS", "conv3d", "conv3d_pool", "conv_gru", "conv_lstm", "conv_norm_pool", "farneback_flow", "optical_strain",
    "recurrent_conv2d",
    "tim", "tvl1_flow",
]  # fmt: skip
