"""Crops: the box of a view in its picture, where that lies, and its pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np

Box = tuple[int, int, int, int]  # top, left, height, width: whole source pixels
RATIO = (3 / 4, 4 / 3)  # width over height, as torchvision's RandomResizedCrop has it


def crop_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float] = RATIO,
) -> Box:
    """The box of a random resized crop (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842).

    `scale` is the share of the picture's area. After ten boxes that do not fit, the largest one in
    the middle whose aspect ratio is allowed.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return int(top), int(left), h, w
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def affine(box: Box, flip: bool) -> np.ndarray:
    """(2, 3) float32: the unit square of the crop to source pixels, exact for integer boxes."""
    top, left, height, width = box
    across = (-width, left + width) if flip else (width, left)
    return np.array([[height, 0, top], [0, *across]], np.float32)


def take_crop(picture: np.ndarray, box: Box, flip: bool, size: int) -> np.ndarray:
    """The crop resized to (size, size, C), then flipped left to right.

    cv2.resize maps the borders of the crop on each other, not the outer pixel centres: the same as `affine`.
    """
    top, left, height, width = box
    crop = picture[top : top + height, left : left + width]
    # Enlarging is cubic as in the papers. So is shrinking by less than 1.5, which hardly aliases (1 to 4 grey levels
    # from Pillow's antialiased cubic) and takes a fifth of the time of INTER_AREA, which averages over what each new
    # pixel covers. INTER_AREA means something else, and moves the picture, unless both axes shrink; with RATIO they do.
    shrinks = max(height, width) >= 1.5 * size and min(height, width) >= size
    crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return cv2.flip(crop, 1) if flip else crop
