"""Where a result comes from: machine, commit and package versions, as every result records them."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def machine() -> str:
    """GPU, if there is one, and processor, in words."""
    cpu = f"CPU {processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {cpu}"
    return cpu


def processor() -> str:
    """The CPU's model, or the best description that the system gives."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The git commit of this code; None outside of a clone, or without git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Versions of the packages that can change a result."""
    return {name: version(name) for name in ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow")}
