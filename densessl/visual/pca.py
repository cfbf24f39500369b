"""The three directions in which features vary most, as red, green and blue, with one basis for all pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from densessl.visual.features import enlarged, rows_of
from densessl.visual.figure import Figure, Tile, cells, shown_tile

ENDS = (1, 99)  # percentiles of each component that are black and full colour
NOTHING = 1e-10  # variance as a share of the mean square: what rounding leaves of equal features
GREY = 0.5


class Basis(NamedTuple):
    """``axes`` (3, C) are orthonormal; ``low`` and ``high`` (3,) the values shown as 0 and 1. All float64."""

    mean: Tensor
    axes: Tensor
    share: tuple[float, ...]  # of the whole variance, of each component
    low: Tensor
    high: Tensor
    flat: bool  # all features are equal


def basis(rows: Tensor, scale: str = "each") -> Basis:
    """Of rows (places, C). The first component varies most; each axis' entry of largest magnitude is positive.

    ``scale`` each stretches every component from its 1st to its 99th percentile; common gives all three the scale of
    the widest, so that equal steps in colour are equal steps in the features.
    """
    rows = rows.double()
    mean = rows.mean(0)
    centred = rows - mean
    total = centred.square().sum()
    flat = bool(total <= NOTHING * rows.square().sum()) or len(rows) < 2
    variances, vectors = torch.linalg.eigh(centred.mT @ centred)  # rising
    axes = vectors[:, -3:].flip(1).mT
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    shares = (variances[-3:].flip(0) / total).clamp(min=0).tolist() if not flat else [0.0] * 3
    ends = np.percentile((centred @ axes.mT).numpy(), ENDS, axis=0)
    low, high = torch.from_numpy(ends[0]), torch.from_numpy(ends[1])
    if scale == "common":
        middle, half = (low + high) / 2, (high - low).max() / 2
        low, high = middle - half, middle + half
    return Basis(mean, axes, tuple(shares), low, high, flat)


def projected(found: Basis, features: Tensor) -> Tensor:
    """(3, h, w) float64 of a map (C, h, w): the components, from 0 to 1 where they are within their ends.

    A component that holds nothing is grey.
    """
    values = torch.einsum("kc,chw->khw", found.axes, features.double() - found.mean[:, None, None])
    low, span = found.low[:, None, None], (found.high - found.low)[:, None, None]
    empty = torch.tensor([found.flat or share < NOTHING for share in found.share])[:, None, None]
    return ((values - low) / span.clamp(min=1e-300)).masked_fill(empty, GREY)


def foreground(maps: Sequence[Tensor], side: str) -> list[Tensor]:
    """(h, w) bool of each map: where the first component is ``side``, above or below, of Otsu's threshold.

    As in DINOv2's pictures, Oquab et al. 2023, https://arxiv.org/abs/2304.07193; which side is the foreground has to be
    seen, and said.
    """
    found = basis(rows_of(maps))
    first = [(projected(found, each)[0].clamp(0, 1) * 255).round().byte() for each in maps]
    together = torch.cat([each.flatten() for each in first]).numpy()
    threshold, _ = cv2.threshold(together, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return [(each > threshold) == (side == "above") for each in first]


class Coloured(NamedTuple):
    """Maps as colours, each (3, h, w) from 0 to 1, black where they are no foreground."""

    maps: list[Tensor]
    share: tuple[float, ...]
    flat: bool
    kept: float  # share of the places that are foreground


def coloured(maps: Sequence[Tensor], scale: str = "each", side: str = "") -> Coloured:
    """Maps (C, h, w) in the colours of one basis, that of all their places, or of the foreground's where there is a
    ``side`` (see `foreground`)."""
    rows = rows_of(maps)
    masks = foreground(maps, side) if side else [torch.ones(each.shape[1:], dtype=torch.bool) for each in maps]
    inside = torch.cat([mask.flatten() for mask in masks])
    if int(inside.sum()) < 2:  # of features that are all equal no side has any
        masks, inside = [torch.ones_like(mask) for mask in masks], torch.ones_like(inside)
    found = basis(rows[inside], scale)
    values = [projected(found, each).clamp(0, 1) * mask for each, mask in zip(maps, masks, strict=True)]
    return Coloured(values, found.share, found.flat, float(inside.double().mean()))


def picture(values: Tensor, height: int, width: int, how: str = "nearest") -> np.ndarray:
    """(height, width, 3) uint8 of colours (3, h, w) from 0 to 1."""
    return (enlarged(values, height, width, how) * 255).round().byte().permute(1, 2, 0).numpy()


CAPTION = (
    "Every place of a feature map has hundreds of numbers. The three directions in which they vary most over all these "
    "pictures are shown as red, green and blue, so that places of one colour have similar features, in whichever "
    "picture they lie.",
    "Look whether one colour stands for one kind of thing in all pictures, and whether colours end where things end.",
    "Not to be concluded: that a backbone is better because its picture is smoother or brighter; that what has one "
    "colour is the same to the backbone, since three directions are only the share given below of all that varies; and "
    "nothing from the colours of two backbones being alike or not, since each has a basis of its own.",
)


def figure(
    shown: Sequence[tuple[str, np.ndarray]],
    columns: Mapping[str, Sequence[Tensor]],
    *,
    title: str,
    name: str = "pca",
    how: str = "nearest",
    scale: str = "each",
    side: str = "",
) -> Figure:
    """One row a picture (name, (h, w, 3) uint8), one column a backbone's maps of them."""
    found = {column: coloured(maps, scale, side) for column, maps in columns.items()}
    facts = [_said(*each, scale, bool(side)) for each in found.items()]
    return Figure(name, title, CAPTION, tiles(shown, found, how), facts)


def tiles(
    shown: Sequence[tuple[str, np.ndarray]], columns: Mapping[str, Coloured], how: str = "nearest"
) -> list[list[Tile]]:
    """Rows of a figure: the picture, and its colours in each column."""
    rows = []
    for i, (title_of, image) in enumerate(shown):
        row = [shown_tile(title_of, image)]
        for column, colours in columns.items():
            values = colours.maps[i]
            alt = f"{title_of} by the three main components of {column}'s features"
            row.append(Tile(picture(values, image.shape[0], image.shape[1], how), alt, f"{column}, {cells(values)}"))
        rows.append(row)
    return rows


def _said(column: str, found: Coloured, scale: str, cut: bool) -> str:
    if found.flat:
        return f"{column}: all places have the same features; there is nothing to show"
    parts = ", ".join(
        f"{colour} {share:.0%}" for colour, share in zip(("red", "green", "blue"), found.share, strict=True)
    )
    kept = f"; {found.kept:.0%} of the places are foreground, the others black" if cut else ""
    one = "one scale for the three colours" if scale == "common" else "each colour stretched by itself"
    return f"{column}: {parts} of the variance, together {sum(found.share):.0%}; {one}{kept}"
