"""Pictures: a collection as training sees it, from wherever its files lie."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from densessl.data.decoding import RGB, Reduction, decode, whole
from densessl.data.header import other_form
from densessl.data.pixels import Pixels
from densessl.data.scenes import Scenes
from densessl.data.sources import Source, open_source
from densessl.data.sources.endings import Contents
from densessl.errors import UserError


class Pictures(Protocol):
    """What the loader needs of a collection. Row i is its i-th picture."""

    @property
    def pixels(self) -> Pixels: ...
    def __len__(self) -> int: ...
    def path(self, i: int) -> str: ...
    def list_hash(self) -> str: ...
    def read(self, i: int, reduction: Reduction = ...) -> np.ndarray: ...


class StoredPictures:
    """The pictures of a source, decoded. `odd` is the form of the last one, if its name says another."""

    def __init__(self, source: Source, pixels: Pixels) -> None:
        self.source, self.pixels, self.odd = source, pixels, ""

    def __len__(self) -> int:
        return len(self.source)

    def path(self, i: int) -> str:
        return self.source.path(i)

    def list_hash(self) -> str:
        """As of `Source`."""
        return self.source.list_hash()

    def read(self, i: int, reduction: Reduction = whole) -> np.ndarray:
        """(h, w, C) of ``pixels.dtype``, perhaps smaller, as `decode` says. Raises Unreadable."""
        data, path = self.source.stored(i), self.source.path(i)
        picture = decode(data, path, self.pixels, reduction)
        self.odd = other_form(data, path)
        return picture


def contents_of(images: Pictures) -> Contents | None:
    """The files of the collection that are taken and left out, where it has any."""
    return getattr(getattr(images, "source", None), "contents", None)


def open_pictures(path: str, pixels: Pixels = RGB) -> Pictures:
    """The collection that ``data.path`` names: scenes, or what `open_source` finds. Raises UserError."""
    if path != "scenes":
        return StoredPictures(open_source(path), pixels)
    if pixels.channels != 3 or pixels.scaled:
        raise UserError("data.path=scenes draws RGB pictures of 8 bits; backbone.in_chans=3 without a range takes them")
    return Scenes()
