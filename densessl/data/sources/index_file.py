"""The file that an index of many pictures is kept in: made once, mapped by all processes, found by the next run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

SMALL = 4 << 20  # bytes of an index, of 100,000 pictures or so, that stays in memory
QUICK = 2.0  # seconds: what took longer to make is kept, however small
SETTLED = 2.0  # seconds after which a change no longer bears the time of the one before; FAT counts in twos
UNUSED = 30 * 24 * 3600  # seconds after which an index that nobody took is removed
FORM = "densessl index 2"  # of the file, and part of its name
TAIL = struct.Struct("<QQ")  # bytes of data, which come first, and of notes, which follow
Write = Callable[[bytes], None]
log = logging.getLogger("densessl")


class Index(NamedTuple):
    """What `make` wrote, (n,) uint8, and its notes."""

    data: np.ndarray
    notes: dict[str, Any]


def kept(
    what: str, make: Callable[[Write], dict[str, Any]], believed: Callable[[Index], bool], slow: bool = False
) -> Index:
    """The index that ``make`` writes, or the one that it wrote earlier, where that is ``believed``.

    ``what`` says of which pictures it is. ``make`` returns notes, in which "facts" is what the index depends on, or
    None where an earlier index could not be told from a later one. A large index, and one that took long, is kept in
    the cache: $DENSESSL_CACHE, which "off" switches off, else densessl in $XDG_CACHE_HOME or ~/.cache. Of processes
    that need the same large index, or a ``slow`` one, one makes it and the others wait. A cache that can't be read or
    written only costs time and memory.
    """
    key = digest([FORM, what])
    folder = _folder()
    if found := _found(folder, key, believed):
        return found
    growing = _Growing(folder, key, what, lambda: _found(folder, key, believed))
    try:
        if slow:
            growing.alone()
        began = time.monotonic()
        notes = make(growing.write)
        return growing.whole(notes, large=time.monotonic() - began > QUICK)
    except _MadeMeanwhile as meanwhile:
        return meanwhile.index
    finally:
        growing.close()


def digest(facts: Iterable[object]) -> str:
    """Of what the facts look like."""
    whole = hashlib.sha256()
    for fact in facts:
        whole.update(os.fsencode(f"{fact}\0"))
    return whole.hexdigest()[:32]


def settled(modified: Iterable[int], since: float) -> bool:
    """Whether times of modification, in ns, tell a later change: they are kept, and not of just before ``since``.

    ``since`` is in seconds, when the first of them was asked for.
    """
    return all(0 < time < (since - SETTLED) * 1e9 for time in modified)


def _folder() -> Path | None:
    named = os.environ.get("DENSESSL_CACHE", "")
    if named == "off":
        return None
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(named or os.path.join(home, "densessl"))


def _found(folder: Path | None, key: str, believed: Callable[[Index], bool]) -> Index | None:
    for file in sorted(folder.glob(f"{key}-*.index")) if folder else ():
        index = _read(file)
        if index and believed(index):
            with suppress(OSError):  # of a cache that is only to be read
                os.utime(file)
            return index
    return None


def _read(file: Path) -> Index | None:
    try:
        with file.open("rb") as stored:
            rest = stored.seek(0, os.SEEK_END) - TAIL.size
            stored.seek(max(0, rest))
            data, notes = TAIL.unpack(stored.read())
            if data + notes != rest:
                raise ValueError(f"cut at {rest} bytes")
            stored.seek(data)
            said = json.loads(stored.read(notes))
            if not isinstance(said, dict) or "facts" not in said:
                raise ValueError("without notes")
            return Index(_mapped(stored, data), said)
    except (OSError, ValueError, struct.error) as error:
        log.warning("index made anew: %s can't be read (%s)", file, error)
        if not isinstance(error, OSError):
            with suppress(OSError):
                file.unlink()
        return None


def _mapped(file: IO[bytes], length: int) -> np.ndarray:
    return np.memmap(file, np.uint8, "r", shape=(length,)).view(np.ndarray)


class _MadeMeanwhile(Exception):
    """By another process."""

    def __init__(self, index: Index) -> None:
        self.index = index


class _Growing:
    """An index that is being written: in memory, from SMALL on in a file of the cache, and back where that fails."""

    def __init__(self, folder: Path | None, key: str, what: str, look: Callable[[], Index | None]) -> None:
        self.folder, self.key, self.what, self.look = folder, key, what, look
        self.length = 0
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._lock: IO[bytes] | None = None

    def write(self, data: bytes) -> None:
        self._memory += data
        self.length += len(data)
        if len(self._memory) >= SMALL:
            self._to_file()

    def alone(self) -> None:
        """Waits for a process that makes the same index, and raises _MadeMeanwhile where it has done so."""
        if self._lock or not self.folder:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / f"{self.key}.lock").open("wb")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("waiting for another process that makes the index of %s", self.what)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:  # also of file systems without locks: then all make it
            log.debug("no lock in %s: %s", self.folder, error)
        if found := self.look():
            raise _MadeMeanwhile(found)

    def whole(self, notes: dict[str, Any], large: bool) -> Index:
        """The index, kept where its notes have facts and it is in a file or ``large``."""
        name = f"{self.key}-{notes['facts']}.index" if notes["facts"] else ""
        if self.folder and (self._file or (large and name)):
            text = json.dumps(notes).encode()
            self._memory += text + TAIL.pack(self.length, len(text))
            self._to_file()
        if not self._file or not self.folder:
            return Index(np.frombuffer(self._memory, np.uint8, self.length), notes)
        if name:
            if found := self.look():  # where there are no locks: a file that others have mapped is not replaced
                return found
            try:
                _tidy(self.folder)
                os.fsync(self._file.fileno())
                os.replace(self._file.name, self.folder / name)
            except OSError as error:
                log.warning("the index of %s is not kept: %s", self.what, error)
        return Index(_mapped(self._file, self.length), notes)

    def close(self) -> None:
        """A file that has not got its name by now gets none; what maps it does so without."""
        for file in (self._file, self._lock):
            if file:
                with suppress(OSError):
                    os.unlink(file.name)
                file.close()

    def _to_file(self) -> None:
        if not self.folder:
            return
        self.alone()
        try:
            if not self._file:
                log.warning("%s: many pictures; their index is made once and kept in %s", self.what, self.folder)
                self.folder.mkdir(parents=True, exist_ok=True)
                # Not files.aside: a process of another machine with the same number may write here.
                self._file = (self.folder / f"{self.key}-{secrets.token_hex(8)}.part").open("x+b", 0)
            while self._memory:
                del self._memory[: self._file.write(self._memory)]
        except OSError as error:
            log.warning("the index of %s stays in memory: %s", self.what, error)
            self.folder = None
            if self._file:
                self._file.seek(0)
                self._memory[:0] = self._file.read()
                self.close()
                self._file = self._lock = None


def _tidy(folder: Path) -> None:
    for file in folder.iterdir():
        with suppress(OSError):
            if file.suffix in (".index", ".part", ".lock") and file.stat().st_mtime < time.time() - UNUSED:
                file.unlink()
