"""The places of a collection that are most similar to one place: one of each picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from densessl.visual.drawing import boxed, cell_box
from densessl.visual.figure import Figure, Tile
from densessl.visual.similarity import similarities

SHOWN = 0.45  # of the picture's short side: the side of the part around a place that is shown


class Neighbour(NamedTuple):
    """``picture`` counts the maps that were searched."""

    picture: int
    cell: tuple[int, int]  # row, column
    grid: tuple[int, int]  # rows and columns of that map
    cosine: float


def nearest_place(number: int, query: Tensor, features: Tensor, middle: Tensor) -> Neighbour:
    """The place of map ``number`` (C, h, w) most similar to ``query`` (C,): of equal ones the first in raster order.

    By cosine less ``middle`` (C,), as `similarities`.
    """
    values = similarities(query, features, middle)
    place = int(values.argmax())
    height, width = values.shape
    return Neighbour(number, divmod(place, width), (height, width), float(values.flatten()[place]))


def best(found: Iterable[Neighbour], count: int) -> list[Neighbour]:
    """The ``count`` most similar, best first; of equal ones the earlier."""
    return sorted(found, key=lambda one: -one.cosine)[:count]


def around(picture: np.ndarray, cell: tuple[int, int], grid: Sequence[int]) -> np.ndarray:
    """A square part of a picture (h, w, 3) around a cell, which is outlined; moved inwards at the borders."""
    top, left, bottom, right = cell_box(cell, grid, picture.shape[0], picture.shape[1])
    side = min(min(picture.shape[:2]), max(bottom - top, right - left, round(SHOWN * min(picture.shape[:2]))))
    y = min(max(0, (top + bottom - side) // 2), picture.shape[0] - side)
    x = min(max(0, (left + right - side) // 2), picture.shape[1] - side)
    return boxed(picture, cell, grid)[y : y + side, x : x + side]


CAPTION = (
    "The outlined cell of the first tile, and the most similar cell of each of the pictures most similar to it, of "
    "{searched} that were searched; the number is the cosine{less}. What is drawn around a cell is there to recognise "
    "it; the feature has seen some of it too.",
    "Look whether they show the same kind of thing in other colours and sizes, or only like brightness and pattern.",
    "Not to be concluded: how well the backbone finds things in general, from one place; and nothing from cosines of "
    "two backbones, whose features spread differently.",
)


def figure(
    query: tuple[str, np.ndarray],
    found: Mapping[str, tuple[Neighbour, Sequence[tuple[str, np.ndarray, Neighbour]]]],
    searched: int,
    *,
    title: str,
    name: str = "neighbours",
    raw: bool = False,
) -> Figure:
    """One row a backbone: the place of ``query`` (name, (h, w, 3) uint8), then (name, picture, place) of neighbours."""
    rows = []
    for column, (own, others) in found.items():
        row = [Tile(around(query[1], own.cell, own.grid), f"the place in {query[0]}", column)]
        for number, (of, image, place) in enumerate(others, 1):
            alt = f"neighbour {number} of {column}, in {of}, cosine {place.cosine:.2f}"
            row.append(Tile(around(image, place.cell, place.grid), alt, f"{place.cosine:.2f} {of}"))
        rows.append(row)
    less = "" if raw else ", the mean feature taken off"
    texts = [text.format(searched=searched, less=less) for text in CAPTION]
    return Figure(name, title, texts, rows, side=160)
