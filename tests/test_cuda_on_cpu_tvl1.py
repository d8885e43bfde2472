"""The CUDA kernels of TV-L1 flow run on a CPU, by the launcher's own schedule: resident levels, clusters, tiles."""

import pytest
import torch

from mer_fast import ops, reference

DEFAULTS = ops.TVL1_PRESETS["opencv"]
SHORT = DEFAULTS | {"scales": 2, "warps": 2, "outer_iterations": 2}
TILED, ONE_BLOCK, CLUSTERS = 0, 1, 16  # blocks of a cluster at most


def pair(pairs, height, width, dtype=torch.uint8):
    """Smooth noise, moved by half a pixel right and up."""
    coarse = torch.rand(pairs, 1, height // 4 + 4, width // 4 + 4)
    fine = torch.nn.functional.interpolate(coarse, size=(height + 16, width + 16), mode="bicubic")[:, 0].clamp(0, 1)
    here, moved = fine[:, 8:-8, 8:-8], (fine[:, 8:-8, 7:-9] + fine[:, 9:-7, 8:-8]) / 2
    return [((255 * x).round().to(dtype) if dtype == torch.uint8 else x).contiguous() for x in (here, moved)]


def words(frames, blocks, given, initial=False):
    pairs, height, width = frames[0].shape
    order = ("tau", "lam", "theta", "scales", "scale_step", "warps", "epsilon", "inner_iterations", "outer_iterations", "median")
    element = str(frames[0].dtype).removeprefix("torch.")
    return (element, pairs, height, width, initial, blocks, *(given[name] for name in order))


def run(host, frames, blocks, given, initial=None):
    pairs, height, width = frames[0].shape
    inputs, arguments = [*frames, *([] if initial is None else [initial])], words(frames, blocks, given, initial is not None)
    return host.run("tvl1_flow", arguments, inputs, (pairs, 2, height, width), torch.float32)


def assert_near_reference(flow, frames, given, initial=None, share=0.95):
    exact = [x.double() if x.is_floating_point() else x.double() / 255 for x in frames]
    error = (flow - reference.tvl1_flow(*exact, initial_flow=initial, **given)).norm(dim=1)
    assert (error <= 0.1).double().mean() >= share
    assert error.mean() <= 0.02


@pytest.mark.parametrize(
    ("size", "blocks", "changes"),
    [
        ((2, 37, 45), ONE_BLOCK, {"outer_iterations": 1, "inner_iterations": 12}),
        ((2, 37, 45), TILED, {"outer_iterations": 1, "inner_iterations": 12}),
        ((1, 16, 16), ONE_BLOCK, {"scales": 1, "median": 3}),
        ((1, 16, 16), ONE_BLOCK, {"scales": 3, "scale_step": 0.97, "epsilon": 0.0, "inner_iterations": 4}),  # levels of one size
        ((1, 17, 100), TILED, {"scales": 1, "median": 0, "inner_iterations": 7}),  # two tiles side by side
        ((1, 49, 33), TILED, {"scales": 1, "median": 3, "warps": 1}),  # two above one another
        ((1, 70, 150), CLUSTERS, {"scales": 1, "warps": 1}),  # two blocks of 35 rows
        ((1, 103, 130), CLUSTERS, {"scales": 1, "warps": 1, "outer_iterations": 1}),  # eight blocks, 13 rows a thread
        ((1, 97, 33), CLUSTERS, {"scales": 1, "warps": 1, "outer_iterations": 1}),  # 24 rows a thread
    ],
)
def test_flow_is_the_references(host, size, blocks, changes):
    frames, given = pair(*size), SHORT | changes
    assert_near_reference(run(host, frames, blocks, given), frames, given)


@pytest.mark.parametrize("blocks", [TILED, ONE_BLOCK])
def test_initial_flow_and_float_frames(host, blocks):
    frames = pair(1, 33, 30, torch.float32)
    initial = torch.randn(1, 2, 33, 30)
    for scales in (1, 2):
        given = SHORT | {"scales": scales, "warps": 1}
        assert_near_reference(run(host, frames, blocks, given, initial), frames, given, initial)


@pytest.mark.parametrize("blocks", [TILED, ONE_BLOCK])
def test_a_pairs_flow_does_not_depend_on_the_others(host, blocks):
    """Each stops by its own test; what is no frame is NaN, and no other pair's flow."""
    frames = pair(4, 24, 20, torch.float32)
    frames[1][1] = frames[0][1]  # nothing moves: stops at once
    frames[0][2, 3, 3] = float("nan")
    frames[1][3, 0, 0] = 255.0
    given = SHORT | {"scales": 1, "warps": 1, "inner_iterations": 8}
    together = run(host, frames, blocks, given)
    assert together[2:].isnan().all()
    assert together[1].abs().max() < 1e-6
    assert torch.equal(together[0], run(host, [x[:1] for x in frames], blocks, given)[0])


def test_ways_through_a_level_agree(host):
    """One block, a cluster and tiles compute the same; sums for the stop test differ in their order alone."""
    frames, given = pair(1, 70, 90), SHORT | {"scales": 1, "warps": 1}
    flows = [run(host, frames, blocks, given) for blocks in (CLUSTERS, TILED)]
    torch.testing.assert_close(flows[0], flows[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("blocks", [TILED, CLUSTERS])
def test_launches_do_not_grow_with_pairs_nor_iterations(host, blocks):
    given = SHORT | {"warps": 1, "outer_iterations": 1, "inner_iterations": 13}
    few, many = ([x for x in pair(pairs, 40, 50)] for pairs in (1, 5))
    launches, blocks_of_one = host.count("tvl1_flow", words(few, blocks, given), few)
    more, blocks_of_five = host.count("tvl1_flow", words(many, blocks, given), many)
    assert launches == more == 2 + 2 * (1 if blocks else 2 + 3)  # frames, one level more; 1 a level, or 2 + ceil(13 / 6)
    assert blocks_of_one < blocks_of_five
    if blocks:
        longer = given | {"inner_iterations": 40}
        assert host.count("tvl1_flow", words(few, blocks, longer), few)[0] == launches


@pytest.mark.full
@pytest.mark.parametrize("blocks", [TILED, ONE_BLOCK, CLUSTERS])
def test_flow_at_opencvs_defaults(host, blocks):
    frames = pair(1, 70, 96)
    assert_near_reference(run(host, frames, blocks, DEFAULTS), frames, DEFAULTS)
