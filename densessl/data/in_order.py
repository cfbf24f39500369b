"""One job a number, done by worker processes, the results in the order of the numbers."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from densessl.progress import progress


def in_order(
    job: Callable[[int], Any], count: int, workers: int, title: str, status: Callable[[int], str] = lambda _: ""
) -> Iterator[Any]:
    """``job(0)``, ``job(1)``, ... ``job(count - 1)``, with progress on stderr; two results a worker are held at most.

    Without workers this process does it. Workers are forked, so that they share what the job holds.
    """
    with warnings.catch_warnings():
        # Of any fork beside threads, of which the workers use none; and of more workers than cores, which slow disks
        # need.
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader = DataLoader(
            _Jobs(job, count),
            batch_size=None,
            num_workers=workers,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            multiprocessing_context="fork" if workers else None,
        )
        results = progress(loader, title, status)
        first = list(islice(results, 1))  # starts the workers
    yield from chain(first, results)


class _Jobs(Dataset):
    def __init__(self, job: Callable[[int], Any], count: int) -> None:
        self.job, self.count = job, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        return self.job(number)


def _unchanged(result: Any) -> Any:
    return result


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # the cores are taken by the other workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process answers it, and ends them
