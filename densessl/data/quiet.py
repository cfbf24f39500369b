"""Quiet: for libraries that write to stderr themselves, as libjpeg and libpng do of every odd file."""

from __future__ import annotations

import os
import warnings
from threading import Lock


class Quiet:
    """While a thread is inside, no warnings, and nothing that the process prints to stderr.

    Without contextlib, whose stacks and generators took a thirtieth of the time of a picture's views: after decoding
    the processor has to fetch all such code anew.
    """

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._stderr = _without_stderr()
                self._warnings = warnings.catch_warnings(action="ignore")
                self._warnings.__enter__()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._warnings.__exit__(None, None, None)
                if self._stderr is not None:
                    os.dup2(self._stderr, 2)
                    os.close(self._stderr)


def _without_stderr() -> int | None:
    """Where it was; None of a process without one."""
    try:
        saved = os.dup(2)
    except OSError:
        return None
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)
    return saved
