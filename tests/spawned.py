"""Two processes for a test that needs them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

SECONDS = 120


def spawn(function: Callable[[int, Path], dict[str, Any]], folder: Path, processes: int = 2) -> list[dict[str, Any]]:
    """What ``function(rank, folder)`` of a test module returns in each process."""
    context = mp.spawn(_call, (function, folder), nprocs=processes, join=False)
    end = time.monotonic() + SECONDS
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < end, f"{function.__name__} hangs"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"returned{rank}.pt") for rank in range(processes)]


def _call(rank: int, function: Callable[[int, Path], dict[str, Any]], folder: Path) -> None:
    torch.set_num_threads(1)
    torch.save(function(rank, folder), folder / f"returned{rank}.pt")
