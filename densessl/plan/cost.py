"""What a training step takes, as a function of its batch: the lines through what was measured."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

MOST = 2**16  # the largest batch that is asked for
SLOW = 1.0  # seconds; of a longer step all but nothing is spent whatever its batch is


class Point(NamedTuple):
    """One measured step."""

    batch: int
    seconds: float
    bytes: float  # at its peak
    forward: float  # at the peak of its forward, to which every image adds the same


class Line(NamedTuple):
    at: float
    value: float
    slope: float

    def __call__(self, place: float) -> float:
        return max(0.0, self.value + self.slope * (place - self.at))


@dataclass(frozen=True)
class Cost:
    """Of a step. ``batches`` were measured, ``failed`` was tried and did not fit; without any all is infinite."""

    time: Line  # seconds by batch
    memory: Line  # bytes by batch
    batches: tuple[int, ...] = ()
    failed: int | None = None

    @classmethod
    def of(cls, points: Sequence[Point], failed: int | None = None) -> Cost:
        """Lines through the last two points, whose batches grow.

        A single one, and a slow step, is taken to be in proportion to the batch, which is rather too much. A line that
        falls is noise: then time is in proportion, and memory level. Memory rises as it does in the forward, and is as
        high as the highest peak asks for: the peaks of small batches hardly rise, since they are those of the heads'
        weights and their gradients, so that a line through them would depend on how many batches were measured.
        """
        time, forward = (
            _through([(p.batch, value) for p, value in zip(points, values, strict=True)])
            for values in ([p.seconds for p in points], [p.forward for p in points])
        )
        if time.slope <= 0 or time.value > SLOW:
            time = time._replace(slope=time.value / max(1, time.at))
        slope = max(0.0, forward.slope)
        peak = max((p.bytes + slope * (forward.at - p.batch) for p in points), default=forward.value)
        return cls(time, Line(forward.at, peak, slope), tuple(p.batch for p in points), failed)

    def rate(self, batch: int) -> float:
        """Pictures a second."""
        return batch / self.time(batch)

    def largest(self, limit: float) -> int:
        """The largest batch up to MOST that ``limit`` bytes hold; 0 if none is."""
        held = bisect_right(range(1, MOST + 1), limit, key=lambda batch: self.memory(batch))
        return held if self.failed is None else min(held, self.failed - 1)

    def fits(self, batch: int, limit: float) -> bool:
        return batch <= self.largest(limit)

    def plus(self, each: float, once: float) -> Cost:
        """With ``each`` more bytes for a picture of the batch and ``once`` more of them."""
        at, value, slope = self.memory
        return replace(self, memory=Line(at, value + each * at + once, slope + each))


def _through(known: Sequence[tuple[float, float]]) -> Line:
    if not known:
        return Line(0.0, float("inf"), 0.0)
    (x, y), (at, value) = [(0.0, 0.0), *known][-2:]
    return Line(at, value, (value - y) / (at - x))


def in_parts(plain: Cost, cut: Cost, criterion: float, parts: int) -> Cost:
    """With micro_batch=``parts``: the time of ``cut``, and the memory of a batch of ``parts`` and ``criterion`` bytes
    for each more, which is what a picture takes without its network.
    """
    return replace(cut, memory=Line(parts, plain.memory(parts), criterion))
