"""What Triton's compiler gives every shipped configuration of its kernels, for GPUs that need not be there.

The launchers run as they are, on CPU tensors of typical shapes; their launches only compile.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch

from mer_fast import launchers
from mer_fast.launchers import _config, _recurrent, conv3d, conv3d_pool, conv_gru, conv_lstm, conv_norm_pool, recurrent_conv2d

ARCHS = ("sm_80", "sm_90", "sm_100")
NO_PRODUCT = "no product"

Resources = dict[str, Any]  # registers, stack, shared, tensor_cores: the instruction of its products, None, or NO_PRODUCT
Kernels = dict[str, dict[str, Resources]]  # kernel -> architecture -> resources

# width: input, weight, padding, pool. One gray clip and long kernels, as in MicroExpSTCNN; many channels and small kernels.
SHAPES = {
    "narrow": ((2, 1, 24, 16, 16), (32, 1, 15, 3, 3), (0, 0, 0), (3, 3, 3)),
    "wide": ((2, 64, 6, 14, 14), (64, 64, 3, 3, 3), (1, 1, 1), (1, 2, 2)),
}
# width: input (N, C, H, W) and outputs of a section, or hidden channels of a cell.
RECURRENT = {"narrow": ((2, 3, 12, 12), 32), "wide": ((2, 64, 12, 12), 64)}
# width: channels and outputs of blocks, of which the first is STSTNet's.
FOLDS = {"narrow": ((3, 16), (3, 32), (16, 32)), "wide": ((3, 64), (64, 64))}
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
        "tensor_cores": tensor_cores(compiled.asm["ptx"]) if "tt.dot" in compiled.asm["ttir"] else NO_PRODUCT,
    }


def most(one: Resources | None, other: Resources) -> Resources:
    """What two variants of a kernel need; their products use tensor cores only if both variants' do."""
    if one is None:
        return other
    products = [r["tensor_cores"] for r in (one, other) if r["tensor_cores"] != NO_PRODUCT]
    need = {key: max(one[key], other[key]) for key in ("registers", "stack", "shared")}
    return {**need, "tensor_cores": min(products, key=lambda name: name is not None, default=NO_PRODUCT)}


# --- every launch of an op at one configuration -------------------------------------------------------------------------
def launch_conv3d(dtype: torch.dtype, width: str, activation: str) -> None:
    shape, kernel, padding, _ = SHAPES[width]
    input, weight, bias = (torch.zeros(s, dtype=dtype) for s in (shape, kernel, kernel[:1]))
    conv3d.conv3d(input, weight, bias, (1, 1, 1), padding, (1, 1, 1), 1, activation, False)


def launch_conv3d_pool(dtype: torch.dtype, width: str, activation: str) -> None:
    shape, kernel, padding, pool = SHAPES[width]
    input, weight, bias = (torch.zeros(s, dtype=dtype) for s in (shape, kernel, kernel[:1]))
    arguments = (1, 1, 1), padding, (1, 1, 1), 1
    output, winners = conv3d_pool.conv3d_pool(input, weight, bias, *arguments, activation, pool, pool, True, False)
    if activation == "relu":  # the backward kernels know no activation
        conv3d_pool.conv3d_pool_backward(output, winners, input, weight, *arguments, pool, pool, True, True, False)


def launch_recurrent_conv2d(dtype: torch.dtype, width: str, _: str) -> None:
    (batch, channels, *size), outputs = RECURRENT[width]
    recurrent, norm = torch.zeros(1, outputs, outputs, 3, 3, dtype=dtype), torch.ones(3, outputs)
    for injection, inputs in (("feedforward", channels), ("input", outputs)):
        input, first = torch.zeros(batch, inputs, *size, dtype=dtype), torch.zeros(outputs, inputs, 3, 3, dtype=dtype)
        recurrent_conv2d.recurrent_conv2d(input, first, recurrent, norm, norm, 2, injection, (1, 1), False)
        for normalise in (True, False):
            affine = (norm, norm) if normalise else (None, None)
            rest = 2, injection, normalise, 1e-5
            output, *kept = recurrent_conv2d.recurrent_conv2d_train(input, first, recurrent, *affine, *rest, False)
            recurrent_conv2d.recurrent_conv2d_backward(output, input, first, recurrent, *affine, *kept, *rest, True, False)


def _cell(dtype: torch.dtype, width: str, gates: int) -> tuple[torch.Tensor, ...]:
    """Input, weights, bias and a state."""
    (batch, channels, *size), hidden = RECURRENT[width]
    shapes = (2, batch, channels, *size), (gates * hidden, channels, 3, 3), (gates * hidden, hidden, 3, 3), (gates * hidden,)
    return tuple(torch.zeros(s, dtype=dtype) for s in (*shapes, (batch, hidden, *size)))


def launch_conv_lstm(dtype: torch.dtype, width: str, _: str) -> None:
    input, ih, hh, bias, state = _cell(dtype, width, 4)
    peephole, lengths = torch.zeros(3, hh.shape[1], 1, 1, dtype=dtype), torch.tensor([2, 1])
    for rest in ((bias, None, state, state, None), (bias, peephole, state, state, lengths)):
        *results, gates, states = conv_lstm.conv_lstm(input, ih, hh, *rest, False, 1, True, False)
        conv_lstm.conv_lstm_backward(*results, input, ih, hh, *rest, gates, states, False, 1, True, False)


def launch_conv_gru(dtype: torch.dtype, width: str, _: str) -> None:
    input, ih, hh, bias, state = _cell(dtype, width, 3)
    for lengths in (None, torch.tensor([2, 1])):
        rest = bias, bias, state, lengths
        *results, gates, states = conv_gru.conv_gru(input, ih, hh, *rest, False, 1, True, False)
        conv_gru.conv_gru_backward(*results, input, ih, hh, *rest, gates, states, False, 1, True, False)


def launch_conv_norm_pool(dtype: torch.dtype, width: str, _: str) -> None:
    index = torch.zeros(2, 4, dtype=torch.int64)
    for channels, outputs in FOLDS[width]:
        weight, norm = torch.zeros(2, outputs, channels, 3, 3, dtype=dtype), torch.ones(2, outputs, dtype=dtype)
        shared, own = (torch.zeros(*first, channels, 28, 28, dtype=dtype) for first in ((6,), (2, 4)))
        odd = torch.zeros(6, channels, 7, 9, dtype=dtype)  # sizes of which the compiler knows nothing
        for input, pool in ((shared, [3, 3, 1]), (odd, [3, 3, 0]), (own, [2, 2, 0]), (own, [3, 2, 1])):  # the last one's overlap
            block = 1e-5, 2, pool, 0.5, index[:, 0].contiguous(), 2
            out, *kept = conv_norm_pool.conv_norm_pool(input, index, weight, norm, norm, norm, None, None, *block)
            conv_norm_pool.conv_norm_pool_backward(out, input, index, weight, norm, norm, *kept, True, *block, input is own)


# op: its launches, and the activations that its kernels know
OPERATIONS: dict[str, tuple[Callable[[torch.dtype, str, str], None], tuple[str, ...]]] = {
    "conv3d": (launch_conv3d, ("relu", "gelu")),
    "conv3d_pool": (launch_conv3d_pool, ("relu", "gelu")),
    "recurrent_conv2d": (launch_recurrent_conv2d, ("relu",)),
    "conv_lstm": (launch_conv_lstm, ("relu",)),
    "conv_gru": (launch_conv_gru, ("relu",)),
    "conv_norm_pool": (launch_conv_norm_pool, ("relu",)),
}
MODULES = (_recurrent, conv3d, conv3d_pool, conv_gru, conv_lstm, conv_norm_pool, recurrent_conv2d)
WIDENED = ("conv_norm_pool",)  # 16-bit numbers are computed in float32


def compile_for(arch: str, precision: str, ops: Collection[str] = tuple(OPERATIONS)) -> dict[str, Kernels]:
    """op -> kernel -> architecture -> resources, at one precision."""
    import triton

    triton.runtime.driver.set_active(AbsentGpu(arch))
    found: dict[str, Kernels] = {op: {} for op in ops}
    label, of_op = "", found[next(iter(ops))]

    def only_compile(kernel: Any, blocks: int, *arguments: Any, **constants: Any) -> None:
        compiled = kernel.warmup(*arguments, **constants, **launchers.COMPILER, grid=(blocks,))
        before = of_op.setdefault(kernel.__name__ + label, {})
        before[arch] = most(before.get(arch), resources(compiled))

    for module in MODULES:
        module.launch = only_compile  # type: ignore[attr-defined]
    dtype = getattr(torch, "float32" if precision == "tf32" else precision)
    torch.backends.cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    for op in ops:
        if op in WIDENED and dtype.itemsize < 4:
            continue
        of_op, (launches, activations) = found[op], OPERATIONS[op]
        for width in _config.WIDTHS:
            for activation in activations:
                label = f"<{precision}, {width}{', gelu' if activation == 'gelu' else ''}>"
                launches(dtype, width, activation)
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
        if r.get("tensor_cores", NO_PRODUCT) != NO_PRODUCT and (r["tensor_cores"] is None) == ("<float32" not in kernel)
    ]
