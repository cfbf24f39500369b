"""Packing: a collection written to tar shards in WebDataset's form."""

from __future__ import annotations

import io
import logging
import os
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from densessl.data.decoding import Unreadable
from densessl.data.in_order import in_order
from densessl.data.new_folder import new_folder
from densessl.data.pictures import Pictures
from densessl.data.raster import upright
from densessl.data.sources.shards import Shards
from densessl.data.stored import form_of, read_stored
from densessl.errors import UserError

QUALITY = 95  # of JPEG
FORMATS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "TIFF": "tif",
    "npy": "npy",
}  # as WebDataset has them
log = logging.getLogger("densessl")


class Packed(NamedTuple):
    """What `pack` wrote: shards, pictures, bytes; how many pictures were unreadable, written anew, and left large."""

    shards: int
    pictures: int
    bytes: int
    unreadable: int
    encoded: int
    large: int


class Member(NamedTuple):
    """A picture as it goes into a shard."""

    stem: str  # what its key says of where it was
    ending: str
    data: bytes
    label: int  # -1: none
    encoded: bool = False  # not the bytes as they were
    large: bool = False  # larger than they should be


def pack(
    images: Pictures,
    out: Path,
    *,
    name: str = "train",
    shard_size: int = 512 << 20,
    size: int | None = None,
    seed: int | None = 0,
    workers: int = 0,
) -> Packed:
    """Writes ``out``/NAME-000000.tar and so on, of at most ``shard_size`` bytes unless one picture alone has more.

    The order is drawn from ``seed``, or is that of the collection for None. Keys are the place in that order and what
    the picture was called; class numbers that shards have go along as KEY.cls. Files are kept byte for byte, but for
    grey and RGB of 8 bits whose shorter side is above ``size``: they are shrunk to JPEG, upright and without an alpha.
    Of other numbers and channels nobody knows what may be lost, and they stay large. BMP, GIF, PNM and scenes become
    PNG of their pixels. Every picture is decoded once; unreadable ones are named and left out. Raises UserError.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"--name {name}: letters, digits, - and _ make names of shards")
    order = np.arange(len(images), dtype=np.uint32)
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    digits = len(str(max(0, len(images) - 1)))
    pictures = unreadable = encoded = large = 0
    with new_folder(out) as part:
        with _Writer(part, name, shard_size) as writer:
            members = in_order(lambda place: _member(images, int(order[place]), size), len(order), workers, "packed")
            for member in members:
                if isinstance(member, Unreadable):
                    log.warning("unreadable picture left out: %s", member)
                    unreadable += 1
                    continue
                key = f"{pictures:0{digits}d}-{member.stem}"
                files = {f"{key}.{member.ending}": member.data}
                if member.label >= 0:
                    files[f"{key}.cls"] = str(member.label).encode()
                writer.add(files)
                pictures, encoded, large = pictures + 1, encoded + member.encoded, large + member.large
        if not pictures:
            raise UserError(f"{out}: none of the {len(images)} pictures is readable; there is nothing to pack")
        return Packed(writer.shards, pictures, writer.bytes, unreadable, encoded, large)


def _member(images: Pictures, row: int, size: int | None) -> Member | Unreadable:
    try:
        raster, data = read_stored(images, row)
    except Unreadable as error:
        return error
    source = getattr(images, "source", None)
    label = int(source.index[row]["label"]) if isinstance(source, Shards) else -1
    stem, ending = _stem(images.path(row)), FORMATS.get(form_of(data)[0])
    shorter = min(raster.picture.shape[:2])
    large = bool(size) and shorter > size
    if large and raster.kind.dtype == "uint8" and raster.kind.channels in (1, 3):
        picture = upright(np.ascontiguousarray(raster.opaque()), raster.turn)
        height, width = (round(side * size / shorter) for side in picture.shape[:2])
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        return Member(stem, "jpg", _encoded(".jpg", small), label, encoded=True)
    if not ending:
        return Member(stem, "png", _encoded(".png", raster.opaque()), label, encoded=True)
    return Member(stem, ending, data, label, large=large)


def _encoded(ending: str, picture: np.ndarray) -> bytes:
    """Of grey, (h, w) or (h, w, 1), or RGB."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.shape[2:] == (3,) else picture
    return cv2.imencode(ending, bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def _stem(path: str) -> str:
    """Folder and name of a picture, or its key in a shard, as letters that any system takes and without a dot."""
    *folders, last = path.rpartition(".tar/")[2].split(os.sep)
    words = "_".join((*folders[-1:], os.path.splitext(last)[0]))
    return re.sub(r"[^A-Za-z0-9_-]+", "_", words)[-60:]


class _Writer:
    """Tar shards, the next one begun where the files of a picture would make one too large."""

    def __init__(self, folder: Path, name: str, limit: int) -> None:
        self.folder, self.name, self.limit = folder, name, limit
        self.shards = self.bytes = 0
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def add(self, files: dict[str, bytes]) -> None:
        if self._tar and self._length(files) > self.limit:
            self._close()
        if not self._tar:
            file = self.folder / f"{self.name}-{self.shards:06d}.tar"
            self._tar = tarfile.TarFile(file, "w", format=tarfile.USTAR_FORMAT)
            self.shards += 1
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            self._tar.addfile(entry, io.BytesIO(data))

    def _length(self, files: dict[str, bytes]) -> int:
        """Of the shard with these files: each has a header and ends, like the shard, with whole blocks."""
        assert self._tar
        block, record = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
        end = self._tar.offset + sum(block + -(-len(data) // block) * block for data in files.values()) + 2 * block
        return -(-end // record) * record

    def _close(self) -> None:
        if not self._tar:
            return
        file, self._tar = self._tar, None
        file.close()
        with open(file.name, "rb+") as shard:  # type: ignore[arg-type]
            os.fsync(shard.fileno())
            self.bytes += os.fstat(shard.fileno()).st_size
