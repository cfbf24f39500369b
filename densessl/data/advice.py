"""Advice: the configuration that a collection needs to be read, as far as its pictures tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from densessl.data.pixels import Pixels, masked
from densessl.data.raster import Kind, Raster
from densessl.data.values import Table, Values

ENDS = (0.001, 0.999)  # shares of the pixels that are black, and that aren't white
FILLS = (999, 9999, 99_999, 999_999, 32_767, 32_768)  # of either sign stand for nothing, as the ends of a type do
HUGE = 1e20  # and so do floats from here on
FLAT = 1e-4  # deviation of a channel that is the same everywhere: it is divided by


class Channel(NamedTuple):
    """Of the numbers that are stored."""

    least: float
    low: float  # a thousandth of the pixels are below
    high: float  # a thousandth above
    most: float
    mean: float
    std: float


class Advice(NamedTuple):
    """``mean`` and ``std`` are of all pixels, black 0 and white 1, as training will see them."""

    pixels: Pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pictures: int  # that all figures are of
    sampled: bool  # figures are of sampled pixels, but for least and most
    channels: tuple[Channel, ...]
    missing: float  # share of all numbers that stand for nothing; the rest of the figures is without them

    def words(self) -> str:
        """For a command line."""
        words = [] if self.pixels == Pixels() else [f"backbone.in_chans={self.pixels.channels}"]
        if self.pixels.range:
            pairs = ",".join(f"[{_number(low, 15)},{_number(high, 15)}]" for low, high in self.pixels.range)
            words.append(f"data.range=[{pairs}]")
        if numbers := [_number(number, 17) for number in self.pixels.nodata]:
            words.append(f"data.nodata={numbers[0] if len(numbers) == 1 else '[' + ','.join(numbers) + ']'}")
        spread = tuple(max(value, FLAT) for value in self.std)
        for key, values in (("mean", self.mean), ("std", spread)):
            words.append(f"data.{key}=[{','.join(_number(value, 4) for value in values)}]")
        return " ".join(words)


def _number(value: float, digits: int) -> str:
    """Without an exponent, which YAML would take for text."""
    return np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")


def advise(found: dict[Kind, Values]) -> Advice | None:
    """For the number of channels, and of bits, that most pictures have. None without pictures.

    Grey goes with colour, which most pictures decide too: where they have 8 bits, grey is repeated as ever.
    """
    sizes: Counter[int] = Counter()
    for kind, values in found.items():
        sizes[_group(kind)] += values.pictures
    if not sizes:
        return None
    (group, pictures), *_ = sizes.most_common(1)
    members = {kind: values for kind, values in found.items() if _group(kind) == group}
    eight = 2 * sum(values.pictures for kind, values in members.items() if kind.dtype == "uint8") >= pictures
    grey = 2 * sum(values.pictures for kind, values in members.items() if kind.channels == 1) > pictures
    pixels = Pixels(1 if grey and not eight else group)
    members = {kind: values for kind, values in members.items() if kind.channels in (1, pixels.channels)}
    if not eight:
        dtypes = {np.dtype(kind.dtype) for kind in members}
        types = [np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype) for dtype in dtypes]
        pixels = pixels._replace(nodata=_nodata(members))
        stored = _stored(members, pixels)
        pixels = pixels._replace(range=tuple(_range(channel, types) for channel in stored))
    members = {kind: values for kind, values in members.items() if not pixels.misfit(kind)}
    seen = [_seen(kind, values.table(), pixels) for kind, values in members.items()]
    mean, std = zip(*(_moments(*column) for column in _columns(seen, pixels.channels)), strict=True)
    return Advice(
        pixels,
        mean,
        std,
        sum(values.pictures for values in members.values()),
        any(values.sampled for values in members.values()),
        _stored(members, pixels),
        _missing(members, pixels),
    )


def _group(kind: Kind) -> int:
    return 3 if kind.channels == 1 else kind.channels


def _nodata(found: dict[Kind, Values]) -> tuple[float, ...]:
    """Numbers that stand for nothing: as files say, or as is usual for one that lies far from all the others."""
    numbers = set[float]().union(*(values.nodata for values in found.values()))
    for kind, values in found.items():
        dtype = np.dtype(kind.dtype)
        info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        usual = {sign * number for number in FILLS for sign in (1, -1)} | {float(info.min), float(info.max)} - {0.0}
        for column, weights in _columns([values.table()], kind.channels, numbers):
            order = np.argsort(column)
            rest = column[order], weights[order]
            while (far := _far(*rest, usual)) is not None:
                numbers.add(far)
                kept = rest[0] != far
                rest = rest[0][kept], rest[1][kept]
    return tuple(sorted(numbers))


def _far(column: np.ndarray, weights: np.ndarray, usual: Container[float]) -> float | None:
    """An end of rising numbers that is ``usual``, and further from all others than half of what 98 % of those span."""
    for end in column[[0, -1]].tolist() if len(column) else ():
        others = column != end
        if (end in usual or abs(end) >= HUGE) and others.any():
            rest = column[others]
            low, high = _middle(rest, weights[others], (0.01, 0.99))
            if np.abs(rest[[0, -1]] - end).min() > (high - low) / 2:
                return end
    return None


def _missing(found: dict[Kind, Values], pixels: Pixels) -> float:
    """The share of ``pixels.nodata`` in all numbers."""
    tables = [values.table() for values in found.values()]
    every, there = (
        sum(float(weights.sum()) for _, weights in _columns(tables, pixels.channels, nodata))
        for nodata in ((), pixels.nodata)
    )
    return 1 - there / every if every else 0.0


def _stored(found: dict[Kind, Values], pixels: Pixels) -> tuple[Channel, ...]:
    ends = [masked(values.ends().astype(kind.dtype), pixels.nodata) for kind, values in found.items()]
    low, high = np.array([np.broadcast_to(each, (2, pixels.channels)) for each in ends]).transpose(1, 2, 0)
    columns = _columns([values.table() for values in found.values()], pixels.channels, pixels.nodata)
    return tuple(
        Channel(_end(np.fmin, least, column), *_middle(*column), _end(np.fmax, most, column), *_moments(*column))
        for least, most, column in zip(low, high, columns, strict=True)
    )


def _end(further: np.ufunc, ends: np.ndarray, column: tuple[np.ndarray, np.ndarray]) -> float:
    """Of all numbers, but of those that were sampled where the end of all stands for nothing."""
    return float(further.reduce(np.concatenate([ends, column[0]])))


def _columns(
    tables: list[Table], channels: int, nodata: Iterable[float] = ()
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each channel the numbers and their weights, in all tables; those of one channel are repeated."""
    tables = [Table(masked(values, nodata), weights) for values, weights in tables]
    for channel in range(channels):
        parts = [(part[:, channel % part.shape[1]] for part in table) for table in tables]
        values, weights = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
        numbers = np.isfinite(values) & (weights > 0)
        yield values[numbers], weights[numbers]


def _middle(values: np.ndarray, weights: np.ndarray, shares: tuple[float, float] = ENDS) -> tuple[float, float]:
    """The numbers that are reached by the ``shares`` of the pixels."""
    if not len(values):
        return 0.0, 0.0
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    low, high = values[order[np.searchsorted(reached, np.array(shares) * reached[-1])]]
    return float(low), float(high)


def _moments(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Mean and deviation."""
    if not len(values):
        return 0.0, 0.0
    mean = np.average(values, weights=weights)
    return float(mean), math.sqrt(np.average((values - mean) ** 2, weights=weights))


def _range(channel: Channel, types: list[np.iinfo | np.finfo]) -> tuple[float, float]:
    """Black and white, rounded outwards to about three digits of what lies between them."""
    low, high = channel.low, channel.high
    if low == high:
        return low, low + max(1.0, abs(low) / 100)
    step = 10.0 ** (math.floor(math.log10(high - low)) - 2)
    if all(isinstance(type, np.iinfo) for type in types):
        step = max(1.0, step)
    low = max(math.floor(low / step) * step, min(float(type.min) for type in types))
    high = min(math.ceil(high / step) * step, max(float(type.max) for type in types))
    return float(f"{low:.12g}"), float(f"{high:.12g}")


def _seen(kind: Kind, table: Table, pixels: Pixels) -> Table:
    """The stored numbers of a kind as training will see them."""
    picture = pixels.fitted(Raster(table.values.astype(kind.dtype)[:, None], array=kind.array))
    return Table(picture[:, 0] / np.iinfo(picture.dtype).max, table.weights)
