"""What one backbone came to, once or with several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn, stack

from densessl.outcomes import Row, Spread
from densessl.segmentation.intervals import drawn, draws, spread
from densessl.segmentation.metrics import mean_iou, measure
from densessl.segmentation.protocols import Protocol
from densessl.segmentation.scoring import Counts


@dataclass(frozen=True, kw_only=True)
class Result:
    """One backbone, one seed. Scores are fractions."""

    counts: Counts
    shown: dict[int, np.ndarray]  # index of a validation picture -> predicted labels (H, W), of a few
    head: nn.Module
    protocol: Protocol
    seed: int
    classes: tuple[str, ...]
    data: dict[str, Any]
    backbone: dict[str, Any]
    device: str
    fitted: dict[str, float]  # what the fit says of itself: its loss, or a score for each learning rate
    seconds: tuple[float, float]  # of training and of validation
    memory: float  # GiB, densessl.device
    processes: int  # that shared the validation; seconds and memory are the first's

    @property
    def confusion(self) -> Tensor:
        """(classes, classes), rows truth."""
        return self.counts.confusion

    @property
    def miou(self) -> float:
        return mean_iou(self.confusion)

    @property
    def measured(self) -> dict[str, dict[str, float]]:
        """The groups of ``metrics.measure``; NaN for a class that is neither in the truth nor predicted."""
        groups = measure(self.counts.areas.sum(0), self.counts.boundary.sum(0), self.classes)
        return {group: {key: float(value) for key, value in found.items()} for group, found in groups.items()}


@dataclass(frozen=True)
class Outcome:
    """A backbone's results, one a seed, of one protocol and data set, under the name that tables give it."""

    name: str
    results: Sequence[Result]

    @cached_property
    def rows(self) -> dict[Row, Spread]:
        return {row: spread(values) for row, values in self.values.items()}

    def minus(self, other: Outcome) -> dict[Row, Spread]:
        """The rows of the differences, seed by seed and resample by resample."""
        return {row: spread(values - other.values[row]) for row, values in self.values.items()}

    @cached_property
    def values(self) -> dict[Row, Tensor]:
        """(seeds, 1 + resamples) float64, as ``spread`` takes them."""
        first = self.results[0]
        times = draws(len(first.counts.areas))
        areas, boundary = (
            stack([drawn(counts, times) for counts in kind])
            for kind in zip(*((r.counts.areas, r.counts.boundary) for r in self.results), strict=True)
        )
        groups = measure(areas, boundary, first.classes)
        return {(group, key): values for group, found in groups.items() for key, values in found.items()}
