"""`make kernels`: reading what the compiler says, comparing it with the committed table."""

import copy
import json

import pytest

from benchmarks import kernel_resources
from mer_fast.ops._registry import OPS

LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN8mer_fast11tim_weightsIfEEvPT_NS_8TimShapeEib' for 'sm_80'
ptxas info    : Function properties for _ZN8mer_fast11tim_weightsIfEEvPT_NS_8TimShapeEib
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers, 397 bytes cmem[0], 16 bytes cmem[2]
ptxas info    : Compile time = 9.5 ms
ptxas info    : Compiling entry function '_ZN8mer_fast11tim_weightsIdEEvPT_NS_8TimShapeEib' for 'sm_80'
ptxas info    : Function properties for _ZN8mer_fast11tim_weightsIdEEvPT_NS_8TimShapeEib
    8 bytes stack frame, 12 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 397 bytes cmem[0]
"""


@pytest.fixture
def found():
    return {"tim": kernel_resources.parse(LOG)}


@pytest.fixture
def fake_nvcc(monkeypatch, tmp_path, found):
    """A compiler of version 13.0.88 that makes `found` of every op."""
    monkeypatch.setattr(kernel_resources, "TABLE", tmp_path / "results" / "kernels.json")
    monkeypatch.setattr(kernel_resources.shutil, "which", lambda name: name)
    monkeypatch.setattr(kernel_resources, "nvcc_version", lambda nvcc: "13.0.88")
    monkeypatch.setattr(kernel_resources, "collect", lambda nvcc: found)
    return found


def clean(found):
    found["tim"]["tim_weights<double>"]["sm_80"].update(stack=0, spill_stores=0, spill_loads=0)


def test_reads_the_compilers_report(found):
    assert found["tim"] == {
        "tim_weights<float>": {"sm_80": {"registers": 40, "stack": 0, "spill_stores": 0, "spill_loads": 0, "shared": 0}},
        "tim_weights<double>": {"sm_80": {"registers": 40, "stack": 8, "spill_stores": 12, "spill_loads": 4, "shared": 2048}},
    }
    assert kernel_resources.spilled(found) == [
        "tim: tim_weights<double> on sm_80 has a stack of 8 bytes and 16 bytes of spills"
    ]


def test_names_of_template_kernels():
    symbol = "_ZN8mer_fast14optical_strainIfLNS_10DerivativeE2EEEvPKT_PS2_NS_11StrainShapeENS_11ComputeTypeIS2_E4typeE"
    assert kernel_resources.demangle(symbol) == "optical_strain<float, (Derivative)2>"


def test_spills_are_never_written(fake_nvcc, capsys):
    assert kernel_resources.main(["--update"]) == 1
    assert not kernel_resources.TABLE.exists()
    assert "16 bytes of spills" in capsys.readouterr().out


def test_the_table_is_compared_exactly(fake_nvcc, monkeypatch, capsys):
    clean(fake_nvcc)
    assert kernel_resources.main(["--update"]) == 0
    assert json.loads(kernel_resources.TABLE.read_text()) == {"nvcc": "13.0.88", "ops": fake_nvcc}
    assert kernel_resources.main([]) == 0

    fake_nvcc["tim"]["tim_weights<float>"]["sm_80"]["registers"] = 41
    assert kernel_resources.main([]) == 1
    assert "FAILED: tim: tim_weights<float> on sm_80 has 41 registers, the table 40" in capsys.readouterr().out

    monkeypatch.setattr(kernel_resources, "nvcc_version", lambda nvcc: "13.5.1")
    assert kernel_resources.main([]) == 0
    assert "warning: tim: tim_weights<float> on sm_80 has 41 registers" in capsys.readouterr().out

    fake_nvcc["tim"]["tim_weights<float>"]["sm_80"]["shared"] = 16
    assert kernel_resources.main([]) == 1


def test_new_and_lost_kernels_are_differences(found):
    table = copy.deepcopy(found)
    table["tim"]["tim_lost"] = table["tim"].pop("tim_weights<double>")
    registers, others = kernel_resources.differences(found, table)
    assert registers == []
    assert others == ["tim: tim_lost on sm_80 is no longer built", "tim: tim_weights<double> on sm_80 is new"]


def test_without_nvcc_it_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(kernel_resources.shutil, "which", lambda name: None)
    assert kernel_resources.main([]) == 1
    assert capsys.readouterr().err == "kernels: nvcc is not on the PATH; install the CUDA toolkit (no GPU is needed)\n"


def test_the_committed_table_has_every_op_and_no_spill():
    table = json.loads(kernel_resources.TABLE.read_text())["ops"]
    assert set(table) == {op for op, entry in OPS.items() if "cuda" in entry.kernels}
    assert kernel_resources.spilled(table) == []
    assert all(set(archs) == set(kernel_resources.ARCHS) for kernels in table.values() for archs in kernels.values())
