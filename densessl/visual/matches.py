"""Matches of VICRegL between two views of a picture, by location and by feature, as its figure has them.

Bardes, Ponce, LeCun 2022, https://arxiv.org/abs/2210.01571.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from densessl.backbones import Backbone
from densessl.config import ChannelsConfig, PhotometricConfig, ViewsConfig
from densessl.data.contact import as_rgb, fitted
from densessl.data.multi_crop import Crop, MultiCrop
from densessl.data.pixels import Pixels
from densessl.data.sheet import Seen, outlined
from densessl.errors import UserError
from densessl.matching import cell_centers, nearest
from densessl.visual.features import map_of
from densessl.visual.figure import Bar, Figure, Table, Tile
from densessl.visual.shades import FALLING, shaded

SIDE, BETWEEN = 240, 16  # pixels: a view as it is drawn, the space between two
FAR = 4.0  # cells apart that have the last colour
PLAIN = PhotometricConfig(
    jitter_p=0,
    grey_p=0,
    blur_p=(0, 0),
    solarize_p=(0, 0),
    where="workers",
    channels=ChannelsConfig(p=0, noise_p=0, drop_p=0),
)


class Pair(NamedTuple):
    """Two views (h, w, C), their maps (C, h, w), and where they lie, (2, 3) each."""

    views: Sequence[np.ndarray]
    maps: Sequence[Tensor]
    affines: Sequence[Tensor]


class Matched(NamedTuple):
    """K matches: cells of the first view's map and of the second's, and two distances."""

    a: Tensor  # (K,) in raster order
    b: Tensor
    apart: Tensor  # (K,) pixels of the picture between both places
    distance: Tensor  # (K,) between both features
    cell: float  # pixels of the picture: the side of a cell of the view that has the larger ones
    chance: float  # share of all partners of the same first places that lie within one cell

    @property
    def near(self) -> int:
        """Matches within one cell."""
        return int((self.apart <= self.cell).sum())


def two_views(
    views: ViewsConfig, picture: np.ndarray, index: int, *, seed: int, pixels: Pixels, photometric: PhotometricConfig
) -> list[Crop]:
    """The first two large crops that training takes of picture ``index`` (h, w, C) in its first epoch."""
    quiet = photometric.model_copy(update={"where": "workers"})
    return list(islice(MultiCrop(views, quiet, seed, pixels)(picture, 0, index), 2))


def matched(a: Tensor, b: Tensor, affines: Sequence[Tensor], count: int | None, by: str) -> Matched:
    """The ``count`` closest of the matches that `densessl.matching.nearest` finds for each place of ``a``.

    ``a`` and ``b`` are maps (C, h, w) of two views, ``affines`` (2, 3) tell where those lie; ``by`` is location or
    feature.
    """
    centers = [cell_centers(x[None].float(), *m.shape[1:]) for x, m in zip(affines, (a, b), strict=True)]
    rows = [m.flatten(1).mT[None] for m in (a, b)]
    first, second = centers if by == "location" else rows
    i, j = (index[0] for index in nearest(first, second, count))
    places = [c[0].double() for c in centers]
    sides = [float(x[:, :2].double().det().abs() / m[0].numel()) ** 0.5 for x, m in zip(affines, (a, b), strict=True)]
    everywhere = torch.cdist(places[0][i], places[1], compute_mode="donot_use_mm_for_euclid_dist")
    return Matched(
        i,
        j,
        (places[0][i] - places[1][j]).norm(dim=1),
        (rows[0][0, i].double() - rows[1][0, j].double()).norm(dim=1),
        max(sides),
        float((everywhere <= max(sides)).double().mean()),
    )


def ends(cells: Tensor, height: int, width: int, side: int = SIDE) -> Tensor:
    """(K, 2) x, y of the middles of cells of a height x width map, in pixels of a square view of ``side``."""
    return torch.stack([(cells % width + 0.5) * side / width, (cells // width + 0.5) * side / height], 1)


def drawn(views: Sequence[np.ndarray], found: Matched, grids: Sequence[Sequence[int]], side: int = SIDE) -> np.ndarray:
    """(side, 2 side + 16, 3) uint8: both views (h, w, C), a line a match, in the colour of how far apart its ends lie.

    ``grids`` are (rows, columns) of both maps. Those farthest apart are drawn last; numbers count from 1.
    """
    shown = [fitted(as_rgb(view), side, side) for view in views]
    page = np.concatenate([shown[0], np.full((side, BETWEEN, 3), 255, np.uint8), shown[1]], 1)
    left = ends(found.a, grids[0][0], grids[0][1], side)
    right = ends(found.b, grids[1][0], grids[1][1], side) + torch.tensor([side + BETWEEN, 0])
    colours = shaded(found.apart / found.cell, 0, FAR, FALLING)
    order = found.apart.argsort(stable=True).tolist()
    points = [[tuple(at.tolist()) for at in (x * 16 - 8).round().int()] for x in (left, right)]  # with 4 bits after 0
    for thick, dot, ink in ((4, 5, (20, 20, 20)), (2, 4, None)):
        for n in order:
            colour = ink or tuple(colours[n].tolist())
            cv2.line(page, points[0][n], points[1][n], colour, thick, cv2.LINE_AA, 4)
            for which in points:
                cv2.circle(page, which[n], dot * 16, colour, cv2.FILLED, cv2.LINE_AA, 4)
    drawing = Image.fromarray(page)
    draw, font = ImageDraw.Draw(drawing), ImageFont.load_default(11)
    for places in (left, right):  # several matches may lead to one place
        numbers: dict[tuple[float, ...], list[str]] = {}
        for n, at in enumerate(places.tolist(), 1):
            numbers.setdefault(tuple(at), []).append(str(n))
        for (x, y), of in numbers.items():
            text = ", ".join(of) if len(of) < 4 else f"{of[0]}, {of[1]}, +{len(of) - 2}"
            draw.text((x, y - 6), text, "black", font, "md", stroke_width=2, stroke_fill="white")
    return np.array(drawing)


PLAINLY, COLOURED = "without its changes of colour", "with its changes of colour"
CAPTION = (
    "VICRegL pulls together the features of places that belong together in two views of one picture: those that lie at "
    "the same place (by location), and those whose features are nearest (by feature). The views are those that "
    "training takes, {photometric}. Each of the {count} closest matches is a line from a cell of the first view to one "
    "of the second; its colour says how far apart both ends lie in the picture, whichever way they were matched.",
    "Look how many feature matches are yellow, that is right: a backbone whose features know what they see finds the "
    "same place again. Matches by location don't depend on the backbone; where views hardly overlap, theirs are dark "
    "too.",
    "Not to be concluded: that a dark line is a mistake, since two windows of one house may be the nearest to each "
    "other; and how training matches exactly, which compares what its projector makes of these features, and that is "
    "not in a backbone file.",
)


def figure(
    pictures: Sequence[tuple[str, int, Mapping[str, np.ndarray]]],
    backbones: Mapping[str, Backbone],
    pixels: Mapping[str, Pixels],
    views: ViewsConfig,
    *,
    title: str,
    count: int = 20,
    name: str = "matches",
    seed: int = 0,
    photometric: PhotometricConfig | None = None,
) -> Figure:
    """One row a picture: the crops outlined, matches by location, then by feature of each backbone.

    ``pictures`` have name, index, and (h, w, C) as each backbone reads them. Raises UserError where
    views are too small for a network.
    """
    rows = []
    for title_of, index, read in pictures:
        first, pairs = np.empty(0), dict[str, Pair]()
        for column, backbone in backbones.items():
            crops = two_views(
                views, read[column], index, seed=seed, pixels=pixels[column], photometric=photometric or PLAIN
            )
            if views.large.size < backbone.strides[-1]:
                raise UserError(
                    f"views of {views.large.size} pixels are too small for {backbone.name}: views.large.size of at "
                    f"least {backbone.strides[-1]} is needed (--cfg names another recipe)"
                )
            maps = [map_of(backbone, crop.image)["last"] for crop in crops]
            affines = [torch.from_numpy(crop.affine) for crop in crops]
            first = first if pairs else outlines(read[column], crops)
            pairs[column] = Pair([crop.image for crop in crops], maps, affines)
        rows.append((title_of, first, pairs))
    return figure_of(rows, title=title, count=count, name=name, how=COLOURED if photometric else PLAINLY)


def figure_of(
    pictures: Sequence[tuple[str, np.ndarray, Mapping[str, Pair]]],
    *,
    title: str,
    count: int = 20,
    name: str = "matches",
    how: str = PLAINLY,
) -> Figure:
    """As `figure`, of maps: of each picture its name, it with the views outlined, and by column the pair of views.

    ``how`` says in the caption what was done to the views.
    """
    rows, tables = [], []
    near: dict[str, list[float]] = {}
    for title_of, first, pairs in pictures:
        row = [Tile(first, f"{title_of} with both views outlined", f"{title_of}, both views (m: mirrored)")]
        for what, (views, maps, affines) in {"": next(iter(pairs.values())), **pairs}.items():  # "": by location
            found = matched(maps[0], maps[1], affines, count, "feature" if what else "location")
            said = f"{found.near} of {len(found.a)} within a cell"
            alt = f"{title_of}: two views and the matches {_by(what)}, {said}"
            row.append(Tile(drawn(views, found, [m.shape[1:] for m in maps]), alt, f"{_by(what)}: {said}"))
            tables.append(_table(f"{title_of}, {_by(what)}", found, maps[0].shape[2], maps[1].shape[2]))
            sums = near.setdefault(what, [0, 0, 0.0])
            for n, add in enumerate((found.near, len(found.a), found.chance * len(found.a))):
                sums[n] += add
        rows.append(row)
    facts = [
        f"{_by(what)}: {hits} of {total} matches lie within one cell; partners taken at random would {chance:.1f}"
        for what, (hits, total, chance) in near.items()
    ]
    bar = Bar(FALLING, "0", f"{FAR:g} cells or more", "apart in the picture")
    texts = [text.format(count=count, photometric=how) for text in CAPTION]
    return Figure(name, title, texts, rows, facts, bar, tables=tables, side=2 * SIDE + BETWEEN)


def _by(what: str) -> str:
    return f"by feature, {what}" if what else "by location"


def outlines(picture: np.ndarray, crops: Sequence[Crop]) -> np.ndarray:
    """(h, w, 3) uint8: a picture (h, w, C) with its crops outlined."""
    seen = [Seen(as_rgb(crop.image), crop.affine, True) for crop in crops]
    return outlined(picture, seen, SIDE, 2 * SIDE + BETWEEN)


def _table(title: str, found: Matched, width: int, other: int) -> Table:
    head = ("match", "view 1: row, column", "view 2: row, column", "pixels apart", "cells apart", "feature distance")
    rows = []
    for n, (a, b, apart, distance) in enumerate(zip(*(each.tolist() for each in found[:4]), strict=True), 1):
        at, to = (f"{cell // wide + 1}, {cell % wide + 1}" for cell, wide in ((a, width), (b, other)))
        rows.append((str(n), at, to, f"{apart:.1f}", f"{apart / found.cell:.2f}", f"{distance:.3g}"))
    return Table(f"The {len(rows)} matches of {title}", head, rows)
