"""k-means clusters of the places of all pictures, laid over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from densessl.errors import UserError
from densessl.kmeans import spherical_kmeans
from densessl.visual.features import enlarged, rows_of
from densessl.visual.figure import Figure, Tile, cells, shown_tile
from densessl.visual.shades import Colour, distinct

STARTS, ITERATIONS = 5, 30
COVER = 0.6  # how much of the colour is seen, the rest is the picture


def clusters(maps: Sequence[Tensor], count: int, seed: int = 0) -> tuple[list[Tensor], list[float]]:
    """(h, w) int64 numbers of each map's (C, h, w) places, from 0, and each cluster's share of all places.

    Spherical k-means of the features less their mean; the best of some starts from random places. 0 is the largest
    cluster; one may be empty. Raises UserError where there are fewer places than clusters.
    """
    rows = rows_of(maps)
    if len(rows) < count:
        raise UserError(f"--clusters {count}: the pictures have {len(rows)} places at this size and stage")
    rows = (rows - rows.mean(0)).float()
    random = torch.Generator().manual_seed(seed)
    best, members = -1.0, torch.zeros(len(rows), dtype=torch.int64)
    for _ in range(STARTS):
        first = rows[torch.randperm(len(rows), generator=random)[:count]]
        centroids, found = spherical_kmeans(rows, first, ITERATIONS)
        tight = float((normalize(rows) * centroids[found]).sum(1).double().mean())
        if tight > best + 1e-9:
            best, members = tight, found
    sizes = torch.bincount(members, minlength=count)
    rank = torch.empty(count, dtype=torch.int64)
    rank[sizes.argsort(descending=True, stable=True)] = torch.arange(count)
    parts = rank[members].split([each[0].numel() for each in maps])
    numbers = [part.view(each.shape[1:]) for part, each in zip(parts, maps, strict=True)]
    return numbers, (sizes.sort(descending=True).values / len(rows)).tolist()


def overlay(picture: np.ndarray, numbers: Tensor, colours: Sequence[Colour]) -> np.ndarray:
    """(h, w, 3) uint8: the picture in grey under the colour of each place's cluster, (rows, columns) numbers."""
    height, width = picture.shape[:2]
    labels = enlarged(numbers[None].float(), height, width, "nearest")[0].long().numpy()
    grey = 70 + 0.6 * picture.mean(2, keepdims=True)  # dark ones would change the colours
    mixed = COVER * np.array(colours)[labels] + (1 - COVER) * grey
    return mixed.round().astype(np.uint8)


CAPTION = (
    "All places of all pictures were sorted into {count} clusters by their features alone (k-means by cosine, the mean "
    "taken off). Each cluster has one colour in all pictures of a column.",
    "Look whether a cluster keeps to one kind of thing, and whether that thing has the same colour in other pictures.",
    "Not to be concluded: that the backbone knows {count} classes; the number was given, and k-means always finds that "
    "many, in noise too. Colours of two columns have nothing to do with each other.",
)


def figure(
    shown: Sequence[tuple[str, np.ndarray]],
    columns: Mapping[str, Sequence[Tensor]],
    *,
    title: str,
    count: int = 8,
    name: str = "clusters",
    seed: int = 0,
) -> Figure:
    """One row a picture, one column a backbone."""
    colours = distinct(count)
    rows = [[shown_tile(*each)] for each in shown]
    facts = []
    for column, maps in columns.items():
        numbers, shares = clusters(maps, count, seed)
        facts.append(f"{column}: shares of the places {', '.join(f'{share:.0%}' for share in shares)}")
        for i, (of, image) in enumerate(shown):
            alt = f"{of} under the clusters of {column}'s features"
            rows[i].append(Tile(overlay(image, numbers[i], colours), alt, f"{column}, {cells(maps[i])}"))
    texts = [text.format(count=count) for text in CAPTION]
    return Figure(name, title, texts, rows, facts, swatches=[(c, str(n)) for n, c in enumerate(colours, 1)])
