"""Boundary IoU: intersection over union of the bands along the edges of masks. Cheng et al. 2021, arXiv:2103.16562.

IoU hardly sees an outline that is a few pixels off when the object is large; the band is all outline. As in the paper
it is the part of a mask within 2 % of the picture's diagonal of what is not that mask, where the edge of the picture
counts as outside.

Ignored pixels are in no band and make none: a band begins where pixels of another class are near, in the truth and in
the prediction alike, so a class that borders on ignored pixels alone has no edge there, and what is predicted where the
truth is ignored changes nothing.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from densessl.segmentation.datasets.files import IGNORE

WIDTH = 0.02  # of the picture's diagonal; the paper's choice for all but the largest pictures

cv2.setNumThreads(0)  # a pool of threads would not survive the fork of the processes that read pictures


def boundary_areas(truth: Tensor, prediction: Tensor, classes: int) -> Tensor:
    """(3, classes) int64: each class's pixels that are in both bands, in the truth's, and in the prediction's.

    ``truth`` (H, W) holds labels and 255 where ignored, ``prediction`` (H, W) labels. ``metrics.class_iou`` of the sum
    over pictures is boundary IoU. Costs about as much as the confusion matrix, whatever the number of classes.
    """
    labels, guess = (part.to(torch.uint8).cpu().numpy() for part in (truth, prediction))
    guess = np.where(labels == IGNORE, labels, guess)
    inside, guessed_inside = band(labels), band(guess)
    parts = labels[inside & guessed_inside & (labels == guess)], labels[inside], guess[guessed_inside]
    return torch.stack([torch.from_numpy(np.bincount(part, minlength=classes)) for part in parts])


def band(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of (H, W) uint8 labels with another class, or the outside, at most the width away.

    Distance is the larger one of rows and columns, as that of repeated erosion by 3x3 pixels in the authors' code. A
    class is near where the lowest or highest label around is another, so all classes take one erosion and dilation.
    """
    width = max(1, round(WIDTH * math.hypot(*labels.shape)))
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    counted = labels != IGNORE
    lowest = cv2.erode(labels, square)  # 255 is never the lowest beside a label, 0 never the highest
    highest = cv2.dilate(np.where(counted, labels, np.uint8(0)), square)
    near = (lowest != labels) | (highest != labels)
    near[:width] = near[-width:] = near[:, :width] = near[:, -width:] = True
    return near & counted
