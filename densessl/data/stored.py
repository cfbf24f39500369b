"""A picture as it is stored: its bytes, and what is in them."""

from __future__ import annotations

import warnings

from densessl.data import npy, tiff
from densessl.data.decoding import read
from densessl.data.header import header_of
from densessl.data.pictures import Pictures, StoredPictures
from densessl.data.raster import Raster


def read_stored(pictures: Pictures, i: int) -> tuple[Raster, bytes]:
    """What a picture's file holds, and the file, empty where there is none, as of scenes. Raises Unreadable."""
    if not isinstance(pictures, StoredPictures):
        return Raster(pictures.read(i)), b""
    data = pictures.source.stored(i)
    return read(data, pictures.path(i)), data


def form_of(data: bytes) -> tuple[str, str]:
    """The format of a file that was read, and where Pillow knows it its mode: colours and alpha."""
    if not data:
        return "drawn", ""
    if data.startswith(npy.START):
        return "npy", ""
    if data.startswith(tiff.STARTS):
        return "TIFF", ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata
        header = header_of(data, "")
    return header.format, header.mode
