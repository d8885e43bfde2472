"""Layers on the ops: torch.nn's arguments, weights and state_dict, with the layers that follow fused in."""

from .conv3d import Conv3d
from .conv_pool3d import ConvPool3d

__all__ = ["Conv3d", "ConvPool3d"]
