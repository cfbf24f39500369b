"""The objects of a picture: boxes, classes and shapes, whatever form they were stored in."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle

from densessl.data.run_lengths import counts
from densessl.errors import UserError


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


def check_shape(shape: Any, height: int, width: int) -> None:
    """Raises ValueError for what is neither polygons nor run lengths of the whole picture."""
    if isinstance(shape, list):
        for polygon in shape:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise ValueError("a polygon is x0, y0, x1, y1, ... of three points at least")
            if not all(isinstance(v, int | float) and math.isfinite(v) for v in polygon):
                raise ValueError("a polygon holds what is no number")
        if not shape:
            raise ValueError("no polygon")
        return
    if not isinstance(shape, dict) or not {"size", "counts"} <= shape.keys():
        raise ValueError("neither a list of polygons nor run lengths {size, counts}")
    runs = shape["counts"]
    if list(shape["size"]) != [height, width] or (isinstance(runs, list) and sum(runs) != height * width):
        raise ValueError(f"its runs don't fill the picture of {width}x{height}")


def run_lengths(shape: Any, height: int, width: int) -> Any:
    """pycocotools' compressed run lengths of a shape that ``check_shape`` passed; polygons are united.

    Raises ValueError for compressed runs that can't be read.
    """
    if isinstance(shape, list):
        return rle.merge(rle.frPyObjects(shape, height, width))
    if isinstance(shape["counts"], list):
        return rle.frPyObjects(shape, height, width)
    text = shape["counts"].encode() if isinstance(shape["counts"], str) else shape["counts"]
    runs = counts(text)
    if sum(runs) != height * width or min(runs) < 0:  # pycocotools would read memory that isn't its own
        raise ValueError(f"its runs don't fill the picture of {width}x{height}")
    return {"size": [height, width], "counts": text}


def box_in(box: Any, width: int, height: int, *, clip: bool) -> list[float]:
    """Left, top, right, bottom, cut to the picture. Raises UserError, without a file's name, for what is no box in it.

    Without ``clip`` what reaches further out than a pixel is refused, which is how corners in the place of a width and
    height show.
    """
    left, top, right, bottom = box
    if not all(map(math.isfinite, box)) or right < left or bottom < top:
        raise UserError(f"its box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) is none")
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        raise UserError(f"its box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) is outside the {width}x{height}")
    if not clip and (min(left, top) < -1 or right > width + 1 or bottom > height + 1):
        raise UserError(
            f"its box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) reaches out of the {width}x{height}"
        )
    return [max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)]
