"""The benchmarks: every op has a case, the rivals do the same work, and the README shows what was measured."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import measure, recurrent_cases, rivals, run, table
from benchmarks.cases import (
    CASES,
    OURS,
    cell_case,
    conv_case,
    farneback_flow_case,
    fold_case,
    optical_strain_case,
    section_case,
    tim_case,
    tvl1_flow_case,
)
from benchmarks.conv_cases import Shape
from benchmarks.fold_cases import Folds
from benchmarks.recurrent_cases import FORMS, Cell, Section
from benchmarks.rivals import MissingRival, tim_by_svd
from mer_fast import MerFastError, ops
from mer_fast.ops._registry import OPS

from .kit import relative_error

ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "tim": (lambda: tim_case(9, 5, 12, 10),),
    "optical_strain": tuple(lambda b=b: optical_strain_case(2, 17, backward=b) for b in (False, True)),
    "tvl1_flow": (lambda: tvl1_flow_case(32, 2),),
    "farneback_flow": (lambda: farneback_flow_case(32, 2), lambda: farneback_flow_case(32, 1, "class defaults")),
    "conv3d": tuple(
        lambda b=b: conv_case("conv3d", Shape((2, 2, 7, 9, 9), 8, (3, 3, 3), (2, 1, 1)), backward=b) for b in (False, True)
    ),
    "conv3d_pool": tuple(
        lambda b=b, c=c: conv_case("conv3d_pool", Shape((2, c, 8, 11, 11), 4, (3, 3, 3), pool=(2, 3, 3)), backward=b)
        for b in (False, True)
        for c in (1, 2)
    ),
    "conv_norm_pool": tuple(
        lambda b=b, f=f: fold_case(f, backward=b)
        for b in (False, True)
        for f in (Folds(3, 4, 6, 3, 10, 16, 2, (3, 5, 8)), Folds(2, 3, 0, 4, 7, 5, 1))
    ),
    "recurrent_conv2d": tuple(lambda b=b: section_case(Section((2, 6, 11, 9)), backward=b) for b in (False, True)),
    **{
        op: tuple(lambda op=op, form=form: cell_case(Cell(op, (3, 2, 3, 9, 11), 5), form) for form in FORMS)
        for op in ("conv_lstm", "conv_gru")
    },
}


def tiny(op):
    if op.endswith("_flow"):
        pytest.importorskip("skimage")
        pytest.importorskip("cv2")
    return [make() for make in TINY[op]]


def as_tensors(results):
    """Results of any candidate, as a list of tensors."""
    many = [results] if isinstance(results, torch.Tensor | np.ndarray) else results
    return [x.detach() if isinstance(x, torch.Tensor) else torch.as_tensor(np.ascontiguousarray(x)) for x in many]


def test_every_op_has_cases_and_a_bench_file():
    assert set(CASES) == set(OPS) == set(TINY)
    for op, cases in CASES.items():
        assert all(case.op == op and case.rivals for case in cases)
        assert len({case.shape for case in cases}) == len(cases), "pytest-benchmark groups by it"
        assert (ROOT / "benchmarks" / f"bench_{op}.py").exists()


@pytest.mark.parametrize("op", [op for op in TINY if op != "tvl1_flow"])
def test_rivals_do_the_same_work(op):
    for case in tiny(op):
        allowed = 1e-2 if "bfloat16" in case.shape else 1e-4
        expected = as_tensors(case.candidate(OURS)())
        for name in (n for n in case.names() if n != OURS and "torch.compile" not in n):  # compiling takes half a minute
            for got, want in zip(as_tensors(case.candidate(name)()), expected, strict=True):
                assert relative_error(got, want) < allowed, f"{case.name}: {name}"


def test_norms_folded_beforehand_give_the_same_section():
    case, _ = tiny("recurrent_conv2d")
    plain = rivals.eager(recurrent_cases.folded_section)
    folded = recurrent_cases.norms_folded(recurrent_cases.channels_last(plain))(*case.inputs("cpu"))
    with torch.no_grad():
        assert relative_error(folded(), case.candidate(OURS)()) < 1e-5


def test_tvl1_rivals_run_and_agreement_is_measured():
    (case,) = tiny("tvl1_flow")
    assert case.candidate(OURS)().shape == (2, 2, 32, 32)
    try:
        found = [case.candidate(name)() for name in case.names()[1:]]
        agreement = case.agreement()
    except MissingRival as reason:
        pytest.skip(str(reason))
    assert all(len(flows) == 2 for flows in found)
    assert agreement["near_opencv"] > 0.95
    assert set(agreement["endpoint_error"]) == {"mer_fast", "OpenCV", "scikit-image"}
    assert max(agreement["endpoint_error"].values()) < 0.5, "flows are in the order (u, v)"


@pytest.mark.parametrize(("n", "m"), [(10, 10), (9, 25), (60, 10), (30, 60), (2, 5)])
def test_the_svd_route_equals_tim(n, m):
    clip = torch.randn(n, 1, 13, 11, dtype=torch.float64).cumsum(0)
    expected = tim_by_svd(clip.reshape(n, -1).T.numpy(), m).T.reshape(m, 1, 13, 11)
    assert relative_error(ops.tim(clip, m), torch.from_numpy(expected.copy())) < 1e-10


def test_a_rival_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    frames = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    with pytest.raises(MissingRival, match="pip install opencv-contrib-python-headless"):
        CASES["tvl1_flow"][0].rivals[0].make(*frames)


def test_candidates_are_timed_in_turn(monkeypatch):
    monkeypatch.setattr(measure, "SHORT", 0)
    calls = []
    timings = measure.interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3, warmup=2)
    assert "".join(calls) == "aabb" + "ab" * 3
    assert [timings[name].rounds for name in "ab"] == [3, 3]


def test_slow_candidates_take_part_in_every_third_round(monkeypatch):
    monkeypatch.setattr(measure, "SHORT", 0)
    monkeypatch.setattr(measure, "once", lambda call, repeats=1: call() or 0.1)
    calls = []
    candidates = {"a": lambda: calls.append("a"), "s": lambda: calls.append("s") or 9.0}
    timings = measure.interleaved(candidates, rounds=7)
    assert "".join(calls) == "aas" + "as" + "aa" + "as" + "aa" + "as"
    assert (timings["a"].rounds, timings["s"]) == (7, (9.0, 3))


def test_figures():
    case = tim_case(9, 5, 12, 10)
    found = measure.figures(case, 1e-6, measure.Ceilings(copy=1e10, product=1e11))
    assert found["gb_per_s"] == pytest.approx(4 * 14 * 120 / 1e3)
    assert found["of_copy"] == pytest.approx(found["gb_per_s"] / 10)
    assert found["gflop_per_s"] == pytest.approx(2 * 45 * 120 / 1e3)
    assert found["of_product"] == pytest.approx(found["gflop_per_s"] / 100)


def test_a_whole_result_is_json_and_becomes_a_table(monkeypatch):
    monkeypatch.setattr(run, "cpu_ceilings", lambda: measure.Ceilings(copy=1e10, product=1e11))
    result = run.measure([tim_case(9, 5, 12, 10)], rounds=2)
    text = table.render([json.loads(json.dumps(result))])
    assert "| `tim` | 9 to 5 frames of 12x10 |" in text
    assert result["device"]["threads"] == torch.get_num_threads()
    (case,) = result["cases"]
    assert case["ratio"] == min(t for n, t in case["seconds"].items() if n != OURS) / case["seconds"][OURS]


CPU = {
    "device": {"kind": "cpu", "name": "A CPU", "threads": 2, "isa": "avx2"},
    "versions": {"torch": "2.13.0"},
    "commit": "abc",
    "date": "2026-01-02",
    "cases": [
        {
            "op": "tim",
            "shape": "60 to 10 frames of 340x280",
            "seconds": {OURS: 0.002, "SVD": 0.5, "product": 0.003},
            "missing": {"other": "not installed"},
            "gb_per_s": 13.3,
            "of_copy": 0.7,
            "gflop_per_s": 50.0,
            "of_product": 0.2,
        },
        {"op": "optical_strain", "shape": "8x8", "seconds": {OURS: 1.5}, "gb_per_s": 1.0, "of_copy": 0.1},
    ],
}
GPU = {
    "gpu": "A GPU", "driver": "1", "cuda": "13", "torch": "2.13.0", "commit": "abc", "date": "2026-01-02",
    "ops": {"tim": [{
        "case": "32 clips", "dtype": "float16", "seconds": 2e-5, "gb_per_s": 900.0, "gflop_per_s": 9.0, "bound": "copy",
        "fraction_of_ceiling": 0.8, "rivals": {"product": {"seconds": 5e-5}, "compiled": {"not_measured": "out of time"}},
    }]},
}  # fmt: skip


def waiting(names):
    """The ops among `names` that have a GPU kernel, as the page lists them."""
    return ", ".join(f"`{op}`" for op, entry in OPS.items() if {"cuda", "triton"} & {*entry.kernels} and op in names)


@pytest.fixture
def page(tmp_path):
    readme, results = tmp_path / "README.md", tmp_path / "results"
    results.mkdir()
    readme.write_text(f"before\n{table.START}\nold\n{table.END}\nafter\n")
    (results / "cpu.json").write_text(json.dumps(CPU))
    (results / "kernels.json").write_text(json.dumps({"sm_90": {}}))
    return readme, results


def test_the_table_stands_between_the_markers(page):
    table.update(*page)
    text = page[0].read_text()
    assert text.startswith(f"before\n{table.START}\n")
    assert text.endswith(f"{table.END}\nafter\n")
    assert "old" not in text
    assert "| `tim` | 60 to 10 frames of 340x280 | 2.00 ms | product, 3.00 ms | **1.5x** | SVD, 500 ms (250x) |" in text
    assert "| 13.3 GB/s, 70% of a copy |" in text
    assert "- tim 60 to 10 frames of 340x280: other was not measured: not installed" in text
    assert f"Not yet measured on a GPU: {waiting(OPS)}." in text


def test_the_option_table_measures_nothing_and_repeats_itself(page, monkeypatch):
    monkeypatch.setattr(run, "ROOT", page[0].parent)
    monkeypatch.setattr(run, "RESULTS", page[1])
    monkeypatch.setattr(run, "measure", None)
    run.main(["--table"])
    text = page[0].read_text()
    assert "A CPU" in text
    run.main(["--table"])
    assert page[0].read_text() == text


def test_a_committed_gpu_result_has_its_own_table(page):
    (page[1] / "a-gpu.json").write_text(json.dumps(GPU))
    table.update(*page)
    text = page[0].read_text()
    assert "| `tim` | 32 clips, float16 | 20.0 µs | product, 50.0 µs | **2.5x** |  | 900 GB/s, 80% of a copy |" in text
    assert text.index("A CPU") < text.index("A GPU")
    assert f"Not yet measured on a GPU: {waiting(set(OPS) - {'tim'})}." in text


def test_further_shapes_are_one_line(page):
    further = [
        {"op": "conv3d", "shape": f"shape {k}", "group": "2 further shapes", "seconds": {OURS: 1.0, "PyTorch": k}, "ratio": k,
         "gb_per_s": 1.0, "of_copy": 0.1} for k in (2.0, 8.0)
    ]  # fmt: skip
    (page[1] / "cpu.json").write_text(json.dumps({**CPU, "cases": [*CPU["cases"], *further]}))
    table.update(*page)
    text = page[0].read_text()
    assert "| `conv3d` | 2 further shapes | | each one's fastest | **4.0x** mean | lowest 2.00x: shape 2.0 | |" in text
    assert "| `conv3d` | shape" not in text


def test_missing_markers_are_an_error(page):
    page[0].write_text("no markers")
    with pytest.raises(MerFastError, match="has no <!-- benchmarks -->"):
        table.update(*page)


def test_the_readme_shows_the_committed_results(tmp_path):
    """`make bench`, or `python benchmarks/run.py --table`, brings it up to date."""
    readme, results = ROOT / "README.md", ROOT / "benchmarks" / "results"
    if not (results / "cpu.json").exists():
        pytest.skip("no committed results")
    copy = tmp_path / "README.md"
    copy.write_text(readme.read_text())
    table.update(copy, results)
    assert copy.read_text() == readme.read_text()


def test_durations_and_ratios_have_three_and_two_digits():
    assert [table.duration(s) for s in (4e-7, 9.96e-4, 0.0123, 0.9999, 1, 23.45, 234)] == [
        "0.40 µs", "996 µs", "12.3 ms", "1000 ms", "1.00 s", "23.4 s", "234 s",
    ]  # fmt: skip
    assert [table.times(r) for r in (0.5, 0.996, 1.04, 9.94, 9.96, 123.4)] == ["0.50x", "1.0x", "1.0x", "9.9x", "10x", "123x"]
