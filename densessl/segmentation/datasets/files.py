"""Images and label masks in files, each turned as it says."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from densessl.data.decoding import RGB, decode, read
from densessl.data.header import FORMATS, header_of
from densessl.data.palette import Color
from densessl.data.pixels import Pixels
from densessl.data.raster import Unreadable, is_turned, orientation, upright
from densessl.data.tiff import LYING
from densessl.data.tiff import STARTS as TIFFS
from densessl.errors import UserError
from densessl.reading import described

IGNORE = 255
LOSSY = ("JPEG", "MPO", "WEBP")
ARRAYS = (".npy", ".tif", ".tiff")  # of any number of channels
VOID = (224, 224, 192)  # in VOC's palette, at 255
# Pillow stretches grey PNGs of 2 and 4 bits to 0..255; a label needs the stored number.
_STRETCH = {"L;2": 85, "L;4": 17}


def read_picture(path: Path, pixels: Pixels = RGB) -> np.ndarray:
    """(H, W, C) of ``pixels.dtype``, turned as the file says, like its mask. Raises UserError."""
    if not _by_pillow(path, pixels):
        try:
            return decode(path.read_bytes(), str(path), pixels)
        except Unreadable as error:
            raise UserError(f"{error}; it is read as the backbone was trained, {described(pixels)}") from None
        except OSError as error:
            raise UserError(f"{path}: the picture can't be read: {error.strerror}") from None
    with open_picture(path) as image:
        if image.mode.startswith(("I", "F")):
            raise UserError(f"{path}: a picture of mode {image.mode}; 8 bits a channel are needed")
        try:
            return upright(np.asarray(image.convert("RGB")), image.info["turn"])
        except (OSError, SyntaxError) as error:
            raise UserError(f"{path}: the picture can't be read: {error}") from None


def picture_size(path: Path, pixels: Pixels = RGB) -> tuple[int, int]:
    """(H, W), turned as the file says before its pixels: from the header, if Pillow reads it. Raises UserError."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return (image.width, image.height) if orientation(image.info) in LYING else (image.height, image.width)
    except Exception:  # of arrays, and of what is no image or only without what stands around its pixels
        height, width, _ = read_picture(path, pixels).shape
        return height, width


def told_turn(path: Path) -> str:
    """Words for an error on sizes, of an image that is turned; else empty."""
    try:
        raster = read(path.read_bytes(), str(path))
    except Unreadable:  # which it isn't for want of pixels alone
        return ""
    height, width = raster.picture.shape[:2]
    what = f" (stored as {width}x{height}, turned as the orientation {raster.turn} in its EXIF or XMP says)"
    return what if is_turned(raster.turn) else ""


def _by_pillow(path: Path, pixels: Pixels) -> bool:
    """Published scores have its pixels."""
    return pixels == RGB and path.suffix.lower() != ".npy"


def read_mask(path: Path, colors: Sequence[Color] = ()) -> np.ndarray:
    """(H, W) uint8, turned as the file says: the index of a palette picture, never its colour.

    With the ``colors`` of the values, a palette that has one of them at another place is refused: programs that make
    pictures smaller sort palettes anew, and every label would be wrong.
    """
    with _open_mask(path) as image:
        if image.mode not in ("L", "P", "1"):
            what = "16 or 32 bits" if image.mode.startswith(("I", "F")) else f"mode {image.mode}"
            raise UserError(
                f"{path}: a mask of {what}; one 8-bit channel is needed, grey or palette, whose value is the label"
                f"{_shown(path, image, colors)}"
            )
        tiles = getattr(image, "tile", [])  # (codec, box, offset, how it is stored)
        stored = tiles[0][3] if tiles else ""
        try:
            values = np.asarray(image, dtype=np.uint8)
        except (OSError, SyntaxError) as error:
            raise UserError(f"{path}: the mask can't be read: {error}") from None
        if image.mode == "P" and colors:
            table = np.asarray(image.getpalette()).reshape(-1, 3)
            for value in np.flatnonzero(np.bincount(values.ravel())[: len(table)]):
                color = tuple(table[value].tolist())
                if color in colors and colors.index(color) != value:
                    raise UserError(
                        f"{path}: the palette was sorted anew, so its numbers are no labels: {value} has the colour "
                        f"of label {colors.index(color)}; take the mask as it was published"
                    )
        values = upright(values, image.info["turn"])
    return values // _STRETCH.get(stored, 1) if isinstance(stored, str) else values


def read_codes(path: Path) -> np.ndarray:
    """(H, W) int32, R + 256 G + 65536 B, of a mask whose colours are numbers: COCO panoptic, CamVid."""
    with _open_mask(path) as image:
        if image.mode != "RGB":
            raise UserError(f"{path}: a mask of mode {image.mode}; RGB is needed, whose three bytes are one number")
        try:
            codes = np.asarray(image, np.int32) @ np.array([1, 256, 65536], np.int32)
        except (OSError, SyntaxError) as error:
            raise UserError(f"{path}: the mask can't be read: {error}") from None
        return upright(codes, image.info["turn"])


def translate_codes(codes: np.ndarray, labels: dict[int, int]) -> np.ndarray:
    """(H, W) int16 labels of codes; -1 where there is none."""
    known = np.array(sorted(labels), np.int32)
    places = np.searchsorted(known, codes).clip(max=len(known) - 1)
    return np.where(known[places] == codes, np.array([labels[k] for k in known.tolist()], np.int16)[places], -1)


def _open_mask(path: Path) -> Image.Image:
    """Refuses what is lossy, whatever its ending."""
    image = open_picture(path)
    if image.format in LOSSY or image.info.get("compression") == "jpeg":  # TIFFs may be
        image.close()
        raise UserError(
            f"{path}: a mask in {image.format}, which changes values; take it as PNG from the program that it was "
            "drawn in (a JPEG that is saved as PNG stays wrong)"
        )
    return image


def _shown(path: Path, image: Image.Image, colors: Sequence[Color]) -> str:
    """How a mask of several channels came to have them, and what to do; of numbers, what they may be."""
    try:
        values = np.asarray(image)
    except (OSError, SyntaxError):
        return ""
    if values.ndim == 2:
        return f". Its values go to {values.max():.0f}" + (
            ", as numbers of objects do" if values.max() > IGNORE else ""
        )
    if image.mode in ("LA", "PA") or (values[..., 1:3] == values[..., :1]).all():
        return ". Its channels hold the same number: keep one of them"
    found = {tuple(color) for color in np.unique(values[..., :3].reshape(-1, 3), axis=0).tolist()}
    if colors and found <= {*colors, VOID}:
        return ". It has the colors of the labels, as convert('RGB') and OpenCV make them; take it as it was published"
    return f". It has {len(found)} colors, which only show labels: their numbers have to be written"


def open_picture(path: Path) -> Image.Image:
    """Its header read, its pixels not yet; ``info["turn"]`` is the orientation that they need. Raises UserError."""
    image: Image.Image
    try:
        data = path.read_bytes()
        if data.startswith(TIFFS):  # which Pillow turns
            image, turn = Image.open(io.BytesIO(data), formats=("TIFF",)), 1
        else:
            header = header_of(data, str(path))
            image, turn = Image.open(io.BytesIO(header.data), formats=FORMATS), header.turn
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except Unreadable as error:
        raise UserError(f"{path}: not a picture: {error.reason}") from None
    except Exception as error:  # what a broken file raises depends on where it is broken
        raise UserError(f"{path}: not a picture: {error}") from None
    image.info["turn"] = turn
    return image
