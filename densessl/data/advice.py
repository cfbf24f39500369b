"""Advice: the configuration that a collection needs to be read, as far as its pictures tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from densessl.data.pixels import Pixels
from densessl.data.raster import Kind, Raster
from densessl.data.values import Table, Values

ENDS = (0.001, 0.999)  # shares of the pixels that are black, and that aren't white
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

    def words(self) -> str:
        """For a command line."""
        words = [] if self.pixels == Pixels() else [f"backbone.in_chans={self.pixels.channels}"]
        if self.pixels.range:
            pairs = ",".join(f"[{_number(low, 15)},{_number(high, 15)}]" for low, high in self.pixels.range)
            words.append(f"data.range=[{pairs}]")
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
        stored = _stored(members, pixels.channels)
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
        _stored(members, pixels.channels),
    )


def _group(kind: Kind) -> int:
    return 3 if kind.channels == 1 else kind.channels


def _stored(found: dict[Kind, Values], channels: int) -> tuple[Channel, ...]:
    ends = np.array([np.broadcast_to(values.ends(), (2, channels)) for values in found.values()])
    columns = _columns([values.table() for values in found.values()], channels)
    return tuple(
        Channel(float(least), *_middle(*column), float(most), *_moments(*column))
        for least, most, column in zip(ends[:, 0].min(0), ends[:, 1].max(0), columns, strict=True)
    )


def _columns(tables: list[Table], channels: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each channel the numbers and their weights, in all tables; those of one channel are repeated."""
    for channel in range(channels):
        parts = [(part[:, channel % part.shape[1]] for part in table) for table in tables]
        values, weights = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
        numbers = np.isfinite(values) & (weights > 0)
        yield values[numbers], weights[numbers]


def _middle(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The numbers that are reached by a thousandth of the pixels from below, and from above."""
    if not len(values):
        return 0.0, 0.0
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    low, high = values[order[np.searchsorted(reached, np.array(ENDS) * reached[-1])]]
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
