"""Picture files of a folder or a list: an index of their paths."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from densessl.data.decoding import Unreadable
from densessl.data.sources.endings import ENDINGS, OTHERS, START, Contents, ending_of, is_image
from densessl.data.sources.index_file import Index, Write, digest, kept, settled
from densessl.errors import UserError
from densessl.files import printable

LINES = 100  # of a list that are looked for at its beginning
STEP = 64  # paths from one mark to the next
log = logging.getLogger("densessl")


class Files:
    """An index of picture files: all paths in one array of bytes, and another that tells where every 64th begins.

    Ten million paths of 40 bytes take 0.4 GB, on disk: forked workers share what is read of it. Python strings would
    take 1 GB more, and again in each worker, since counting references writes to their pages.
    """

    def __init__(self, root: str, index: Index) -> None:
        self.root = root  # what the paths are relative to
        self.contents = Contents(index.notes["taken"], index.notes["left"])
        self._count = int(index.notes["pictures"])
        marks = slice(*index.notes["marks"])
        self._paths, self._marks = index.data[: marks.start], index.data[marks].view(np.int64)
        self._searched = index.data[marks.stop :]
        self._last = (-1, list[bytes]())  # asked for: mark, and the names from there to the next

    def __len__(self) -> int:
        return self._count

    def path(self, i: int) -> str:
        """For messages; `file` opens it."""
        return printable(self.file(i))

    def file(self, i: int) -> str:
        return os.path.join(self.root, self.name(i))

    def name(self, i: int) -> str:
        """Below the root, as the system has it."""
        mark, place = divmod(i, STEP)
        last, names = self._last
        if last != mark:
            names = self._paths[self._marks[mark] : self._marks[mark + 1]].tobytes().split(b"\0")
            self._last = mark, names
        return os.fsdecode(names[place])

    def list_hash(self) -> str:
        """Of the paths below the folder, or of the lines of the list."""
        return hashlib.sha256(self._paths.data).hexdigest()

    def odd_folders(self) -> list[str]:
        """Those that are called like pictures. They are searched like others."""
        names = (name[:-1] for name in self._searched.tobytes().split(b"\0"))
        return [
            printable(os.path.join(self.root, os.fsdecode(name)))
            for name in names
            if ending_of(os.path.basename(name)) in ENDINGS
        ]

    def stored(self, i: int) -> bytes:
        """The whole file. Raises Unreadable."""
        try:
            return whole_file(self.file(i))
        except OSError as error:
            raise Unreadable(self.path(i), error.strerror or str(error)) from None


def whole_file(path: str | bytes, size: int = -1) -> bytes:
    """All of it or its first bytes.

    Raises OSError, also for a pipe, whose opening would wait for a writer, and a device, which may never end.
    """
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("no file, but a pipe or a device")
        return file.read(size)


def find_files(path: str) -> Files:
    """The pictures of a folder and all its folders, or those that a text file lists, one path a line.

    Files of a folder are those with an ending of an image, and those of an unknown ending, or none, that begin like
    one; hidden files and folders are left out. They are ordered by the bytes of their names and come before the
    folder's folders, whatever order the file system has. The paths of a list are relative to it and keep its order;
    that they exist is seen when they are read.

    Their index is kept in the cache where it is large, and believed as long as the list has the same size and time of
    modification; or every folder has the same time of modification, which adding, removing and renaming a file
    changes. What keeps no such times, as some mounts of object stores, goes unnoticed. Raises UserError.
    """
    if os.path.isdir(path):
        index = kept(f"folder {os.path.realpath(path)}", partial(_of_folder, path), partial(_unchanged, path))
        return Files(path, index)
    if os.path.isfile(path):
        status = os.stat(path)
        facts = digest([status.st_size, status.st_mtime_ns])
        sure = facts if settled([status.st_mtime_ns], time.time()) else None
        index = kept(
            f"list {os.path.realpath(path)}", partial(_of_list, path, sure), lambda index: index.notes["facts"] == facts
        )
        return Files(os.path.dirname(path), index)
    parent = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    raise UserError(f"data.path={path}: no such folder or file (what exists of it: {parent})")


def check_lines(path: str, files: Files) -> None:
    """Raises UserError where none of a hundred lines, or of all, names a file: nothing else is wrong than the list."""
    rows = np.unique(np.linspace(0, len(files) - 1, LINES).astype(int)).tolist()
    if any(os.path.lexists(files.file(row)) for row in rows):
        return
    lines = [files.name(row) for row in rows]
    base = os.path.abspath(files.root)
    if any(map(os.path.lexists, lines)):
        advice = f"they are right from {os.getcwd()}: write whole paths, or put the list there"
    elif any(
        os.path.lexists(os.path.join(files.root, word)) for line in lines for word in re.split(r"[\s,;]", line)[:1]
    ):
        advice = "a line is a path alone, without a class or anything else behind it"
    elif any(line[:1] in "\"'" for line in lines):
        advice = "paths stand without quotes"
    elif any("\\" in line for line in lines):
        advice = "folders are parted by /, not by \\"
    elif any("://" in line for line in lines):
        advice = "a URL is no file; data.path takes tar shards behind one"
    else:
        advice = "paths are relative to the list's folder, or whole"
    shown = "".join(f"\n  {printable(line)[:200]}" for line in lines[:3])
    raise UserError(
        f"data.path={path}: {'no line of this list' if len(files) <= LINES else f'none of {LINES} lines'} names a file "
        f"that is there, looked for in {printable(base)}; {advice}. It has such lines as{shown}"
    )


class _Paths:
    """Paths on their way into an index."""

    def __init__(self, write: Write) -> None:
        self.write, self.count, self.length = write, 0, 0
        self.contents = Contents()
        self._marks, self._last = array("q"), list[bytes]()  # those that are not written yet

    def add(self, path: bytes) -> None:
        self.count += 1
        self.contents.take(ending_of(path[path.rfind(b"/") + 1 :]))
        self._last.append(path)
        if len(self._last) == STEP:
            self._mark()

    def end(self, facts: str | None) -> dict[str, Any]:
        """The notes of the index."""
        if self._last:
            self._mark()
        self._marks.append(self.length)
        start = self.length + -self.length % self._marks.itemsize
        self.write(bytes(start - self.length) + self._marks.tobytes())
        marks = [start, start + len(self._marks) * self._marks.itemsize]
        return {"pictures": self.count, "marks": marks, "facts": facts, **self.contents.notes()}

    def _mark(self) -> None:
        self._marks.append(self.length)
        text = b"\0".join([*self._last, b""])
        self.write(text)
        self.length += len(text)
        self._last.clear()


def _of_folder(root: str, write: Write) -> dict[str, Any]:
    paths = _Paths(write)
    seen: set[tuple[int, int]] = set()  # links may lead in circles
    folders = [b""]  # relative to the root, each with its slash
    searched, modified, since = bytearray(), array("q"), time.time()
    complete = True
    while folders:
        folder = folders.pop()
        names, lengths, inner = bytearray(), array("H"), []
        try:
            where = os.path.join(os.fsencode(root), folder)
            status = os.stat(where)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(where) as entries:
                for entry in entries:
                    if entry.name.startswith(b"."):
                        paths.contents.left["hidden"] += 1
                    elif _is_folder(entry):
                        inner.append(folder + entry.name + b"/")
                    elif (ending := ending_of(entry.name)) in ENDINGS or is_image(ending, _start(entry, ending)):
                        names += entry.name
                        lengths.append(len(entry.name))
                    else:
                        paths.contents.leave(ending)
            searched += folder + b"\0"
            modified.append(status.st_mtime_ns)
        except OSError as error:
            complete = False  # and nothing would tell that it can be read one day
            log.warning("folder left out: %s", error)
        for name in _sorted(names, lengths):
            paths.add(folder + name)
        folders += sorted(inner, reverse=True)
    if not paths.count:
        looked = " ".join(f".{ending.decode()}" for ending in sorted(ENDINGS))
        raise UserError(
            f"data.path={root}: no pictures in this folder or below it (looked for {looked}, and at how files of "
            f"unknown endings begin; found {paths.contents.left_out()})"
        )
    notes = paths.end(digest(modified) if complete and settled(modified, since) else None)
    write(bytes(searched))
    return notes


def _start(entry: os.DirEntry[bytes], ending: bytes) -> bytes:
    """The first bytes of a file that may be an image, none of another and of what can't be read."""
    with suppress(OSError):
        return b"" if ending in OTHERS else whole_file(entry.path, START)
    return b""


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, which is named when it is read
        return False


def _unchanged(root: str, index: Index) -> bool:
    """Whether all folders that were searched have the times that they had."""
    searched = index.data[index.notes["marks"][1] :].tobytes().split(b"\0")[:-1]
    base = os.fsencode(root)
    try:
        modified = [os.stat(os.path.join(base, folder)).st_mtime_ns for folder in searched]
    except OSError:
        return False
    return digest(modified) == index.notes["facts"]


def _sorted(names: bytearray, lengths: array[int]) -> Iterator[bytes]:
    """The names in the order of their bytes, sorted as an array: a folder may hold millions."""
    if not lengths:
        return
    sizes = np.frombuffer(lengths, np.uint16)
    table = np.zeros((len(sizes), sizes.max()), np.uint8)
    table[np.arange(sizes.max()) < sizes[:, None]] = np.frombuffer(names, np.uint8)
    table = table.view(f"S{sizes.max()}")[:, 0]
    for row in np.argsort(table, kind="stable"):
        yield table[row]


def _of_list(path: str, facts: str | None, write: Write) -> dict[str, Any]:
    paths = _Paths(write)
    with open(path, "rb") as file:
        if b"\0" in file.read(4096):
            raise UserError(f"data.path={path}: neither a folder nor a text file with one path a line")
        file.seek(0)
        for number, line in enumerate(file, 1):
            name = line.removeprefix(b"\xef\xbb\xbf").strip()
            if b"\0" in name:
                raise UserError(f"data.path={path}: line {number} holds a zero byte; a path a line is needed")
            if name:
                paths.add(name)
    if not paths.count:
        raise UserError(f"data.path={path}: the list is empty; it needs one path a line")
    return paths.end(facts)
