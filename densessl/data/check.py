"""The survey of a collection: what is corrupt, tiny or there twice; sizes, forms, mean and deviation."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import NamedTuple

import cv2
import numpy as np

from densessl.data.decoding import Unreadable
from densessl.data.in_order import in_order
from densessl.data.loader import FEW
from densessl.data.pictures import Pictures
from densessl.data.stored import form_of, read_stored

CHUNK = 32  # pictures that a worker does at a time
FREQUENT = 5  # sizes that are told


class Span(NamedTuple):
    """Of a length in pixels."""

    least: int
    median: float
    most: int


class Moments(NamedTuple):
    """Of all pixels of the pictures with as many channels as most have; values in [0, 1]."""

    pictures: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Survey(NamedTuple):
    """What `survey` found. Rows count the collection from 0, in its order."""

    pictures: int
    corrupt: dict[int, str]  # row: reason
    tiny: np.ndarray  # (N,) rows, rising
    duplicates: np.ndarray  # (N, 2) row, rising, and the first row with the same pixels
    width: Span | None  # None where nothing is readable
    height: Span | None
    frequent: list[tuple[int, int, int]]  # width, height, pictures
    forms: Counter[str]  # how the readable ones are stored
    moments: Moments | None

    def good(self) -> np.ndarray:
        """(pictures,) bool: readable, not tiny, and the first of its kind."""
        good = np.ones(self.pictures, bool)
        good[list(self.corrupt)] = good[self.tiny] = good[self.duplicates[:, 0]] = False
        return good

    def needed(self) -> float:
        """The smallest data.unreadable, in ten thousandths, with which a run that meets all of them goes on."""
        share = math.ceil(len(self.corrupt) / self.pictures * 10_000)
        while int(share / 10_000 * self.pictures) < len(self.corrupt):  # as the loader counts
            share += 1
        return share / 10_000 if len(self.corrupt) > FEW else 0.0


class _Part(NamedTuple):
    """What a worker found in a chunk."""

    sizes: np.ndarray  # (n, 2) uint16: height, width; 0 where unreadable
    digests: np.ndarray  # (n,) uint64; 0 where unreadable
    reasons: dict[int, str]
    forms: Counter[str]
    sums: dict[int, np.ndarray]  # number of channels: see _sums


def survey(images: Pictures, *, tiny: int = 64, workers: int = 0) -> Survey:
    """Reads every picture once; ``tiny`` ones have a shorter side of fewer pixels.

    Duplicates have the same pixels as they are read, whatever the file's format and metadata: 64 bits of SHA-256 say
    so, which are wrong once in 4,000 collections of 100 million. Keeps 12 bytes a picture, about as many more for a
    moment at the end, and the row and reason of each corrupt one.
    """
    count = len(images)
    sizes, digests = np.zeros((count, 2), np.uint16), np.zeros(count, np.uint64)
    corrupt: dict[int, str] = {}
    forms: Counter[str] = Counter()
    sums: dict[int, np.ndarray] = {}
    reasons: dict[str, str] = {}  # one string for all that are equal
    parts = in_order(
        lambda chunk: _look(images, range(chunk * CHUNK, min((chunk + 1) * CHUNK, count))),
        math.ceil(count / CHUNK),
        workers,
        "checked",
        lambda n: f"{min(n * CHUNK, count):,} pictures, {len(corrupt):,} corrupt",
    )
    for chunk, part in enumerate(parts):
        rows = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        sizes[rows], digests[rows] = part.sizes, part.digests
        corrupt |= {row: reasons.setdefault(reason, reason) for row, reason in part.reasons.items()}
        forms += part.forms
        for channels, values in part.sums.items():
            sums[channels] = sums.get(channels, 0) + values
    width, height, frequent = _spans(sizes)
    shorter = sizes.min(1)
    small = np.flatnonzero((shorter > 0) & (shorter < tiny))
    del sizes, shorter
    return Survey(count, corrupt, small, _duplicates(digests), width, height, frequent, forms, _moments(sums))


def _look(images: Pictures, rows: range) -> _Part:
    part = _Part(np.zeros((len(rows), 2), np.uint16), np.zeros(len(rows), np.uint64), {}, Counter(), {})
    for place, row in enumerate(rows):
        try:
            picture, data = read_stored(images, row)
        except Unreadable as error:
            part.reasons[row] = error.reason
            continue
        part.sizes[place] = np.minimum(picture.shape[:2], 65_535)
        part.digests[place] = _digest(picture)
        channels = 1 if picture.ndim == 2 else picture.shape[2]
        form = form_of(data) if data else None
        part.forms[str(form or f"{channels} channels, {picture.dtype}")] += 1
        part.sums[channels] = part.sums.get(channels, 0) + _sums(picture)
    return part


def _digest(picture: np.ndarray) -> int:
    """64 bits, never 0, of shape, type and pixels."""
    digest = hashlib.sha256(f"{picture.shape} {picture.dtype}".encode())  # which processors have instructions for
    digest.update(np.ascontiguousarray(picture).data)
    return int.from_bytes(digest.digest()[:8]) or 1


def _sums(picture: np.ndarray) -> np.ndarray:
    """(4, C) float64 for each channel: pictures, pixels, the sum of their values in [0, 1] and that of their squares.

    From OpenCV's mean and deviation, whose sums are whole numbers for pixels of 8 bits.
    """
    mean, std = (values.ravel() for values in cv2.meanStdDev(picture))
    top = np.iinfo(picture.dtype).max if picture.dtype.kind in "iu" else 1
    mean, std = mean / top, std / top
    pixels = picture.shape[0] * picture.shape[1]
    return np.stack([np.ones_like(mean), np.full_like(mean, pixels), pixels * mean, pixels * (mean**2 + std**2)])


def _moments(sums: dict[int, np.ndarray]) -> Moments | None:
    if not sums:
        return None
    pictures, pixels, first, second = max(sums.values(), key=lambda values: values[0, 0])
    mean = first / pixels
    std = np.sqrt(np.maximum(second / pixels - mean**2, 0))
    return Moments(int(pictures[0]), tuple(mean.tolist()), tuple(std.tolist()))


def _spans(sizes: np.ndarray) -> tuple[Span | None, Span | None, list[tuple[int, int, int]]]:
    """Of width and height, and the most frequent sizes."""
    there = sizes[sizes[:, 0] > 0]
    if not len(there):
        return None, None, []
    height, width = (Span(int(side.min()), float(np.median(side)), int(side.max())) for side in there.T)
    values, counts = np.unique(there.view(np.uint32), return_counts=True)  # one number a size
    most = np.argsort(-counts, kind="stable")[:FREQUENT]
    pairs = values[most].view(np.uint16).reshape(-1, 2)
    return width, height, [(w, h, n) for (h, w), n in zip(pairs.tolist(), counts[most].tolist(), strict=True)]


def _duplicates(digests: np.ndarray) -> np.ndarray:
    """(N, 2) int64: the row of each picture that was there before, and the row of the first."""
    ordered = np.sort(digests)
    twice = np.unique(ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] > 0)])
    del ordered
    first: dict[int, int] = {}
    found = []
    for start in range(0, len(digests) if len(twice) else 0, 1 << 20):
        block = digests[start : start + (1 << 20)]
        places = np.searchsorted(twice, block).clip(max=len(twice) - 1)
        for row in (start + np.flatnonzero(twice[places] == block)).tolist():
            digest = int(digests[row])
            if digest in first:
                found.append((row, first[digest]))
            else:
                first[digest] = row
    return np.array(found, np.int64).reshape(-1, 2)
