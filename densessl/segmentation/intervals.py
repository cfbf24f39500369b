"""How far a score hangs on which pictures were scored, or with several seeds on these: intervals.

Of one seed: pictures are drawn with replacement, as many as there are, and the scores computed anew from the drawn
pictures' counts; the interval holds the middle 95 % of them (percentile bootstrap, Efron, Tibshirani 1993). As many
pictures from the same seed give the same draws, so the difference between two backbones is taken draw by draw (paired):
pictures that are hard for both cancel. Nothing here knows how another training would have come out. Frames of one video
are alike, and drawn as if they were not: their intervals are too narrow. Of several seeds: outcomes.spread_over_seeds.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from densessl.outcomes import LEVEL, Spread, spread_over_seeds

RESAMPLES, SEED = 1000, 0


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

    The interval is over pictures where there is one seed, and over seeds where there are several.
    """
    found = spread_over_seeds(values[:, 0].tolist())
    if found.mean is None or len(values) > 1:
        return found
    tail = (1 - LEVEL) / 2
    ends = torch.nanquantile(values[0, 1:], torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    low, high = (None if math.isnan(end) else end for end in ends)
    return found._replace(low=low, high=high)
