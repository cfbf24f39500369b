"""What torchvision's detectors draw at random in training, drawn for each picture from a seed of its own.

So it doesn't matter which pictures share a process, nor where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.transform import GeneralizedRCNNTransform


class Draws(BalancedPositiveNegativeSampler):
    """Anchors or proposals for the loss. ``seeds`` are those of the pictures of the batch."""

    seeds: list[int]
    positive = 0  # how many were drawn in the last batch
    drawn = 0

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
        for seed, own in zip(self.seeds, labels, strict=True):
            torch.manual_seed(seed)
            for kind, (mask,) in zip(chosen, super().__call__([own]), strict=True):
                kind.append(mask)
        self.positive, negative = (int(sum(mask.sum() for mask in kind)) for kind in chosen)
        self.drawn = self.positive + negative
        return chosen


class DrawnSides(GeneralizedRCNNTransform):
    """The short side in training. ``seeds`` gives that of each picture in turn."""

    seeds: Iterator[int]

    def torch_choice(self, sides: list[int]) -> int:
        torch.manual_seed(next(self.seeds))
        return super().torch_choice(sides)
