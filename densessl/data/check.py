"""The survey of a collection: what is corrupt, tiny or there twice; sizes, forms, and what reads it."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from densessl.data.advice import Advice, advise
from densessl.data.decoding import Unreadable
from densessl.data.header import other_form
from densessl.data.in_order import in_order
from densessl.data.loader import FEW
from densessl.data.pictures import Pictures
from densessl.data.raster import Kind, is_turned, upright
from densessl.data.stored import form_of, read_stored
from densessl.data.values import Values, values_of

CHUNK = 32  # pictures that a worker does at a time
FREQUENT = 5  # sizes that are told


class Span(NamedTuple):
    """Of a length in pixels."""

    least: int
    median: float
    most: int


class Survey(NamedTuple):
    """What `survey` found. Rows count the collection from 0, in its order."""

    pictures: int
    corrupt: dict[int, str]  # row: reason
    odd: dict[int, str]  # row: form, where the ending says another
    tiny: np.ndarray  # (N,) rows, rising
    duplicates: np.ndarray  # (N, 2) row, rising, and the first row with the same pixels
    width: Span | None  # None where nothing is readable
    height: Span | None
    frequent: list[tuple[int, int, int]]  # width, height, pictures
    forms: Counter[str]  # how the readable ones are stored
    turned: int  # images that are not stored upright, as they say
    kinds: list[Kind]
    kind: np.ndarray  # (pictures,) uint16: the place of each one's in the list, from 1; 0 where it is corrupt
    advice: Advice | None  # None where nothing is readable

    def kind_of(self, row: int) -> Kind:
        """Of a picture that isn't corrupt."""
        return self.kinds[self.kind[row] - 1]

    def count(self, kind: Kind) -> int:
        """Pictures of it."""
        return int((self.kind == self.kinds.index(kind) + 1).sum())

    def misfits(self) -> np.ndarray:
        """(N,) rows, rising, of what a run with the advice couldn't read, though it isn't corrupt."""
        if not self.advice:
            return np.empty(0, np.int64)
        wrong = [bool(self.advice.pixels.misfit(kind)) for kind in self.kinds]
        return np.flatnonzero(np.array([False, *wrong])[self.kind])

    def good(self) -> np.ndarray:
        """(pictures,) bool: readable with the advice, not tiny, and the first of its kind."""
        good = np.ones(self.pictures, bool)
        good[list(self.corrupt)] = good[self.misfits()] = good[self.tiny] = good[self.duplicates[:, 0]] = False
        return good

    def needed(self) -> float:
        """The smallest data.unreadable, in ten thousandths, with which a run that meets all pictures goes on."""
        unreadable = len(self.corrupt) + len(self.misfits())
        share = math.ceil(unreadable / self.pictures * 10_000)
        while int(share / 10_000 * self.pictures) < unreadable:  # as the loader counts
            share += 1
        return share / 10_000 if unreadable > FEW else 0.0


class _Part(NamedTuple):
    """What a worker found in a chunk."""

    sizes: np.ndarray  # (n, 2) uint16: height, width; 0 where unreadable
    digests: np.ndarray  # (n,) uint64; 0 where unreadable
    reasons: dict[int, str]
    odd: dict[int, str]
    forms: Counter[str]
    kinds: list[Kind | None]
    values: dict[Kind, Values]
    turned: int = 0


def survey(images: Pictures, *, tiny: int = 64, workers: int = 0) -> Survey:
    """Reads every picture once, as it is stored; ``tiny`` ones have a shorter side of fewer pixels.

    Duplicates have the same pixels, whatever the file's format and metadata: 64 bits of SHA-256 say so, which are wrong
    once in 4,000 collections of 100 million. Keeps 14 bytes a picture, about as many more for a moment at the end, and
    the row and reason of each corrupt one and each with an odd name.
    """
    count = len(images)
    sizes, digests = np.zeros((count, 2), np.uint16), np.zeros(count, np.uint64)
    kind, numbers = np.zeros(count, np.uint16), dict[Kind | None, int]({None: 0})
    corrupt: dict[int, str] = {}
    odd: dict[int, str] = {}
    forms: Counter[str] = Counter()
    turned = 0
    values: dict[Kind, Values] = {}
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
        odd |= part.odd
        kind[rows] = [numbers.setdefault(one, len(numbers)) for one in part.kinds]
        forms += part.forms
        turned += part.turned
        for one, found in part.values.items():
            values.setdefault(one, values_of(one)).merge(found)
    width, height, frequent = _spans(sizes)
    shorter = sizes.min(1)
    small = np.flatnonzero((shorter > 0) & (shorter < tiny))
    del sizes, shorter
    twice, kinds = _duplicates(digests), [one for one in numbers if one]
    return Survey(
        count, corrupt, odd, small, twice, width, height, frequent, forms, turned, kinds, kind, advise(values)
    )


def _look(images: Pictures, rows: range) -> _Part:
    part = _Part(np.zeros((len(rows), 2), np.uint16), np.zeros(len(rows), np.uint64), {}, {}, Counter(), [], {})
    turned = 0
    for place, row in enumerate(rows):
        try:
            raster, data = read_stored(images, row)
        except Unreadable as error:
            part.reasons[row] = error.reason
            part.kinds.append(None)
            continue
        turned += is_turned(raster.turn)
        picture, kind = upright(np.ascontiguousarray(raster.opaque()), raster.turn), raster.kind
        part.sizes[place] = np.minimum(picture.shape[:2], 65_535)
        part.digests[place] = _digest(picture)
        part.forms[f"{' '.join(form_of(data)).strip()}: {kind}"] += 1
        if form := other_form(data, images.path(row)):
            part.odd[row] = form
        part.kinds.append(kind)
        values = part.values.setdefault(kind, values_of(kind))
        values.add(picture, row)
        values.nodata.update(raster.nodata)
    return part._replace(turned=turned)


def _digest(picture: np.ndarray) -> int:
    """64 bits, never 0, of shape, type and pixels, which lie in order."""
    digest = hashlib.sha256(f"{picture.shape} {picture.dtype}".encode())  # which processors have instructions for
    digest.update(picture.data)
    return int.from_bytes(digest.digest()[:8]) or 1


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
