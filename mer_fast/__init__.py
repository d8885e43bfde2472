"""mer_fast: fast kernels for facial micro-expression recognition, as PyTorch ops and layers.

`mer_fast.ops` has the ops, `mer_fast.reference` their plain PyTorch forms, `mer_fast.nn` layers on them, `mer_fast.models` the
published networks, `mer_fast.losses` their loss; `mer_fast.swap_layers` swaps the layers of a model there is. `mer_fast.data`
has video, faces and synthetic clips. `mer_fast.info()` tells what runs here and why the rest does not.
"""

from . import losses, models, nn, ops, reference
from ._info import info
from ._version import __version__
from .backends import backend
from .errors import BackendError, MerFastError
from .swap import SwapReport, swap_layers

__all__ = [
    "BackendError", "MerFastError", "SwapReport", "__version__", "backend", "info", "losses", "models", "nn", "ops",
    "reference", "swap_layers",
]  # fmt: skip
