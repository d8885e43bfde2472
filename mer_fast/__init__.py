"""mer_fast: fast kernels for facial micro-expression recognition, as PyTorch ops and layers.

`mer_fast.ops` has the ops, `mer_fast.reference` their plain PyTorch forms, `mer_fast.data` video, faces and synthetic
clips. `mer_fast.info()` tells what runs here and why the rest does not.
"""

from . import ops, reference
from ._info import info
from ._version import __version__
from .backends import backend
from .errors import BackendError, MerFastError

__all__ = ["BackendError", "MerFastError", "__version__", "backend", "info", "ops", "reference"]
