"""Pictures of a folder or a list: an index that is two arrays, and the reading of one picture."""

from __future__ import annotations

import io
import logging
import os
import warnings
from array import array
from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image

from densessl.errors import UserError

ENDINGS = (b".bmp", b".jpeg", b".jpg", b".png", b".tif", b".tiff", b".webp")  # in any case
log = logging.getLogger("densessl")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # unreadable files are named by our own log


class Unreadable(Exception):
    """A file that is no picture: its path and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Images:
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

    def read(self, i: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB. Raises Unreadable."""
        path = self.path(i)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise Unreadable(path, error.strerror or str(error)) from None
        return decode(data, path)


def decode(data: bytes, path: str) -> np.ndarray:
    """A file's bytes to (h, w, 3) uint8 RGB: grey is repeated, alpha dropped, 16 bits scaled to 8. Raises Unreadable.

    A turn in EXIF is not applied: masks and boxes are drawn on the stored pixels and carry no such note.
    """
    if not data:
        raise Unreadable(path, "empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which is not read
            header = Image.open(io.BytesIO(data))  # reads the header alone; refuses more than 179 million pixels
    except Image.DecompressionBombError:
        raise Unreadable(path, "more than 179 million pixels; cut it into tiles") from None
    except Exception as error:  # what a broken header raises depends on the format
        reason = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else f"broken header ({error})"
        raise Unreadable(path, reason) from None
    # OpenCV fills the missing part of a cut JPEG with grey and says nothing. The end marker cannot occur inside the
    # coded pixels, but in the thumbnail before them.
    if header.format == "JPEG" and data.find(b"\xff\xd9", _pixels_at(header)) < 0:
        raise Unreadable(path, "cut short")
    if header.mode not in ("CMYK", "LAB"):  # whose colours OpenCV guesses
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            pixels = None
        if pixels is not None:
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if header.mode[0] in "IF":  # Pillow would clip these at 255
        raise Unreadable(path, f"pixels of type {header.mode} without a range")
    try:
        return np.array(header.convert("RGB"))
    except Exception as error:
        raise Unreadable(path, str(error)) from None


def _pixels_at(header: Image.Image) -> int:
    tile = getattr(header, "tile", None)
    return tile[0][2] if tile else 0


def find_images(path: str) -> Images:
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


def _of_folder(root: str) -> Images:
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
    return Images(root, paths, ends)


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


def _of_list(path: str) -> Images:
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
    return Images(os.path.dirname(path), paths, ends)
