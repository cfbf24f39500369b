"""Marks on pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from densessl.visual.shades import Colour

MARK: Colour = (255, 210, 0)


def cell_box(cell: tuple[int, int], grid: Sequence[int], height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, bottom, right in pixels of a picture that a map of ``grid`` (rows, columns) covers."""
    (row, column), (rows, columns) = cell, grid
    ends = row * height / rows, column * width / columns, (row + 1) * height / rows, (column + 1) * width / columns
    top, left, bottom, right = (round(end) for end in ends)
    return top, left, bottom, right


def boxed(picture: np.ndarray, cell: tuple[int, int], grid: Sequence[int]) -> np.ndarray:
    """A copy of a picture (h, w, 3) with a yellow line, in black ones, around a cell."""
    page = np.ascontiguousarray(picture).copy()
    top, left, bottom, right = cell_box(cell, grid, page.shape[0], page.shape[1])
    thick = max(1, min(page.shape[:2]) // 160)
    for out in range(thick + 2):  # a pixel each, outwards: the cell stays as it is
        colour = MARK if 0 < out <= thick else (0, 0, 0)
        cv2.rectangle(page, (left - 1 - out, top - 1 - out), (right + out, bottom + out), colour, 1)
    return page
