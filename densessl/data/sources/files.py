"""Picture files of a folder or a list: an index that is two arrays."""

from __future__ import annotations

import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterator

import numpy as np

from densessl.data.decoding import Unreadable
from densessl.errors import UserError

ENDINGS = (b".bmp", b".jpeg", b".jpg", b".npy", b".png", b".tif", b".tiff", b".webp")  # in any case
log = logging.getLogger("densessl")


class Files:
    """An index of picture files: one array of bytes with all paths, one with where each ends.

    Ten million paths of 40 bytes take 0.5 GB. Python strings would take 1 GB more, and again in each forked worker,
    since counting references writes to their pages.
    """

    def __init__(self, root: str, paths: bytearray, ends: array[int]) -> None:
        self.root = root  # what the paths are relative to
        self._paths = np.frombuffer(paths, np.uint8)
        self._ends = np.frombuffer(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def path(self, i: int) -> str:
        start = self._ends[i - 1] if i else 0
        return os.path.join(self.root, os.fsdecode(self._paths[start : self._ends[i]].tobytes()))

    def stored(self, i: int) -> bytes:
        """The whole file. Raises Unreadable."""
        path = self.path(i)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise Unreadable(path, error.strerror or str(error)) from None


def find_files(path: str) -> Files:
    """The pictures of a folder and all its folders, or those that a text file lists, one path a line.

    Files of a folder are ordered by the bytes of their names and come before its folders, whatever order the file
    system has; hidden ones are skipped. The paths of a list are relative to it and keep its order; that they exist is
    seen when they are read. Raises UserError.
    """
    if os.path.isdir(path):
        return _of_folder(path)
    if os.path.isfile(path):
        return _of_list(path)
    parent = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    raise UserError(f"data.path={path}: no such folder or file (what exists of it: {parent})")


def _of_folder(root: str) -> Files:
    paths, ends = bytearray(), array("q")
    others: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()  # links may lead in circles
    folders = [b""]  # relative to the root, each with its slash
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
                        continue
                    if entry.is_dir():
                        inner.append(folder + entry.name + b"/")
                    elif entry.name.lower().endswith(ENDINGS):
                        names += entry.name
                        lengths.append(len(entry.name))
                    else:
                        others[os.fsdecode(os.path.splitext(entry.name)[1].lower()[:12])] += 1
        except OSError as error:
            log.warning("folder left out: %s", error)
        for name in _sorted(names, lengths):
            paths += folder
            paths += name
            ends.append(len(paths))
        folders += sorted(inner, reverse=True)
    if not ends:
        found = ", ".join(f"{n} {ending or 'without an ending'}" for ending, n in others.most_common(5)) or "no files"
        looked = " ".join(os.fsdecode(ending) for ending in ENDINGS)
        raise UserError(
            f"data.path={root}: no pictures in this folder or below it (looked for {looked}; found {found})"
        )
    return Files(root, paths, ends)


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


def _of_list(path: str) -> Files:
    paths, ends = bytearray(), array("q")
    with open(path, "rb") as file:
        if b"\0" in file.read(4096):
            raise UserError(f"data.path={path}: neither a folder nor a text file with one path a line")
        file.seek(0)
        for line in file:
            name = line.removeprefix(b"\xef\xbb\xbf").strip()
            if name:
                paths += name
                ends.append(len(paths))
    if not ends:
        raise UserError(f"data.path={path}: the list is empty; it needs one path a line")
    return Files(os.path.dirname(path), paths, ends)
