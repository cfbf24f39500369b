"""Writing to stdout and stderr, whether anybody is left to read it or not."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe has ended; a terminal was hung up


@contextmanager
def unbroken() -> Iterator[list[OSError]]:
    """Inside, no program fails because stdout or stderr can't be written: the text is dropped.

    A pipe that nobody reads any more and a terminal that is gone become /dev/null, for child processes and libraries
    too. Gives a list in which another error of stdout, such as a full disk, is found afterwards.
    """
    errors: list[OSError] = []
    with ExitStack() as at_end:
        for name, kept in (("stdout", errors), ("stderr", [])):
            if getattr(sys, name) is None:  # closed, as by `2>&-`: the next file would take its number
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
            stream = getattr(sys, name)
            buffer = getattr(stream, "buffer", None)  # notebooks and tests have streams of other kinds
            raw = getattr(buffer, "raw", buffer)  # python -u has no buffer between
            if isinstance(raw, io.FileIO) and "write" not in vars(raw):
                # Not another stream in its place: loggers and bars keep the one that they found.
                raw.write = _dropping(raw, kept)  # type: ignore[method-assign]
                at_end.callback(vars(raw).pop, "write")
                at_end.callback(stream.flush)  # as Python does at its end, where an error would be its exit code
        yield errors


def _dropping(raw: io.FileIO, errors: list[OSError]) -> Callable[[Any], int | None]:
    write = raw.write

    def write_or_drop(data: Any) -> int | None:
        try:
            return write(data)
        except OSError as error:
            if error.errno in GONE:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, raw.fileno())
                os.close(nowhere)
            elif not errors:
                errors.append(error)
            return memoryview(data).nbytes

    return write_or_drop
