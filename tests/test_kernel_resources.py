"""`make kernels`: reading what the compiler says, comparing it with the committed table."""

import copy
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from benchmarks import dynamic_shared, kernel_resources, triton_resources
from mer_fast._library import kernel_folder
from mer_fast.launchers import _config
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


def of_triton(registers=96, stack=0, shared=8192, tensor_cores="mma"):
    return {"registers": registers, "stack": stack, "shared": shared, "tensor_cores": tensor_cores}


@pytest.fixture
def fake_triton(monkeypatch):
    """A Triton of version 3.9.0 that makes one kernel."""
    found = {"conv3d": {"conv3d<float16, narrow>": {"sm_80": of_triton()}}}
    monkeypatch.setattr(kernel_resources.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(kernel_resources.importlib.metadata, "version", lambda name: "3.9.0")
    monkeypatch.setattr(triton_resources, "collect", lambda: found)
    return found


@pytest.fixture
def fake_launches(monkeypatch):
    """Of both kernels' launches, what they ask for."""
    found = {"tim": {"tim_weights<double>": {"sm_80": 4096, "sm_86": 4096}}}
    monkeypatch.setattr(dynamic_shared, "collect", lambda nvcc: found)
    return found


@pytest.fixture
def fake_nvcc(monkeypatch, tmp_path, found, fake_triton, fake_launches):
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


def test_the_table_is_compared_exactly(fake_nvcc, fake_triton, fake_launches, monkeypatch, capsys):
    clean(fake_nvcc)
    assert kernel_resources.main(["--update"]) == 0
    expected = {"nvcc": "13.0.88", "triton": "3.9.0", "ops": fake_nvcc | fake_triton, "dynamic_shared": fake_launches}
    assert json.loads(kernel_resources.TABLE.read_text()) == expected
    assert kernel_resources.main([]) == 0

    fake_nvcc["tim"]["tim_weights<float>"]["sm_80"]["registers"] = 41
    assert kernel_resources.main([]) == 1
    assert "FAILED: tim: tim_weights<float> on sm_80 has 41 registers, the table 40" in capsys.readouterr().out

    monkeypatch.setattr(kernel_resources, "nvcc_version", lambda nvcc: "13.5.1")
    assert kernel_resources.main([]) == 0
    assert "warning: tim: tim_weights<float> on sm_80 has 41 registers" in capsys.readouterr().out

    fake_nvcc["tim"]["tim_weights<float>"]["sm_80"]["shared"] = 16
    assert kernel_resources.main([]) == 1


def test_no_launch_asks_for_more_than_there_is(fake_nvcc, fake_launches, capsys):
    clean(fake_nvcc)
    assert kernel_resources.main(["--update"]) == 0
    launches = fake_launches["tim"]["tim_weights<double>"]
    launches["sm_86"] = 8192
    assert kernel_resources.main([]) == 1
    line = "tim: tim_weights<double> on sm_86 asks for 8192 bytes of shared memory, in the table for 4096 bytes"
    assert f"FAILED: {line}" in capsys.readouterr().out

    before = kernel_resources.TABLE.read_text()
    launches["sm_86"] = 99 * 1024 - 2047  # with the 2048 that the compiler told of: one too many
    assert kernel_resources.main(["--update"]) == 1
    line = "tim: tim_weights<double> on sm_86 takes 101377 bytes of shared memory, and there are 101376"
    assert f"FAILED: {line}" in capsys.readouterr().out
    assert kernel_resources.TABLE.read_text() == before
    launches["sm_86"] -= 1
    assert kernel_resources.main(["--update"]) == 0


def test_launches_are_read():
    first, second = dynamic_shared.parse("a<8>\t3\t256\t0\t1\nb\t16\t192\t5000\t8\n\nb\t2\t192\t6000\t1\n\n")
    assert first[1] == dynamic_shared.Launched("b", blocks=16, threads=192, shared=5000, cluster=8)
    assert dynamic_shared.most([*first, *second]) == {"b": 6000}


def test_another_triton_may_take_other_registers_and_shared_memory(fake_nvcc, fake_triton, monkeypatch, capsys):
    clean(fake_nvcc)
    assert kernel_resources.main(["--update"]) == 0
    entry = fake_triton["conv3d"]["conv3d<float16, narrow>"]
    entry["sm_80"] = of_triton(registers=120, shared=4096)
    assert kernel_resources.main([]) == 1
    line = "conv3d: conv3d<float16, narrow> on sm_80 has 120 registers, the table 96, 4096 shared, the table 8192"
    assert f"FAILED: {line}" in capsys.readouterr().out

    monkeypatch.setattr(kernel_resources.importlib.metadata, "version", lambda name: "3.6.0")
    assert kernel_resources.main([]) == 0
    assert f"warning: {line}" in capsys.readouterr().out
    for wrong, complaint in (
        (of_triton(tensor_cores=None), "has no tensor-core instruction"),
        (of_triton(stack=8), "has a stack of 8 bytes"),
    ):
        entry["sm_80"] = wrong
        assert kernel_resources.main([]) == 1
        assert f"FAILED: conv3d: conv3d<float16, narrow> on sm_80 {complaint}" in capsys.readouterr().out


def test_float32_must_not_be_rounded_to_tf32():
    found = {"conv3d": {"conv3d<float32, wide>": {"sm_100": of_triton(tensor_cores="tcgen05")}}}
    assert triton_resources.misused_tensor_cores(found) == ["conv3d: conv3d<float32, wide> on sm_100 rounds float32 to TF32"]
    found["conv3d"]["conv3d<float32, wide>"]["sm_100"] = of_triton(tensor_cores=None)
    assert triton_resources.misused_tensor_cores(found) == []


def test_triton_compiles_what_is_launched_for_a_gpu_that_is_not_there():
    pytest.importorskip("triton")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # the stand-in for the GPU stays in there
        found = pool.submit(triton_resources.compile_for, "sm_90", "float16", ("conv3d", "conv3d_pool")).result()
    assert set(found["conv3d"]) == {f"conv3d<float16, {width}>" for width in ("narrow", "narrow, gelu", "wide", "wide, gelu")}
    assert found["conv3d"]["conv3d<float16, wide>"]["sm_90"]["tensor_cores"] == "wgmma"
    assert kernel_resources.spilled(found) == triton_resources.misused_tensor_cores(found) == []


def test_new_and_lost_kernels_are_differences(found):
    table = copy.deepcopy(found)
    table["tim"]["tim_lost"] = table["tim"].pop("tim_weights<double>")
    excused, others = kernel_resources.differences(found, table, {"nvcc"})
    assert excused == []
    assert others == ["tim: tim_lost on sm_80 is no longer built", "tim: tim_weights<double> on sm_80 is new"]


def test_without_nvcc_it_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(kernel_resources.shutil, "which", lambda name: None)
    assert kernel_resources.main([]) == 1
    assert capsys.readouterr().err == "kernels: nvcc is not on the PATH; install the CUDA toolkit (no GPU is needed)\n"


def test_without_triton_it_says_so_in_one_line(fake_nvcc, monkeypatch, capsys):
    monkeypatch.setattr(kernel_resources.importlib.util, "find_spec", lambda name: None)
    assert kernel_resources.main([]) == 1
    assert capsys.readouterr().err == "kernels: triton is not installed; run `pip install triton` (no GPU is needed)\n"


def test_the_committed_table_has_every_op_and_no_spill():
    table = json.loads(kernel_resources.TABLE.read_text())["ops"]
    assert set(table) == {op for op, entry in OPS.items() if {"cuda", "triton"} & set(entry.kernels)}
    assert kernel_resources.spilled(table) == triton_resources.misused_tensor_cores(table) == []
    assert all(set(archs) == set(kernel_resources.ARCHS) for kernels in table.values() for archs in kernels.values())


def test_the_committed_table_has_every_launch_with_dynamic_shared_memory():
    table = json.loads(kernel_resources.TABLE.read_text())
    taking = {op for op in OPS for file in (kernel_folder() / "cuda").glob(f"{op}*.cuh") if "dynamic_shared<" in file.read_text()}
    dynamic = table["dynamic_shared"]
    assert set(dynamic) == taking
    assert dynamic_shared.over(dynamic, kernel_resources.static_shared(table["ops"])) == []
    assert all(set(archs) == set(dynamic_shared.GPUS) for kernels in dynamic.values() for archs in kernels.values())


def test_the_committed_table_has_every_configuration_of_triton():
    table = json.loads(kernel_resources.TABLE.read_text())["ops"]
    kernels = {kernel for op in triton_resources.OPERATIONS for kernel in table[op] if "gelu" not in kernel}
    wanted = {f"{kernel}<{precision}, {width}>" for kernel in _config.DEFAULTS for precision in _config.PRECISIONS
              for width in _config.WIDTHS}  # fmt: skip
    widened = tuple(f"{op}_" for op in triton_resources.WIDENED)
    assert kernels == {name for name in wanted if not (name.startswith(widened) and "float16" in name)}
