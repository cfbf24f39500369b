"""Where shards lie, and how a part of one is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol

from densessl.data.sources.tar import Read


class State(NamedTuple):
    """Of a shard: its bytes, and what another version of it would have otherwise: a time in ns or the server's word."""

    size: int
    version: int | str


class Store(Protocol):
    """Forked processes share it."""

    readers: int  # how many index shards at once: where these are far away, indexing is waiting
    far: bool  # nothing may be open in a process that forks workers, and indexing takes long

    def states(self, files: Sequence[str]) -> list[State]:
        """Raises OSError with the name of the file."""
        ...

    def opened(self, file: str, length: int | None = None) -> AbstractContextManager[Read]:
        """``length`` is that of a file that will be read from beginning to end. Raises OSError, then or later."""
        ...


class Disk:
    """Files of this machine.

    One is opened anew for every picture, which costs little beside decoding: nothing stays open that forked workers or
    a limit on open files could spoil.
    """

    readers, far = 8, False

    def states(self, files: Sequence[str]) -> list[State]:
        return [State(status.st_size, status.st_mtime_ns) for status in map(os.stat, files)]

    @contextmanager
    def opened(self, file: str, length: int | None = None) -> Iterator[Read]:
        with open(file, "rb", buffering=0) as shard:
            yield lambda at, size: os.pread(shard.fileno(), size, at)
