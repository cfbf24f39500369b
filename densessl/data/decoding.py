"""Decoding: the bytes of a file to the pixels of a picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image

from densessl.data import npy, tiff
from densessl.data.header import FORMATS, Header, header_of
from densessl.data.pixels import Pixels
from densessl.data.quiet import Quiet
from densessl.data.raster import Raster, Unreadable, checked, upright

RGB = Pixels()
COLOURS = {"P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB"}  # modes whose channels are none
IN_RGB = getattr(cv2, "IMREAD_COLOR_RGB", 0)  # from OpenCV 4.11 on; a twelfth less time
REDUCED = {"RGB": cv2.IMREAD_COLOR, "L": cv2.IMREAD_GRAYSCALE}  # modes; 8 * n more is n times smaller
END_OF_JPEG = b"\xff\xd9"
LEAST = 8  # pixels a side: a view of fewer would show nothing
_quiet = Quiet()
Reduction = Callable[[int, int], int]


def whole(*_: Any) -> int:
    return 1


def decode(data: bytes, path: str, pixels: Pixels = RGB, reduction: Reduction = whole) -> np.ndarray:
    """A file's bytes to (h, w, C) of ``pixels.dtype``. Raises Unreadable.

    ``reduction(h, w)`` says how many times smaller, 1, 2, 4 or 8, a picture may be: a JPEG, which decodes so in a
    fraction of the time, then has whole pixels of so many stored ones, the last of a line perhaps of fewer.

    RGB of 8 bits, the default: grey is repeated, alpha dropped, of 16 bits the upper 8 are taken. Otherwise the stored
    channels, which have to be as many as asked for but that an alpha too many is dropped, grey repeated for three, and
    colours become grey for one.
    """

    def smaller(height: int, width: int, turn: Any) -> int:
        return reduction(width, height) if pixels.upright and turn in tiff.LYING else reduction(height, width)

    raster = read(data, path, smaller, pixels.channels)
    if misfit := pixels.misfit(raster.kind):
        raise Unreadable(path, misfit)
    picture = pixels.fitted(raster)
    return upright(picture, raster.turn) if pixels.upright else picture


def read(data: bytes, path: str, reduction: Callable[[int, int, Any], int] = whole, channels: int = 0) -> Raster:
    """A file's channels as they are stored; those of one bit are 0 and 255. Whatever the bytes: raises Unreadable.

    An array doesn't say which side its channels are: one of as many ``channels`` as are asked for, if it can be.
    """
    if not data:
        raise Unreadable(path, "empty file")
    try:
        with _quiet:
            if data.startswith(npy.START):
                raster = npy.read_npy(data, path, channels)
            elif data.startswith(tiff.STARTS):
                raster = tiff.read_tiff(data, path)
            else:
                raster = _read(data, path, reduction)
    except Unreadable:
        raise
    except Image.UnidentifiedImageError:
        raise Unreadable(
            path, "not a picture: no JPEG, PNG, WebP, TIFF, BMP, GIF, PNM or .npy, whatever its name"
        ) from None
    except Image.DecompressionBombError:
        raise Unreadable(path, "more than 179 million pixels; cut it into tiles") from None
    except Exception as error:  # what a broken file raises depends on where it is broken
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise Unreadable(path, f"broken ({said[:200]})") from None
    picture = np.atleast_3d(raster.picture)
    if picture.dtype.kind not in "buif":
        raise Unreadable(path, f"pixels of type {picture.dtype}")
    if min(picture.shape[:2]) < LEAST:
        height, width = picture.shape[:2]
        raise Unreadable(path, f"{height} x {width} pixels: a picture has {LEAST} x {LEAST} at least")
    if picture.dtype.kind == "b":
        picture = picture * np.uint8(255)
    return raster._replace(picture=picture.astype(picture.dtype.newbyteorder("="), copy=False))


def _read(data: bytes, path: str, reduction: Callable[[int, int, Any], int]) -> Raster:
    """Any picture but TIFF. Raises Unreadable, and whatever Pillow raises for a broken file."""
    if data[12:16] == b"VP8X":  # Pillow gets room for the whole picture before it looks at the size
        checked(path, tuple(1 + int.from_bytes(data[at : at + 3], "little") for at in (27, 24)), 4)
    header = header_of(data, path)
    # OpenCV before 5 fills the missing part of a cut JPEG with grey and says nothing. The end marker cannot occur
    # inside the coded pixels, but in the thumbnail before them.
    if header.format in ("JPEG", "MPO") and data.rfind(END_OF_JPEG, header.end) < 0:
        raise Unreadable(path, "cut short")
    reducible = header.format == "JPEG" and header.mode in REDUCED
    smaller = reduction(header.height, header.width, header.turn) if reducible else 1
    picture = None if header.mode in COLOURS else _by_opencv(header, smaller)
    if picture is None:
        if header.format == "PNG" and header.data[24] > 8:  # of which Pillow would take 8
            raise Unreadable(path, "broken")
        mode = "RGBA" if header.clear and header.mode in ("P", "RGB") else COLOURS.get(header.mode, header.mode)
        image = Image.open(io.BytesIO(header.data), formats=FORMATS)
        picture = np.array(image.convert("L" if mode == "1" else mode))
    return Raster(picture, picture.ndim == 3 and picture.shape[2] in (2, 4), header.turn)


def _by_opencv(header: Header, smaller: int) -> np.ndarray | None:
    """Faster than Pillow, and 16 bits stay so. None of what it can't read, or reads as anything else."""
    try:
        in_rgb = IN_RGB if smaller == 1 and (header.format, header.mode) == ("JPEG", "RGB") else 0
        flags = in_rgb or (cv2.IMREAD_UNCHANGED if smaller == 1 else REDUCED[header.mode] + 8 * smaller)
        picture = cv2.imdecode(np.frombuffer(header.data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    if picture is None or picture.shape[:2] != (-(-header.height // smaller), -(-header.width // smaller)):
        return None
    channels = 1 if picture.ndim == 2 else picture.shape[2]
    wanted = header.channels + (header.clear and header.mode == "RGB")
    if channels == 4:
        picture = cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA)
        return {2: picture[..., ::3], 3: picture[..., :3], 4: picture}.get(wanted)  # grey; padding; an alpha
    if channels != wanted:
        return None
    return picture if channels == 1 or in_rgb else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
