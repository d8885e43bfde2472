"""The kernels of tim and optical_strain on a CPU: every shipped variant on small odd shapes, in both builds of the stand-in
and several orders of threads, compared with the float64 reference.
"""

import os
import shutil
import subprocess

import pytest
import torch

from mer_fast import _library, reference

from .kit import assert_near

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


# --- tim --------------------------------------------------------------------------------------------------------------
# (outer, frames in, frames out, inner): one pixel, inner of 1, odd, whole packs, one frame, several blocks and tiles
TIM_SHAPES = [
    (1, 3, 2, 1), (37, 9, 5, 1), (3, 5, 11, 7), (2, 7, 12, 20), (2, 1, 6, 8), (1, 6, 1, 12), (1, 5, 3, 1100), (3, 4, 37, 16)
]  # fmt: skip


@pytest.mark.parametrize("tile", [4, 10, 16])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8], ids=name_of)
def test_tim(host, dtype, tile):
    pixels = 2 if dtype == torch.float64 else 4
    for k, (outer, frames, wanted, inner) in enumerate(TIM_SHAPES):
        wide = inner % pixels == 0
        offset = pixels * (k % 3) if wide else k % 4  # a view starts anywhere; packs want it aligned
        clip = torch.randint(0, 256, (outer, frames, inner), dtype=torch.uint8)
        clip = clip if dtype == torch.uint8 else torch.randn(outer, frames, inner).to(dtype)
        arguments = (name_of(dtype), outer, frames, wanted, inner, False, tile, wide, offset)
        out = host.run("tim", arguments, [clip], (outer, wanted, inner))
        exact = reference.tim(clip.double(), wanted, dim=1)
        if dtype == torch.uint8:
            clear = (exact.frac().abs() - 0.5).abs() > 1e-3  # away from ties
            assert torch.equal(out[clear], exact.round().clamp(0, 255).to(torch.uint8)[clear])
        else:
            assert_near(out, exact, dtype)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
def test_tim_adjoint(host, dtype, wide):
    for outer, frames, wanted, inner in [(2, 7, 12, 12), (1, 20, 6, 4), (2, 1, 5, 8), (3, 4, 1, 4)]:
        grad = torch.randn(outer, wanted, inner).to(dtype)
        clip = torch.zeros(outer, frames, inner, dtype=torch.float64, requires_grad=True)
        (exact,) = torch.autograd.grad(reference.tim(clip, wanted, dim=1), clip, grad.double())
        arguments = (name_of(dtype), outer, wanted, frames, inner, True, 10, wide, 0)
        assert_near(host.run("tim", arguments, [grad], clip.shape), exact, dtype, gradient=True)


def test_tim_keeps_frames_and_rounds_half_to_even(host):
    clip = torch.randn(1, 33, 6, dtype=torch.float64)
    out = host.run("tim", ("float64", 1, 33, 65, 6, False, 16, True, 0), [clip], (1, 65, 6))
    torch.testing.assert_close(out[:, ::2], clip, rtol=0, atol=1e-13)
    steps = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]], dtype=torch.uint8)  # halfway: 0.5, 1.5, 2.5, 3.5
    out = host.run("tim", ("uint8", 1, 2, 3, 4, False, 4, True, 0), [steps], (3, 4))
    assert out[1].tolist() == [0, 2, 2, 4]


def test_alignment_is_watched(host):
    """The harness sees a pack read at an address that is no multiple of it."""
    clip = torch.randn(1, 2, 4)
    done = host.execute("tim", "bounds", "forward", ("float32", 1, 2, 2, 4, False, 4, True, 1), [clip])
    assert done.returncode != 0
    assert b"misaligned address" in done.stderr


# --- optical_strain ---------------------------------------------------------------------------------------------------
STRAIN_SHAPES = [(2, 1, 1), (2, 1, 9), (1, 11, 1), (3, 2, 2), (1, 3, 5), (2, 17, 33), (1, 8, 4), (1, 9, 130)]
DERIVATIVES = ("central", "forward", "sobel")


def strain(host, flow, derivative, shear=0.5, grad=None, offset=0):
    images, _, height, width = flow.shape
    arguments = (name_of(flow.dtype), derivative, images, height, width, shear, grad is not None, offset)
    shape = (images, 1, height, width) if grad is None else flow.shape
    return host.run("optical_strain", arguments, [flow] if grad is None else [flow, grad], shape)


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
def test_optical_strain(host, dtype, derivative):
    for k, (images, height, width) in enumerate(STRAIN_SHAPES):
        shear = (0.5, 1.0, 0.0)[k % 3]
        flow = torch.randn(images, 2, height, width).to(dtype)
        truth = flow.double().requires_grad_()
        exact = reference.optical_strain(truth, derivative=derivative, shear=shear)
        assert_near(strain(host, flow, derivative, shear, offset=k % 2), exact, dtype)
        grad = torch.randn(images, 1, height, width).to(dtype)
        (exact,) = torch.autograd.grad(exact, truth, grad.double())
        assert_near(strain(host, flow, derivative, shear, grad, offset=k % 2), exact, dtype, gradient=True)


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_optical_strain_at_its_corners(host, derivative):
    constant, grad = torch.ones(1, 2, 6, 7), torch.randn(1, 1, 6, 7)
    assert not strain(host, constant, derivative).any()
    assert not strain(host, constant, derivative, grad=grad).any()
    flow = torch.randn(1, 2, 9, 9)
    flow[0, 0, 4, 4] = float("nan")
    touched = reference.optical_strain(flow, derivative=derivative).isnan()
    assert torch.equal(strain(host, flow, derivative).isnan(), touched)


# --- the library ------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not _library.has_kernel("tim", "CUDA"), reason="this build has no CUDA half")
def test_the_library_finds_torchs_stream_where_there_is_one():
    """It loads into a torch without CUDA (it has, here), and libtorch.so leads to the stream in a torch that has it."""
    readelf = shutil.which("readelf") or pytest.skip("needs readelf (binutils)")
    library = os.environ.get("MER_FAST_LIBRARY", _library.PACKAGE / "_ops.so")
    command = [readelf, "--wide", "--dynamic", "--dyn-syms", library]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "[libtorch.so]" in said
    assert "libcuda" not in said
    (stream,) = (line.split() for line in said.splitlines() if line.endswith(" aoti_torch_get_current_cuda_stream"))
    assert "WEAK" in stream
