"""Tar shards behind a URL or in an object store, through fsspec."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from torch.utils.data import Dataset

from densessl.data.sources.braces import expanded
from densessl.data.sources.shards import PACKED, Shards, only_tar
from densessl.data.sources.store import State
from densessl.data.sources.tar import Read
from densessl.data.workers import by_workers
from densessl.errors import UserError

WAITS = (0.5, 2, 8)  # seconds before what failed is tried again
PATIENCE, SLOWEST = 30, 1e6  # seconds for an answer, and as many more as it takes with so many bytes a second
LISTING = 600  # seconds for the names of a folder
AWAY = 300  # seconds for which a shard that failed is not asked for
WINDOW = 1 << 20  # bytes read at once for an index: about what a fast line carries while an answer is on its way
ASKED = 32  # at once, how large files are
VERSIONS = ("ETag", "etag", "Last-Modified", "LastModified", "last_modified", "updated", "mtime", "modified", "created")
T = TypeVar("T")


class Remote:
    """Files behind URLs, read in parts.

    File systems of fsspec hold connections, threads and locks, which do not survive a fork. Each process therefore
    opens its own when it first reads, and leaves one that it got from its parent as it is: ending it would talk over
    the parent's connections. What asks for all shards, before workers are forked, does so in a process that ends.

    A read that fails is tried again three times; a shard that failed is then taken for gone for five minutes, so that
    a run passes over its pictures instead of waiting for each.
    """

    readers, far = 16, True

    def __init__(self, url: str) -> None:
        self.url = url
        self._systems: dict[int, Any] = {}  # of each process
        self._away: dict[str, tuple[float, str]] = {}  # until when, and why
        self._states: dict[str, State] = {}

    def find(self) -> list[str]:
        """The shards that the URL means: one, those of a folder, of a glob or of braces. Raises UserError."""
        (found,) = by_workers(_Search(self), [self.url], workers=1)
        if isinstance(found, UserError):
            raise found
        self._states = dict(found)
        return list(self._states)

    def states(self, files: Sequence[str]) -> list[State]:
        return [self._states[file] for file in files]

    @contextmanager
    def opened(self, file: str, length: int | None = None) -> Iterator[Read]:
        def read(at: int, size: int) -> bytes:
            return self._read(file, at, size)

        yield read if length is None else _ahead(read, length)

    def search(self) -> dict[str, State]:
        """The shards with their states, by connections of this process. Raises UserError."""
        try:
            system = self._system()
            names = [name for pattern in expanded(self.url) for name in _matching(system, pattern)]
            with ThreadPoolExecutor(ASKED) as pool:
                states = list(pool.map(lambda name: _state(system, name), names))
        except UserError:
            raise
        except ImportError as error:
            raise UserError(
                f"data.path={self.url}: {error}. pip install 'densessl[remote]' is for https://; s3:// needs s3fs, "
                "gs:// gcsfs, az:// adlfs"
            ) from None
        except Exception as error:  # each file system has its own
            raise UserError(f"data.path={self.url}: {_reason(error)}") from None
        return dict(zip(only_tar(self.url, [system.unstrip_protocol(name) for name in names]), states, strict=True))

    def _system(self) -> Any:
        if os.getpid() not in self._systems:
            from fsspec import asyn
            from fsspec.core import url_to_fs

            if not (asyn.iothread[0] and asyn.iothread[0].is_alive()):  # but in the parent, perhaps
                asyn.reset_lock()
            self._systems[os.getpid()] = url_to_fs(expanded(self.url)[0])[0]
        return self._systems[os.getpid()]

    def _read(self, file: str, at: int, size: int) -> bytes:
        until, reason = self._away.get(file, (0.0, ""))
        if time.monotonic() < until:
            raise OSError(errno.EIO, reason)
        try:
            data = _patiently(lambda: self._part(file, at, size))
            if len(data) <= size:
                return data
            reason = "the server sends the whole file instead of the part that was asked for"
        except Exception as error:  # each file system has its own
            reason = _reason(error)
        self._away[file] = (time.monotonic() + AWAY, reason)
        raise OSError(errno.EIO, reason)

    def _part(self, file: str, at: int, size: int) -> bytes:
        return _ask(self._system(), "cat_file", file, PATIENCE + size / SLOWEST, start=at, end=at + size)


class _Search(Dataset):
    def __init__(self, remote: Remote) -> None:
        self.remote = remote

    def __getitem__(self, url: str) -> dict[str, State] | UserError:
        try:
            return self.remote.search()
        except UserError as error:
            return error


def open_remote(url: str) -> Shards:
    """The shards of a URL, which may have * and braces; a URL that does not end in .tar is a folder of them.

    Raises UserError.
    """
    store = Remote(url)
    return Shards(store.find(), store)


def _matching(system: Any, pattern: str) -> list[str]:
    name = system._strip_protocol(pattern)
    if not any(sign in pattern for sign in "*["):  # a ? begins the query of a URL
        if name.partition("?")[0].endswith((".tar", *PACKED)):
            return [name]
        name = f"{name.rstrip('/')}/*.tar"
    found = sorted(_patiently(lambda: _ask(system, "glob", name, LISTING)))
    if not found:
        raise UserError(
            f"data.path={pattern} matches no file; shards are named like https://HOST/train-{{000..099}}.tar"
        )
    return found


def _state(system: Any, name: str) -> State:
    """Raises UserError."""
    try:
        info = _patiently(lambda: _ask(system, "info", name))
    except Exception as error:  # each file system has its own
        raise UserError(f"data.path: {system.unstrip_protocol(name)}: {_reason(error)}") from None
    if info.get("size") is None or info.get("partial") is False:
        raise UserError(f"data.path: {name}: the server does not send parts of it; copy it to one that does")
    return State(int(info["size"]), " ".join(str(info[key]) for key in VERSIONS if info.get(key)))


def _ask(system: Any, what: str, name: str, patience: float = PATIENCE, **options: int) -> Any:
    """``system.what(name)``, within a time where the file system can be stopped."""
    name = system._strip_protocol(name)
    if not system.async_impl:
        return getattr(system, what)(name, **options)
    from fsspec.asyn import sync

    return sync(system.loop, getattr(system, f"_{what}"), name, timeout=patience, **options)


def _ahead(read: Read, length: int) -> Read:
    """``read`` of what is asked for in rising order, a WINDOW at a time."""
    start, window = 0, b""

    def part(at: int, size: int) -> bytes:
        nonlocal start, window
        size = min(size, length - at)
        if size <= 0:
            return b""
        if at < start or at + size > start + len(window):
            start, window = at, read(at, min(max(size, WINDOW), length - at))
        return window[at - start : at - start + size]

    return part


def _patiently(job: Callable[[], T]) -> T:
    for wait in WAITS:
        try:
            return job()
        except Exception as error:  # each file system has its own
            if isinstance(error, (UserError, ImportError, PermissionError)) or _missing(error):
                raise
            time.sleep(wait)
    return job()


def _missing(error: BaseException) -> bool:
    """Whether a file is not there; for HTTP, fsspec says so of whatever goes wrong."""
    cause = error.__cause__
    lost = isinstance(cause, (ConnectionError, TimeoutError)) or type(cause).__module__.startswith("aiohttp")
    return isinstance(error, FileNotFoundError) and (not lost or getattr(cause, "status", None) in (404, 410))


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return _reason(error.__cause__) if error.__cause__ and not _missing(error) else "no such file"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
