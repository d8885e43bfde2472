"""ops.tim: the closed form against the published route, and the contract of an op."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mer_fast
from mer_fast import ops
from mer_fast.reference import tim_weights

from .kit import OpContract, assert_near, relative_error


def published_route(frames, m):
    """Zhou et al. 2011 with a singular value decomposition; frames (pixels, n) -> (pixels, m)."""
    n = frames.shape[1]
    mean = frames.mean(1, keepdims=True)
    u, s, vt = np.linalg.svd(frames - mean, full_matrices=False)
    u, q = u[:, : n - 1], (s[:, None] * vt)[: n - 1]
    k = np.arange(1, n)[:, None]

    def curve(t):
        return np.sin(np.pi * k * t[None] + np.pi * (n - k) / (2 * n))

    y = curve(np.arange(1, n + 1) / n)
    w = np.linalg.solve(q @ q.T, q @ y.T)
    scale = (q[:, 0] @ w) / y[:, 0]
    return u @ np.linalg.solve(w.T, curve(np.linspace(1 / n, 1, m)) * scale[:, None]) + mean


class TestTim(OpContract):
    op = "tim"
    empty_shapes = ((0, 7, 3, 5, 9), (2, 7, 3, 0, 9))

    def inputs(self, dtype, device):
        return [torch.randn(2, 7, 3, 5, 9, dtype=dtype, device=device)]

    def call(self, clip):
        return ops.tim(clip, 12)

    def opcheck_arguments(self, device):
        clip = torch.randn(2, 5, 3, 4, 6, dtype=torch.float64, device=device, requires_grad=True)
        return {"tim": (clip, 9, 1, False)}


@pytest.mark.parametrize(("n", "m"), [(10, 10), (10, 20), (67, 10), (30, 60), (2, 5)])
def test_equals_the_published_route(n, m, device):
    clip = torch.randn(n, 1, 13, 11, dtype=torch.float64).cumsum(0)
    out = ops.tim(clip.to(device), m)
    expected = published_route(clip.reshape(n, -1).T.numpy(), m).T.reshape(m, 1, 13, 11)
    assert relative_error(out, torch.from_numpy(expected)) < 1e-10


def test_first_and_last_frame_are_kept_and_weights_sum_to_one(device):
    clip = torch.rand(9, 1, 6, 7, dtype=torch.float64, device=device)
    out = ops.tim(clip, 25)
    torch.testing.assert_close(out[[0, -1]], clip[[0, -1]], rtol=0, atol=1e-13)
    torch.testing.assert_close(ops.tim(clip, 9), clip, rtol=0, atol=1e-13)
    torch.testing.assert_close(ops.tim(torch.ones_like(clip), 30), torch.ones(30, 1, 6, 7, dtype=clip.dtype, device=device))
    assert torch.allclose(tim_weights(9, 25).sum(0), torch.ones(25, dtype=torch.float64))


def test_repeated_frames_stay_defined(device):
    clip = torch.rand(1, 1, 4, 4, device=device).repeat(8, 1, 1, 1)
    torch.testing.assert_close(ops.tim(clip, 13), clip[:1].expand(13, -1, -1, -1), rtol=0, atol=1e-6)


def test_uint8_is_rounded_half_to_even_and_saturated(device):
    clip = torch.randint(0, 2, (6, 1, 19, 23), dtype=torch.uint8, device=device) * 255
    out = ops.tim(clip, 16)
    exact = torch.einsum("nchw,nm->mchw", clip.cpu().double(), tim_weights(6, 16))
    assert (exact < 0).any(), "the case has overshoot below zero"
    assert (exact > 255).any(), "the case has overshoot above 255"
    assert out.dtype == torch.uint8
    clear = (exact.frac().abs() - 0.5).abs() > 1e-3  # away from ties, which float32 may break either way
    assert torch.equal(out.cpu()[clear], exact.round().clamp(0, 255).to(torch.uint8)[clear])


def test_nan_passes_through(device):
    clip = torch.rand(5, 1, 4, 4, device=device)
    clip[2, 0, 1, 1] = float("nan")
    out = ops.tim(clip, 8)
    assert out[:, 0, 1, 1].isnan().all()
    assert out.isnan().sum() == 8


def test_any_dim(device):
    clip = torch.randn(3, 4, 5, 6, 7, dtype=torch.float64, device=device)
    for dim in range(-5, 5):
        assert_near(ops.tim(clip, 11, dim=dim), mer_fast.reference.tim(clip, 11, dim=dim), torch.float64)


def test_differentiable_twice(device):
    clip = torch.randn(4, 1, 3, 3, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: ops.tim(x, 7).square(), (clip,))


def test_random_shapes(many):
    @settings(max_examples=many, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 3), st.integers(1, 40), st.integers(1, 50)),
        m=st.integers(1, 45),
        dtype=st.sampled_from(TestTim.dtypes),
        seed=st.integers(0, 2**31),
    )
    def check(shape, m, dtype, seed):
        clip = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        assert_near(ops.tim(clip, m), mer_fast.reference.tim(clip.double(), m), dtype)

    check()


@pytest.mark.full
def test_indexes_beyond_32_bits():
    clip = torch.zeros(2, 1, 33000, 33000, dtype=torch.uint8)  # 2.2e9 elements
    clip[:, :, -1, -5:] = torch.arange(5, dtype=torch.uint8)
    out = ops.tim(clip, 2)
    assert torch.equal(out[:, 0, -1, -5:], clip[:, 0, -1, -5:])
    assert int(out[1, 0, 16000].max()) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda x: (x.long(), 3), "tim: clip must be uint8 or a float tensor"),
        (lambda x: (x[:0], 3), "tim: clip has no frame"),
        (lambda x: (x, 0), "tim: num_frames must be at least 1"),
        (lambda x: (x[0], 3), "tim: dim must be at least -3"),
        (lambda x: (x, 3.5), "tim: num_frames must be a whole number"),
        (lambda x: (x.to(torch.float8_e4m3fn), 3), "tim: clip must be uint8 or a float tensor"),
        (lambda x: (x.tolist(), 3), "tim: clip must be a torch.Tensor, a NumPy array or another array .* got list"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        ops.tim(*arguments(torch.rand(4, 1, 5, 5)))
