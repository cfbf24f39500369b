"""Pictures as NumPy's files."""

from __future__ import annotations

import io
import math

import numpy as np

from densessl.data.raster import Raster, Unreadable, channels_last, checked

START = b"\x93NUMPY"


def read_npy(data: bytes, path: str, channels: int = 0) -> Raster:
    """(h, w), (h, w, C) or (C, h, w), of which `channels_last` tells the channels; so many are asked for, unless 0.

    Raises Unreadable, and whatever NumPy raises for a broken header.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(file)
    if dtype.kind not in "buif" or len(shape) not in (2, 3) or min(shape) < 0:
        raise Unreadable(path, f"an array {shape} of {dtype}; numbers (h, w), (h, w, C) or (C, h, w) are needed")
    checked(path, shape, dtype.itemsize)
    count = math.prod(shape)
    if file.tell() + count * dtype.itemsize > len(data):
        raise Unreadable(path, f"cut short: an array {shape} of {dtype} has more bytes")
    picture = np.frombuffer(data, dtype, count, file.tell()).reshape(shape, order="F" if by_columns else "C")
    return Raster(channels_last(picture, channels), array=True)
