"""Pixels: how many channels a picture is read with, and which stored values are black and white."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from densessl.config import Config

SAMPLED = 1 << 18  # pixels of a picture that its percentiles are taken of, in even steps


class Pixels(NamedTuple):
    """``range`` has one (black, white) for all channels or one for each; stored values are clipped to it.

    With ``percentiles`` black and white are those of each picture's channel. With neither, pictures have 8 bits.
    ``upright`` applies the turn that EXIF asks for.
    """

    channels: int = 3
    range: tuple[tuple[float, float], ...] = ()
    percentiles: tuple[float, float] | None = None
    upright: bool = True

    @classmethod
    def of(cls, cfg: Config) -> Pixels:
        """As pretraining reads them."""
        data = cfg.data
        return cls(cfg.backbone.in_chans, data.range, data.percentiles, data.upright)

    @property
    def scaled(self) -> bool:
        return bool(self.range or self.percentiles)

    @property
    def dtype(self) -> np.dtype:
        """Of pictures as they are read: 8 bits that stay as they were, or 16, from black to white."""
        return np.dtype(np.uint16 if self.scaled else np.uint8)

    def scale(self, picture: np.ndarray) -> np.ndarray:
        """(h, w, C) of any numbers to uint16: black is 0, white 65535, and what is no number black."""
        bounds = np.broadcast_to(self._bounds(picture), (picture.shape[2], 2)).astype(np.float32)
        low, high = bounds[:, 0], bounds[:, 1]
        steps = np.float32(65_535) / np.maximum(high - low, np.finfo(np.float32).tiny)
        values = (picture.astype(np.float32) - low) * steps
        return np.nan_to_num(values, copy=False, nan=0).clip(0, 65_535, out=values).round().astype(np.uint16)

    def _bounds(self, picture: np.ndarray) -> np.ndarray:
        if not self.percentiles:
            return np.array(self.range, np.float64)
        stride = max(1, picture.shape[0] * picture.shape[1] // SAMPLED)
        pixels = picture.reshape(-1, picture.shape[2])[::stride].astype(np.float32)
        return np.nan_to_num(np.nanpercentile(pixels, self.percentiles, axis=0)).T


def with_channels(picture: np.ndarray, channels: int) -> np.ndarray | None:
    """(h, w) or (h, w, C), RGB, with ``channels``: grey is repeated, colours become grey; None where neither fits."""
    picture = np.atleast_3d(picture)
    have = picture.shape[2]
    if have == channels:
        return picture
    if have == 1 and channels == 3:
        return np.repeat(picture, 3, 2)
    if have == 3 and channels == 1 and picture.dtype in (np.uint8, np.uint16, np.float32):
        return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    return None
