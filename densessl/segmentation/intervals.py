"""How far a score hangs on which pictures were scored: bootstrap intervals.

Pictures are drawn with replacement, as many as there are, and the scores computed anew from the drawn pictures' counts;
the interval holds the middle 95 % of them (percentile bootstrap, Efron, Tibshirani 1993). As many pictures from the
same seed give the same draws, so the difference between two backbones is taken draw by draw (paired): pictures that are
hard for both cancel. Nothing here knows how another training would have come out: several seeds show that. Frames of
one video are alike, and drawn as if they were not: their intervals are too narrow.
"""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

RESAMPLES, LEVEL, SEED = 1000, 0.95, 0


class Spread(NamedTuple):
    """A number with its standard deviation over seeds and its interval over pictures; None where there is none."""

    mean: float | None
    std: float | None
    low: float | None
    high: float | None


def draws(pictures: int, count: int = RESAMPLES, seed: int = SEED) -> Tensor:
    """(1 + count, pictures) float64: how often each resample has each picture; the first has each once."""
    drawn = np.random.default_rng(seed).integers(pictures, size=(count, pictures))
    drawn += pictures * np.arange(count)[:, None]
    times = np.bincount(drawn.ravel(), minlength=count * pictures).reshape(count, pictures)
    return torch.from_numpy(np.concatenate([np.ones((1, pictures)), times]))


def drawn(areas: Tensor, times: Tensor) -> Tensor:
    """(draws, 3, classes) float64: the counts (pictures, 3, classes) summed over the pictures of each draw."""
    return (times @ areas.flatten(1).double()).unflatten(1, areas.shape[1:])


def spread(values: Tensor) -> Spread:
    """Of (seeds, 1 + resamples): a score on all pictures, then on each resample, NaN where it has none.

    The interval is of the mean over seeds.
    """
    have = [value for value in values[:, 0].tolist() if not math.isnan(value)]
    tail = (1 - LEVEL) / 2
    ends = torch.nanquantile(values[:, 1:].nanmean(0), torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    low, high = (None if math.isnan(end) else end for end in ends)
    if not have:
        return Spread(None, None, None, None)
    return Spread(statistics.fmean(have), statistics.stdev(have) if len(have) > 1 else None, low, high)
