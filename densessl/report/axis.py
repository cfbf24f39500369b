"""From values to pixels, linear or logarithmic, and the ticks between."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

JUMPS = 30.0  # times the median, and 100 times from the lowest tenth to the highest: only logarithms show both ends
SPREAD = 100.0


class Axis(NamedTuple):
    """``low`` lies at pixel ``start``, ``high`` at ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int) -> Iterator[float]:
        """About ``count``: 1, 2 or 5 times a power of ten apart, or powers of ten."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            every = max(1, round((high - low) / count))
            factors = (1,) if high - low > 2 else (1, 2, 5)
            for exponent in range(math.floor(low), math.ceil(high) + 1, every):
                yield from (f * 10.0**exponent for f in factors if self.low <= f * 10.0**exponent <= self.high)
            return
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
        for number in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1):
            yield number * step


def fitting(values: Sequence[float], bounds: Sequence[float], start: float, end: float) -> Axis:
    """An axis around ``values``, and around those of ``bounds`` that lie near them."""
    log = needs_log(values)
    low, high = min(values), max(values)
    span = high - low
    for bound in bounds:
        if low / 10 <= bound <= 10 * high if log else low - span <= bound <= high + span:
            low, high = min(low, bound), max(high, bound)
    if log:
        return Axis(low / 1.25, high * 1.25, start, end, log)
    margin = 0.06 * (high - low)
    if margin <= 1e-9 * abs(high):  # they are all alike
        margin = 0.1 * abs(high) or 1.0
    return Axis(low - margin, high + margin, start, end)


def needs_log(values: Sequence[float]) -> bool:
    """Whether some are so large beside the others that a linear scale would show the large ones only."""
    if min(values) <= 0:
        return False
    ordered = sorted(values)
    tenth = len(ordered) // 10
    low, high = ordered[tenth], ordered[-1 - tenth]
    return ordered[-1] > JUMPS * median(ordered) or high > SPREAD * low


def compact(value: float) -> str:
    """A tick's label."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:.6g}".replace("e-0", "e-")
