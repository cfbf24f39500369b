"""Values: how often each stored number occurs in pictures of one kind, channel by channel."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from densessl.data.raster import Kind

TAKEN, KEPT = 1 << 14, 1 << 18  # pixels sampled of a picture, and of all
COUNTED = 1 << 24  # pixels that OpenCV counts at once: it does so in float32


class Table(NamedTuple):
    """(n, C) numbers, and of how many pixels each is the number."""

    values: np.ndarray
    weights: np.ndarray


class Histogram:
    """Of all pixels, for whole numbers of up to 16 bits."""

    sampled = False

    def __init__(self, channels: int, dtype: np.dtype) -> None:
        self.pictures, self.dtype, self.nodata = 0, dtype, set[float]()  # the last: as files say
        self.counts = np.zeros((channels, 1 << 8 * dtype.itemsize), np.int64)

    def add(self, picture: np.ndarray, seed: int) -> None:
        """Counts a picture (h, w, C)."""
        self.pictures += 1
        bins = self.counts.shape[1]
        numbers = np.ascontiguousarray(picture).view(f"u{self.dtype.itemsize}")
        if self.dtype.kind == "i":
            numbers = numbers ^ numbers.dtype.type(bins // 2)  # negative ones first
        rows = max(1, COUNTED // picture.shape[1])
        for top in range(0, len(numbers), rows):
            for channel, counts in enumerate(self.counts):
                counts += (
                    cv2.calcHist([numbers[top : top + rows]], [channel], None, [bins], [0, bins]).ravel().astype(int)
                )

    def merge(self, other: Histogram) -> None:
        self.pictures += other.pictures
        self.nodata |= other.nodata
        self.counts += other.counts

    def table(self) -> Table:
        least = np.iinfo(self.dtype).min
        values = np.arange(least, least + self.counts.shape[1])
        return Table(np.repeat(values[:, None], len(self.counts), 1), self.counts.T)

    def ends(self) -> np.ndarray:
        """(2, C): least and largest number."""
        there = [np.flatnonzero(counts)[[0, -1]] for counts in self.counts]
        return np.array(there).T + np.iinfo(self.dtype).min


class Sample:
    """Of pixels drawn at random, for all other numbers: of every picture as many, which weigh as much as its size."""

    sampled = True

    def __init__(self, channels: int, dtype: np.dtype) -> None:
        self.pictures, self.nodata = 0, set[float]()
        self.values = np.empty((0, channels), dtype)
        self.weights, self.keys = np.empty(0), np.empty(0)
        self.low, self.high = np.full(channels, np.inf), np.full(channels, -np.inf)

    def add(self, picture: np.ndarray, seed: int) -> None:
        """Draws from a picture (h, w, C), with random numbers of ``seed``."""
        pixels = picture.reshape(-1, picture.shape[2])
        count = min(TAKEN, len(pixels))
        rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(seed,)))
        numbers = pixels if pixels.dtype.kind == "f" else pixels.astype(np.float64)
        there = np.isfinite(numbers)
        new = Sample(picture.shape[2], picture.dtype)
        new.pictures, new.keys, new.weights = 1, rng.random(count), np.full(count, len(pixels) / count)
        new.values = pixels[rng.choice(len(pixels), count, replace=False, shuffle=False)]
        new.low, new.high = numbers.min(0, where=there, initial=np.inf), numbers.max(0, where=there, initial=-np.inf)
        self.merge(new)

    def merge(self, other: Sample) -> None:
        """All are kept with the same chance, whatever they weigh: those whose random keys are the smallest."""
        self.pictures += other.pictures
        self.nodata |= other.nodata
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        for name in ("keys", "weights", "values"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        if len(self.keys) > KEPT:
            kept = np.argpartition(self.keys, KEPT)[:KEPT]
            self.keys, self.weights, self.values = self.keys[kept], self.weights[kept], self.values[kept]

    def table(self) -> Table:
        return Table(self.values, np.repeat(self.weights[:, None], self.values.shape[1], 1))

    def ends(self) -> np.ndarray:
        """(2, C): least and largest number."""
        return np.array([self.low, self.high])


Values = Histogram | Sample


def values_of(kind: Kind) -> Values:
    """Nothing yet."""
    dtype = np.dtype(kind.dtype)
    return (Histogram if dtype.kind in "iu" and dtype.itemsize < 3 else Sample)(kind.channels, dtype)
