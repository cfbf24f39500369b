"""The most memory that was in use at a time."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory(device: torch.device) -> float:
    """GiB: of tensors on a GPU since its statistics were reset, else of this whole process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes, as the system counts
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
