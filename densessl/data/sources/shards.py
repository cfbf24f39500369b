"""Pictures in tar shards, in the form of WebDataset: an index of where each one lies, and the reading of one."""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from densessl.data.decoding import Unreadable
from densessl.data.sources.braces import expanded
from densessl.data.sources.index_file import Write, digest, kept, settled
from densessl.data.sources.store import Disk, State, Store
from densessl.data.sources.tar import BLOCK, entries, is_header, name_in
from densessl.errors import UserError
from densessl.files import printable

ENDINGS = (b"jpg", b"jpeg", b"png", b"webp", b"tif", b"tiff", b"npy")  # in any case
PLACE = np.dtype([("shard", np.int32), ("label", np.int32), ("offset", np.int64), ("size", np.int64)])
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LOOKED = 10_000  # entries of a folder; where pictures or folders are among them, and no .tar, it is not one of shards
MANY = 4 << 30  # bytes of all shards from which on processes index them, and tell how far they are


class Shards:
    """The pictures KEY.jpg, .jpeg, .png, .webp, .tif, .tiff and .npy of tar files, each in the order it lies in.

    KEY is the path up to the first dot of the file's name, and KEY.cls in the same shard, before or after it, holds
    the picture's class as a number; other files are left out. Two members of one name are two pictures.

    The index takes 24 bytes a picture, in one array that forked workers share. It is kept in the cache where it is
    large, and believed as long as each shard has the same size and time of modification; behind a URL, the same size,
    and ETag or time where the server tells one. A shard that goes or changes while it is read has unreadable pictures.

    Raises UserError for a shard that is cut or no plain tar, and where there is no picture at all.
    """

    def __init__(self, files: Sequence[str], store: Store | None = None) -> None:
        self.files, self.store = list(files), store or Disk()
        since = time.time()
        try:
            states = self.store.states(self.files)
        except OSError as error:
            raise UserError(f"{error.filename}: can't be read ({error.strerror})") from None
        times = [state.version for state in states if isinstance(state.version, int)]
        facts = digest([*ENDINGS, *states])

        def make(write: Write) -> dict[str, Any]:
            self._index(states, write)
            return {"facts": facts if settled(times, since) else None}

        names = [file if "://" in file else os.path.realpath(file) for file in self.files]
        what = f"{len(names)} shards, {names[0]} and so on ({digest(names)})"
        index = kept(what, make, lambda index: index.notes["facts"] == facts, slow=self.store.far)
        self.index = index.data.view(PLACE)
        self._last = (-1, "")  # read: number and path

    def __len__(self) -> int:
        return len(self.index)

    def path(self, i: int) -> str:
        """The shard and the name in it, which is read from there unless it just was."""
        last, path = self._last
        return path if last == i else self._member(i, 0)[0]

    def stored(self, i: int) -> bytes:
        """The picture's file. Raises Unreadable."""
        path, data = self._member(i, size := int(self.index[i]["size"]))
        self._last = (i, path)
        if len(data) < size:
            raise Unreadable(path, "cut short: the shard has become smaller since it was indexed")
        return data

    def list_hash(self) -> str:
        """Of where each picture lies in its shard and of its size: names would have to be read from all shards."""
        whole = hashlib.sha256()
        for key in ("shard", "offset", "size"):
            whole.update(np.ascontiguousarray(self.index[key]).data)
        return whole.hexdigest()

    def labels(self) -> np.ndarray:
        """(pictures,) int64: the class of each. Raises UserError where a picture has none."""
        missing = np.flatnonzero(self.index["label"] < 0)
        if len(missing):
            raise UserError(
                f"{len(missing)} of {len(self)} pictures have no KEY.cls in their shard, one and no other, that holds "
                f"0, 1, 2 or another class number; the first is {self.path(int(missing[0]))}"
            )
        return self.index["label"].astype(np.int64)

    def _member(self, i: int, size: int) -> tuple[str, bytes]:
        """The path and the first bytes of a picture: its header, which has the name, stands before them."""
        shard, _, offset, whole = self.index[i].tolist()
        file = self.files[shard]
        try:
            with self.store.opened(file) as read:
                data = read(offset - BLOCK, BLOCK + size)
        except OSError as error:
            raise Unreadable(f"{printable(file)} at byte {offset}", error.strerror or str(error)) from None
        head = data[:BLOCK]
        if len(head) < BLOCK or not is_header(head, whole):
            how = "changed" if len(head) == BLOCK else "become smaller"
            raise Unreadable(f"{printable(file)} at byte {offset}", f"the shard has {how} since it was indexed")
        return f"{printable(file)}/{printable(name_in(head))}", data[BLOCK:]

    def _index(self, states: Sequence[State], write: Write) -> None:
        pictures, others = 0, Counter[str]()
        with closing(self._parts(states)) as parts:  # which ends its workers here, whatever happens
            for part in parts:
                if part.refused:
                    raise UserError(part.refused)
                write(part.places.tobytes())
                pictures, others = pictures + len(part.places), others + part.others
        if not pictures:
            found = ", ".join(f"{n} .{ending}" for ending, n in others.most_common(5)) or "no files"
            wanted = ", .".join(ending.decode() for ending in ENDINGS)
            raise UserError(f"{', '.join(self.files[:3])}: no pictures KEY.{wanted} (found {found})")

    def _parts(self, states: Sequence[State]) -> Generator[_Part]:
        def part(number: int) -> _Part:
            return _part(self.store, number, self.files[number], states[number].size)

        if self.store.far or sum(state.size for state in states) > MANY:
            from densessl.data.in_order import in_order  # which imports torch

            yield from in_order(part, len(states), min(self.store.readers, len(states)), "shards indexed")
        else:
            with ThreadPoolExecutor(self.store.readers) as pool:
                yield from pool.map(part, range(len(states)))


class _Part(NamedTuple):
    """The places of a shard's pictures, how many files it has of other endings, and what is wrong with it."""

    places: np.ndarray
    others: Counter[str]
    refused: str = ""


def _part(store: Store, number: int, file: str, length: int) -> _Part:
    others: Counter[str] = Counter()
    pictures: list[tuple[bytes, int, int]] = []
    labels: dict[bytes, int] = {}
    refused = ""
    try:
        with store.opened(file, length) as read:
            for name, offset, size, start in entries(read, length, file):
                folder, _, last = name.rpartition(b"/")
                stem, _, ending = last.partition(b".")
                if not stem:  # hidden
                    continue
                key, ending = folder + b"/" + stem, ending.lower()
                if ending in ENDINGS:
                    pictures.append((key, offset, size))
                elif ending == b"cls":
                    text = start[:size].strip()
                    label = int(text) if text.isdigit() and size < 8 else -1
                    labels[key] = label if labels.get(key, label) == label else -1
                else:
                    others[os.fsdecode(ending)] += 1
    except UserError as error:
        refused = str(error)
    except OSError as error:
        refused = f"{file}: can't be read ({error.strerror or error})"
    places = [(number, labels.get(key, -1), offset, size) for key, offset, size in pictures]
    return _Part(np.array(places, PLACE), others, refused)


def shard_files(path: str) -> list[str]:
    """The shards that ``path`` means: a .tar, those of a folder, of a glob or of braces; none where it means no shards.

    Braces keep their order, all others are sorted. Raises UserError for a glob that matches nothing or anything but
    .tar, for a shard of braces that is missing, and for a folder that holds shards beside folders or pictures.
    """
    if os.path.isdir(path):
        return _of_folder(path)
    if os.path.exists(path):
        return only_tar(path, [path]) if path.endswith((".tar", *PACKED)) else []
    names = expanded(path)
    if not glob.has_magic(path) and len(names) == 1:
        return []
    files: list[str] = []
    for name in names:
        found = sorted(glob.glob(name)) if glob.has_magic(name) else [name]
        if not found or not os.path.exists(found[0]):
            raise UserError(f"data.path={path}: {name} matches no file; shards are named like DIR/train-*.tar")
        files += found
    return only_tar(path, files)


def only_tar(path: str, files: list[str]) -> list[str]:
    """The same files. Raises UserError for other endings; what follows a ? in a URL is no part of the name."""
    for file in files:
        name = file.partition("?")[0] if "://" in file else file
        if name.endswith(PACKED):
            raise UserError(
                f"data.path={path}: {file} is compressed, so that no part of it can be read alone; unpack it"
            )
        if not name.endswith(".tar"):
            raise UserError(
                f"data.path={path} matches {file}; globs and braces name tar shards, such as DIR/train-*.tar"
            )
    return files


def _of_folder(path: str) -> list[str]:
    files: list[str] = []
    packed: list[str] = []
    other = ""
    pictures = tuple(f".{ending.decode()}" for ending in ENDINGS)
    with os.scandir(path) as entries:
        for number, entry in enumerate(entries):
            if other and (files or number >= LOOKED):
                break
            if entry.name.startswith("."):
                continue
            if entry.name.endswith(".tar") and entry.is_file():
                files.append(entry.path)
            elif entry.name.endswith(PACKED):
                packed.append(entry.path)
            elif not other and (entry.name.lower().endswith(pictures) or entry.is_dir()):
                other = entry.name
    if files and other:
        raise UserError(
            f"data.path={path} holds .tar ({os.path.basename(files[0])}) and other data ({other}); to read the shards, "
            f"data.path={os.path.join(path, '*.tar')}; to read the rest, move the .tar away"
        )
    return sorted(files) if files or other else only_tar(path, packed)
