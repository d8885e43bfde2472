"""Launch parameters of the Triton kernels: what was tuned for this GPU (`configs/<gpu>.json`), or else a fixed default.

Never tuned at a call: the same shapes always run the same way, in a CUDA graph too.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import NamedTuple

import torch

from .. import _library

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
WIDTHS = ("narrow", "wide")  # up to 32 columns, and more


class Config(NamedTuple):
    """How a kernel is cut: a block's positions (windows, cells), its columns, its steps in k; warps and pipeline stages."""

    rows: int
    columns: int
    reduction: int
    warps: int
    stages: int


# kernel: (float32, tf32, 16-bit) for narrow and wide products.
DEFAULTS: dict[str, dict[str, tuple[Config, Config, Config]]] = {
    "conv3d": {
        "narrow": (Config(64, 32, 16, 4, 2), Config(128, 32, 16, 4, 3), Config(128, 32, 16, 4, 3)),
        "wide": (Config(64, 64, 16, 4, 2), Config(64, 64, 32, 4, 3), Config(128, 64, 32, 8, 3)),
    },
    "conv3d_pool": {
        "narrow": (Config(64, 32, 16, 4, 2), Config(64, 32, 16, 4, 3), Config(64, 32, 16, 4, 3)),
        "wide": (Config(64, 64, 16, 8, 2), Config(64, 64, 32, 8, 3), Config(128, 64, 32, 8, 3)),
    },
    "conv3d_pool_weight_gradient": {  # the sum goes over windows (`rows`); `reduction` is a block of weights
        "narrow": (Config(16, 32, 32, 4, 2), Config(32, 32, 64, 4, 2), Config(32, 32, 64, 4, 2)),
        "wide": (Config(16, 64, 32, 4, 2), Config(32, 64, 64, 8, 2), Config(64, 64, 64, 8, 2)),
    },
    "conv3d_pool_input_gradient": {
        "narrow": (Config(32, 32, 16, 4, 2), Config(64, 32, 16, 4, 2), Config(64, 32, 32, 8, 2)),
        "wide": (Config(32, 64, 16, 4, 2), Config(64, 64, 16, 8, 2), Config(64, 64, 32, 8, 2)),
    },
    "recurrent_conv2d_step": {
        "narrow": (Config(64, 32, 16, 4, 2), Config(64, 32, 32, 4, 3), Config(64, 32, 32, 4, 3)),
        "wide": (Config(64, 64, 16, 4, 2), Config(128, 64, 32, 8, 3), Config(128, 64, 32, 8, 3)),
    },
    "recurrent_conv2d_train": {
        "narrow": (Config(64, 32, 16, 4, 2), Config(64, 32, 32, 4, 3), Config(64, 32, 32, 4, 3)),
        "wide": (Config(64, 64, 16, 4, 2), Config(128, 64, 32, 8, 3), Config(128, 64, 32, 8, 3)),
    },
    "conv_lstm_step": {  # columns of each of the four gates
        "narrow": (Config(32, 16, 16, 4, 2), Config(64, 16, 16, 4, 3), Config(64, 16, 32, 4, 3)),
        "wide": (Config(32, 32, 16, 4, 2), Config(64, 32, 32, 4, 3), Config(64, 32, 64, 4, 3)),
    },
    "conv_lstm_gradient": {
        "narrow": (Config(32, 16, 16, 4, 2), Config(64, 16, 32, 4, 3), Config(64, 16, 32, 4, 3)),
        "wide": (Config(32, 32, 16, 4, 2), Config(64, 32, 32, 8, 3), Config(64, 32, 64, 8, 3)),
    },
    "conv_gru_step": {  # columns of each of the three gates
        "narrow": (Config(32, 16, 16, 4, 2), Config(64, 16, 16, 4, 3), Config(64, 16, 32, 4, 3)),
        "wide": (Config(32, 32, 16, 4, 2), Config(64, 32, 32, 4, 3), Config(64, 32, 32, 4, 3)),
    },
    "conv_gru_gradient": {
        "narrow": (Config(32, 16, 16, 4, 2), Config(64, 16, 32, 4, 3), Config(64, 16, 32, 4, 3)),
        "wide": (Config(32, 32, 16, 4, 2), Config(64, 32, 32, 4, 3), Config(64, 32, 64, 4, 3)),
    },
    "first_state_gradient": {
        "narrow": (Config(64, 32, 16, 4, 2), Config(64, 32, 32, 4, 3), Config(64, 32, 32, 4, 3)),
        "wide": (Config(64, 64, 16, 4, 2), Config(64, 64, 32, 4, 3), Config(64, 64, 64, 4, 3)),
    },
    "conv_norm_pool_maps": {  # of 16-bit numbers there are no products in this op
        "narrow": (Config(64, 32, 16, 8, 2), *(Config(64, 32, 32, 8, 2),) * 2),
        "wide": (Config(32, 64, 16, 8, 2), *(Config(32, 64, 32, 8, 2),) * 2),
    },
    "conv_norm_pool_map_gradient": {
        "narrow": (Config(32, 32, 16, 8, 2), *(Config(64, 32, 32, 8, 2),) * 2),
        "wide": (Config(32, 64, 16, 8, 2), *(Config(32, 64, 32, 8, 2),) * 2),
    },
    "conv_norm_pool_weight_gradient": {
        "narrow": (Config(64, 32, 32, 8, 2), *(Config(64, 32, 32, 4, 2),) * 2),
        "wide": (Config(64, 64, 16, 8, 2), *(Config(64, 64, 32, 8, 2),) * 2),
    },
    "conv_norm_pool_input_gradient": {
        "narrow": (Config(64, 32, 32, 4, 2),) * 3,
        "wide": (Config(64, 64, 16, 8, 2), *(Config(64, 64, 32, 8, 2),) * 2),
    },
    # Without products. Where they are cut by rows and columns, by both; else `rows` is a block of elements.
    **{
        f"recurrent_conv2d_{name}": {"narrow": (Config(64, 32, 1, 4, 1),) * 3, "wide": (Config(32, 64, 1, 4, 1),) * 3}
        for name in ("statistics", "state", "sums", "gradient")
    },
    **{
        name: dict.fromkeys(WIDTHS, (Config(512, 1, 1, 4, 1),) * 3)
        for name in ("conv_lstm_replay", "conv_gru_replay", "conv_norm_pool_close", "conv_norm_pool_open")
    },
    **{
        f"conv_norm_pool_{name}": dict.fromkeys(WIDTHS, (Config(16, 64, 1, 4, 1),) * 3) for name in ("statistics", "total")
    },
}


def default(kernel: str, precision: str, width: str) -> Config:
    """What ships for GPUs on which nothing was tuned."""
    return DEFAULTS[kernel][width][min(PRECISIONS.index(precision), 2)]


@cache
def _tuned(gpu: str) -> dict[str, dict[str, Config]]:
    """kernel -> "float16 narrow" and so on -> parameters, as far as they were measured on that GPU."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower().replace("nvidia", "")).strip("-")
    file = _library.kernel_folder() / "configs" / f"{slug}.json"
    table = json.loads(file.read_text()) if file.exists() else {}
    return {kernel: {key: Config(**fields) for key, fields in of_kernel.items()} for kernel, of_kernel in table.items()}


def precision_of(dtype: torch.dtype) -> str:
    """How products of that dtype are computed: TF32 where PyTorch's own convolutions may use it."""
    if dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "tf32":  # type: ignore[attr-defined]
        return "tf32"
    return str(dtype).removeprefix("torch.")


def choose(kernel: str, precision: str, columns: int, device: torch.device) -> Config:
    """The parameters for a product with that many columns."""
    width = "narrow" if columns <= 32 else "wide"
    fixed = default(kernel, precision, width)
    if device.type != "cuda":
        return fixed
    return _tuned(torch.cuda.get_device_name(device)).get(kernel, {}).get(f"{precision} {width}", fixed)
