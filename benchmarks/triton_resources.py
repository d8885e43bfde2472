"""What Triton's compiler gives every shipped configuration of its kernels, for GPUs that need not be there.

The launchers run as they are, on CPU tensors of typical shapes; their launches only compile.
"""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch

from mer_fast import launchers
from mer_fast.launchers import _config, conv3d, conv3d_pool

ARCHS = ("sm_80", "sm_90", "sm_100")
OPERATIONS = {"conv3d": conv3d, "conv3d_pool": conv3d_pool}

Resources = dict[str, Any]  # registers, stack, shared, tensor_cores: the instruction that its products use, or None
Kernels = dict[str, dict[str, Resources]]  # kernel -> architecture -> resources

# width: input, weight, padding, pool. One gray clip and long kernels, as in MicroExpSTCNN; many channels and small kernels.
SHAPES = {
    "narrow": ((2, 1, 24, 16, 16), (32, 1, 15, 3, 3), (0, 0, 0), (3, 3, 3)),
    "wide": ((2, 64, 6, 14, 14), (64, 64, 3, 3, 3), (1, 1, 1), (1, 2, 2)),
}
TENSOR_CORES = {"tcgen05": r"\btcgen05\.mma\b", "wgmma": r"\bwgmma\.mma_async\b", "mma": r"\bmma\.sync\b"}


class AbsentGpu:
    """Stands in for the driver of a GPU of one compute capability, as far as compiling asks."""

    def __init__(self, arch: str) -> None:
        self.capability = int(arch.removeprefix("sm_"))

    def get_current_device(self) -> int:
        return self.capability  # what is compiled is kept by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


def tensor_cores(ptx: str) -> str | None:
    """The tensor-core instruction in a kernel, or None."""
    return next((name for name, pattern in TENSOR_CORES.items() if re.search(pattern, ptx)), None)


def resources(compiled: Any) -> Resources:
    """Of a compiled kernel: registers and stack from its binary, shared memory as Triton asks for it."""
    from triton.backends import nvidia

    cuobjdump = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [cuobjdump, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.findall(rf"\b{key}:(\d+)", told)[0]) for key in ("REG", "STACK", "LOCAL"))
    return {
        "registers": registers,
        "stack": stack + local,
        "shared": compiled.metadata.shared,
        "tensor_cores": tensor_cores(compiled.asm["ptx"]),
    }


def launched(precision: str, width: str, activation: str) -> None:
    """Every launch of conv3d, conv3d_pool and its gradients at one configuration."""
    shape, kernel, padding, pool = SHAPES[width]
    dtype = getattr(torch, "float32" if precision == "tf32" else precision)
    torch.backends.cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    input, weight, bias = (torch.zeros(s, dtype=dtype) for s in (shape, kernel, kernel[:1]))
    arguments = (1, 1, 1), padding, (1, 1, 1), 1
    conv3d.conv3d(input, weight, bias, *arguments, activation, False)
    output, winners = conv3d_pool.conv3d_pool(input, weight, bias, *arguments, activation, pool, pool, True, False)
    if activation == "relu":  # the backward kernels know no activation
        conv3d_pool.conv3d_pool_backward(output, winners, input, weight, *arguments, pool, pool, True, True, False)


def compile_for(arch: str, precision: str) -> dict[str, Kernels]:
    """op -> kernel -> architecture -> resources, at one precision."""
    import triton

    triton.runtime.driver.set_active(AbsentGpu(arch))
    found: dict[str, Kernels] = {op: {} for op in OPERATIONS}
    label = ""

    def only_compile(kernel: Any, blocks: int, *arguments: Any, **constants: Any) -> None:
        compiled = kernel.warmup(*arguments, **constants, **launchers.COMPILER, grid=(blocks,))
        op = "conv3d" if kernel.__name__ == "conv3d" else "conv3d_pool"
        found[op][kernel.__name__ + label] = {arch: resources(compiled)}

    for module in OPERATIONS.values():
        module.launch = only_compile  # type: ignore[attr-defined]
    for width in SHAPES:
        for activation in ("relu", "gelu"):
            label = f"<{precision}, {width}{', gelu' if activation == 'gelu' else ''}>"
            launched(precision, width, activation)
    return found


def collect() -> dict[str, Kernels]:
    """Every shipped configuration: op -> kernel -> architecture -> resources."""
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # launches say it; this keeps Triton from warning
    jobs = [(arch, precision) for arch in ARCHS for precision in _config.PRECISIONS]
    found: dict[str, Kernels] = {op: {} for op in OPERATIONS}
    workers = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for part in pool.map(compile_for, *zip(*jobs, strict=True)):
            for op, kernels in part.items():
                for kernel, by_arch in kernels.items():
                    found[op].setdefault(kernel, {}).update(by_arch)
    return {op: dict(sorted(kernels.items())) for op, kernels in found.items()}


def misused_tensor_cores(found: dict[str, Kernels]) -> list[str]:
    """Products of 16-bit numbers or of TF32 that are not given to tensor cores, and of float32 that are, as TF32."""
    wrong = {False: "has no tensor-core instruction", True: "rounds float32 to TF32"}
    return [
        f"{op}: {kernel} on {arch} {wrong[r['tensor_cores'] is not None]}"
        for op, kernels in found.items()
        for kernel, by_arch in kernels.items()
        for arch, r in by_arch.items()
        if "tensor_cores" in r and (r["tensor_cores"] is None) == ("<float32" not in kernel)
    ]
