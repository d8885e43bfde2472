"""The CUDA kernels of Farneback's flow run on a CPU, by the launcher's own schedule: tiles, windows on chip and off it."""

import pytest
import torch

from mer_fast import reference

from .pairs import assert_flow_near, pair

DEFAULTS = {
    "pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2, "gaussian": False,
}  # fmt: skip
ON_CHIP = (227 * 1024, 1)  # (bytes of shared memory of a block at most, blocks that fill the GPU)
OFF_CHIP = (0, 2)
MANY_TILES = (8 * 1024, 1000)  # narrow ones, as low as they get


def batch(pairs, height, width, dtype=torch.uint8):
    both = [pair(height, width, seed=k) for k in range(pairs)]
    frames = [torch.stack([one[k] for one in both]) for k in (0, 1)]
    return frames if dtype == torch.uint8 else [x.to(dtype) / 255 for x in frames]


def words(frames, gpu, given, initial=None):
    element = str(frames[0].dtype).removeprefix("torch.")
    return (element, *frames[0].shape, initial is not None, *gpu, *(DEFAULTS | given).values())


def run(host, frames, gpu=ON_CHIP, given=None, initial=None):
    pairs, height, width = frames[0].shape
    inputs = [*frames, *([] if initial is None else [initial])]
    return host.run("farneback_flow", words(frames, gpu, given or {}, initial), inputs, (pairs, 2, height, width), torch.float32)


def assert_near_reference(flow, frames, given=None, initial=None):
    exact = [x.double() if x.is_floating_point() else x.double() / 255 for x in frames]
    wanted = reference.farneback_flow(*exact, initial_flow=initial, **(DEFAULTS | (given or {})))
    assert_flow_near(flow, wanted, share=0.999, mean=1e-4, near=1e-3)


@pytest.mark.parametrize(
    ("size", "given"),
    [
        ((2, 70, 66), {}),  # two levels
        ((1, 37, 150), {"winsize": 8}),  # two tiles side by side
        ((1, 37, 45), {"winsize": 40}),  # a window as large as the image
        ((1, 20, 33), {"winsize": 3, "iterations": 1}),
        ((1, 33, 40), {"gaussian": True}),
        ((1, 33, 40), {"gaussian": True, "winsize": 4}),
        ((1, 40, 35), {"poly_n": 7, "poly_sigma": 1.5}),
        ((1, 30, 35), {"poly_n": 2, "poly_sigma": 0}),
        ((1, 64, 83), {"pyr_scale": 0.7, "levels": 9, "iterations": 1}),
        ((1, 90, 34), {"levels": 0, "iterations": 2}),
        *(((1, *size), {"iterations": 1}) for size in ((1, 1), (1, 40), (40, 1), (2, 3), (8, 9), (6, 40), (40, 7))),
    ],
)
def test_flow_is_the_references(host, size, given):
    frames = batch(*size)
    assert_near_reference(run(host, frames, given=given), frames, given)


@pytest.mark.parametrize("given", [{}, {"gaussian": True}, {"winsize": 22}])
def test_a_flow_has_the_same_bits_in_any_tiles(host, given):
    frames, given = batch(1, 80, 71), {"iterations": 2, **given}
    flow = run(host, frames, given=given)
    for gpu in (OFF_CHIP, MANY_TILES):
        assert torch.equal(run(host, frames, gpu, given), flow)


def test_initial_flow_and_float_frames(host):
    for size, levels in (((33, 30), 3), ((70, 64), 3), ((70, 67), 0)):
        frames, initial, given = batch(1, *size, torch.float32), 3 * torch.randn(1, 2, *size), {"levels": levels, "iterations": 1}
        assert_near_reference(run(host, frames, given=given, initial=initial), frames, given, initial)


def test_places_far_outside(host):
    """What an initial flow points to may lie anywhere, or beyond any whole number: then only no memory is overrun."""
    frames, initial, given = batch(1, 24, 20), torch.randn(1, 2, 24, 20), {"iterations": 1}
    exact = [x.double() / 255 for x in frames]
    wanted = reference.farneback_flow(*exact, initial_flow=100 * initial, **(DEFAULTS | given))
    assert_flow_near(run(host, frames, given=given, initial=100 * initial), wanted, share=0.99, mean=0.01, near=0.1)
    assert run(host, frames, given=given, initial=1e30 * initial).shape == initial.shape


def test_a_pairs_flow_does_not_depend_on_the_others(host):
    """What is no frame, or no flow to start from, gives NaN, and to no other pair."""
    frames, initial = batch(5, 70, 40, torch.float32), torch.randn(5, 2, 70, 40)
    frames[0][2, 69, 39] = float("nan")
    frames[1][3, 0, 0] = 255.0
    initial[4, 1, 30, 30] = float("inf")
    together = run(host, frames, initial=initial, given={"iterations": 1})
    assert together[2:].isnan().all()
    assert together[:2].isfinite().all()
    for k in (0, 1):
        alone = run(host, [x[k : k + 1] for x in frames], initial=initial[k : k + 1], given={"iterations": 1})
        assert torch.equal(alone[0], together[k])


def test_launches_do_not_grow_with_pairs(host):
    few, many = (batch(pairs, 66, 70) for pairs in (1, 4))
    for gpu in (ON_CHIP, OFF_CHIP):
        launches, blocks = host.count("farneback_flow", words(few, gpu, {}), few)
        more, blocks_of_many = host.count("farneback_flow", words(many, gpu, {}), many)
        assert launches == more == 2 * (2 + 3)  # levels, each of image, expansion and iterations
        assert blocks < blocks_of_many
    longer = words(few, ON_CHIP, {"iterations": 10})
    assert host.count("farneback_flow", longer, few)[0] == 2 * (2 + 10)


@pytest.mark.full
@pytest.mark.parametrize("gpu", [ON_CHIP, OFF_CHIP, MANY_TILES])
@pytest.mark.parametrize("given", [{}, {"levels": 5, "winsize": 13, "iterations": 10, "poly_sigma": 1.1}, {"winsize": 101}])
def test_flow_at_the_common_parameters(host, gpu, given):
    frames = batch(1, 128, 140)
    assert_near_reference(run(host, frames, gpu, given), frames, given)
