"""How similar all places of all pictures are to one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from densessl.visual.drawing import boxed
from densessl.visual.features import cell_at, enlarged, rows_of
from densessl.visual.figure import Bar, Figure, Tile, cells, shown_tile
from densessl.visual.shades import RISING, SIGNED, shaded


def centre(maps: Sequence[Tensor], raw: bool = False) -> Tensor:
    """(C,) float64: the mean feature of all places of maps (C, h, w); ``raw`` takes nothing off: zeros."""
    rows = rows_of(maps)
    return torch.zeros_like(rows[0]) if raw else rows.mean(0)


def similarities(query: Tensor, features: Tensor, middle: Tensor) -> Tensor:
    """(h, w) float64: the cosine of ``query`` (C,) with each place of a map (C, h, w), both less ``middle`` (C,).

    What is equal to ``middle`` has none: 0.
    """
    places = normalize(features.double() - middle[:, None, None], dim=0, eps=1e-30)
    return torch.einsum("c,chw->hw", normalize(query.double() - middle, dim=0, eps=1e-30), places)


def common(maps: Sequence[Tensor]) -> float:
    """The mean cosine of two different places, nothing taken off: near 1 where features hardly differ."""
    rows = normalize(rows_of(maps), dim=1, eps=1e-30)
    count = len(rows)
    return float((rows.sum(0).square().sum() - rows.square().sum()) / max(1, count * (count - 1)))


CAPTION = (
    "The square in the first picture marks one place. Every other place, there and in the other pictures, has the "
    "colour of its similarity: the cosine of both features{less}.",
    "Look whether what is similar is the same thing, also in other pictures, or only what is near, or as bright.",
    "Not to be concluded: anything about other places than this one (choose some with --place), and nothing from small "
    "differences of colour: a cosine has no unit. Cells at borders see less of the picture than others, and may be "
    "similar for that alone.",
)


def figure(
    shown: Sequence[tuple[str, np.ndarray]],
    columns: Mapping[str, Sequence[Tensor]],
    *,
    title: str,
    place: tuple[float, float] = (0.5, 0.5),
    name: str = "similarity",
    how: str = "nearest",
    raw: bool = False,
) -> Figure:
    """One row a picture, one column a backbone; the place, x and y in shares, lies in the first picture."""
    rows = [[shown_tile(*each)] for each in shown]
    first, facts, lowest = shown[0][1], [], 1.0
    found = {}
    for column, maps in columns.items():
        middle = centre(maps, raw)
        row, across = cell_at(place, *maps[0].shape[1:])
        found[column] = [similarities(maps[0][:, row, across], each, middle) for each in maps]
        lowest = min(lowest, *(float(each.min()) for each in found[column]))
        facts.append(
            f"{column}: two places taken at random have a cosine of {common(maps):.2f}, with nothing taken off"
        )
    low, scale = (lowest, RISING) if raw else (-1.0, SIGNED)
    for column, maps in columns.items():
        at = cell_at(place, *maps[0].shape[1:])
        for i, (of, image) in enumerate(shown):
            large = enlarged(found[column][i][None], image.shape[0], image.shape[1], how)[0]
            tile = shaded(large, low, 1, scale)
            if i == 0:
                tile = boxed(tile, at, maps[0].shape[1:])
            label = f"{column}, {cells(maps[i])}"
            rows[i].append(Tile(tile, f"{of}: similarity of its places to the marked one, by {column}", label))
    at, grid = cell_at(place, *next(iter(columns.values()))[0].shape[1:]), next(iter(columns.values()))[0].shape[1:]
    rows[0][0] = rows[0][0]._replace(image=boxed(first, at, grid), alt=f"{shown[0][0]}, the place marked")
    less = "" if raw else ", less the mean feature of all these places, so that 0 is no more alike than usual"
    texts = [CAPTION[0].format(less=less), *CAPTION[1:]]
    bar = Bar(scale, f"{low:.2f}" if raw else "\N{MINUS SIGN}1", "1", "cosine")
    return Figure(name, title, texts, rows, facts, bar)
