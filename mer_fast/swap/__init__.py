"""Swapping the layers of an existing model for fused ones."""

from __future__ import annotations

import torch

from ..errors import MerFastError
from ..nn import ConvPool3d
from .conv_chains import swap_conv_chains
from .recurrent_cells import swap_recurrent_cells
from .report import Left, Swapped, SwapReport
from .trace import understand

__all__ = ["Left", "SwapReport", "Swapped", "swap_layers"]

# Each takes the model, what is understood of it, and the report it adds to.
PATTERNS = (swap_conv_chains, swap_recurrent_cells)


def swap_layers(model: torch.nn.Module) -> SwapReport:
    """Swaps layers of a model for faster ones with the same results, in place.

    Parameters stay the same objects under the same names, so that optimizers and checkpoints keep working both ways; mode,
    dtype and device stay too. The modules themselves stay and change their class.

    - A chain of modules Conv3d -> ReLU, LeakyReLU(0.01), GELU or nothing -> MaxPool3d, each used once by one consumer, becomes
      `nn.ConvPool3d`; the modules behind the convolution become `torch.nn.Identity`.
    - With a BatchNorm3d behind the convolution the modules run one by one while the norm uses batch statistics, and as one
      layer, the norm folded into the weights, while it uses its running statistics.
    - Any other Conv3d becomes `nn.Conv3d`, with the activation behind it where that has no other use.
    - A ConvLSTM cell of the common public form, one 2-D convolution over the concatenated input and state and then four
      gates in any order, runs by `ops.conv_lstm`, if that gives its results on random input. It keeps its class (it becomes a
      subclass), its convolution, and how it is called.

    Everything else is left, with the reason in the report: functional chains, pools with padding, dilation, ceil_mode or
    indices, modules with hooks or parametrizations, shared modules, unknown subclasses. The model is read with `torch.fx`;
    of a part that cannot be traced the report says so, and the parts in it are taken by themselves; nothing is fused in a
    container that its code does more with than call it. What is used outside of `forward` cannot be seen. Hooks,
    `convert_sync_batchnorm`, quantization, `torch.fx` passes and `torch.jit.script` come before the swap.

    Args:
        model: any module. Swapping twice does no harm.

    Returns:
        `.swapped` and `.left`; `print` it.

    Raises:
        MerFastError: `model` is not a torch.nn.Module.
    """
    if not isinstance(model, torch.nn.Module):
        raise MerFastError(f"swap_layers: model must be a torch.nn.Module, got {type(model).__name__}")
    report = SwapReport()
    understanding = understand(model)
    modules = dict(model.named_modules())
    for name, reason in understanding.opaque.items():
        if any(_may_be_swapped(module) for module in modules[name].modules()):
            report.left.append(Left(name, f"it cannot be traced as a whole ({reason}); its parts were looked at by themselves"))
    for pattern in PATTERNS:
        pattern(model, understanding, report)
    return report


def _may_be_swapped(module: torch.nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return bool(module.original_name == "Conv3d")
    return isinstance(module, torch.nn.Conv3d) and not isinstance(module, ConvPool3d)
