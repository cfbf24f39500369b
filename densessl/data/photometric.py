"""Colour, grey, blur and solarise: the one place of the views that knows albumentations."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network on import
import albumentations as A

if TYPE_CHECKING:
    from densessl.config import PhotometricConfig


def blur_kernel(size: int, sigma: float) -> int:
    """Widest blur kernel, in pixels, for views of `size`: 0 where sigma alone decides.

    BYOL has 23 taps at 224 px, a tenth of the side as in SimCLR. Gaussians up to sigma 2 fit in that with room to
    spare, so each may be cut at 3.5 sigma, which is cheaper and differs by a grey level at most. On small views the
    tenth does cut: 9 taps at 96 px, 5 at 48 px. It keeps a blur that is mild for a large view from wiping out a small
    one.
    """
    tenth = 2 * (size // 20) + 1
    return 0 if int(3.5 * sigma) * 2 + 1 <= tenth else max(3, tenth)


class Photometric:
    """The photometric part of view `number` of its size, on (H, W, 3) uint8.

    The order is that of VICReg's and VICRegL's official code, after BYOL (https://arxiv.org/abs/2006.07733): the first,
    third, ... view of a size takes the first entry of `blur_p` and `solarize_p`, the others the second.
    """

    width = 0  # numbers in a row for the device

    def __init__(self, cfg: PhotometricConfig, size: int, number: int) -> None:
        brightness, contrast, saturation, hue = cfg.jitter
        kernel = blur_kernel(size, cfg.blur_sigma[1])
        with warnings.catch_warnings():
            # A misspelt argument is only warned of, and the default used.
            warnings.simplefilter("error")
            self.compose = A.Compose(
                [
                    A.ColorJitter(brightness, contrast, saturation, hue, p=cfg.jitter_p),
                    A.ToGray(p=cfg.grey_p),
                    A.GaussianBlur(
                        blur_limit=(kernel, kernel),
                        sigma_limit=cfg.blur_sigma,
                        p=cfg.blur_p[number % 2],
                    ),
                    A.Solarize(threshold_range=(0.5, 0.5), p=cfg.solarize_p[number % 2]),
                ]
            )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Sequence[float]]:
        """The image changed with random numbers of `rng` alone, and the row of what is left to the device."""
        # Not set_random_seed(): it gives every transform the same stream, so that with the papers' probabilities each
        # grey view would be jittered and each solarised one grey.
        self.compose.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        return self.compose(image=image)["image"], ()
