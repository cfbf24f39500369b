"""Pictures in tar shards, in the form of WebDataset: an index of where each one lies, and the reading of one."""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from densessl.data.decoding import Unreadable
from densessl.data.sources.braces import expanded
from densessl.data.sources.endings import ENDINGS, START, Contents, ending_of, is_image
from densessl.data.sources.index_file import Write, digest, kept, settled
from densessl.data.sources.store import Disk, State, Store
from densessl.data.sources.tar import BLOCK, entries, is_header, name_in
from densessl.errors import UserError
from densessl.files import printable

PLACE = np.dtype([("shard", np.int32), ("label", np.int32), ("offset", np.int64), ("size", np.int64)])
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LOOKED = 10_000  # entries of a folder; where pictures or folders are among them, and no .tar, it is not one of shards
MANY = 4 << 30  # bytes of all shards from which on processes index them, and tell how far they are


class Shards:
    """The pictures of tar files, known by their endings or by how they begin, each in the order it lies in.

    KEY is the path up to the first dot of the file's name, or all of it but its ending, and KEY.cls in the same shard,
    before or after it, holds the picture's class as a number. Other files are left out, and pictures such as
    KEY.mask.png beside KEY.jpg, which say something of it. Two members of one name are two pictures.

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
        facts = digest(states)

        def make(write: Write) -> dict[str, Any]:
            found = self._index(states, write)
            return {"facts": facts if settled(times, since) else None, **found.notes()}

        names = [file if "://" in file else os.path.realpath(file) for file in self.files]
        what = f"{len(names)} shards, {names[0]} and so on ({digest(names)})"
        index = kept(what, make, lambda index: index.notes["facts"] == facts, slow=self.store.far)
        self.index, self.contents = index.data.view(PLACE), Contents(index.notes["taken"], index.notes["left"])
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

    def _index(self, states: Sequence[State], write: Write) -> Contents:
        found = Contents()
        with closing(self._parts(states)) as parts:  # which ends its workers here, whatever happens
            for part in parts:
                if part.refused:
                    raise UserError(part.refused)
                write(part.places.tobytes())
                found.add(part.contents)
        if not found.taken:
            nested = "; a tar of tars is unpacked once, and read as data.path='FOLDER/*.tar'" * (".tar" in found.left)
            raise UserError(f"{', '.join(self.files[:3])}: no pictures (found {found.left_out()}){nested}")
        return found

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
    """The places of a shard's pictures, what else it has, and what is wrong with it."""

    places: np.ndarray
    contents: Contents
    refused: str = ""


def _part(store: Store, number: int, file: str, length: int) -> _Part:
    contents = Contents()
    pictures: list[tuple[bytes, bytes, bytes, int, int]] = []  # KEY, what follows it, ending, place
    labels: dict[bytes, int] = {}
    refused = ""
    try:
        with store.opened(file, length) as read:
            for name, offset, size, start, other in entries(read, length, file):
                last = name[name.rfind(b"/") + 1 :]
                if other or last.startswith(b"."):
                    contents.left[other or "hidden"] += 1
                    continue
                ending = ending_of(last)
                stem = name[: -len(ending) - 1] if ending else name
                if ending in ENDINGS or is_image(ending, start[: min(size, START)]):
                    dot = stem.find(b".", len(name) - len(last))
                    key, more = (stem[:dot], stem[dot + 1 :]) if dot >= 0 else (stem, b"")
                    pictures.append((key, more, ending, offset, size))
                elif ending == b"cls":
                    text = start[:size].strip()
                    label = int(text) if text.isdigit() and size < 8 else -1
                    labels[stem] = label if labels.get(stem, label) == label else -1
                else:
                    contents.leave(ending)
    except UserError as error:
        refused = str(error)
    except OSError as error:
        refused = f"{file}: can't be read ({error.strerror or error})"
    whole = {key for key, more, *_ in pictures if not more}
    places = []
    for key, more, ending, offset, size in pictures:
        if more.isalpha() and key in whole:
            contents.left[f".{more.decode()}.{ending.decode()}"] += 1
            continue
        contents.take(ending)
        label = labels.get(b".".join((key, more)) if more else key, labels.get(key, -1))
        places.append((number, label, offset, size))
    return _Part(np.array(places, PLACE), contents, refused)


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
            elif not other and (ending_of(os.fsencode(entry.name)) in ENDINGS or entry.is_dir()):
                other = entry.name
    if files and other:
        raise UserError(
            f"data.path={path} holds .tar ({os.path.basename(files[0])}) and other data ({other}); to read the shards, "
            f"data.path={os.path.join(path, '*.tar')}; to read the rest, move the .tar away"
        )
    return sorted(files) if files or other else only_tar(path, packed)
