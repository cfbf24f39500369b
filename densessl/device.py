"""Where tensors are computed, and how much memory that takes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from densessl.errors import UserError


def find_device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device  # a bare cuda gets its number
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None


def peak_memory(device: torch.device) -> float:
    """GiB: of tensors on a GPU since its statistics were reset, else of this whole process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's figure is inherited from the parent
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes, as the system counts
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
