"""What the tests of all ops share: comparison with the float64 reference, memory layouts, and the contract of an op."""

from .compare import TOLERANCE, assert_near, relative_error
from .contract import OpContract
from .layouts import LAYOUTS, laid_out
from .processes import in_ranks

__all__ = ["LAYOUTS", "TOLERANCE", "OpContract", "assert_near", "in_ranks", "laid_out", "relative_error"]
