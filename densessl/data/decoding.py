"""Decoding: the bytes of a file to the pixels of a picture."""

from __future__ import annotations

import io
import warnings
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

from densessl.data.pixels import Pixels, with_channels

PIXELS_MOST = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else 1 << 28  # where Pillow speaks of a bomb
NPY, TIFFS = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 0x0112  # of EXIF and TIFF
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # unreadable files are named by our own log


class Unreadable(Exception):
    """A file that is no picture: its path and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


RGB = Pixels()


def decode(data: bytes, path: str, pixels: Pixels = RGB) -> np.ndarray:
    """A file's bytes to (h, w, C) of ``pixels.dtype``. Raises Unreadable.

    RGB of 8 bits, the default: grey is repeated, alpha dropped, 16 bits scaled to 8. Otherwise the stored channels,
    which have to be as many as asked for but that grey is repeated for three and colours become grey for one.
    """
    if not data:
        raise Unreadable(path, "empty file")
    if data.startswith(NPY):
        return _fitting(_npy(data, path), path, pixels)
    plain = pixels.channels == 3 and not pixels.scaled
    tiff = data.startswith(TIFFS)
    header = _header(data, path) if plain or not tiff else None
    orientation = _orientation(header) if header else None
    if header is None or (tiff and orientation != 1):  # OpenCV turns some TIFFs, asked or not
        return _fitting(_tiff(data, path, pixels.upright), path, pixels)
    if plain:
        picture = _rgb(data, path, header)
    else:
        picture = _fitting(_stored(data, path, header, pixels.channels), path, pixels)
    return _upright(picture, orientation) if pixels.upright else picture


def _header(data: bytes, path: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which is not read
            header = Image.open(io.BytesIO(data))  # reads the header alone; refuses more than 179 million pixels
    except Image.DecompressionBombError:
        raise Unreadable(path, "more than 179 million pixels; cut it into tiles") from None
    except Exception as error:  # what a broken header raises depends on the format
        reason = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else f"broken header ({error})"
        raise Unreadable(path, reason) from None
    # OpenCV fills the missing part of a cut JPEG with grey and says nothing. The end marker cannot occur inside the
    # coded pixels, but in the thumbnail before them.
    if header.format == "JPEG" and data.find(b"\xff\xd9", _pixels_at(header)) < 0:
        raise Unreadable(path, "cut short")
    return header


def _orientation(header: Image.Image) -> int:
    """1 where nothing is said, or nothing that can be read."""
    if "exif" not in header.info and header.format != "TIFF":  # Pillow would decode a PNG to look behind its pixels
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return header.getexif().get(ORIENTATION, 1)
    except Exception:  # what a broken header raises depends on where it is broken
        return 1


def _pixels_at(header: Image.Image) -> int:
    tile = getattr(header, "tile", None)
    return tile[0][2] if tile else 0


def _rgb(data: bytes, path: str, header: Image.Image) -> np.ndarray:
    if header.mode not in ("CMYK", "LAB"):  # whose colours OpenCV guesses
        pixels = _opencv(data, cv2.IMREAD_COLOR)
        if pixels is not None:
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if header.mode[0] in "IF":  # Pillow would clip these at 255
        raise Unreadable(
            path, f"pixels of type {header.mode}; data.range or data.percentiles says what is black, white"
        )
    return _pillow(path, header, "RGB")


def _stored(data: bytes, path: str, header: Image.Image, channels: int) -> np.ndarray:
    """Its channels as they are, in RGB order; an alpha that is not asked for is dropped."""
    if header.mode in ("P", "PA", "CMYK", "LAB"):  # whose channels are no colours, or that OpenCV guesses
        picture = _pillow(path, header, "RGBA" if channels == 4 else "RGB")
    else:
        pixels = _opencv(data, cv2.IMREAD_UNCHANGED)
        picture = _pillow(path, header, None) if pixels is None else _in_rgb_order(pixels)
    stored = 1 if picture.ndim == 2 else picture.shape[2]
    has_alpha = header.mode in ("LA", "La", "PA", "RGBA", "RGBa", "RGBX") or "transparency" in header.info
    return picture[..., : stored - 1] if has_alpha and stored in (2, 4) and stored != channels else picture


def _in_rgb_order(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _opencv(data: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None


def _pillow(path: str, header: Image.Image, mode: str | None) -> np.ndarray:
    try:
        return np.array(header.convert(mode) if mode else header)
    except Exception as error:
        raise Unreadable(path, str(error)) from None


def _tiff(data: bytes, path: str, upright: bool) -> np.ndarray:
    """One picture of a TIFF with any number of channels, in planes or pixel by pixel."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            _refuse_bombs(path, series.shape)
            sizes = {axis: n for axis, n in zip(series.axes, series.shape, strict=True) if n > 1 or axis in "YX"}
            if not {"Y", "X"} <= sizes.keys() or len(sizes) > 3:
                raise Unreadable(path, f"axes {series.axes} of {series.shape}; a picture has Y, X and channels")
            order = sorted(range(len(sizes)), key=lambda i: "YX".find(list(sizes)[i]) % 3)
            picture = series.asarray().reshape(list(sizes.values())).transpose(order)
            tags = file.pages[0].tags  # type: ignore[union-attr]
            turn = tags[ORIENTATION].value if upright and ORIENTATION in tags else 1
    except Unreadable:
        raise
    except Exception as error:  # what a broken file raises depends on where it is broken
        raise Unreadable(path, f"no whole TIFF ({error})") from None
    return _upright(picture, turn)


def _npy(data: bytes, path: str) -> np.ndarray:
    """(h, w), (h, w, C) or (C, h, w), of which the channels are the shorter end."""
    try:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        _refuse_bombs(path, shape)
        picture = np.load(io.BytesIO(data), allow_pickle=False)
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(path, f"no whole .npy ({error})") from None
    if picture.ndim not in (2, 3) or dtype.kind not in "uif":
        raise Unreadable(path, f"an array {shape} of {dtype}; numbers (h, w), (h, w, C) or (C, h, w) are needed")
    return np.moveaxis(picture, 0, 2) if picture.ndim == 3 and shape[0] < shape[2] else picture


def _refuse_bombs(path: str, shape: tuple[int, ...]) -> None:
    if np.prod(shape, dtype=float) > 4 * PIXELS_MOST:
        raise Unreadable(path, f"{shape} are more than {4 * PIXELS_MOST / 1e6:.0f} million values; cut it into tiles")


def _fitting(picture: np.ndarray, path: str, pixels: Pixels) -> np.ndarray:
    """With the channels and the values asked for."""
    stored = picture
    if stored.dtype.kind not in "uif":
        raise Unreadable(path, f"pixels of type {stored.dtype}")
    if stored.dtype.itemsize > 1 and not pixels.scaled:
        raise Unreadable(
            path, f"pixels of type {stored.dtype}; data.range or data.percentiles says what is black, white"
        )
    if stored.dtype not in (np.uint8, np.uint16):
        stored = stored.astype(np.float32)
    fitting = with_channels(stored, pixels.channels)
    if fitting is None:
        have = 1 if stored.ndim == 2 else stored.shape[2]
        raise Unreadable(path, f"{have} channels, and backbone.in_chans={pixels.channels} are asked for")
    return pixels.scale(fitting) if pixels.scaled else np.ascontiguousarray(fitting)


TURNS: dict[int, Any] = {  # of EXIF: how the stored picture becomes upright
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p.swapaxes(0, 1)[:, ::-1],
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: p.swapaxes(0, 1)[::-1],
}


def _upright(picture: np.ndarray, orientation: Any) -> np.ndarray:
    return np.ascontiguousarray(TURNS[orientation](picture)) if orientation in TURNS else picture
