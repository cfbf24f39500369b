"""Headers: what a picture's file says before its pixels."""

from __future__ import annotations

import io
import re
import zlib
from contextlib import suppress
from typing import Any, NamedTuple

from PIL import Image

from densessl.data import npy, tiff
from densessl.data.raster import PIXELS_MOST, Unreadable, orientation

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM")  # besides TIFF; for some of the others Pillow runs programs
STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WebP", b"BM": "BMP", b"GIF8": "GIF"}
STARTS |= {npy.START: "npy", **dict.fromkeys(tiff.STARTS, "TIFF")}
STARTS |= {b"P%d%c" % (kind, space): "PNM" for kind in range(1, 7) for space in b" \t\r\n"}
BITMAPS = (12, 40, 52, 56, 64, 108, 124)  # bytes of the header that follows the first one of a BMP
NAMES = {name.lower(): name for name in STARTS.values()}  # by ending
NAMES |= dict.fromkeys(("jpg", "jpe", "jfif", "jif", "mpo"), "JPEG") | {"tif": "TIFF", "apng": "PNG", "dib": "BMP"}
NAMES |= dict.fromkeys(("pbm", "pgm", "ppm"), "PNM")

# A JPEG's markers.
FRAMES = (0xC0, 0xC1, 0xC2)  # of 8 bits, as everything reads them
TABLES = (0xC4, 0xDB, 0xDD)
NOTES = {0xFE, *range(0xE1, 0xEE), 0xEF}  # remarks, and what programs note; all but JFIF and Adobe, which name colors
KNOWN = {*TABLES, *NOTES, 0xE0, 0xEE}
ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length
PIXELS = 0xDA
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
MODES = {1: "L", 3: "RGB", 4: "CMYK"}  # by channels

# A PNG's chunks.
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")  # for the pixels
TRNS = {0: 2, 2: 6}  # bytes of the chunk for grey and for RGB
END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"
TOLD = (b"XML:com.adobe.xmp", b"Raw profile type exif")  # texts that may hold an orientation
TEXT_MOST = 1 << 24  # bytes that a text is inflated to


class Header(NamedTuple):
    """Height and width as stored; Pillow's names of format and mode."""

    format: str
    mode: str
    channels: int  # with an alpha, but for one that is a colour
    height: int
    width: int
    data: bytes  # the file, without what stands around the pixels where a decoder could stumble over it
    end: int = 0  # of a JPEG: where its pixels begin
    turn: Any = 1  # EXIF's orientation
    clear: bool = False  # whether a colour is one


def other_form(data: bytes, path: str) -> str:
    """The form of a file that its ending says it hasn't; empty where they agree, or either is unknown."""
    named = NAMES.get(path[path.rfind(".") + 1 :].lower())
    found = named and form_at(data[:32])
    return found if found and found != named else ""


def form_at(start: bytes) -> str:
    """The form of a file by its first 32 bytes; empty where it is none that is read."""
    form = next((form for magic, form in STARTS.items() if start.startswith(magic)), "")
    if form == "WebP" and start[8:12] != b"WEBP":  # but sound or a film
        return ""
    if form == "BMP" and int.from_bytes(start[14:18], "little") not in BITMAPS:  # but a text
        return ""
    if form == "PNM" and not re.match(rb"P\d\s+(#|\d+\s)", start):
        return ""
    return form


def header_of(data: bytes, path: str) -> Header:
    """Of a whole file, whatever stands around its pixels: profiles, remarks and the like are no part of an image.

    Raises Unreadable for a PNG that is cut, and whatever Pillow raises for a broken header, for what is no image, and
    from 179 million pixels on.
    """
    if data.startswith(b"\x89PNG"):
        return _png(data, path)
    return _jpeg(data) or _by_pillow(data)


def _by_pillow(data: bytes, told: dict[str, Any] | None = None) -> Header:
    image = Image.open(io.BytesIO(data), formats=FORMATS)  # reads the header alone
    channels, clear = len(image.getbands()), "transparency" in image.info
    turn = orientation(image.info if told is None else told)
    return Header(str(image.format), image.mode, channels, image.height, image.width, data, turn=turn, clear=clear)


def _png(data: bytes, path: str) -> Header:
    """Of the chunks that the pixels need; Pillow and OpenCV each refuse some of the others, and Pillow inflates all."""
    at, view, told = 8, memoryview(data), dict[str, Any]()
    needed = [view[:8]]
    while at + 8 <= len(data) and (kind := data[at + 4 : at + 8]) != b"IEND":
        start, end = at, at + 12 + int.from_bytes(data[at : at + 4])
        at = end
        if kind not in NEEDED:
            _note(told, kind, data[start + 8 : end - 4])
        elif end > len(data):
            raise Unreadable(path, "cut short")
        elif kind != b"tRNS" or _is_transparency(data[start:end], data[25]):
            needed.append(view[start:end])
    return _by_pillow(b"".join([*needed, END_OF_PNG]), told)


def _is_transparency(chunk: bytes, colors: int) -> bool:
    """OpenCV leaves out one that is damaged, Pillow refuses the image."""
    right = TRNS.get(colors, len(chunk) - 12) == len(chunk) - 12
    return right and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])


def _note(told: dict[str, Any], kind: bytes, body: bytes) -> None:
    """Adds what a chunk tells of the orientation, called as Pillow calls it."""
    key, _, text = body.partition(b"\0")
    if kind == b"eXIf":
        told["exif"] = EXIF + body
    elif key in TOLD and kind in (b"tEXt", b"zTXt", b"iTXt"):
        with suppress(IndexError, ValueError, zlib.error):  # broken: nothing is told
            packed = kind == b"zTXt" or (kind == b"iTXt" and text[0])
            if kind != b"tEXt":
                text = text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[2]
            text = zlib.decompressobj().decompress(text, TEXT_MOST) if packed else text
            told[key.decode()] = text.decode("latin-1")


def _jpeg(data: bytes) -> Header | None:
    """Of a JPEG in grey, RGB or CMYK; None of all else, which Pillow looks at.

    In a tenth of Pillow's time, which is a fifteenth of that of all views.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    at, frame, needed, told, noted, several = 2, b"", [data[:2]], dict[str, Any](), False, False
    while 0 <= (at := data.find(b"\xff", at)) <= len(data) - 4:  # what stands between two segments is passed over
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if kind == PIXELS:
            break
        if kind in (0x00, 0xFF) or kind in ALONE:
            at += 1 if kind == 0xFF else 2
            continue
        segment = data[at : at + 2 + length]
        if kind in FRAMES and not frame:
            frame = segment[4:]
        elif kind not in KNOWN:
            return None
        if kind in NOTES:
            noted, several = True, several or segment.startswith(b"MPF\0", 4)
            _note_segment(told, segment[4:])
        else:
            needed.append(segment)
        at += 2 + length
    else:
        return None
    mode = MODES.get(len(frame) > 5 and frame[5])
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    if mode is None or frame[0] != 8 or not 0 < height * width <= PIXELS_MOST:
        return None
    form = "MPO" if several else "JPEG"
    bare = b"".join([*needed, data[at:]]) if noted else data  # Pillow refuses some notes
    return Header(form, mode, frame[5], height, width, bare, at, orientation(told))


def _note_segment(told: dict[str, Any], body: bytes) -> None:
    if body.startswith(EXIF):  # of several each goes on where the one before ended
        told["exif"] = told["exif"] + body[len(EXIF) :] if "exif" in told else body
    elif body.startswith(XMP):
        told["xmp"] = body[len(XMP) :]
