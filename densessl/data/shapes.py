"""Shapes of objects as COCO stores them, polygons and run lengths, held against their image and their box.

Run lengths go down each column, 0 and 1 in turns, beginning with 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pycocotools import mask as rle

from densessl.errors import UserError

NUMBERS = {int, float}
LEAST = 0.1  # of the rectangles around a shape and its box, the shared part of both together


def check_shape(shape: Any, height: int, width: int, box: Sequence[float] | None = None) -> None:
    """Refuse a shape that is none, or that can't be the one of its image and box.

    Args:
        shape: a list of polygons [x0, y0, x1, y1, ...], or run lengths {size, counts} of the whole image.
        height: of the image.
        width: of the image.
        box: left, top, right, bottom, where the shape has one.

    Raises:
        ValueError: Saying what is wrong, without a file's name.
    """
    if isinstance(shape, list):
        _check_polygons(shape, height, width, box)
        return
    if not isinstance(shape, dict) or not {"size", "counts"} <= shape.keys():
        raise ValueError("its segmentation is neither a list of polygons nor run lengths {size, counts}")
    runs = shape["counts"]
    if isinstance(runs, str):
        if not runs.isascii() or " " in runs:
            raise ValueError("its counts are a text that isn't COCO's compression; a list of numbers is right as well")
    elif not isinstance(runs, list) or not set(map(type, runs)) <= NUMBERS or any(run % 1 for run in runs):
        raise ValueError("its counts are neither a list of whole numbers nor COCO's compressed text")
    if shape["size"] != [height, width]:
        raise ValueError(f"its runs are of the size {shape['size']}, height and width of its image {[height, width]}")
    if isinstance(runs, list):  # a text is read when it is drawn: that takes as long as all else in its file
        _check_runs(runs, height, width)


def _check_runs(runs: list[Any], height: int, width: int) -> None:
    if sum(runs) != height * width or min(runs) < 0:  # pycocotools would draw memory that isn't its own
        raise ValueError(f"its runs don't fill the image of {width}x{height}: they were cut, or belong to another")


def _check_polygons(polygons: list[Any], height: int, width: int, box: Sequence[float] | None) -> None:
    left = top = math.inf
    right = bottom = -math.inf
    for polygon in polygons:
        if not isinstance(polygon, list):
            raise ValueError("its segmentation is no list of polygons; [[x0, y0, x1, y1, ...]] is right")
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon is x0, y0, x1, y1, ... of three points at least")
        if not set(map(type, polygon)) <= NUMBERS or not math.isfinite(sum(polygon)):
            raise ValueError("a polygon holds what is no number")
        xs, ys = polygon[::2], polygon[1::2]
        left, right = min(left, min(xs)), max(right, max(xs))
        top, bottom = min(top, min(ys)), max(bottom, max(ys))
    around = (left, top, right, bottom)
    where = f"its polygons reach from ({left:g}, {top:g}) to ({right:g}, {bottom:g})"
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        raise ValueError(f"{where}, outside the image of {width}x{height}{_mixed_up(around, height, width, box)}")
    if left < -width or top < -height or right > 2 * width or bottom > 2 * height:
        # Drawing takes memory by the length of edges: gigabytes for one vertex that is a typing mistake.
        raise ValueError(f"{where}, far out of the image of {width}x{height}")
    if box is None:
        if right <= 1 and bottom <= 1:
            raise ValueError(f"{where}{_mixed_up(around, height, width, box)}")
    elif not _near(around, box) and (_near(_swapped(around), box) or _overlap(around, box, height, width) < LEAST):
        reach = f"its box from ({box[0]:g}, {box[1]:g}) to ({box[2]:g}, {box[3]:g})"
        raise ValueError(f"{where}, {reach}{_mixed_up(around, height, width, box)}")


def _mixed_up(around: Sequence[float], height: int, width: int, box: Sequence[float] | None) -> str:
    """What would make polygons and box fit."""
    for what, found in (("the polygons look", around), ("the box looks", box)):
        if found and min(found) >= 0 and max(found) <= 1:
            return f"; {what} divided by width and height, and COCO has pixels"
    left, top, right, bottom = _swapped(around)
    inside = box is None and left >= 0 and top >= 0 and right <= width and bottom <= height
    if inside or (box is not None and _near((left, top, right, bottom), box)):
        return "; x and y look swapped, COCO's polygons are x0, y0, x1, y1, ..."
    return ""


def _swapped(around: Sequence[float]) -> Sequence[float]:
    left, top, right, bottom = around
    return top, left, bottom, right


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether they are the same to about a pixel, which some programs count as a part of the width."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1.5


def _overlap(around: Sequence[float], box: Sequence[float], height: int, width: int) -> float:
    """Intersection over union inside of the image, both grown by half a pixel: some have no width."""
    (a, b, c, d), (e, f, g, h) = (
        (max(left, 0) - 0.5, max(top, 0) - 0.5, min(right, width) + 0.5, min(bottom, height) + 0.5)
        for left, top, right, bottom in (around, box)
    )
    shared = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    return shared / ((c - a) * (d - b) + (g - e) * (h - f) - shared)


def run_lengths(shape: Any, height: int, width: int) -> Any:
    """pycocotools' compressed run lengths of a shape that ``check_shape`` passed; polygons are united.

    Raises ValueError for compressed runs that were cut.
    """
    if isinstance(shape, list):
        return rle.merge(rle.frPyObjects(shape, height, width))
    if isinstance(shape["counts"], list):
        return rle.frPyObjects(shape, height, width)
    text = shape["counts"].encode()
    _check_runs(counts(text), height, width)
    return {"size": [height, width], "counts": text}


def counts(text: bytes) -> list[int]:
    """Of COCO's compression: 5 bits a character, the sixth says that more follow; from the fourth on, differences."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs or [0]


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
