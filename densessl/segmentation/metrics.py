"""Segmentation scores from one confusion matrix over the whole set.

Intersections and unions are summed over all pictures before they are divided, so a class weighs the same however many
pictures it is on. A class that is neither in the truth nor in the prediction has no score: NaN, left out of means.
"""

from __future__ import annotations

import torch
from torch import Tensor

from densessl.segmentation.datasets.files import IGNORE


def confusion_matrix(truth: Tensor, prediction: Tensor, classes: int) -> Tensor:
    """(classes, classes) int64 counts of pixels, rows truth, columns prediction.

    ``truth`` and ``prediction`` hold integer labels, of one shape; where the truth is 255 nothing is counted.
    """
    valid = truth != IGNORE
    rows, columns = truth[valid].long(), prediction[valid].long()
    assert not len(rows) or max(int(rows.max()), int(columns.max())) < classes
    return torch.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def iou(confusion: Tensor) -> Tensor:
    """(classes,) float64: intersection over union of each class."""
    hits = confusion.diagonal().double()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def mean_iou(confusion: Tensor) -> float:
    return float(iou(confusion).nanmean())


def pixel_accuracy(confusion: Tensor) -> float:
    """Share of the counted pixels that are right."""
    return float(confusion.diagonal().sum().double() / confusion.sum())


def mean_accuracy(confusion: Tensor) -> float:
    """Mean over the classes of the truth of the share of their pixels that are right."""
    return float((confusion.diagonal().double() / confusion.sum(1)).nanmean())
