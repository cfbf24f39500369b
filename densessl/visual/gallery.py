"""All figures of some backbones and one collection of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from densessl.backbones import Backbone
from densessl.config import PhotometricConfig, ViewsConfig
from densessl.data.decoding import Unreadable
from densessl.data.pictures import Pictures, open_pictures
from densessl.data.pixels import Pixels
from densessl.errors import UserError
from densessl.progress import progress
from densessl.reading import pixels_of
from densessl.visual import clusters, filters, matches, neighbours, pca, similarity
from densessl.visual.features import cell_at, check_size, chosen, map_of, name_of, resized
from densessl.visual.figure import SIDE, Figure, as_shown

KINDS = ("pca", "similarity", "clusters", "neighbours", "matches", "filters")
OF_MAPS = KINDS[:4]
FEW = 8  # neighbours shown


class Wishes(NamedTuple):
    """What is to be drawn, and how."""

    views: ViewsConfig  # of the matches
    kinds: Sequence[str] = KINDS
    sizes: Sequence[int] = (448,)
    stages: Sequence[str] = ("last",)
    pictures: int = 6
    place: tuple[float, float] = (0.5, 0.5)
    clusters: int = 8
    matches: int = 20  # lines between two views
    matched: int = 3  # pictures with matches
    search: int = 100
    how: str = "nearest"
    scale: str = "each"
    side: str = ""  # of the foreground
    raw: bool = False
    seed: int = 0
    photometric: PhotometricConfig | None = None  # None: views without changes of colour


class Gallery(NamedTuple):
    figures: list[Figure]
    shown: list[str]  # the pictures
    remarks: list[str]  # what was skipped or left out


class _Read:
    """The pictures of a collection as each backbone reads them, upright."""

    def __init__(self, path: str, backbones: Mapping[str, Backbone]) -> None:
        self.pixels = {name: pixels_of(each) for name, each in backbones.items()}
        self.collections: dict[Pixels, Pictures] = {
            pixels: open_pictures(path, pixels) for pixels in dict.fromkeys(self.pixels.values())
        }
        self.first = next(iter(self.collections.values()))

    def read(self, row: int) -> dict[str, np.ndarray]:
        found = {pixels: pictures.read(row) for pixels, pictures in self.collections.items()}
        return {name: found[pixels] for name, pixels in self.pixels.items()}

    def shown(self, row: int, side: int = SIDE) -> tuple[str, np.ndarray]:
        return name_of(self.first, row), as_shown(self.first.read(row), side)


def gallery(backbones: Mapping[str, Backbone], path: str, wishes: Wishes) -> Gallery:
    """``backbones`` by the names that they go by, ``path`` as data.path. Raises UserError."""
    for size in wishes.sizes:
        for backbone in backbones.values():
            check_size(backbone, size, wishes.stages)
    source = _Read(path, backbones)
    rows, skipped = chosen(list(source.collections.values()), wishes.pictures)
    remarks = [f"skipped: {reason}" for reason in skipped]
    figures: list[Figure] = []
    if set(wishes.kinds) & set(OF_MAPS):
        for size in wishes.sizes:
            figures += _of_maps(backbones, source, rows, size, wishes, remarks)
    if "matches" in wishes.kinds:
        pictures = [(name_of(source.first, row), row, source.read(row)) for row in rows[: wishes.matched]]
        figures.append(
            matches.figure(
                pictures,
                backbones,
                source.pixels,
                wishes.views,
                title=f"Matches between two views of {wishes.views.large.size} pixels",
                count=wishes.matches,
                seed=wishes.seed,
                photometric=wishes.photometric,
            )
        )
    if "filters" in wishes.kinds:
        figures.append(filters.figure(backbones, title="Filters of the first layer"))
    return Gallery(figures, [name_of(source.first, row) for row in rows], list(dict.fromkeys(remarks)))


def _of_maps(
    backbones: Mapping[str, Backbone],
    source: _Read,
    rows: Sequence[int],
    size: int,
    wishes: Wishes,
    remarks: list[str],
) -> list[Figure]:
    """Those of one size of the pictures, stage after stage."""
    maps: dict[str, dict[str, list[Tensor]]] = {stage: {name: [] for name in backbones} for stage in wishes.stages}
    for row in progress(rows, f"maps of {size} pixels"):
        for name, picture in source.read(row).items():
            for stage, features in _maps(backbones[name], picture, size, wishes.stages).items():
                maps[stage][name].append(features)
    shown = [source.shown(row) for row in rows]
    figures = []
    for stage, columns in maps.items():
        which = "last map" if stage == "last" else f"stage {stage}"
        common: dict[str, Any] = {"shown": shown, "columns": columns}

        def called(kind: str, title: str, stage: str = stage, which: str = which) -> dict[str, Any]:
            return {"name": f"{kind}-{stage}-{size}", "title": f"{title}: {which}, {size} pixels"}

        if "pca" in wishes.kinds:
            how: dict[str, Any] = {"how": wishes.how, "scale": wishes.scale, "side": wishes.side}
            figures.append(pca.figure(**common, **how, **called("pca", "Main components as colours")))
        if "similarity" in wishes.kinds:
            how = {"place": wishes.place, "how": wishes.how, "raw": wishes.raw}
            figures.append(similarity.figure(**common, **how, **called("similarity", "Similarity to one place")))
        if "clusters" in wishes.kinds:
            how = {"count": wishes.clusters, "seed": wishes.seed}
            figures.append(clusters.figure(**common, **how, **called("clusters", "Clusters of places")))
    if "neighbours" in wishes.kinds:
        searched = _searched(source, rows[0], wishes.search)
        if not searched:
            remarks.append("no neighbours: they are looked for in other pictures, and there is one only")
            return figures
        found, count = _neighbours(backbones, source, maps, searched, size, wishes, remarks)
        for stage, of_stage in found.items():
            which = "last map" if stage == "last" else f"stage {stage}"
            named: dict[str, Any] = {
                "name": f"neighbours-{stage}-{size}",
                "title": f"Nearest neighbours: {which}, {size} pixels",
            }
            figures.append(neighbours.figure(source.shown(rows[0], 2 * SIDE), of_stage, count, raw=wishes.raw, **named))
    return figures


def _maps(backbone: Backbone, picture: np.ndarray, size: int, stages: Sequence[str]) -> dict[str, Tensor]:
    return map_of(backbone, resized(picture, size, max(backbone.strides)), stages)


def _searched(source: _Read, own: int, count: int) -> list[int]:
    """Rows spread evenly over the collection, without the one of the place that is looked for."""
    others = len(source.first) - 1
    places = np.linspace(0, others - 1, min(count, others)).round().astype(int).tolist() if others else []
    return [place + (place >= own) for place in dict.fromkeys(places)]


def _neighbours(
    backbones: Mapping[str, Backbone],
    source: _Read,
    maps: Mapping[str, Mapping[str, Sequence[Tensor]]],
    searched: Sequence[int],
    size: int,
    wishes: Wishes,
    remarks: list[str],
) -> tuple[dict[str, dict[str, Any]], int]:
    """By stage and backbone the place that is looked for with its neighbours; how many pictures were searched."""
    found: dict[tuple[str, str], list[neighbours.Neighbour]] = {(s, n): [] for s in maps for n in backbones}
    middles = {key: similarity.centre(maps[key[0]][key[1]], wishes.raw) for key in found}
    cells = {key: cell_at(wishes.place, *maps[key[0]][key[1]][0].shape[1:]) for key in found}
    for row in progress(searched, "neighbours"):
        try:
            pictures = source.read(row)
        except Unreadable as error:
            remarks.append(f"skipped: {error}")
            continue
        for name, picture in pictures.items():
            for stage, features in _maps(backbones[name], picture, size, wishes.stages).items():
                key = stage, name
                query = maps[stage][name][0][:, cells[key][0], cells[key][1]]
                found[key].append(neighbours.nearest_place(row, query, features, middles[key]))
    if not all(found.values()):
        raise UserError(f"no other picture can be read; the first is {remarks[0]}")
    drawn: dict[str, dict[str, Any]] = {stage: {} for stage in maps}
    for (stage, name), places in found.items():
        features = maps[stage][name][0]
        grid = features.shape[1], features.shape[2]
        own = neighbours.Neighbour(0, cells[stage, name], grid, 1.0)
        others = [(*source.shown(one.picture, 2 * SIDE), one) for one in neighbours.best(places, FEW)]
        drawn[stage][name] = own, others
    return drawn, len(next(iter(found.values())))
