"""Headers: what a picture's file says before its pixels."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

from PIL import Image

from densessl.data import npy, tiff

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # besides TIFF; for some of the others Pillow runs programs
# Segments of a JPEG that say nothing of its pixels but how they are coded: tables, remarks, and what programs note,
# but for EXIF, and for the list of pictures of which this is the first.
PLAIN = {0xDB, 0xC4, 0xDD, 0xFE, 0xE0, 0xE2, *range(0xE3, 0xF0)}
FRAMES = (0xC0, 0xC1, 0xC2)  # of 8 bits, as everything reads them
PIXELS = 0xDA
STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WebP", b"BM": "BMP", b"GIF8": "GIF"}
STARTS |= {npy.START: "npy", **dict.fromkeys(tiff.STARTS, "TIFF")}
NAMES = {name.lower(): name for name in STARTS.values()} | {"jpg": "JPEG", "tif": "TIFF"}


class Header(NamedTuple):
    """Height and width as stored; Pillow's names of format and mode."""

    format: str
    mode: str
    channels: int  # with an alpha, but for one that is a colour
    height: int
    width: int
    end: int  # where Pillow stops, before or in the pixels
    turn: Any = 1  # EXIF's orientation
    clear: bool = False  # whether a colour is one


def other_form(data: bytes, path: str) -> str:
    """The form of a file that its ending says it hasn't; empty where they agree, or either is unknown."""
    named = NAMES.get(path[path.rfind(".") + 1 :].lower())
    found = named and next((form for start, form in STARTS.items() if data.startswith(start)), None)
    return found if found and found != named else ""


def header_of(data: bytes) -> Header:
    """Raises whatever Pillow raises for a broken one, for what is no picture, and from 179 million pixels on."""
    return _plain_jpeg(data) or _by_pillow(data)


def _by_pillow(data: bytes) -> Header:
    file = io.BytesIO(data)
    image = Image.open(file, formats=FORMATS)  # reads the header alone
    channels, clear = len(image.getbands()), "transparency" in image.info
    return Header(str(image.format), image.mode, channels, image.height, image.width, file.tell(), _turn(image), clear)


def _turn(image: Image.Image) -> Any:
    """1 where nothing is said, or nothing that can be read."""
    try:
        # Where there is no EXIF before the pixels of a PNG, Pillow would decode them to look behind.
        return image.getexif().get(tiff.ORIENTATION, 1) if "exif" in image.info else 1
    except Exception:  # what broken metadata raise depends on where they are broken
        return 1


def _plain_jpeg(data: bytes) -> Header | None:
    """Of a JPEG in grey or colours with no metadata that matter; None of all else, which Pillow looks at.

    In a tenth of Pillow's time, which is a fifteenth of that of all views.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    at, frame = 2, b""
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if kind == PIXELS:
            break
        if kind in FRAMES and not frame:
            frame = data[at + 4 : at + 2 + length]
        elif kind not in PLAIN or data.startswith(b"MPF", at + 4):
            return None
        at += 2 + length
    else:
        return None
    mode = {b"\x01": "L", b"\x03": "RGB"}.get(frame[5:6])
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    if mode is None or frame[0] != 8 or not 0 < height * width <= (Image.MAX_IMAGE_PIXELS or 0):
        return None
    return Header("JPEG", mode, frame[5], height, width, at)
