"""A raster: the channels of a picture as its file holds them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

PIXELS_MOST = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else 1 << 28  # where Pillow speaks of a bomb
BYTES_MOST = 4 * PIXELS_MOST
ORIENTATION = 274  # the tag of EXIF and TIFF
TURNS: dict[Any, Any] = {  # of EXIF and TIFF: how the stored picture becomes upright
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p.swapaxes(0, 1)[:, ::-1],
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: p.swapaxes(0, 1)[::-1],
}


class Unreadable(Exception):
    """A file that is no picture: its path and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Kind(NamedTuple):
    """What decides which configuration reads a picture."""

    channels: int  # without an alpha
    dtype: str
    alpha: bool  # one more channel, which is none of the picture's but where it is asked for
    array: bool  # .npy, which unlike formats of pictures doesn't say that the largest 16-bit number is white

    def __str__(self) -> str:
        return f"{self.channels} channel{'s' * (self.channels > 1)} of {self.dtype}{' and an alpha' * self.alpha}"


@cache
def _name(dtype: np.dtype) -> str:
    return dtype.name  # which NumPy makes anew each time


class Raster(NamedTuple):
    """(h, w, C) of any numbers, colours as RGB; whether the last channel is an alpha; the orientation."""

    picture: np.ndarray
    alpha: bool = False
    turn: Any = 1
    array: bool = False
    nodata: tuple[float, ...] = ()  # stored numbers that stand for nothing, as the file says

    @property
    def kind(self) -> Kind:
        return Kind(self.picture.shape[2] - self.alpha, _name(self.picture.dtype), self.alpha, self.array)

    def opaque(self) -> np.ndarray:
        """The picture without its alpha."""
        return self.picture[..., :-1] if self.alpha else self.picture


def orientation(told: Mapping[Any, Any]) -> Any:
    """Of what Pillow calls an image's ``info``: EXIF's, or a raw profile's, or XMP's, as its `exif_transpose` finds it.

    1 where nothing is said, or nothing that can be read.
    """
    if not told:
        return 1
    image = Image.Image()  # not the one that told: a PNG's would be decoded first, to look behind its pixels
    image.info |= told
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # what broken metadata raise depends on where they are broken
        return 1


def is_turned(turn: Any) -> bool:
    """Whether an orientation asks for anything: it is a number from 2 to 8."""
    return turn in range(2, 9)


def upright(picture: np.ndarray, turn: Any) -> np.ndarray:
    """What the orientation asks for."""
    return np.ascontiguousarray(TURNS[turn](picture)) if is_turned(turn) else picture


def checked(path: str, shape: tuple[int, ...], itemsize: int = 1) -> None:
    """Raises Unreadable for a picture without pixels, or too large to be held."""
    if not all(shape):
        raise Unreadable(path, f"{' x '.join(map(str, shape))} pixels: nothing is in it")
    if np.prod(shape, dtype=float) * itemsize > BYTES_MOST:
        size = f"{' x '.join(map(str, shape))} values take {np.prod(shape, dtype=float) * itemsize / 1e6:,.0f} MB"
        raise Unreadable(path, f"{size}, and {BYTES_MOST / 1e6:.0f} are read at most; cut it into tiles")


def channels_last(array: np.ndarray, channels: int = 0) -> np.ndarray:
    """(h, w, C) of (C, h, w) too.

    The channels are the one end that has as many as are asked for, the one beside two equal sides, or the shorter one.
    """
    if array.ndim != 3:
        return array
    first, side, last = array.shape
    if (first == channels) != (last == channels):
        ahead = first == channels
    elif (first == side) != (side == last):
        ahead = side == last
    else:
        ahead = first < last
    return np.moveaxis(array, 0, 2) if ahead else array
