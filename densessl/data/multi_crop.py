"""All crops of one picture, drawn from their own random numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from densessl.data.channel_photometric import ChannelPhotometric
from densessl.data.crops import take_view, view_affine
from densessl.data.decoding import RGB
from densessl.data.device_photometric import Draw, on_device
from densessl.data.photometric import Photometric
from densessl.data.pixels import Pixels

if TYPE_CHECKING:
    from densessl.config import PhotometricConfig, ViewsConfig


def view_rng(seed: int, epoch: int, picture: int, view: int = 0) -> np.random.Generator:
    """Every random number of a picture's views, or of one of several, follows from these and nothing else."""
    # The words of SeedSequence(seed, spawn_key=(epoch, picture, view)), which takes three times as long to find them.
    words = np.array([seed, 0, 0, 0, epoch, picture, view], np.uint32)
    return np.random.default_rng(np.random.SeedSequence(words))


class Crop(NamedTuple):
    """(size, size, C) pixels, the row of what the device is still to do to them, and the (2, 3) float32 affine."""

    image: np.ndarray
    row: Sequence[float]
    affine: np.ndarray


class MultiCrop:
    """All crops of a picture: `views.large` first, then `views.small`."""

    def __init__(self, views: ViewsConfig, photometric: PhotometricConfig, seed: int, pixels: Pixels = RGB) -> None:
        self.views, self.seed = views, seed
        self.crops = [
            (group.size, group.scale, _photometric(photometric, pixels, group.size, number))
            for group in (views.large, views.small)
            for number in range(group.count)
        ]

    def __call__(self, picture: np.ndarray, epoch: int, index: int) -> Iterator[Crop]:
        """Yield the crops of picture `index`, whose random numbers follow from seed, epoch and index."""
        return self.plan(epoch, index).take(picture)

    def plan(self, epoch: int, index: int) -> Plan:
        return Plan(self, epoch, index)


class Plan:
    """The crops of one picture: drawn when its size is known, taken when its pixels are."""

    def __init__(self, crops: MultiCrop, epoch: int, index: int) -> None:
        self.crops, self.epoch, self.index = crops, epoch, index
        self.size, self.smaller = (0, 0), 1
        self.drawn: list[np.ndarray] = []

    def reduction(self, height: int, width: int) -> int:
        """How many times smaller, 1, 2, 4 or 8, the picture may be decoded: each view still shrinks it by 2 or more.

        Its views are drawn then, and their borders, but of turned ones, moved to whole pixels of the smaller picture.
        """
        self._draw(height, width)
        sides = [min(math.hypot(a, c), math.hypot(b, d)) for (a, b, _), (c, d, _) in (x.tolist() for x in self.drawn)]
        least = min(side / size for side, (size, *_) in zip(sides, self.crops.crops, strict=True))
        self.smaller = next((n for n in (8, 4, 2) if least >= 2 * n), 1)
        if self.smaller > 1 and not self.crops.views.turn:
            self.drawn = [_on_grid(affine, self.smaller, self.size) for affine in self.drawn]
        return self.smaller

    def take(self, picture: np.ndarray) -> Iterator[Crop]:
        """Yield the crops, of the picture as large as `reduction` heard or as much smaller as it said."""
        whole, smaller = picture.shape[:2] == self.size, self.smaller
        if whole or picture.shape[:2] != tuple(-(-side // smaller) for side in self.size):
            smaller = 1
        if smaller == 1 and not whole:  # it heard of none, or of a broken one that this stands in for
            self._draw(*picture.shape[:2])
        for affine, (size, _, photometric) in zip(self.drawn, self.crops.crops, strict=True):
            here = affine / smaller if smaller > 1 else affine
            yield Crop(*photometric(take_view(picture, here, size), self.rng), affine)

    def _draw(self, height: int, width: int) -> None:
        crops, self.size = self.crops, (height, width)
        # One for all views: to make one takes as long as all that it draws.
        self.rng = view_rng(crops.seed, self.epoch, self.index)
        self.drawn = [view_affine(self.rng, crops.views, height, width, scale) for _, scale, _ in crops.crops]


def _on_grid(affine: np.ndarray, step: int, size: tuple[int, int]) -> np.ndarray:
    """The upright view whose borders are the nearest multiples of `step` in a picture (height, width)."""
    starts, ends = (affine @ np.array(corner) for corner in ((0, 0, 1), (1, 1, 1)))
    most = np.array(size) // step * step
    starts, ends = (np.minimum(np.rint(border / step) * step, most) for border in (starts, ends))
    return np.column_stack([np.diag(ends - starts), starts]).astype(np.float32)


def _photometric(
    cfg: PhotometricConfig, pixels: Pixels, size: int, number: int
) -> Photometric | ChannelPhotometric | Draw:
    if not cfg.colours(pixels.channels, pixels.scaled):
        return ChannelPhotometric(cfg, size, number)
    return (Draw if on_device(cfg) else Photometric)(cfg, size, number)
