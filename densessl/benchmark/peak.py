"""The most memory that something took."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from pathlib import Path
from types import TracebackType

import torch

from densessl.errors import UserError


class Peak:
    """GiB at the beginning and at most within a with-block: of tensors on a GPU, else of this process in RAM.

    In RAM, meant for a process of its own: what earlier tensors leave is handed back to the system before. The
    system's ru_maxrss would not do, since a process inherits it from its parent. Raises UserError without /proc.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rest = self.most = 0.0

    def __enter__(self) -> Peak:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self.rest = torch.cuda.memory_allocated(self.device) / 2**30
            return self
        with contextlib.suppress(AttributeError):  # of glibc alone
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):  # where it is forbidden, the peak is that since the process began
            Path("/proc/self/clear_refs").write_text("5")
        self.rest = _gib("/proc/self/status", "VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self.most = torch.cuda.max_memory_allocated(self.device) / 2**30
        else:
            self.most = _gib("/proc/self/status", "VmHWM")

    @property
    def above(self) -> float:
        return self.most - self.rest


def free_memory(device: torch.device) -> float:
    """GiB that could be had now: of the GPU, or of RAM as the system estimates it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    return _gib("/proc/meminfo", "MemAvailable")


def _gib(file: str, key: str) -> float:
    try:
        (kib,) = re.findall(rf"^{key}:\s+(\d+) kB$", Path(file).read_text(), re.MULTILINE)
    except (OSError, ValueError):
        raise UserError(f"memory in RAM is measured by {file}, which this system does not have") from None
    return int(kib) / 2**20
