"""Predictions held against the truth picture by picture, by one process or shared out among several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from densessl.progress import progress
from densessl.segmentation.boundary import boundary_areas
from densessl.segmentation.metrics import areas, confusion_matrix
from densessl.segmentation.samples import InferenceSamples

SHOWN = 4  # pictures whose prediction is kept


class Processes(NamedTuple):
    """Which of how many processes this is, and how they speak to each other.

    Picture i is scored by process i % world_size. ``from_first`` puts the first's tensor in place of each one's,
    ``total`` is the sum of everyone's tensors, on the CPU.
    """

    rank: int = 0
    world_size: int = 1
    from_first: Callable[[Tensor], object] = lambda x: None
    total: Callable[[Tensor], Tensor] = lambda x: x


ALONE = Processes()


class Counts(NamedTuple):
    """Pixels of all pictures, whoever scored them: int64, on the CPU. All processes have the same."""

    confusion: Tensor  # (classes, classes), rows truth
    areas: Tensor  # (pictures, 3, classes), metrics.areas of each picture: 7 MB for ADE20K
    boundary: Tensor  # (pictures, 3, classes), boundary_areas of each picture


def score(
    predict: Callable[[Tensor, Sequence[int]], Tensor],
    samples: InferenceSamples,
    *,
    device: torch.device,
    workers: int = 0,
    processes: Processes = ALONE,
) -> tuple[Counts, dict[int, np.ndarray]]:
    """Counts over all ``samples``, and some predictions to look at: (H, W) uint8 labels by the picture's index.

    ``predict`` takes a picture (3, h, w), on ``device``, and the (H, W) of its truth, and gives labels of that size.
    The first process keeps predictions; they are of its own pictures. Raises UserError for a file that can't be read.
    """
    classes, pictures = len(samples.data.classes), len(samples)
    spaced = np.linspace(0, pictures - 1, min(SHOWN, pictures)).round().astype(int)
    keep = {int(i - i % processes.world_size) for i in spaced} if processes.rank == 0 else set()
    own = range(processes.rank, pictures, processes.world_size)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    counts = Counts(confusion, *torch.zeros(2, pictures, 3, classes, dtype=torch.int64))
    shown = {}
    loader = DataLoader(Subset(samples, own), None, num_workers=workers)
    for i, (image, mask) in zip(own, progress(loader, "validate"), strict=True):
        prediction = predict(image.to(device), mask.shape)
        found = confusion_matrix(mask.to(device), prediction, classes).cpu()
        counts.confusion.add_(found)
        counts.areas[i] = areas(found)
        counts.boundary[i] = boundary_areas(mask, prediction, classes)
        if i in keep:
            shown[i] = prediction.to(torch.uint8).cpu().numpy()
    return Counts(*map(processes.total, counts)), shown
