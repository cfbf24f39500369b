"""The most memory that something took."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path
from types import TracebackType

import psutil
import torch

from densessl.device import peak_memory


class Peak:
    """GiB at the beginning and at most within a with-block: of tensors on a GPU, else of this process in RAM.

    In RAM, meant for a process of its own: what earlier tensors leave is handed back to the system before.
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
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        self.rest = psutil.Process().memory_info().rss / 2**30
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.most = peak_memory(self.device)

    @property
    def above(self) -> float:
        return self.most - self.rest
