"""Views: the crops of a picture, each with where it lies in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from densessl.data.device_photometric import retouch
from densessl.data.photometric import Photometric

if TYPE_CHECKING:
    from densessl.config import PhotometricConfig, ViewsConfig

Box = tuple[int, int, int, int]  # top, left, height, width: whole source pixels
RATIO = (3 / 4, 4 / 3)  # width over height, as torchvision's RandomResizedCrop has it


class View(NamedTuple):
    """One crop of every picture of the batch.

    `image` is (B, C, H, W): uint8 from the loader, float and normalised on the device. `affine` is
    (B, 2, 3) float32 and maps (y, x, 1) of the view's unit square, which spans [0, 1] x [0, 1], to
    source pixels: pixel (i, j) of a picture has its centre at (i + 0.5, j + 0.5).
    """

    image: Tensor
    affine: Tensor


class Views(NamedTuple):
    """All crops of a batch; those of one list have one size. `pictures` (B,) int64: which of
    the collection they are. `photometric`, for each view, large ones first, (B, numbers) float32:
    what the device is still to do to it; empty where the workers did it."""

    large: list[View]
    small: list[View]
    pictures: Tensor | None = None
    photometric: Sequence[Tensor] = ()


def view_rng(seed: int, epoch: int, picture: int, view: int) -> np.random.Generator:
    """Every random number of one view follows from these four and nothing else."""
    # spawn_key, because a plain list of integers is padded with zeros: [1, 2] equals [1, 2, 0].
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, picture, view)))


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


class MultiCrop:
    """All crops of a picture: `views.large` first, then `views.small`."""

    def __init__(self, views: ViewsConfig, photometric: PhotometricConfig, seed: int) -> None:
        self.seed = seed
        self.flip = views.flip
        self.crops = [
            (group.size, group.scale, Photometric(photometric, group.size, number))
            for group in (views.large, views.small)
            for number in range(group.count)
        ]

    def __call__(self, picture: np.ndarray, epoch: int, index: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ((size, size, 3) uint8, (2, 3) float32 affine) of each view of picture `index`."""
        height, width = picture.shape[:2]
        for number, (size, scale, photometric) in enumerate(self.crops):
            rng = view_rng(self.seed, epoch, index, number)
            box = crop_box(rng, height, width, scale)
            flip = bool(rng.random() < self.flip)
            yield photometric(take_crop(picture, box, flip, size), rng), affine(box, flip)


class ToDevice:
    """Moves uint8 views, a quarter of the bytes of float ones; there it does what `photometric` says, and normalises.

    Channels stay last in memory. `mean` and `std` are per channel, of pixel values in [0, 1].
    """

    def __init__(self, device: torch.device | str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.device = device
        self.center, self.spread = (torch.tensor(v, device=device).mul_(255).view(-1, 1, 1) for v in (mean, std))

    @torch.no_grad()
    def __call__(self, views: Views) -> Views:
        pictures = None if views.pictures is None else views.pictures.to(self.device, non_blocking=True)
        crops = views.large + views.small
        rows: Sequence[Tensor | None] = views.photometric or [None] * len(crops)
        moved = [self._view(view, row) for view, row in zip(crops, rows, strict=True)]
        return Views(moved[: len(views.large)], moved[len(views.large) :], pictures)

    def _view(self, view: View, rows: Tensor | None) -> View:
        image = view.image.to(self.device, non_blocking=True)
        if rows is None:
            image = image.to(torch.float32)
        else:
            image = retouch(image, rows.to(self.device, non_blocking=True))
            image = image.to(torch.float32, memory_format=torch.channels_last)
        return View(image.sub_(self.center).div_(self.spread), view.affine.to(self.device, non_blocking=True))
