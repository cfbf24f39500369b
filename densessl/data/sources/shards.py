"""Pictures in tar shards, in the form of WebDataset: an index of where each one lies, and the reading of one."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from densessl.data.decoding import Unreadable
from densessl.errors import UserError

ENDINGS = (b"jpg", b"jpeg", b"png", b"webp", b"tif", b"tiff", b"npy")  # in any case
BLOCK = 512  # bytes; headers and contents of a tar begin at multiples of it
PLACE = np.dtype([("shard", np.int32), ("label", np.int32), ("offset", np.int64), ("size", np.int64)])
READERS = 8  # shards indexed at once: where the disk is far away, indexing is waiting


class Shards:
    """The pictures KEY.jpg, .jpeg, .png and .webp of tar files, shard after shard, each in the order it lies in.

    KEY is the path up to the first dot of the file's name, and KEY.cls in the same shard holds the picture's class as
    a number; other files are left out. The index takes 24 bytes a picture, in one array that forked workers share. A
    shard is opened anew for every picture, which costs little beside decoding: nothing stays open that forked workers
    or a limit on open files could spoil.

    Raises UserError for a shard that is cut or no plain tar, and where there is no picture at all.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self.files = list(files)
        with ThreadPoolExecutor(READERS) as pool:
            parts, others = zip(*pool.map(_index, range(len(files)), files), strict=True)
        self.index = np.concatenate(parts)
        if not len(self.index):
            found = ", ".join(f"{n} .{ending}" for ending, n in sum(others, Counter()).most_common(5)) or "no files"
            raise UserError(f"{', '.join(self.files[:3])}: no pictures KEY.jpg, .jpeg, .png or .webp (found {found})")

    def __len__(self) -> int:
        return len(self.index)

    def path(self, i: int) -> str:
        """The shard and the name in it."""
        return self._member(i, 0)[0]

    def stored(self, i: int) -> bytes:
        """The picture's file. Raises Unreadable."""
        path, data = self._member(i, size := int(self.index[i]["size"]))
        if len(data) < size:
            raise Unreadable(path, "cut short: the shard has become smaller since it was indexed")
        return data

    def labels(self) -> np.ndarray:
        """(pictures,) int64: the class of each. Raises UserError where a picture has none."""
        missing = np.flatnonzero(self.index["label"] < 0)
        if len(missing):
            raise UserError(
                f"{len(missing)} of {len(self)} pictures have no KEY.cls in their shard that holds 0, 1, 2 or another "
                f"class number; the first is {self.path(int(missing[0]))}"
            )
        return self.index["label"].astype(np.int64)

    def _member(self, i: int, size: int) -> tuple[str, bytes]:
        """The path and the first bytes of a picture: its header, which has the name, stands before them."""
        place = self.index[i]
        file = self.files[place["shard"]]
        try:
            with open(file, "rb", buffering=0) as shard:
                data = os.pread(shard.fileno(), BLOCK + size, int(place["offset"]) - BLOCK)
        except OSError as error:
            raise Unreadable(file, error.strerror or str(error)) from None
        return f"{file}/{os.fsdecode(_name(data))}", data[BLOCK:]


def shard_files(path: str) -> list[str]:
    """The shards that ``path`` means, sorted: a .tar, those of a folder or of a glob; none where it means no shards.

    Raises UserError for a glob that matches nothing or anything but .tar, and for a folder that holds shards beside
    folders or pictures.
    """
    if os.path.isdir(path):
        return _of_folder(path)
    if os.path.exists(path):
        return [path] if path.endswith(".tar") else []
    if not glob.has_magic(path):
        return []
    files = sorted(glob.glob(path))
    other = next((file for file in files if not file.endswith(".tar")), None)
    if other or not files:
        what = f"matches {other}" if other else "matches no file"
        raise UserError(f"data.path={path} {what}; a glob names tar shards, such as DIR/train-*.tar")
    return files


def _of_folder(path: str) -> list[str]:
    with os.scandir(path) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    files = sorted(entry.path for entry in found if entry.name.endswith(".tar") and entry.is_file())
    pictures = tuple(f".{ending.decode()}" for ending in ENDINGS)
    other = next((entry.name for entry in found if entry.is_dir() or entry.name.lower().endswith(pictures)), None)
    if files and other:
        raise UserError(
            f"data.path={path} holds {len(files)} .tar and other data ({other}); to read the shards, "
            f"data.path={os.path.join(path, '*.tar')}; to read the rest, move the .tar away"
        )
    return files


def _index(number: int, file: str) -> tuple[np.ndarray, Counter[str]]:
    """The places of a shard's pictures, and how many files it has of other endings."""
    others: Counter[str] = Counter()
    pictures: list[tuple[bytes, int, int]] = []
    labels: dict[bytes, int] = {}
    try:
        with open(file, "rb", buffering=0) as shard:
            for name, offset, size, start in _entries(shard.fileno(), file):
                folder, _, last = name.rpartition(b"/")
                stem, _, ending = last.partition(b".")
                if not stem:  # hidden
                    continue
                key, ending = folder + b"/" + stem, ending.lower()
                if ending in ENDINGS:
                    pictures.append((key, offset, size))
                elif ending == b"cls":
                    text = start[:size].strip()
                    labels[key] = int(text) if text.isdigit() and size < 8 else -1
                else:
                    others[os.fsdecode(ending)] += 1
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror})") from None
    return np.array([(number, labels.get(key, -1), offset, size) for key, offset, size in pictures], PLACE), others


def _entries(shard: int, file: str) -> Iterator[tuple[bytes, int, int, bytes]]:
    """Name, offset, size and first 512 bytes of every file in a tar of the ustar, GNU or pax form.

    tarfile of the standard library takes 2.5 times as long, two minutes for ImageNet, and ends without a word at a
    broken header.
    """
    length, at = os.fstat(shard).st_size, 0
    ahead: dict[bytes, bytes] = {}  # path and size of the next entry, where its own header has no room for them
    while True:
        head = os.pread(shard, 2 * BLOCK, at)
        if len(head) < BLOCK:
            raise UserError(f"{file}: cut short: it ends at byte {length}, without the mark that ends a tar")
        if not any(head[:BLOCK]):
            return
        kind, data = head[156:157], at + BLOCK
        try:
            size = _size(head, ahead)
            if data + size > length:
                name = os.fsdecode(ahead.get(b"path") or _name(head))
                raise UserError(f"{file}: cut short: {name} ends at byte {data + size}, the file at {length}")
            if kind == b"L":
                ahead[b"path"] = os.pread(shard, size, data).split(b"\0")[0]
            elif kind == b"x":
                ahead |= _pax(os.pread(shard, size, data))
        except UserError:
            raise
        except ValueError:
            raise UserError(f"{file}: no tar header at byte {at}: broken, or compressed (unpack it)") from None
        if kind in (b"0", b"\0", b"7"):
            yield ahead.get(b"path") or _name(head), data, size, head[BLOCK:]
        if kind not in b"xgLK":
            ahead = {}
        at = data + -(-size // BLOCK) * BLOCK


def _size(head: bytes, ahead: dict[bytes, bytes]) -> int:
    """Bytes of the contents. Raises ValueError for what is no header."""
    if sum(head[:148]) + 8 * ord(" ") + sum(head[156:BLOCK]) != _number(head[148:156]):
        raise ValueError("checksum")
    size = int(ahead.get(b"size") or _number(head[124:136]))
    return 0 if head[156:157] in b"123456" else size  # links, folders and the like have none


def _number(field: bytes) -> int:
    """Octal digits, or from 8 GB on bytes after a first one of 128."""
    if field[0] == 128:
        return int.from_bytes(field[1:], "big")
    return int(field.split(b"\0")[0], 8)


def _name(head: bytes) -> bytes:
    name, prefix = head[:100].split(b"\0")[0], head[345:500].split(b"\0")[0]
    return prefix + b"/" + name if prefix and head[257:263] == b"ustar\0" else name


def _pax(records: bytes) -> dict[bytes, bytes]:
    """Records of the form "length key=value", whose length counts all of it and the newline after it."""
    found = {}
    while records:
        digits = records.split(b" ")[0]
        if not digits.isdigit() or int(digits) <= len(digits):
            raise ValueError("record")
        key, _, value = records[len(digits) + 1 : int(digits) - 1].partition(b"=")
        found[key] = value
        records = records[int(digits) :]
    return found
