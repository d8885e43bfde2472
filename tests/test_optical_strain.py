"""ops.optical_strain: the three conventions against numpy and by hand, and the contract of an op."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mer_fast
from mer_fast import ops
from mer_fast.ops.optical_strain import DERIVATIVES

from .kit import OpContract, assert_near


class TestOpticalStrain(OpContract):
    op = "optical_strain"
    empty_shapes = ((0, 2, 5, 6), (3, 2, 0, 6), (3, 2, 5, 0))
    derivative = "central"

    def inputs(self, dtype, device):
        return [torch.randn(3, 2, 37, 19, dtype=dtype, device=device)]

    def call(self, flow):
        return ops.optical_strain(flow, derivative=self.derivative)

    def opcheck_arguments(self, device):
        flow = torch.randn(2, 2, 6, 7, dtype=torch.float64, device=device)
        return {
            "optical_strain": (flow.clone().requires_grad_(), self.derivative, 0.5),
            "optical_strain_backward": (torch.randn(2, 1, 6, 7, dtype=torch.float64, device=device), flow, self.derivative, 0.5),
        }


class TestOpticalStrainForward(TestOpticalStrain):
    derivative = "forward"


class TestOpticalStrainSobel(TestOpticalStrain):
    derivative = "sobel"


def test_central_is_numpy_gradient(device):
    flow = torch.randn(2, 2, 9, 12, dtype=torch.float64)
    (uy, ux), (vy, vx) = (np.gradient(flow[:, c].numpy(), axis=(1, 2)) for c in (0, 1))
    expected = np.sqrt(ux**2 + vy**2 + 0.5 * (uy + vx) ** 2)
    out = ops.optical_strain(flow.to(device))
    np.testing.assert_allclose(out[:, 0].cpu().numpy(), expected, rtol=1e-13)


def test_forward_is_zero_at_the_last_row_and_column(device):
    flow = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    u, v = flow[0].numpy()
    ux, vx = (np.pad(np.diff(f, axis=1), ((0, 0), (0, 1))) for f in (u, v))
    uy, vy = (np.pad(np.diff(f, axis=0), ((0, 1), (0, 0))) for f in (u, v))
    out = ops.optical_strain(flow.to(device), derivative="forward", shear=1.0)
    np.testing.assert_allclose(out[0, 0].cpu().numpy(), np.sqrt(ux**2 + vy**2 + (uy + vx) ** 2), rtol=1e-13)


def test_sobel_is_opencvs(device):
    cv2 = pytest.importorskip("cv2")
    flow = torch.randn(1, 2, 7, 10, dtype=torch.float64)
    (ux, uy), (vx, vy) = (
        [cv2.Sobel(f, cv2.CV_64F, dx, 1 - dx, scale=1 / 8, borderType=cv2.BORDER_REPLICATE) for dx in (1, 0)]
        for f in flow[0].numpy()
    )
    out = ops.optical_strain(flow.to(device), derivative="sobel")
    np.testing.assert_allclose(out[0, 0].cpu().numpy(), np.sqrt(ux**2 + vy**2 + 0.5 * (uy + vx) ** 2), rtol=1e-13)


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_gradient_is_zero_where_strain_is_zero(derivative, device):
    flow = torch.ones(1, 2, 8, 9, device=device, requires_grad=True)
    ops.optical_strain(flow, derivative=derivative).sum().backward()
    assert torch.equal(flow.grad, torch.zeros_like(flow))


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (2, 5), (5, 3), (3, 6), (70, 5)])
def test_small_sides(derivative, size, device):
    flow = torch.randn(2, 2, *size, dtype=torch.float64, device=device, requires_grad=True)
    out, expected = (f(flow, derivative=derivative) for f in (ops.optical_strain, mer_fast.reference.optical_strain))
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    torch.testing.assert_close(*(torch.autograd.grad(x, flow, grad)[0] for x in (out, expected)))


def test_nan_stays_where_derivatives_touch_it(device):
    flow = torch.randn(1, 2, 9, 9, device=device)
    flow[0, 0, 4, 4] = float("nan")
    out = ops.optical_strain(flow)
    assert out.isnan().sum() == 4
    assert out[0, 0, 4, [3, 5]].isnan().all()


def test_a_side_of_one_pixel_has_no_derivative_even_of_nan(device):
    flow = torch.full((1, 2, 1, 1), float("nan"), device=device)
    for function in (ops.optical_strain, mer_fast.reference.optical_strain):
        assert function(flow).item() == 0


def test_random_shapes(many):
    @settings(max_examples=many, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        shape=st.tuples(st.integers(1, 4), st.just(2), st.integers(1, 80), st.integers(1, 80)),
        derivative=st.sampled_from(DERIVATIVES),
        shear=st.floats(0, 2),
        dtype=st.sampled_from(TestOpticalStrain.dtypes),
        seed=st.integers(0, 2**31),
    )
    def check(shape, derivative, shear, dtype, seed):
        flow = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        ours, truth = flow.clone().requires_grad_(), flow.double().requires_grad_()
        out = ops.optical_strain(ours, derivative=derivative, shear=shear)
        expected = mer_fast.reference.optical_strain(truth, derivative=derivative, shear=shear)
        assert_near(out, expected, dtype)
        grad = torch.randn(out.shape).to(dtype)
        got, want = torch.autograd.grad(out, ours, grad)[0], torch.autograd.grad(expected, truth, grad.double())[0]
        assert_near(got, want, dtype, gradient=True)

    check()


@pytest.mark.full
def test_indexes_beyond_32_bits():
    flow = torch.zeros(1, 2, 33000, 33000, dtype=torch.float16)
    flow[0, 1, -1, -1] = 1.0
    out = ops.optical_strain(flow, derivative="forward")
    assert out[0, 0, -2, -1] == 1.0
    assert int(out.count_nonzero()) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.optical_strain(x[0]), r"optical_strain: flow must have shape \(N, 2, H, W\)"),
        (lambda x: ops.optical_strain(x[:, :1]), r"optical_strain: flow must have shape \(N, 2, H, W\)"),
        (lambda x: ops.optical_strain(x.int()), "optical_strain: flow must be a float tensor"),
        (lambda x: ops.optical_strain(x, derivative="scharr"), "optical_strain: derivative must be one of"),
        (lambda x: ops.optical_strain(x, shear=-1), "optical_strain: shear must not be negative"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        call(torch.rand(1, 2, 5, 5))
