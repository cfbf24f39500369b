"""Pixels: how many channels a picture is read with, and which stored values are black and white."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from densessl.data.raster import Kind, Raster

if TYPE_CHECKING:
    from densessl.config import Config

SAMPLED = 1 << 18  # pixels of a picture that its percentiles are taken of, in even steps
GREY = (0.299, 0.587, 0.114)


class Pixels(NamedTuple):
    """``range`` has one (black, white) for all channels or one for each; stored values are clipped to it.

    With ``percentiles`` black and white are those of each picture's channel. With neither, pictures have 8 bits.
    ``upright`` applies the turn that EXIF asks for. Numbers in ``nodata``, and those that a file itself says stand for
    nothing, are treated like NaN where pictures are scaled: black, and in no percentile.
    """

    channels: int = 3
    range: tuple[tuple[float, float], ...] = ()
    percentiles: tuple[float, float] | None = None
    upright: bool = True
    nodata: tuple[float, ...] = ()

    @classmethod
    def of(cls, cfg: Config) -> Pixels:
        """As pretraining reads them."""
        data = cfg.data
        return cls(cfg.backbone.in_chans, data.range, data.percentiles, data.upright, data.nodata)

    @property
    def scaled(self) -> bool:
        return bool(self.range or self.percentiles)

    @property
    def dtype(self) -> np.dtype:
        """Of pictures as they are read: 8 bits that stay as they were, or 16, from black to white."""
        return np.dtype(np.uint16 if self.scaled else np.uint8)

    def misfit(self, kind: Kind) -> str:
        """Why pictures of a kind can't be read so; empty where they can."""
        if self.channels not in (kind.channels, kind.channels + kind.alpha) and {self.channels, kind.channels} != {
            1,
            3,
        }:
            scale = "" if self.scaled or kind.dtype == "uint8" else ", and data.range or data.percentiles as well"
            return f"{kind}: backbone.in_chans={kind.channels} would read them, not {self.channels}{scale}"
        if self.scaled or kind.dtype == "uint8" or self._upper(kind):
            return ""
        return f"{kind}: data.range or data.percentiles has to say what is black and white"

    def fitted(self, raster: Raster) -> np.ndarray:
        """(h, w, C) of `dtype`, of a picture that is no misfit."""
        stored = raster.picture if raster.picture.shape[2] == self.channels else raster.opaque()
        if self._upper(raster.kind):
            stored = (stored >> 8).astype(np.uint8)
        if self.scaled and (nodata := self.nodata + raster.nodata):
            stored = masked(stored, nodata)  # before channels are mixed
        picture = with_channels(stored, self.channels)
        # In the bytes of a file nothing can be written, of which torch warns.
        return self.scale(picture) if self.scaled else picture if picture.flags.carray else picture.copy()

    def _upper(self, kind: Kind) -> bool:
        """Whether the upper 8 of 16 bits are taken: of what has the form of a photograph."""
        return kind.dtype == "uint16" and self.channels == 3 and not self.scaled and not kind.array

    def scale(self, picture: np.ndarray) -> np.ndarray:
        """(h, w, C) of any numbers to uint16: black is 0, white 65535, and what is no number black."""
        dtype = np.result_type(picture, np.float32)  # 32 bits, which hold 16 exactly, or those of longer numbers
        bounds = np.broadcast_to(self._bounds(picture), (picture.shape[2], 2)).astype(dtype)
        scaled = np.empty(picture.shape, np.uint16)
        with np.errstate(all="ignore"):  # of numbers that are none, and of black that is white
            for channel, (low, high) in enumerate(bounds):  # one after the other and in place: much faster
                values = picture[..., channel].astype(dtype)
                values -= low
                values *= dtype.type(65_535) / np.maximum(high - low, np.finfo(dtype).tiny)
                np.fmin(np.fmax(values, 0, out=values), 65_535, out=values)
                scaled[..., channel] = np.rint(values, out=values)
        return scaled

    def _bounds(self, picture: np.ndarray) -> np.ndarray:
        if not self.percentiles:
            return np.array(self.range, np.float64)
        stride = max(1, picture.shape[0] * picture.shape[1] // SAMPLED)
        pixels = picture.reshape(-1, picture.shape[2])[::stride].T
        numbers = (values[np.isfinite(values)] for values in pixels)
        return np.array([np.percentile(values, self.percentiles) if len(values) else (0, 0) for values in numbers])


def masked(numbers: np.ndarray, nodata: Iterable[float]) -> np.ndarray:
    """Floats of the same shape, NaN where a number is one of ``nodata``, which are rounded to its type."""
    values = numbers.astype(np.result_type(numbers, np.float32))
    with np.errstate(over="ignore"):
        for number in nodata:
            values[values == values.dtype.type(number)] = np.nan
    return values


def with_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    """(h, w, C), RGB, with ``channels``: as many, or three of grey, or grey of three."""
    have, fast = picture.shape[2], picture.dtype in (np.uint8, np.uint16)
    if have == channels:
        return picture
    if have == 1:
        return cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB) if fast else np.repeat(picture, 3, 2)
    return (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if fast else picture @ np.array(GREY))[..., None]
