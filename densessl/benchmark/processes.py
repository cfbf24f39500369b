"""Processes of their own: to measure memory from its beginning, or to be several that are connected."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import multiprocessing

from densessl.errors import UserError
from densessl.training.launch import alone


def spawned(function: Callable[..., Any], *arguments: Any, processes: int = 1, threads: int | None = None) -> list[Any]:
    """What ``function(*arguments)`` returns in each of so many fresh processes, which launch.setup finds named.

    ``threads`` of the CPU for each, else as there are. A UserError or a GPU without enough memory in one of them ends
    all and is raised here; whatever else happens, torch.multiprocessing tells.
    """
    env = alone() | {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    env |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        try:
            multiprocessing.spawn(_call, (folder, env, threads, function, arguments), nprocs=processes)
        except multiprocessing.ProcessRaisedException:
            for file in folder.glob("error*"):
                raise pickle.loads(file.read_bytes()) from None
            raise
        return [pickle.loads((folder / f"returned{rank}").read_bytes()) for rank in range(processes)]


def _call(
    rank: int, folder: Path, env: dict[str, str], threads: int | None, function: Callable[..., Any], arguments: Any
) -> None:
    os.environ |= env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    if threads:
        torch.set_num_threads(threads)
    try:
        (folder / f"returned{rank}").write_bytes(pickle.dumps(function(*arguments)))
    except (UserError, torch.OutOfMemoryError) as error:
        (folder / f"error{rank}").write_bytes(pickle.dumps(error))
        raise
