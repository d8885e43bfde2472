"""Errors are measured against the reference in float64, as ||out - ref|| / ||ref||."""

import torch

# dtype: (forward, gradients)
TOLERANCE = {
    torch.float64: (1e-12, 1e-11),
    torch.float32: (1e-5, 1e-4),
    torch.float16: (2e-3, 5e-3),
    torch.bfloat16: (1e-2, 2e-2),
}


def relative_error(out, ref, least=1e-30):
    """Against `least` where the reference's norm is below it: what cancels leaves the rounding of what it was made of."""
    out, ref = out.detach().cpu().double(), ref.detach().cpu().double()
    assert out.shape == ref.shape, f"shape {tuple(out.shape)}, the reference has {tuple(ref.shape)}"
    assert not out.isnan().any(), "NaN in the result: an element was not written, or a bad one was read"
    return float((out - ref).norm() / ref.norm().clamp_min(least))


def assert_near(out, ref, dtype, gradient=False, least=1e-30):
    """The error of `out` is within what its dtype allows."""
    error, allowed = relative_error(out, ref, least), TOLERANCE[dtype][gradient]
    assert error <= allowed, f"relative error {error:.2e}, {allowed:.0e} is allowed for {dtype}"
