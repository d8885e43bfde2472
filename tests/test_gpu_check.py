"""`make gpu-check` without a GPU: what it says there, what it would time, and the form of its results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check, gpu_flow, gpu_folds, sanitizer, table
from benchmarks.cases import OURS, optical_strain_case, tim_case, tvl1_flow_case
from benchmarks.measure import Ceilings, Timing
from benchmarks.rivals import MissingRival, Rival
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
    monkeypatch.setattr(gpu_check, "measure_case", lambda case, timer, limits, _, *late: real(case, timer, limits, "cpu", *late))
    monkeypatch.setattr(gpu_flow, "instruction_rate", lambda told: 33e12)
    monkeypatch.setattr("benchmarks.gpu_timer.DeviceTimer", FakeTimer)
    monkeypatch.setattr("benchmarks.gpu_timer.gpu_ceilings", lambda timer: (Ceilings(1e12, 1e13), 1e14))
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    assert gpu_check.main(["--skip-build", "--skip-tests", "--no-compile"]) == 0
    result = json.loads((tmp_path / "fake-9000.json").read_text())
    assert set(result) == {"device", "cpu", "versions", "commit", "date", "tests", "sanitizer", "ceilings", "cases"}
    assert result["tests"] is result["sanitizer"] is None
    assert {"mer_fast", "torch", "CUDA", "nvcc", "Python"} <= set(result["versions"])
    assert [case["op"] for case in result["cases"]] == ["tim", "optical_strain"]
    (loaded,) = table.load(tmp_path)
    text = table.render([loaded])
    assert "NVIDIA Fake 9000" in text
    assert "Not yet measured on a GPU: `tim`" not in text
    with pytest.raises(SystemExit, match="the ops with a CUDA kernel are tim, optical_strain"):
        gpu_check.main(["--skip-build", "--skip-tests", "--only", "conv3d"])


# --- flow -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def few_faces(monkeypatch):
    """Pairs of noise in place of faces, two of which are different."""
    noise = torch.randint(0, 256, (3, 2, 40, 40), dtype=torch.uint8)
    monkeypatch.setattr("benchmarks.cases.face_pairs", lambda size, batch: noise[:, :batch, :size, :size].unbind())
    monkeypatch.setattr(gpu_flow, "DISTINCT", 2)


def flow_case(batch, rivals=()):
    case = gpu_flow.flow_case(tvl1_flow_case, 40, batch, gpu_flow.tvl1_instructions(40))
    return gpu_check.replace(case, rivals=rivals) if rivals else case


def test_flow_cases_are_large_batches_and_one_pair():
    cases = gpu_flow.flow_cases()["tvl1_flow"]
    assert [(case.shape, case.pairs) for case in cases] == [
        ("224x224 batch 256", 256), ("128x128 batch 512", 512), ("224x224 batch 1", 1), ("128x128 batch 1", 1)
    ]  # fmt: skip
    names = [rival.name for case in cases for rival in case.rivals]
    assert names == 2 * ["OpenCV DualTVL1, a pair a thread"] + 2 * ["OpenCV DualTVL1"]
    assert all(case.names("cuda") == [OURS] for case in cases)
    assert cases[0].bytes_moved == 256 * 224 * 224 * 10
    # as the kernel's header has it: 3.3 G instructions, 100 microseconds of an H200
    assert cases[0].instructions / 256 == pytest.approx(3.3e9, rel=0.02)


def test_farnebacks_cases():
    cases = gpu_flow.flow_cases()["farneback_flow"]
    assert (cases[0].shape, cases[0].pairs) == ("128x128 batch 1024", 1024)
    assert all(case.names("cuda") == [OURS] and len(case.rivals) == 1 for case in cases)
    # as the kernel's header has it
    assert cases[0].instructions / 1024 == pytest.approx(12.9e6, rel=0.01)


def test_a_batch_repeats_its_pairs(few_faces):
    onset, apex = flow_case(6).inputs("cpu")
    assert onset.shape == apex.shape == (6, 40, 40)
    assert torch.equal(onset[:2], onset[4:]) and not torch.equal(onset[0], onset[1])


def test_rivals_on_the_cpu_are_timed_on_a_few_pairs(few_faces, monkeypatch):
    seen = []
    rival = Rival("theirs", lambda a, b: lambda: seen.append((a.shape, b.shape)))
    monkeypatch.setattr(gpu_flow, "interleaved", lambda calls, **_: FakeTimer(0.5)(calls))
    found = {"seconds": {OURS: 0.01}, "rounds": {}, "missing": {}}
    gpu_flow.add_rivals_on_cpu(found, flow_case(6, (rival,)))
    assert seen == [((2, 40, 40), (2, 40, 40))]
    assert found["seconds"]["theirs, on the CPU"] == 1.5  # 0.5 s for 2 of 6 pairs
    assert found["timed_pairs"] == {"theirs, on the CPU": 2}
    assert (found["best_rival"], found["ratio"]) == ("theirs, on the CPU", pytest.approx(150))


def test_a_rival_that_is_not_there_is_listed(few_faces):
    def absent(*frames):
        raise MissingRival("this OpenCV has no contrib modules")

    found = {"seconds": {OURS: 0.01}, "rounds": {}, "missing": {}}
    gpu_flow.add_rivals_on_cpu(found, flow_case(2, (Rival("theirs", absent),)))
    assert found["missing"] == {"theirs, on the CPU": "this OpenCV has no contrib modules"}
    assert "ratio" not in found


def test_fraction_of_the_floor(few_faces):
    case, limits = flow_case(6), Ceilings(1e9, 1e13)
    least = case.instructions / 1e12
    assert gpu_flow.floor(case, 4 * least, limits, 1e12) == {"floor_seconds": least, "of_floor": 0.25}
    assert gpu_flow.floor(case, 1.0, limits, 1e20)["floor_seconds"] == case.bytes_moved / 1e9  # memory is the limit
    assert gpu_flow.floor(case, 1.0, limits, None) == gpu_flow.floor(tim_case(6, 4, 20, 10), 1.0, limits, 1e12) == {}


def test_instruction_rate(monkeypatch):
    class Properties:
        major, minor, multi_processor_count = 9, 0, 132

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Properties)
    assert gpu_flow.instruction_rate(lambda *command: "1980") == pytest.approx(33.5e12, rel=1e-2)
    assert gpu_flow.instruction_rate(lambda *command: "unknown") is None


# --- folds ------------------------------------------------------------------------------------------------------------
def test_blocks_of_folds():
    cases = gpu_folds.fold_cases()
    assert [case.shape for case in cases[1::2]] == [
        "68 folds of 64 clips, 3x28x28 to 16 maps, training step", "32 folds of 32 clips, 16x16x16 to 32 maps, training step"
    ]  # fmt: skip


def test_a_whole_evaluation_makes_a_row_of_the_table():
    whole = gpu_folds.Evaluation()
    assert [len(fold) for fold in whole.folds] == [435] * 34 + [436] * 34
    assert whole.flops() == pytest.approx(35e12, rel=0.02)
    small = gpu_folds.Evaluation(clips=9, subjects=3, epochs=2, batch=4, loop_epochs=1)
    found = gpu_folds.evaluation(small, "cpu", Ceilings(1e12, 1e13))
    assert json.loads(json.dumps(found)) == found
    assert found["ratio"] == pytest.approx(found["seconds"][gpu_folds.LOOP] / found["seconds"][OURS])
    result = {"device": {"kind": "cuda", "name": "Fake"}, "versions": {}, "date": "", "commit": "", "cases": [found]}
    text = table.render([result])
    assert "| `conv_norm_pool` | STSTNet's evaluation, 9 clips, 3 folds, 2 epochs |" in text
    assert "PyTorch, fold after fold is scaled from 1 of 2 epochs of one fold." in text


# --- compute-sanitizer ------------------------------------------------------------------------------------------------
TOOL = """\
#!/bin/sh
echo "========= COMPUTE-SANITIZER"
case $2 in
  memcheck) echo "all calls made"; echo "========= ERROR SUMMARY: 0 errors";;
  racecheck) echo "========= Error: Race reported between Write access at tvl1_solve"; echo "all calls made"
    echo "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"; exit 99;;
  *) echo "========= Error: Device not supported"; exit 1;;
esac
"""


def test_what_the_sanitizer_says(monkeypatch, tmp_path):
    (tmp_path / "compute-sanitizer").write_text(TOOL)
    (tmp_path / "compute-sanitizer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = sanitizer.check(60.0)
    assert told["memcheck"] == "clean"
    assert told["racecheck"].startswith("found: Error: Race reported between Write access at tvl1_solve; RACECHECK SUMMARY: 1")
    assert told["synccheck"] == "did not run: Error: Device not supported"
    (tmp_path / "compute-sanitizer").write_text("#!/bin/sh\nexec sleep 30")
    assert sanitizer.run("memcheck", 0.1) == "did not finish within 0 s"
    assert set(sanitizer.check(5.0).values()) == {"not run, for time"}
    monkeypatch.setattr(sanitizer.shutil, "which", lambda name: None)
    assert set(sanitizer.check(60.0).values()) == {"not run: compute-sanitizer is not on this machine"}


def test_the_calls_under_the_sanitizer(capsys):
    sanitizer.calls("cpu")
    assert capsys.readouterr().out == f"{sanitizer.DONE}\n"
    # a program that ended early, or was not watched, is not clean
    assert sanitizer.outcome(0, "========= ERROR SUMMARY: 0 errors").startswith("did not run")
    assert sanitizer.outcome(0, sanitizer.DONE).startswith("did not run")


def test_faults_fail_the_check(monkeypatch, tmp_path, capsys):
    result = {"device": {"kind": "cuda", "name": "Fake"}, "versions": {}, "commit": "c", "date": "d", "cases": [],
              "sanitizer": {"memcheck": "clean", "racecheck": "found: a race"}}  # fmt: skip
    fakes = {"why_not": lambda: None, "build": lambda: True, "check": lambda *_: result, "RESULTS": tmp_path, "ROOT": tmp_path}
    for name, value in fakes.items():
        monkeypatch.setattr(gpu_check, name, value)
    assert gpu_check.main([]) == 1
    said = capsys.readouterr()
    assert "compute-sanitizer: memcheck clean, racecheck found: a race." in said.out
    assert said.err == "gpu-check: compute-sanitizer found faults (racecheck)\n"
    assert (tmp_path / "fake.json").exists()


# --- failures ---------------------------------------------------------------------------------------------------------
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
