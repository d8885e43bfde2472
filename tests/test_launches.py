"""How often a flow op launches: never more for more pairs, and as docs/gpu.md has it. Counted without a GPU."""

import math
import re
from pathlib import Path

import pytest

from benchmarks.dynamic_shared import GPUS
from mer_fast import ops

DOCS = Path(__file__).resolve().parent.parent / "docs" / "gpu.md"
ORDER = ("tau", "lam", "theta", "scales", "scale_step", "warps", "epsilon", "inner_iterations", "outer_iterations", "median")


def tvl1(arch, pairs, height, width, initial=False, **changes):
    """A problem for the list of launches."""
    given = ops.TVL1_PRESETS["opencv"] | changes
    return ("uint8", pairs, height, width, initial, *GPUS[arch], *(given[name] for name in ORDER))


def farneback(arch, pairs, height, width, initial=False, **changes):
    given = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2, "gaussian": False}
    blocks = 4 * {"sm_80": 108, "sm_86": 28, "sm_90": 132, "sm_100": 148}[arch]  # as the launcher asks of its multiprocessors
    return ("uint8", pairs, height, width, initial, GPUS[arch].shared, blocks, *(given | changes).values())


PROBLEMS = {"tvl1_flow": tvl1, "farneback_flow": farneback}


@pytest.mark.parametrize("op", PROBLEMS)
@pytest.mark.parametrize("arch", GPUS)
def test_launches_do_not_grow_with_pairs(host, op, arch):
    sizes = [(40, 40), (128, 128), (224, 224), (245, 300), (500, 700)]
    for initial in (False, True):
        few, some, many = (
            host.launches(op, [PROBLEMS[op](arch, pairs, *size, initial) for size in sizes]) for pairs in (1, 3, 512)
        )
        assert [len(one) for one in few] == [len(one) for one in some] == [len(one) for one in many]
        assert all(sum(a.blocks for a in one) < sum(b.blocks for b in other) for one, other in zip(few, many, strict=True))


@pytest.mark.parametrize("arch", ["sm_90", "sm_100"])
def test_tvl1_up_to_256_takes_at_most_three_launches_a_warp_of_a_level(host, arch):
    """Whatever the iterations, and the size: here on one level, beside the one launch that loads the frames."""
    sides = (16, 17, 40, 63, 96, 97, 128, 160, 200, 224, 255, 256)
    for warps in (1, 5):
        for inner, outer in ((1, 1), (30, 10), (300, 1), (5000, 7)):
            given = {"scales": 1, "warps": warps, "inner_iterations": inner, "outer_iterations": outer}
            problems = [tvl1(arch, 8, height, width, **given) for height in sides for width in sides]
            assert all(len(launches) - 1 <= 3 * warps for launches in host.launches("tvl1_flow", problems))


@pytest.mark.parametrize("arch", GPUS)
def test_beyond_it_takes_two_and_one_for_every_six_iterations(host, arch):
    for warps, inner, outer in ((1, 30, 10), (5, 300, 1), (2, 7, 3), (1, 1, 1)):
        given = {"scales": 1, "warps": warps, "inner_iterations": inner, "outer_iterations": outer}
        for launches in host.launches("tvl1_flow", [tvl1(arch, 2, *size, **given) for size in ((245, 300), (1080, 1920))]):
            assert len(launches) - 1 == warps * (2 + math.ceil(inner / 6) * outer)


@pytest.mark.parametrize("arch", GPUS)
def test_farneback_takes_two_and_its_iterations_a_level(host, arch):
    for levels, iterations, initial in ((0, 3, False), (2, 3, True), (2, 10, False)):
        given = {"levels": levels, "iterations": iterations}
        (launches,) = host.launches("farneback_flow", [farneback(arch, 9, 128, 140, initial, **given)])
        assert len(launches) == (levels + 1) * (2 + iterations) + initial


def test_the_documented_counts(host):
    """The table of docs/gpu.md: | size | sm_80 | sm_86 | sm_90, sm_100 |, at the defaults."""
    rows = re.findall(r"^\| `(\w+)` (\d+)x(\d+)[^|]* \| (\d+) \| (\d+) \| (\d+) \|$", DOCS.read_text(), re.MULTILINE)
    assert {row[0] for row in rows} == set(PROBLEMS) and len(rows) >= 8
    for op, height, width, *counts in rows:
        for arch, count in zip(("sm_80", "sm_86", "sm_90", "sm_100"), (*counts, counts[-1]), strict=True):
            (launches,) = host.launches(op, [PROBLEMS[op](arch, 7, int(height), int(width))])
            assert len(launches) == int(count), f"{op} {height}x{width} on {arch}: {len(launches)} launches"
