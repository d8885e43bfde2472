"""What a result must say about where it was measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import mer_fast

ROOT = Path(__file__).resolve().parent.parent
# The name in the results, and the distributions that may bring it.
PACKAGES = {
    "torch": ("torch",),
    "NumPy": ("numpy",),
    "OpenCV": ("opencv-contrib-python-headless", "opencv-contrib-python"),
    "scikit-image": ("scikit-image",),
}


def stamp() -> dict[str, Any]:
    """Device, versions, commit and date, as the results of a CPU have them; to be taken before anything is written."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"device": cpu(), "versions": versions(), "commit": commit(), "date": today}


def cpu() -> dict[str, Any]:
    build = mer_fast.info()["build"]
    return {"kind": "cpu", "name": _cpu_name(), "threads": torch.get_num_threads(), "isa": build.get("cpu_kernel_in_use", "none")}


def versions() -> dict[str, str]:
    """mer_fast's own and those of the rivals that are installed."""
    found = {"mer_fast": mer_fast.__version__}
    for name, distributions in PACKAGES.items():
        for distribution in distributions:
            try:
                found[name] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def commit() -> str:
    """The checkout's commit, "-dirty" where files differ from it; "unknown" outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
