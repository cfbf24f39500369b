"""Where tensors are computed: the device, the processor and its cores, the memory that there is and that it took."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from densessl.errors import UserError


def find_device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device  # a bare cuda gets its number
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None


def gpu_is_used() -> bool:
    """Whether training is on a GPU: there is one, and DS_ACCELERATOR=cpu does not keep it out."""
    return torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"


def processor() -> str:
    """Its name."""
    with suppress(OSError):
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors in RAM leave, for the next ones, as on a GPU.

    The C library gives large blocks back, and the system clears every page again that the next step takes: a tenth of a
    ResNet-50's step. Only glibc is told; the process's peak stays what it is.
    """
    with suppress(AttributeError):  # another library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no blocks that go back when they are freed
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never


def free_memory(device: torch.device) -> float:
    """GiB that a process could have now: of the GPU, or of RAM, within the limit of a container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no number where the container has no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text(encoding="utf-8")) for name in ("memory.max", "memory.current"))
        cached = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(encoding="utf-8"), re.MULTILINE)
        free = min(free, limit - used + int(cached[1] if cached else 0))
    return free / 2**30


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` begin with what is held now; a process gives back first what is free. Elsewhere than in Linux
    nothing is reset.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_memory(device: torch.device) -> float:
    """GiB: of tensors on a GPU, else of this whole process, since `reset_peak_memory` or the start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's figure is inherited from the parent
        return int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes, as the system counts
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
