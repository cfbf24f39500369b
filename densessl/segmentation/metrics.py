"""Segmentation scores from counts of pixels.

Intersections and unions are summed over all pictures before they are divided, so a class weighs the same however many
pictures it is on. A class that is neither in the truth nor in the prediction has no score: NaN, left out of means.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from densessl.segmentation.datasets.files import IGNORE


def confusion_matrix(truth: Tensor, prediction: Tensor, classes: int) -> Tensor:
    """(classes, classes) int64 counts of pixels, rows truth, columns prediction.

    ``truth`` and ``prediction`` hold integer labels, of one shape; where the truth is 255 nothing is counted.
    """
    assert int(prediction.max()) < classes
    pairs = (truth.long() * classes + prediction)[truth != IGNORE]
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def areas(confusion: Tensor) -> Tensor:
    """(..., 3, classes) of (..., classes, classes): each class's pixels that are right, in the truth, and predicted.

    What all scores follow from; small enough to be kept of every picture.
    """
    return torch.stack([confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-1), confusion.sum(-2)], -2)


def class_iou(areas: Tensor) -> Tensor:
    """(..., classes) float64 of (..., 3, classes): intersection over union."""
    right, truth, predicted = areas.double().unbind(-2)
    return right / (truth + predicted - right)


def scores(areas: Tensor) -> dict[str, Tensor]:
    """Each (...) float64 of (..., 3, classes), NaN where nothing was counted.

    Pixel accuracy is the share of pixels that are right; mean accuracy the mean of that share over the classes of the
    truth; frequency-weighted IoU the mean of IoU weighted by the pixels of the truth.
    """
    right, truth, _ = areas.double().unbind(-2)
    iou = class_iou(areas)
    return {
        "miou": iou.nanmean(-1),
        "pixel_accuracy": right.sum(-1) / truth.sum(-1),
        "mean_accuracy": (right / truth).nanmean(-1),
        "frequency_weighted_iou": (truth * iou).nansum(-1) / truth.sum(-1),
    }


def measure(areas: Tensor, boundary: Tensor, classes: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Three groups of numbers, each (...) float64, from counts (..., 3, classes) and those of ``boundary_areas``.

    They are ``scores``, and ``class_iou`` and ``class_boundary_iou`` with a number for each of ``classes``.
    """
    edges = class_iou(boundary)
    return {
        "scores": scores(areas) | {"boundary_miou": edges.nanmean(-1)},
        "class_iou": dict(zip(classes, class_iou(areas).unbind(-1), strict=True)),
        "class_boundary_iou": dict(zip(classes, edges.unbind(-1), strict=True)),
    }


def iou(confusion: Tensor) -> Tensor:
    """(classes,) float64 from one confusion matrix."""
    return class_iou(areas(confusion))


def mean_iou(confusion: Tensor) -> float:
    return float(iou(confusion).nanmean())
