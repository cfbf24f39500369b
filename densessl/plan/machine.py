"""What the machine is, and what of it is free."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from densessl.plan.found import Machine
from densessl.training.engine import autocast_dtype


def look(device: torch.device, precision: str) -> Machine:
    """As a training process with nothing in memory yet sees it."""
    free = _free_memory() + psutil.Process().memory_info().rss
    if on_gpu := device.type == "cuda":
        torch.zeros(1, device=device)  # what CUDA itself takes is not free
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return Machine(
        device=torch.cuda.get_device_name(device) if on_gpu else _processor(),
        gpus=torch.cuda.device_count() if on_gpu else 0,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        busy=psutil.cpu_percent(0.5) / 100,
        threads=torch.get_num_threads(),
        free=free,
        bf16=autocast_dtype(precision, device) is not None,
        bf16_possible=autocast_dtype("auto", device) is not None,
    )


def _free_memory() -> float:
    """Bytes of main memory that a process can have now."""
    free = float(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # a container's own limit; no number where it has none
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
        free = min(free, limit - used + int(cached[1] if cached else 0))
    return free


def _processor() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()
