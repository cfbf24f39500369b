"""What the machine is, and what of it is free."""

from __future__ import annotations

import psutil
import torch

from densessl.device import cores, free_memory, processor
from densessl.plan.found import Machine
from densessl.training.engine import autocast_dtype


def look(device: torch.device, precision: str) -> Machine:
    """As a training process with nothing in memory yet sees it."""
    on_gpu = device.type == "cuda"
    torch.zeros(1, device=device)  # what CUDA itself takes is not free
    held = torch.cuda.memory_reserved(device) if on_gpu else psutil.Process().memory_info().rss
    return Machine(
        device=torch.cuda.get_device_name(device) if on_gpu else processor(),
        gpus=torch.cuda.device_count() if on_gpu else 0,
        cores=cores(),
        busy=psutil.cpu_percent(0.5) / 100,
        threads=torch.get_num_threads(),
        free=free_memory(device) * 2**30 + held,
        bf16=autocast_dtype(precision, device) is not None,
        bf16_possible=autocast_dtype("auto", device) is not None,
    )
