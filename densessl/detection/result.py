"""What one backbone came to, once or with several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from densessl.detection.protocols import Protocol
from densessl.detection.scoring import Detection
from densessl.outcomes import Row, Spread, spread_over_seeds


@dataclass(frozen=True, kw_only=True)
class Result:
    """One backbone, one seed. Scores are fractions, NaN where there is no object to find."""

    scores: Mapping[Row, float]
    shown: dict[int, list[Detection]]  # index of a validation picture -> what was found, of a few
    protocol: Protocol
    seed: int
    classes: tuple[str, ...]
    data: dict[str, Any]
    backbone: dict[str, Any]
    device: str
    fitted: dict[str, float]  # the losses
    seconds: tuple[float, float]  # of training, since it was last begun, and of validation
    memory: float  # GiB, densessl.device
    processes: int


@dataclass(frozen=True)
class Outcome:
    """A backbone's results, one a seed, of one protocol and data set, under the name that tables give it."""

    name: str
    results: Sequence[Result]

    @cached_property
    def rows(self) -> dict[Row, Spread]:
        return {row: spread_over_seeds([r.scores[row] for r in self.results]) for row in self.results[0].scores}

    def minus(self, other: Outcome) -> dict[Row, Spread]:
        """The rows of the differences, seed by seed."""
        pairs = list(zip(self.results, other.results, strict=True))
        return {
            row: spread_over_seeds([a.scores[row] - b.scores[row] for a, b in pairs]) for row in self.results[0].scores
        }
