"""What the tests of all ops share: comparison with the float64 reference, memory layouts, and the contract of an op."""

from .compare import TOLERANCE, assert_near, relative_error
from .contract import OpContract
from .layouts import LAYOUTS, laid_out

__all__ = ["LAYOUTS", "TOLERANCE", "OpContract", "assert_near", "laid_out", "relative_error"]
