"""Layers on the ops: torch.nn's arguments, weights and state_dict, with the layers that follow fused in."""

from .conv3d import Conv3d
from .conv_gru import ConvGRU, ConvGRUCell
from .conv_lstm import ConvLSTM, ConvLSTMCell
from .conv_pool3d import ConvPool3d
from .recurrent_conv2d import RecurrentConv2d

__all__ = ["Conv3d", "ConvGRU", "ConvGRUCell", "ConvLSTM", "ConvLSTMCell", "ConvPool3d", "RecurrentConv2d"]
