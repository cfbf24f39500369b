"""Gain, offset, gamma, blur, noise and channel drop: photometrics of pictures whose channels are no colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from densessl.data.crops import MANY, by_fours
from densessl.data.photometric import blur_kernel

if TYPE_CHECKING:
    from densessl.config import PhotometricConfig


class ChannelPhotometric:
    """The photometric part of view `number` of its size, on (H, W, C) uint8 or uint16.

    Gamma, gain and offset change what a channel says. Then comes blur, as often and as wide as of colours; noise after
    it, which it would wipe out; and at last, so that it says nothing at all, a channel becomes its mean. Computed in
    float32 from black, 0, to white, 1, cut off there at the end and rounded once.
    """

    width = 0  # numbers in a row for the device

    def __init__(self, cfg: PhotometricConfig, size: int, number: int) -> None:
        self.cfg = cfg.channels
        self.blur_p, self.sigma = cfg.blur_p[number % 2], cfg.blur_sigma
        self.kernel = blur_kernel(size, cfg.blur_sigma[1])

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Sequence[float]]:
        """The image changed with random numbers of `rng` alone, and an empty row."""
        cfg, white = self.cfg, np.iinfo(image.dtype).max
        channels: int = image.shape[2]
        x: np.ndarray = image.astype(np.float32) / white
        if rng.random() < cfg.p:
            x **= math.exp(rng.uniform(-cfg.gamma, cfg.gamma))
            x *= rng.uniform(1 - cfg.gain, 1 + cfg.gain, channels).astype(np.float32)
            x += rng.uniform(-cfg.offset, cfg.offset, channels).astype(np.float32)
        if rng.random() < self.blur_p:
            sigma = rng.uniform(*self.sigma)
            kernel = self.kernel or 2 * int(3.5 * sigma) + 1
            x = by_fours(lambda part: cv2.GaussianBlur(part, (kernel, kernel), sigma), x, MANY)
        if rng.random() < cfg.noise_p:
            x += np.float32(rng.uniform(0, cfg.noise)) * rng.standard_normal(x.shape, np.float32)
        x.clip(0, 1, out=x)
        if channels > 1 and rng.random() < cfg.drop_p:
            dropped = rng.integers(channels)
            x[..., dropped] = x[..., dropped].mean(dtype=float)
        return np.rint(x * white).astype(image.dtype), ()
