"""The objects of a picture: boxes, classes and shapes, whatever form they were stored in."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle


class Objects(NamedTuple):
    """N objects. Neither a crowd nor a difficult object counts in a score; a crowd is not learned either."""

    boxes: np.ndarray  # (N, 4) float64: left, top, right, bottom, from 0, inside the picture
    labels: np.ndarray  # (N,) int64, from 1; 0 is none of the classes
    areas: np.ndarray  # (N,) float64, what COCO's sizes go by
    crowd: np.ndarray  # (N,) bool
    difficult: np.ndarray  # (N,) bool
    shapes: list[Any] | None  # run lengths of pycocotools; None where the data set has boxes alone

    def masks(self, height: int, width: int) -> np.ndarray:
        """(N, height, width) uint8, 1 inside."""
        if not self.shapes:
            return np.zeros((0, height, width), np.uint8)
        return rle.decode(self.shapes).transpose(2, 0, 1)

    def learnable(self, difficult: bool) -> np.ndarray:
        """(N,) bool: no crowds, none narrower than a pixel, difficult ones if ``difficult``."""
        return ~self.crowd & (difficult | ~self.difficult) & (self.boxes[:, 2:] - self.boxes[:, :2] >= 1).all(1)
