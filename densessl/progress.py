"""Progress on stderr: a bar where there is a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from multiprocessing.queues import Queue
from typing import Any, Protocol

from tqdm import tqdm

from densessl.errors import UserError, shared_memory_error

LINES = 5
_quiet = ContextVar("quiet", default=False)


@contextmanager
def quietly() -> Iterator[None]:
    """No progress is shown inside. What else is written to stderr, by any thread, still is."""
    before = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(before)


class Counted(Protocol):
    """A DataLoader or its iterator."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


def progress(loader: Counted, title: str, status: Callable[[int], str] = lambda _: "") -> Iterator[Any]:
    """The loader's items; ``status(n)`` after n of them stands beside the count.

    Raises the error that an item is, and UserError where workers have too little shared memory.
    """
    if getattr(loader, "num_workers", 0):
        loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)  # type: ignore[attr-defined]
    total, started = len(loader), time.perf_counter()
    quiet = _quiet.get()
    terminal = sys.stderr.isatty() and not quiet
    bar = tqdm(loader, desc=title, disable=not terminal, leave=False)
    try:
        for n, item in enumerate(bar, 1):
            if isinstance(item, UserError):
                raise item
            yield item
            if terminal and n % 10 == 0:
                bar.set_postfix_str(status(n))
            elif not (terminal or quiet) and n * LINES // total > (n - 1) * LINES // total:
                took = f"{time.perf_counter() - started:.0f} s"
                print(f"{title} {n}/{total} {took} {status(n)}".rstrip(), file=sys.stderr)
    except RuntimeError as error:
        if told := shared_memory_error(error):
            raise told from None
        raise
    finally:
        del loader, bar  # ends the workers, also where a traceback keeps this frame


def _start_worker(more: Callable[[int], None] | None, worker: int) -> None:
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    if more:
        more(worker)


def _end_worker(error: Exception, item: object) -> None:
    """What a DataLoader's worker can't hand over would only be printed there, and waited for without end."""
    if shared_memory_error(error):
        signal.raise_signal(signal.SIGBUS)  # by which torch knows what has happened
    traceback.print_exception(error)
    os._exit(1)
