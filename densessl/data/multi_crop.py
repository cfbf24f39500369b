"""All crops of one picture, drawn from their own random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from densessl.data.crops import affine, crop_box, take_crop
from densessl.data.device_photometric import Draw, on_device
from densessl.data.photometric import Photometric

if TYPE_CHECKING:
    from densessl.config import PhotometricConfig, ViewsConfig


def view_rng(seed: int, epoch: int, picture: int, view: int) -> np.random.Generator:
    """Every random number of one view follows from these four and nothing else."""
    # spawn_key, because a plain list of integers is padded with zeros: [1, 2] equals [1, 2, 0].
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, picture, view)))


class Crop(NamedTuple):
    """(size, size, C) pixels, the row of what the device is still to do to them, and the (2, 3) float32 affine."""

    image: np.ndarray
    row: Sequence[float]
    affine: np.ndarray


class MultiCrop:
    """All crops of a picture: `views.large` first, then `views.small`."""

    def __init__(self, views: ViewsConfig, photometric: PhotometricConfig, seed: int, channels: int = 3) -> None:
        self.seed = seed
        self.flip = views.flip
        self.crops = [
            (group.size, group.scale, _photometric(photometric, group.size, number))
            for group in (views.large, views.small)
            for number in range(group.count)
        ]

    def __call__(self, picture: np.ndarray, epoch: int, index: int) -> Iterator[Crop]:
        """Yield the crops of picture `index`, whose numbers follow from seed, epoch, index and the view's number."""
        height, width = picture.shape[:2]
        for number, (size, scale, photometric) in enumerate(self.crops):
            rng = view_rng(self.seed, epoch, index, number)
            box = crop_box(rng, height, width, scale)
            flip = bool(rng.random() < self.flip)
            yield Crop(*photometric(take_crop(picture, box, flip, size), rng), affine(box, flip))


def _photometric(cfg: PhotometricConfig, size: int, number: int) -> Photometric:
    photometric = Photometric(cfg, size, number)
    return Draw(photometric) if on_device(cfg) else photometric
