"""Picture and mask transformed together: for training at random, for inference only resized and normalised.

Every random number of a training sample follows from (seed, epoch, index) alone, so the samples are the same with any
number of workers. The order is that of mmsegmentation 0.x: resize, crop, flip, colour, normalise, pad.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from densessl.data.crops import MANY, by_fours
from densessl.segmentation.datasets.files import IGNORE
from densessl.segmentation.protocols import Protocol

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the network for a newer version on import
import albumentations as A

# mmsegmentation's photometric distortion: brightness +-32 of 255, contrast and saturation 0.5 to 1.5, hue +-18 of 180,
# each with probability 0.5 and independent of the others.
PHOTOMETRIC = (
    A.RandomBrightnessContrast(brightness_limit=32 / 255, contrast_limit=0, p=0.5),
    A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.5, p=0.5),
    A.ColorJitter(brightness=(1, 1), contrast=(1, 1), saturation=(0.5, 1.5), hue=(0, 0), p=0.5),
    A.HueSaturationValue(hue_shift_limit=18, sat_shift_limit=0, val_shift_limit=0, p=0.5),
)
CROP_TRIES = 10


def training_sample(
    image: np.ndarray,
    mask: np.ndarray,
    protocol: Protocol,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    seed: int,
    epoch: int,
    index: int,
) -> tuple[Tensor, Tensor]:
    """(C, h, w) float32 and (h, w) int64 of the protocol's crop size.

    From a picture (H, W, C), uint8 or from black 0 to white 65535 uint16, and a mask (H, W) uint8.
    """
    rng = np.random.default_rng((seed, epoch, index))
    size = _scaled(mask.shape, protocol.scale, rng.uniform(*protocol.ratio))
    image, mask = resize(image, mask, size)
    image, mask = random_crop(image, mask, protocol.crop, protocol.max_share, rng)
    if rng.random() < protocol.flip:
        image, mask = image[:, ::-1], mask[:, ::-1]
    if protocol.photometric:
        image = photometric(image, rng)
    down, right = (full - have for full, have in zip(protocol.crop, mask.shape, strict=True))
    pixels = np.pad(normalise(image, mean, std), ((0, down), (0, right), (0, 0)))  # 0 is the mean
    mask = np.pad(mask, ((0, down), (0, right)), constant_values=IGNORE)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), torch.from_numpy(mask.astype(np.int64))


def inference_picture(image: np.ndarray, protocol: Protocol, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(C, h, w) float32 at the protocol's scale."""
    size = _scaled(image.shape[:2], protocol.scale, 1.0)
    pixels = normalise(resize(image, None, size)[0], mean, std)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def resize(image: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear for the picture, nearest for the mask, both with the same pixel centres; size (height, width)."""
    if size != image.shape[:2]:
        image = by_fours(lambda part: cv2.resize(part, size[::-1], interpolation=cv2.INTER_LINEAR), image, MANY)
        if mask is not None:  # OpenCV's plain nearest is half a pixel off bilinear
            mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return image, np.empty((0, 0), np.uint8) if mask is None else mask


def random_crop(
    image: np.ndarray,
    mask: np.ndarray,
    size: tuple[int, int],
    max_share: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A crop of at most ``size`` where no class has ``max_share`` or more of the labelled pixels.

    After ten tries the last one is taken. With ``max_share`` 1 the first one is.
    """
    for _ in range(CROP_TRIES):
        top, left = (int(rng.integers(max(have - full, 0) + 1)) for have, full in zip(mask.shape, size, strict=True))
        part = mask[top : top + size[0], left : left + size[1]]
        counts = np.bincount(part.ravel(), minlength=IGNORE + 1)[:IGNORE]
        if max_share >= 1 or counts.max() < max_share * counts.sum():
            break
    return image[top : top + size[0], left : left + size[1]], part


def photometric(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each distortion gets a seed of its own: one seed for all would make their coins fall alike."""
    image = np.ascontiguousarray(image)
    for transform in PHOTOMETRIC:
        transform.set_random_seed(int(rng.integers(2**32)))
        image = transform(image=image)["image"]
    return image


def normalise(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """float32 (image / white - mean) / std, where white is the largest value of the image's type."""
    scale = 1 / (np.iinfo(image.dtype).max * np.asarray(std, np.float32))
    return image * scale - np.asarray(mean, np.float32) / np.asarray(std, np.float32)


def _scaled(shape: Sequence[int], scale: tuple[int, int] | None, ratio: float) -> tuple[int, int]:
    """The size, aspect ratio kept, that just fits into ``ratio`` times scale (long side, short side)."""
    if scale is not None:
        ratio *= min(scale[0] / max(shape), scale[1] / min(shape))
    return max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))
