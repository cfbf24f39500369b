"""Worker processes that make what is asked for, in the order asked."""

from __future__ import annotations

import atexit
import gc
import signal
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

GRACE = 60  # seconds


def by_workers(dataset: Dataset, keys: Iterable[Any], workers: int, pin: bool = False) -> Any:
    """``dataset[key]`` of each key; they begin with the first key at once, and read two ahead each.

    Workers are forked, so that they share what the data set holds; without any this process does it. ``pin`` puts
    tensors where a GPU fetches them without a copy. Deleting the iterator ends them.
    """
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork beside threads; the workers use none of the parent's threads or locks. And
        # torch of more workers than cores, which slow disks need.
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader = DataLoader(
            dataset,
            sampler=keys,
            batch_size=None,
            num_workers=workers,
            collate_fn=_unchanged,
            worker_init_fn=_start,
            pin_memory=pin,
            multiprocessing_context="fork" if workers else None,
        )
        made = iter(loader)
    atexit.register(_end, weakref.ref(made))
    return made


def _end(made: weakref.ref[Any]) -> None:
    """Of workers that a program leaves at its end; torch would send them a signal, which they leave to us."""
    if (left := made()) is not None and hasattr(left, "_shutdown_workers"):
        left._shutdown_workers()


def _unchanged(made: Any) -> Any:
    return made


def prepare() -> None:
    """One core alone, and no garbage collector that walks through all that was imported: a tenth of the time."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # its pool does not survive the fork, and the cores are taken by the other workers
    gc.freeze()  # it would also write to pages that forked workers share


def _start(worker: int) -> None:
    prepare()
    # A signal to the whole process group is the main process's to answer: it may want to save first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stay)


def _stay(*_: Any) -> None:
    """For GRACE, or until a second SIGTERM: two may come as one."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(GRACE)
