"""Pictures as TIFF, of any number of channels."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from densessl.data.raster import ORIENTATION, Raster, Unreadable, channels_last, checked, orientation, upright

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CHANNELS = (
    "CSEIQ"  # axes of channels: called channel, sample or wavelength; or nothing, as pages that follow each other
)
XMP, GDAL_NODATA = 700, 42113
ORDERS: dict[str, Any] = {">": "big", "<": "little"}
LYING = (5, 6, 7, 8)  # orientations of what is stored on its side
ALPHAS = (1, 2)  # kinds of extra samples: multiplied with the colours or not
COLOURS = {"P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "1": "L"}  # of Pillow's modes
BACK = {6: 8, 8: 6}  # the turn that undoes a turn; the others undo themselves
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # broken files are named by our own log


def read_tiff(data: bytes, path: str) -> Raster:
    """The first picture of the file, its channels pixel by pixel, in planes or in pages.

    Raises Unreadable, and whatever tifffile raises for a broken file.
    """
    with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as file:
        first: Any = file.pages.first
        alone = not _next(file, first, data)
        try:
            series = file.series[0]
        except Exception:  # what is not understood may be no page, or what a program noted about this one
            if not alone:
                raise
            series = tifffile.TiffPageSeries([first], first.shape, first.dtype, first.axes)
        page: Any = series.keyframe
        checked(path, series.shape, series.dtype.itemsize)
        checked(path, page.chunks, series.dtype.itemsize)  # a tile may be larger than the picture
        if not _whole(series, data) or _next(file, first if alone else file.pages[-1].aspage(), data) > len(data):
            raise Unreadable(path, "cut short")
        sizes = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if n > 1 or axis in "YX"]
        axes = "".join(axis for axis, _ in sizes)
        if len(axes) > 3 or axes.strip(CHANNELS) != "YX":
            named = ", ".join(f"{name} {n}" for name, n in zip(series.dims, series.shape, strict=True))
            raise Unreadable(path, f"a stack of {named}; height, width and channels make a picture")
        turn, nodata = _turn(page), _nodata(page)
        if page.photometric > tifffile.PHOTOMETRIC.RGB or page.bitspersample < 8:
            what = f"{page.photometric!r} of {page.bitspersample} bits in {len(series)} pages"
            otherwise = f"{what}; grey and RGB are read in all forms"
            return _by_pillow(data, path, series, turn, otherwise)._replace(nodata=nodata)
        try:
            picture = series.asarray(maxworkers=1).reshape([n for _, n in sizes])
        except (ValueError, ImportError) as error:
            if isinstance(error, ValueError) and "imagecodecs" not in str(error):
                raise
            needed = f"{page.compression!r} needs imagecodecs: pip install 'densessl[tiff]'"
            return _by_pillow(data, path, series, turn, needed)._replace(nodata=nodata)
    if axes[0] == "Q":  # what tifffile calls the first axis of an array that it was told nothing of
        picture = channels_last(picture)
    elif axes[0] in CHANNELS:
        picture = np.moveaxis(picture, 0, 2)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and picture.dtype.kind == "u":
        picture = np.iinfo(picture.dtype).max - picture
    alpha = "S" in axes and page.extrasamples[-1:] in [(kind,) for kind in ALPHAS]
    return Raster(picture, alpha, turn, nodata=nodata)


def _next(file: Any, page: Any, data: bytes) -> int:
    """Where a page says that the next one is; 0: nowhere.

    Some programs write no pointer to it: what is in its place is something else of the page, or the file has ended.
    """
    size, order = file.tiff.offsetsize, ORDERS[file.byteorder]
    tags = int.from_bytes(data[page.offset : page.offset + file.tiff.tagnosize], order)
    at = page.offset + file.tiff.tagnosize + tags * file.tiff.tagsize
    place = int.from_bytes(data[at : at + size], order)
    taken = [(page.offset, at - page.offset), *zip(page.dataoffsets, page.databytecounts, strict=False)]
    taken += [(tag.valueoffset, tag.valuebytecount) for tag in page.tags]
    other = any((start < at + size and at < start + count) or start <= place < start + count for start, count in taken)
    return 0 if other or place % 2 or at + size > len(data) else place  # pages begin at even numbers


def _whole(series: Any, data: bytes) -> bool:
    """Whether all pages are there, and all their pieces."""
    for page in series:
        if page is None or len(page.dataoffsets) < math.prod(page.chunked):
            return False
        ends = map(sum, zip(page.dataoffsets, _needed(series.keyframe, page.databytecounts), strict=True))
        if max(ends) > len(data):
            return False
    return True


def _needed(page: Any, counts: Sequence[int]) -> Sequence[int]:
    """Bytes of each piece: not more than the pixels have where they are stored as they are, whatever the tags say."""
    if page.compression != tifffile.COMPRESSION.NONE or page.is_tiled:
        return counts
    rows = min(page.rowsperstrip, page.imagelength)
    row = math.prod(page.chunks) // rows * page.dtype.itemsize
    strips = -(-page.imagelength // rows)
    left = (page.imagelength - i % strips * rows for i in range(len(counts)))
    return [min(count, row * min(rows, more)) for count, more in zip(counts, left, strict=True)]


def _turn(page: Any) -> Any:
    """As Pillow finds it."""
    if ORIENTATION not in page.tags:
        return orientation({"xmp": page.tags[XMP].value}) if XMP in page.tags else 1
    turn = page.tags[ORIENTATION].value
    return turn[0] if isinstance(turn, tuple) else turn


def _nodata(page: Any) -> tuple[float, ...]:
    """The number of GDAL's tag."""
    try:
        number = float(page.tags[GDAL_NODATA].value)
    except (KeyError, TypeError, ValueError):
        return ()
    return (number,) if math.isfinite(number) else ()


def _by_pillow(data: bytes, path: str, series: Any, turn: Any, otherwise: str) -> Raster:
    """What tifffile makes no colours of, and what it needs imagecodecs for: one page of 8 bits, or of grey.

    Raises Unreadable with the reason ``otherwise`` where Pillow wouldn't read all of it either.
    """
    page = series.keyframe
    try:
        image = Image.open(io.BytesIO(data), formats=("TIFF",))
    except Image.UnidentifiedImageError:
        raise Unreadable(path, otherwise) from None
    wide = page.photometric == tifffile.PHOTOMETRIC.MINISBLACK and image.mode in ("I;16", "I;16B", "F")
    whole = wide if page.bitspersample > 8 else page.dtype.kind in "bu"
    if not whole or len(series) > 1 or len(image.getbands()) != page.samplesperpixel:
        raise Unreadable(path, otherwise)
    picture = np.array(image.convert(COLOURS.get(image.mode, image.mode)))  # upright already
    return Raster(upright(picture, BACK.get(turn, turn)), image.mode in ("LA", "PA", "RGBA"), turn)
