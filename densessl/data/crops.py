"""Crops: where a view lies in its picture, and its pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

if TYPE_CHECKING:
    from densessl.config import ViewsConfig

Box = tuple[int, int, int, int]  # top, left, height, width: whole source pixels
Fractions = tuple[float, float, float, float]  # the same, not whole
RATIO = (3 / 4, 4 / 3)  # width over height, as torchvision's RandomResizedCrop has it
MANY = 64  # channels that OpenCV changes at a time; from 5.0 on it has 128 at most
ANTIALIASED = torch._C._nn._upsample_bicubic2d_aa  # what F.interpolate calls, whose questions take a sixth of its time


def view_affine(
    rng: np.random.Generator, views: ViewsConfig, height: int, width: int, scale: tuple[float, float]
) -> np.ndarray:
    """(2, 3) float32: where a random crop lies in a picture, turned and mirrored as `views` says."""
    box: Box | Fractions
    if views.turn:
        box, angle = turned_box(rng, height, width, scale, views.turn)
    else:
        box, angle = crop_box(rng, height, width, scale), 0.0
    flip = bool(rng.random() < views.flip)
    # Not asked where there is none, so that the numbers after it are those of before there was such a key.
    flip_vertical = views.flip_vertical > 0 and bool(rng.random() < views.flip_vertical)
    return affine(box, flip, flip_vertical, angle)


def affine(box: Box | Fractions, flip: bool, flip_vertical: bool = False, angle: float = 0.0) -> np.ndarray:
    """(2, 3) float32: the unit square of the crop to source pixels, exact for integer boxes.

    The box is turned about its middle by `angle` radians, from down to across.
    """
    top, left, height, width = box
    y, x = top + height / 2, left + width / 2
    height, width = -height if flip_vertical else height, -width if flip else width
    cos, sin = math.cos(angle), math.sin(angle)
    a, b, c, d = height * cos, 0 - width * sin, 0 + height * sin, width * cos  # 0 + and -: no negative zeros
    return np.array([[a, b, y - (a + b) / 2], [c, d, x - (c + d) / 2]], np.float32)


def take_view(picture: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """(size, size, C) of a picture (h, w, C): the view that lies where `matrix` says, an affine as above.

    Any number of channels, of a type that OpenCV resizes.
    """
    (height, shear, top), (slant, width, left) = matrix.tolist()
    if shear or slant or height % 1 or width % 1 or top % 1 or left % 1:
        return _take_turned(picture, matrix.astype(float), size)
    box = int(min(top, top + height)), int(min(left, left + width)), int(abs(height)), int(abs(width))
    return take_crop(picture, box, width < 0, size, height < 0)


# --- upright ----------------------------------------------------------------------------------------------------------


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
    for _ in range(10):
        area, aspect, down, across = rng.random(4).tolist()
        h, w = map(round, _sides(height * width, scale, ratio, area, aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(down * (height - h + 1)), int(across * (width - w + 1)), h, w
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def take_crop(picture: np.ndarray, box: Box, flip: bool, size: int, flip_vertical: bool = False) -> np.ndarray:
    """The crop resized to (size, size, C), then flipped left to right, and upside down.

    cv2.resize maps the borders of the crop on each other, not the outer pixel centres: the same as `affine`.
    """
    top, left, height, width = box
    crop = picture[top : top + height, left : left + width]
    # Enlarging is cubic as in the papers. So is shrinking by less than 1.5, where not to antialias takes half the time
    # and hardly shows (1 to 4 grey levels).
    shrinks = max(height, width) >= 1.5 * size and min(height, width) >= size

    def resized(part: np.ndarray) -> np.ndarray:
        part = _shrunk(part, size) if shrinks else cv2.resize(part, (size, size), interpolation=cv2.INTER_CUBIC)
        return cv2.flip(part, 1 - flip_vertical - flip_vertical * flip) if flip or flip_vertical else part

    return by_fours(resized, crop)


def _shrunk(crop: np.ndarray, size: int) -> np.ndarray:
    """Antialiased cubic as in the papers, in torch's form of Pillow's; it has it for 8 bits alone.

    First down, then across: it would begin across, where each pixel takes three times as long, with more lines.
    OpenCV's averages over what each pixel covers, which is all it has, take three times as long. They mean something
    else, and move the picture, unless both axes shrink; with RATIO they do.
    """
    if crop.dtype != np.uint8:
        return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    planes = torch.from_numpy(np.ascontiguousarray(crop))[None].permute(0, 3, 1, 2)  # channels last, the quick form
    down = ANTIALIASED(planes, (size, crop.shape[1]), False, None)
    return ANTIALIASED(down, (size, size), False, None).numpy()[0].transpose(1, 2, 0)


# --- turned -----------------------------------------------------------------------------------------------------------


def turned_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    turn: float,
    ratio: tuple[float, float] = RATIO,
) -> tuple[Fractions, float]:
    """The box of a random crop, and the angle in radians by which it is then turned, up to `turn` degrees either way.

    The angle is drawn once, so that all are equally likely; areas and aspect ratios as for `crop_box`, up to ten times.
    Then the last one is shrunk until it fits, as at 45 degrees all over half of a square picture are. It lies anywhere
    that it fits, with all its corners in the picture.
    """
    angle = math.radians(rng.uniform(-turn, turn))
    cos, sin = math.cos(angle), math.sin(angle)
    for _ in range(10):
        h, w = _sides(height * width, scale, ratio, *rng.random(2).tolist())
        high, wide = h * abs(cos) + w * abs(sin), h * abs(sin) + w * abs(cos)  # the upright box around it
        fit = min(height / high, width / wide)
        if fit >= 1:
            break
    else:
        h, w, high, wide = h * fit, w * fit, high * fit, wide * fit
    y, x = high / 2 + (height - high) * rng.random(), wide / 2 + (width - wide) * rng.random()  # its middle
    return (y - h / 2, x - w / 2, h, w), angle


def _take_turned(picture: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Sampled about once a source pixel along the view's own axes, then averaged: each view pixel over what it covers.

    Sampling is linear, which is exact where values rise evenly; cubic, as `take_crop`, where nothing is averaged.
    """
    steps = np.linalg.norm(matrix[:, :2], axis=0) / size  # source pixels from one view pixel to the next, down, across
    block = max(1, int(steps.min() / 3))
    picture, matrix = _in_blocks(picture, matrix, block)
    fine = max(1, round(steps.max() / block))  # samples a side in a view pixel: one up to 1.5 source pixels, as above
    side = fine * size
    across = matrix[::-1, 1::-1] / side  # OpenCV has x before y, and pixel 0 at 0
    to_source = np.column_stack([across, matrix[::-1, 2] + across.sum(1) / 2 - 0.5])
    flags = cv2.WARP_INVERSE_MAP | (cv2.INTER_CUBIC if fine == 1 else cv2.INTER_LINEAR)

    def sampled(part: np.ndarray) -> np.ndarray:
        part = cv2.warpAffine(part, to_source, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return part if fine == 1 else cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA)

    return by_fours(sampled, picture)


def _in_blocks(picture: np.ndarray, matrix: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """What lies under the view and three blocks around it, averaged over block x block pixels, and the affine to that.

    Whole blocks, for whose means OpenCV takes a tenth of the time; where the view reaches from end to end up to half of
    one is left out there, a sixth of a view pixel.
    """
    ends = matrix @ np.array([(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1)]).T
    low, high = ends.min(1), ends.max(1)
    have = np.array(picture.shape[:2])
    count = np.minimum(have // block, np.ceil((high - low) / block).astype(int) + 6)
    start = ((low + high - count * block) / 2).astype(int).clip(0, have - count * block)
    (top, left), (bottom, right) = start, start + count * block
    picture = picture[top:bottom, left:right]
    if block > 1:
        picture = by_fours(lambda p: cv2.resize(p, count[::-1].tolist(), interpolation=cv2.INTER_AREA), picture)
    return picture, np.column_stack([matrix[:, :2], matrix[:, 2] - start]) / block


# --- of both ----------------------------------------------------------------------------------------------------------


def _sides(
    pixels: int, scale: tuple[float, float], ratio: tuple[float, float], area: float, aspect: float
) -> tuple[float, float]:
    """Height and width of a share of so many pixels; area and aspect from 0 to 1, least to most."""
    area = pixels * (scale[0] + (scale[1] - scale[0]) * area)
    aspect = ratio[0] * (ratio[1] / ratio[0]) ** aspect
    return math.sqrt(area / aspect), math.sqrt(area * aspect)


def by_fours(change: Callable[[np.ndarray], np.ndarray], picture: np.ndarray, most: int = 4) -> np.ndarray:
    """OpenCV averages and turns at most four channels at a time, else MANY, and drops the axis of a single one."""
    if 1 < picture.shape[2] <= most:
        return change(picture)
    parts = [np.atleast_3d(change(picture[..., c : c + most])) for c in range(0, picture.shape[2], most)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, 2)
