"""Progress on stderr: a bar where there is a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from tqdm import tqdm

from densessl.errors import UserError

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
    """The loader's items; ``status(n)`` after n of them stands beside the count. Raises the error that an item is."""
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
    finally:
        del loader, bar  # ends the workers, also where a traceback keeps this frame
