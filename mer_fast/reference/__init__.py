"""The ops in plain PyTorch, in any float dtype: the truth that every kernel is tested against."""

from .conv3d import conv3d
from .conv3d_pool import conv3d_pool
from .conv_gru import conv_gru
from .conv_lstm import conv_lstm
from .conv_norm_pool import conv_norm_pool, kept_by_dropout
from .farneback_flow import farneback_flow
from .optical_strain import optical_strain
from .recurrent_conv2d import recurrent_conv2d
from .tim import tim, tim_weights
from .tvl1_flow import tvl1_flow

__all__ = [
    "conv3d", "conv3d_pool", "conv_gru", "conv_lstm", "conv_norm_pool", "farneback_flow", "kept_by_dropout", "optical_strain",
    "recurrent_conv2d", "tim", "tim_weights", "tvl1_flow",
]  # fmt: skip
