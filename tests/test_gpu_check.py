"""`make gpu-check` without a GPU: what it says there, what it would time, and the form of its results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check, table
from benchmarks.cases import OURS, optical_strain_case, tim_case
from benchmarks.measure import Ceilings, Timing
from mer_fast.ops._registry import OPS

ROOT = Path(__file__).resolve().parent.parent
NO_GPU = not torch.cuda.is_available()


class FakeTimer:
    """Calls each candidate once, ours the first, and says that it took a set time."""

    def __init__(self, seconds=2e-3):
        self.seconds = seconds

    def __call__(self, candidates):
        for call in candidates.values():
            call()
        return {name: Timing(self.seconds * (1 + k), 51) for k, name in enumerate(candidates)}

    def replayed(self, call):
        call()
        return self.seconds / 2


def measured(case, seconds=2e-3):
    return gpu_check.measure_case(case, FakeTimer(seconds), Ceilings(1e12, 1e13), "cpu", lambda: False)


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
@pytest.mark.parametrize("words", [[], ["--skip-build", "--skip-tests", "--only", "tim"]])
def test_without_a_gpu_it_says_so_in_one_line(words):
    command = [sys.executable, "benchmarks/gpu_check.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpu-check: torch")


def test_unknown_arguments_are_named(capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(["--skip-everything"])
    assert "--skip-everything" in capsys.readouterr().err


def test_no_gpu_reasons(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "build without CUDA" in gpu_check.why_not()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "nvidia-smi" in gpu_check.why_not()


def test_every_op_with_a_gpu_kernel_has_cases():
    cases = gpu_check.gpu_cases()
    assert set(cases) == {op for op, entry in OPS.items() if {"cuda", "triton"} & {*entry.kernels}}
    for op, of_op in cases.items():
        assert of_op, f"{op} has a CUDA kernel and no case in benchmarks/cases.py"
        assert len({case.name for case in of_op}) == len(of_op)
        for case in of_op:
            assert case.op == op
            assert case.names("cuda")[0] == OURS


def test_a_measured_case_has_the_form_of_the_cpus():
    found = measured(tim_case(6, 4, 20, 10))
    assert json.loads(json.dumps(found)) == found
    assert found["seconds"][OURS] == 2e-3
    assert found["gb_per_s"] == pytest.approx(4 * 10 * 200 / 2e-3 / 1e9)
    assert found["of_copy"] == pytest.approx(4 * 10 * 200 / 2e-3 / 1e12)
    assert found["gflop_per_s"] == pytest.approx(2 * 24 * 200 / 2e-3 / 1e9)
    assert found["ratio"] == 2
    assert "graph_seconds" not in found
    assert measured(tim_case(6, 4, 20, 10), 5e-6)["graph_seconds"] == {OURS: 2.5e-6}


def test_rivals_left_out_are_told():
    found = measured(optical_strain_case(2, 16, backward=True))
    assert found["missing"] == {"torch.gradient, torch.compile": "left out, for time"}
    assert set(found["seconds"]) == {OURS, "torch.gradient", "mer_fast.reference"}


def test_other_dtypes_count_their_bytes():
    case = tim_case(6, 4, 20, 10)
    half, bytes_ = gpu_check.at_dtype(case, torch.float16), gpu_check.tim_of_bytes(case, 4)
    assert (half.bytes_moved, bytes_.bytes_moved) == (case.bytes_moved // 2, case.bytes_moved // 4)
    assert half.inputs("cpu")[0].dtype == torch.float16
    ours, product = (bytes_.candidate(name)() for name in (OURS, "matrix product (PyTorch)"))
    assert ours.dtype == torch.uint8
    assert (ours.flatten().int() - product.flatten().int()).abs().max() <= 1  # ties may break either way
    assert half.candidate(OURS)().dtype == torch.float16


def test_results_make_a_table(monkeypatch, tmp_path):
    """The whole program over a fake machine: what it writes, and that the README's table takes it."""
    small = {"tim": [tim_case(6, 4, 20, 10)], "optical_strain": [optical_strain_case(2, 16, backward=False)]}
    device = {"kind": "cuda", "name": "NVIDIA Fake 9000", "driver": "1.2"}
    real = gpu_check.measure_case
    monkeypatch.setattr(gpu_check, "why_not", lambda: None)
    monkeypatch.setattr(gpu_check, "gpu_cases", lambda: small)
    monkeypatch.setattr(gpu_check, "gpu", lambda: device)
    monkeypatch.setattr(gpu_check, "measure_case", lambda case, timer, limits, _, late: real(case, timer, limits, "cpu", late))
    monkeypatch.setattr("benchmarks.gpu_timer.DeviceTimer", FakeTimer)
    monkeypatch.setattr("benchmarks.gpu_timer.gpu_ceilings", lambda timer: (Ceilings(1e12, 1e13), 1e14))
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    assert gpu_check.main(["--skip-build", "--skip-tests", "--no-compile"]) == 0
    result = json.loads((tmp_path / "fake-9000.json").read_text())
    assert set(result) == {"device", "versions", "commit", "date", "tests", "ceilings", "cases"}
    assert result["tests"] is None
    assert {"mer_fast", "torch", "CUDA", "nvcc", "Python"} <= set(result["versions"])
    assert [case["op"] for case in result["cases"]] == ["tim", "optical_strain"]
    (loaded,) = table.load(tmp_path)
    text = table.render([loaded])
    assert "NVIDIA Fake 9000" in text
    assert "Not yet measured on a GPU: `tim`" not in text
    with pytest.raises(SystemExit, match="the ops with a CUDA kernel are tim, optical_strain"):
        gpu_check.main(["--skip-build", "--skip-tests", "--only", "conv3d"])


def test_nothing_is_timed_after_a_failure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_check, "why_not", lambda: None)
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu_check, "build", lambda: False)
    assert gpu_check.main([]) == 1
    assert "the build failed" in capsys.readouterr().err
    monkeypatch.setattr(gpu_check, "build", lambda: True)
    monkeypatch.setattr(gpu_check, "run_tests", lambda: {"ok": False})
    with pytest.raises(SystemExit, match="tests failed; nothing was timed"):
        gpu_check.main([])
    assert not list(tmp_path.iterdir())


def test_names_and_counts():
    assert gpu_check.slug("NVIDIA H200") == "h200"
    assert gpu_check.slug("NVIDIA GeForce RTX 4090") == "geforce-rtx-4090"
    assert gpu_check.outcome("...\n2 failed, 71 passed, 3 skipped, 1 error in 12.3s") == {"passed": 71, "failed": 3, "skipped": 3}
    assert gpu_check.told("no-such-program") == "unknown"
