"""Colour, grey, blur and solarise: the one place of the views that knows albumentations."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else it asks the network on import
from albumentations.augmentations.pixel import functional as A

if TYPE_CHECKING:
    from densessl.config import PhotometricConfig

# The operations, without the classes around them, which draw and check for as long as the operations take.
ADJUST = {
    "brightness": A.adjust_brightness_torchvision,
    "contrast": A.adjust_contrast_torchvision,
    "saturation": A.adjust_saturation_torchvision,
    "hue": A.adjust_hue_torchvision,
}
JITTER = tuple(ADJUST)
SOLARISED = np.array([value if value < 128 else 255 - value for value in range(256)], np.uint8)


def blur_kernel(size: int, sigma: float) -> int:
    """Widest blur kernel, in pixels, for views of `size`: 0 where sigma alone decides.

    BYOL has 23 taps at 224 px, a tenth of the side as in SimCLR. Gaussians up to sigma 2 fit in that with room to
    spare, so each may be cut at 3.5 sigma, which is cheaper and differs by a grey level at most. On small views the
    tenth does cut: 9 taps at 96 px, 5 at 48 px. It keeps a blur that is mild for a large view from wiping out a small
    one.
    """
    tenth = 2 * (size // 20) + 1
    return 0 if int(3.5 * sigma) * 2 + 1 <= tenth else max(3, tenth)


class Change(NamedTuple):
    """What is done to one view, in this order."""

    # Brightness, contrast, saturation: a factor; hue: a share of a turn; in their order.
    jitter: list[tuple[str, float]]
    grey: bool
    half: list[float] | None  # of the blur's kernel: its middle, and one side
    solarise: bool


class Photometric:
    """The photometric part of view `number` of its size, on (H, W, 3) uint8.

    The order is that of VICReg's and VICRegL's official code, after BYOL (https://arxiv.org/abs/2006.07733): the first,
    third, ... view of a size takes the first entry of `blur_p` and `solarize_p`, the others the second.
    """

    width = 0  # numbers in a row for the device

    def __init__(self, cfg: PhotometricConfig, size: int, number: int) -> None:
        *factors, hue = cfg.jitter
        self.ranges = [(name, max(0.0, 1 - most), 1 + most) for name, most in zip(JITTER, factors, strict=False)]
        self.ranges.append((JITTER[-1], -hue, hue))
        self.jitter_p, self.grey_p = cfg.jitter_p, cfg.grey_p
        self.blur_p, self.solarize_p = cfg.blur_p[number % 2], cfg.solarize_p[number % 2]
        self.sigma = cfg.blur_sigma
        self.widest = blur_kernel(size, self.sigma[1]) or 2 * int(3.5 * self.sigma[1]) + 1

    def draw(self, rng: np.random.Generator) -> Change:
        """What comes of random numbers of `rng` alone, always as many of them."""
        jitter, grey, blur, solarise, sigma, *shares = rng.random(13).tolist()
        changes = []
        if jitter < self.jitter_p:
            for i in sorted(range(4), key=shares[4:].__getitem__):
                name, low, high = self.ranges[i]
                changes.append((name, low + (high - low) * shares[i]))
        half = self._half_kernel(sigma) if blur < self.blur_p else None
        return Change(changes, grey < self.grey_p, half, solarise < self.solarize_p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Sequence[float]]:
        """The image changed, and the row of what is left to the device: nothing."""
        change = self.draw(rng)
        for name, value in change.jitter:
            image = ADJUST[name](image, value)
        if change.grey:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if change.half:
            kernel = np.array(change.half[:0:-1] + change.half)
            image = cv2.sepFilter2D(image, -1, kernel, kernel)
        return (cv2.LUT(image, SOLARISED) if change.solarise else image), ()

    def _half_kernel(self, share: float) -> list[float]:
        """Of a Gaussian as wide as 3.5 sigma, which leaves out less than a grey level, and as the widest."""
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * share
        reach = min(self.widest // 2, int(3.5 * sigma))
        half = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(reach + 1)]  # a few numbers: no array is quicker
        total = 2 * sum(half) - half[0]
        return [each / total for each in half]
