"""ops.farneback_flow: against its reference, against OpenCV, against known motion, and the contract of an op."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import mer_fast
from mer_fast import ops, reference

from .kit import OpContract
from .pairs import assert_flow_near, motion, pair

COMMON = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2}
CLASS_DEFAULTS = {"pyr_scale": 0.5, "levels": 5, "winsize": 13, "iterations": 10, "poly_n": 5, "poly_sigma": 1.1}
SIZES = [(97, 131), (128, 64), (70, 64), (20, 33), (9, 10), (8, 9), (6, 40), (40, 7), (5, 5), (1, 40), (40, 1), (1, 1)]
PARAMETERS = [
    {"winsize": 2}, {"winsize": 3}, {"winsize": 14}, {"winsize": 21}, {"winsize": 61}, {"poly_n": 7, "poly_sigma": 1.5},
    {"poly_n": 1, "poly_sigma": 0.5}, {"poly_n": 3, "poly_sigma": 0}, {"poly_n": 12, "poly_sigma": 3.0}, {"levels": 0},
    {"levels": 1}, {"levels": 9, "pyr_scale": 0.8}, {"levels": 4, "pyr_scale": 0.63}, {"iterations": 1}, {"gaussian": True},
    {"gaussian": True, "winsize": 8}, {"gaussian": True, "winsize": 33},
]  # fmt: skip


def named(value):
    return "-".join(f"{k}{v}" for k, v in value.items()) if isinstance(value, dict) else "x".join(map(str, value))


def exact(frame0, frame1, **given):
    """The reference in float64."""
    if given.get("initial_flow") is not None:
        given["initial_flow"] = given["initial_flow"].double()
    return reference.farneback_flow(frame0.double() / 255, frame1.double() / 255, **given)


def opencv(frame0, frame1, *, gaussian=False, initial_flow=None, **given):
    """calcOpticalFlowFarneback as (2, H, W)."""
    cv2 = pytest.importorskip("cv2")
    flags = gaussian * cv2.OPTFLOW_FARNEBACK_GAUSSIAN + (initial_flow is not None) * cv2.OPTFLOW_USE_INITIAL_FLOW
    start = None if initial_flow is None else np.ascontiguousarray(initial_flow.permute(1, 2, 0).numpy())
    flow = cv2.calcOpticalFlowFarneback(frame0.numpy(), frame1.numpy(), start, *{**COMMON, **given}.values(), flags)
    return torch.from_numpy(flow).permute(2, 0, 1)


class TestFarnebackFlow(OpContract):
    op = "farneback_flow"
    differentiable = False
    empty_shapes = ((0, 20, 30), (0, 1, 20, 30))

    def inputs(self, dtype, device):
        pairs = [pair(seed=k) for k in range(3)]
        return [torch.stack([p[k] for p in pairs]).to(device).div(255).to(dtype) for k in (0, 1)]

    def call(self, frame0, frame1):
        return ops.farneback_flow(frame0, frame1)

    def near(self, out, ref, dtype, gradient=False):
        assert out.dtype == dtype
        rounding = {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(dtype, 1e-5)  # of the result, up to 2 pixels
        assert_flow_near(out, ref, share=1.0, mean=rounding, near=2 * rounding)

    def opcheck_arguments(self, device):
        frames = self.inputs(torch.float32, device)
        return {"farneback_flow": (*frames, None, 0.5, 3, 15, 3, 5, 1.2, False)}


# --- values -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", SIZES, ids=named)
@pytest.mark.parametrize("given", [COMMON, CLASS_DEFAULTS], ids=["common", "class"])
def test_sizes_follow_reference_and_opencv(size, given, device):
    frames = pair(*size)
    expected, theirs = exact(*frames, **given), opencv(*frames, **given)
    assert_flow_near(expected, theirs, share=1.0, mean=1e-4, near=1e-3)
    flow = ops.farneback_flow(*(f.to(device) for f in frames), **given)
    assert flow.dtype == torch.float32
    assert_flow_near(flow, expected, share=1.0, mean=1e-4, near=1e-3)


@pytest.mark.parametrize("given", PARAMETERS, ids=named)
def test_parameters_follow_reference_and_opencv(given, device):
    frames = pair(90, 113, (2.3, -1.7))
    expected, theirs = exact(*frames, **given), opencv(*frames, **given)
    # Small windows leave the equations ill-conditioned in places, for OpenCV as well.
    assert_flow_near(expected, theirs, share=0.995, mean=1e-2, near=0.01)
    assert_flow_near(ops.farneback_flow(*(f.to(device) for f in frames), **given), expected, share=0.999, mean=2e-3, near=0.01)


@pytest.mark.parametrize("given", [{}, {"gaussian": True}, {"pyr_scale": 0.7}, {"levels": 0, "iterations": 1}], ids=named)
def test_starts_from_an_initial_flow(given, device):
    for size in ((64, 64), (83, 107)):
        frames, start = pair(*size, (9.0, -6.0)), motion(*size, (9.0, -6.0)) + 2 * torch.randn(2, *size)
        expected = exact(*frames, initial_flow=start, **given)
        assert_flow_near(expected, opencv(*frames, initial_flow=start, **given), share=0.999, mean=1e-4, near=0.01)
        flow = ops.farneback_flow(*(f.to(device) for f in frames), initial_flow=start.to(device), **given)
        assert_flow_near(flow, expected, share=0.999, mean=1e-4, near=0.01)


@pytest.mark.parametrize("shift", [(25.0, -18.0), (-70.0, 90.0)])
def test_large_motion(shift, device):
    frames = pair(120, 140, shift)
    expected = exact(*frames)
    assert_flow_near(expected, opencv(*frames), share=0.99, mean=1e-2, near=0.01)
    assert_flow_near(ops.farneback_flow(*(f.to(device) for f in frames)), expected, share=0.99, mean=1e-2, near=0.01)


@pytest.mark.parametrize("wildness", [3.0, 200.0, 1e30])
def test_neighbours_that_point_anywhere(wildness, device):
    """Places far apart, many of them outside the frame, take the general path of interpolation."""
    frames, start = pair(41, 66), wildness * torch.randn(2, 41, 66)
    given = {"levels": 0, "iterations": 1, "initial_flow": start}
    expected = exact(*frames, **given)
    flow = ops.farneback_flow(*(f.to(device) for f in frames), **{**given, "initial_flow": start.to(device)}).cpu()
    if wildness < 1e10:
        assert_flow_near(flow, expected, share=0.999, mean=1e-3 * wildness, near=1e-3 * wildness)
    else:
        assert flow.shape == expected.shape  # beyond the range of float32: nothing to compare, and no memory overrun


def test_finds_a_known_motion(device):
    for shift in ((0.3, 0.0), (1.5, -1.0), (-3.0, 2.0)):
        flow = ops.farneback_flow(*(f.to(device) for f in pair(96, 110, shift))).cpu()
        error = (flow - motion(96, 110, shift)).norm(dim=0).mean()
        assert error < 0.05 + 0.1 * max(map(abs, shift)), f"endpoint error {error:.3f} px for {shift}"


def test_frames_without_texture_give_no_motion(device):
    flat = torch.full((50, 60), 77, dtype=torch.uint8, device=device)
    assert ops.farneback_flow(flat, flat).abs().max() < 1e-6
    stripes = (torch.arange(60, device=device) // 8 % 2 * 255).to(torch.uint8).expand(50, 60)
    assert ops.farneback_flow(stripes, stripes).isfinite().all()


def test_a_texture_beside_a_flat_region_leaves_nothing_behind(device):
    """Sums that subtract what leaves the window would keep its rounding, many times what the flat region has."""
    frames = pair(120, 60)
    for frame in frames:
        frame[50:] = frame[50:] // 64 + 100
        frame[20:40] = torch.where(frame[20:40] > 127, 255, 0).to(torch.uint8)
    assert_flow_near(ops.farneback_flow(*(f.to(device) for f in frames)), exact(*frames), share=1.0, mean=1e-4, near=1e-2)


def test_random_sizes_and_parameters_follow_the_reference(many, device):
    generator = np.random.default_rng(torch.initial_seed() % 2**32)
    for k in range(max(8, many // 4)):
        given = {
            "pyr_scale": generator.uniform(0.4, 0.9), "levels": int(generator.integers(0, 5)),
            "winsize": int(generator.integers(5, 40)), "iterations": int(generator.integers(1, 6)),
            "poly_n": int(generator.integers(2, 9)), "poly_sigma": generator.uniform(0.7, 2.0),
            "gaussian": bool(generator.integers(2)),
        }  # fmt: skip
        frames = pair(*generator.integers(10, 130, 2), generator.uniform(-3, 3, 2).tolist(), seed=k)
        flow, expected = ops.farneback_flow(*(f.to(device) for f in frames), **given), exact(*frames, **given)
        rounded = reference.farneback_flow(*frames, **given)  # ill-conditioned parameters: float32 alone is as far away
        allowed = 5e-3 + 3 * (rounded.double() - expected).norm(dim=0).mean().item()
        assert_flow_near(flow, expected, share=0.99, mean=allowed, near=0.01 + allowed)


# --- batches, threads, instruction sets ----------------------------------------------------------------------------------
def test_shapes_and_dtypes_agree(device):
    frames = [f.to(device) for f in pair()]
    flow = ops.farneback_flow(*frames)
    assert flow.shape == (2, 37, 45)
    for shape in ((1, 37, 45), (1, 1, 37, 45)):
        assert torch.equal(ops.farneback_flow(*(f.view(shape) for f in frames)), flow[None])
    assert torch.allclose(ops.farneback_flow(*(f.float() / 255 for f in frames)), flow, atol=1e-4)
    assert ops.farneback_flow(*(f.double() / 255 for f in frames)).dtype == torch.float64


@pytest.mark.parametrize("given", [{}, {"winsize": 33}, {"gaussian": True}], ids=named)
def test_a_pair_does_not_depend_on_its_batch_nor_on_threads(given, device):
    pairs = [pair(100, 90, seed=k) for k in range(5)]
    frame0, frame1 = (torch.stack([p[k] for p in pairs]).to(device) for k in (0, 1))
    together, threads = ops.farneback_flow(frame0, frame1, **given), torch.get_num_threads()
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            assert torch.equal(ops.farneback_flow(frame0, frame1, **given), together)
            assert torch.equal(ops.farneback_flow(frame0[2], frame1[2], **given), together[2])
    finally:
        torch.set_num_threads(threads)


def test_is_called_from_several_threads_at_once():
    from concurrent.futures import ThreadPoolExecutor

    frames = pair(70, 70)
    expected = ops.farneback_flow(*frames)
    with ThreadPoolExecutor(4) as pool:
        for flow in pool.map(lambda _: ops.farneback_flow(*frames), range(8)):
            assert torch.equal(flow, expected)


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_lesser_instruction_sets_agree(isa, tmp_path):
    """Every path of the kernel runs on any machine: MER_FAST_ISA lowers the choice."""
    program = (
        "import sys, torch, mer_fast; from mer_fast import ops\n"
        "calls = torch.load(sys.argv[1])\n"
        "flows = [ops.farneback_flow(a, b, **given) for a, b, given in calls]\n"
        "torch.save((mer_fast.info()['build']['cpu_kernel_in_use'], flows), sys.argv[2])"
    )
    frames = pair(61, 83, (4.0, 3.0))
    givens = ({}, {"winsize": 13}, {"winsize": 20, "gaussian": True}, {"levels": 0, "initial_flow": 9 * torch.randn(2, 61, 83)})
    torch.save([(*frames, given) for given in givens], tmp_path / "calls")
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "calls"), str(tmp_path / "flows")],
        check=True,
        env={**os.environ, "MER_FAST_ISA": isa},
    )
    used, flows = torch.load(tmp_path / "flows")
    assert used == isa
    for flow, given in zip(flows, givens, strict=True):
        assert_flow_near(flow, exact(*frames, **given), share=0.999, mean=1e-3, near=0.01)


# --- errors -------------------------------------------------------------------------------------------------------------
FRAMES = pair(20, 24)


def test_gaussian_may_be_numpys_bool():
    assert torch.equal(ops.farneback_flow(*FRAMES, gaussian=np.bool_(True)), ops.farneback_flow(*FRAMES, gaussian=True))


def operator(frame0, frame1, *rest):
    """Below the public function and its checks."""
    return torch.ops.mer_fast.farneback_flow(frame0[None], frame1[None], *rest)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: ops.farneback_flow(a, b[:-1]), r"frame0 and frame1 must have one shape, got \(20, 24\) and \(19, 24\)"),
        (lambda a, b: ops.farneback_flow(a, b.float()), "farneback_flow: frame0 and frame1 must have one dtype"),
        (lambda a, b: ops.farneback_flow(a[:0], b[:0]), "farneback_flow: frame0 must be at least 1 pixels a side, got 0x24"),
        (lambda a, b: ops.farneback_flow(a.long(), b.long()), "farneback_flow: frame0 must be uint8 or a float tensor"),
        (lambda a, b: ops.farneback_flow(a.expand(1, 3, 20, 24), b.expand(1, 3, 20, 24)), "convert colour to gray"),
        (lambda a, b: ops.farneback_flow(a.float(), b.float()), r"farneback_flow: frame0 has values outside \[-1, 2\].*divide"),
        (lambda a, b: ops.farneback_flow(a / 255, b / 255 * float("nan")), "farneback_flow: frame1 has NaN"),
        (lambda a, b: ops.farneback_flow((a / 255).requires_grad_(), b / 255), "asks for a gradient"),
        (lambda a, b: ops.farneback_flow(a, b, pyr_scale=1.0), "farneback_flow: pyr_scale must lie between 0 and 1"),
        (lambda a, b: ops.farneback_flow(a, b, levels=-1), "farneback_flow: levels must be at least 0"),
        (lambda a, b: ops.farneback_flow(a, b, levels=1.5), "farneback_flow: levels must be a whole number"),
        (lambda a, b: ops.farneback_flow(a, b, winsize=1), "farneback_flow: winsize must be at least 2"),
        (lambda a, b: ops.farneback_flow(a, b, winsize=1024), "farneback_flow: winsize must be at most 1023"),
        (lambda a, b: ops.farneback_flow(a, b, iterations=0), "farneback_flow: iterations must be at least 1"),
        (lambda a, b: ops.farneback_flow(a, b, poly_n=0), "farneback_flow: poly_n must be at least 1"),
        (lambda a, b: ops.farneback_flow(a, b, poly_n=64), "farneback_flow: poly_n must be at most 63"),
        (lambda a, b: ops.farneback_flow(a, b, poly_sigma=0.01), "farneback_flow: poly_sigma must be at least 0.1"),
        (lambda a, b: ops.farneback_flow(a, b, poly_sigma=-0.5), "farneback_flow: poly_sigma must be at least 0.1"),
        (lambda a, b: ops.farneback_flow(a, b, poly_sigma=float("nan")), "farneback_flow: poly_sigma must lie between"),
        (lambda a, b: ops.farneback_flow(a, b, gaussian=256), "farneback_flow: gaussian must be True or False"),
        (lambda a, b: ops.farneback_flow(a, b, initial_flow=torch.zeros(2, 9, 9)), "initial_flow must be a float tensor"),
        (lambda a, b: ops.farneback_flow(a, b, initial_flow=a.expand(2, -1, -1) * float("nan")), "initial_flow has NaN"),
        (lambda a, b: ops.farneback_flow(a, b.numpy()), "farneback_flow: frame1 must be a torch.Tensor"),
        (lambda a, b: operator(a, b, None, 0.5, 3, 0, 3, 5, 1.2, False), "farneback_flow: winsize must lie between"),
        (lambda a, b: operator(a, b, None, 0.5, 3, 15, 0, 5, 1.2, False), "farneback_flow: iterations must be"),
        (lambda a, b: operator(a, b, None, 0.5, 3, 15, 3, 99, 1.2, False), "farneback_flow: poly_n must lie"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((mer_fast.MerFastError, RuntimeError), match=message) as raised:
        call(*FRAMES)
    assert "\n" not in str(raised.value)
