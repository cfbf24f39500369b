"""Feature maps of pictures at a chosen size, as a backbone reads them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain, islice

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from densessl.backbones import Backbone
from densessl.classification.features import frozen, normalised
from densessl.data.crops import by_fours
from densessl.data.decoding import Unreadable
from densessl.data.pictures import Pictures
from densessl.errors import UserError

STAGES = ("1", "2", "3", "4", "last")  # last: the fourth after the final norm, where the network has one
LARGEST = 4096  # pixels
TRIES = 64  # pictures in a row that may be unreadable before the next is given up


def chosen(collections: Sequence[Pictures], count: int) -> tuple[list[int], list[str]]:
    """Rows of about ``count`` pictures spread evenly, and what was unreadable, in whose place stands the next good one.

    ``collections`` are the same pictures, each read in another way; all of them have to read what is taken. Raises
    UserError where nothing can be read.
    """
    total = len(collections[0])
    rows: list[int] = []
    skipped: dict[int, str] = {}
    for wanted in np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist():
        for row in islice(chain(range(wanted, total), range(wanted)), TRIES):
            if row in rows or row in skipped:
                continue
            try:
                for pictures in collections:
                    pictures.read(row)
            except Unreadable as error:
                skipped[row] = str(error)
                continue
            rows.append(row)
            break
    if not rows:
        raise UserError(
            f"no picture can be read of {len(skipped)} that were tried; the first is {skipped[min(skipped)]}"
        )
    return sorted(rows), [skipped[row] for row in sorted(skipped)]


def name_of(pictures: Pictures, row: int) -> str:
    return os.path.basename(pictures.path(row)) or pictures.path(row)


def check_size(backbone: Backbone, size: int, stages: Sequence[str]) -> None:
    """Raises UserError where a map would have less than two cells a side."""
    strides = (*backbone.strides, backbone.strides[-1])
    needed = max(backbone.strides[-1], *(2 * strides[STAGES.index(stage)] for stage in stages))
    if not needed <= size <= LARGEST:
        raise UserError(
            f"--size {size}: {backbone.name} needs {needed} pixels for a map of 2 x 2 cells, and {LARGEST} are taken "
            "at most"
        )


def resized(picture: np.ndarray, size: int, step: int) -> np.ndarray:
    """(H, W, C): the picture (h, w, C) with ``size`` as its short side; both then rounded to multiples of ``step``.

    So the cells of every map cover the whole picture and nothing else.
    """
    scale = size / min(picture.shape[:2])
    height, width = (max(1, round(side * scale / step)) * step for side in picture.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return by_fours(lambda part: cv2.resize(part, (width, height), interpolation=how), picture)


def map_of(backbone: Backbone, picture: np.ndarray, stages: Sequence[str] = ("last",)) -> dict[str, Tensor]:
    """A map (C, h, w), float32 on the CPU, of each of ``stages``, of a picture (H, W, C) of 8 or 16 bits as it is."""
    with frozen(backbone):
        image = normalised(backbone, torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None])
        found = dict(zip((*STAGES[:3], "last"), backbone(image), strict=True))
        if "4" in stages:
            found["4"] = backbone.stages(image)[-1]
    return {stage: found[stage][0].float().cpu() for stage in stages}


def maps_of(backbone: Backbone, pictures: Sequence[np.ndarray], size: int, stage: str = "last") -> list[Tensor]:
    """A map (C, h, w) of each picture (h, w, C), whose short side becomes ``size`` pixels. Raises UserError."""
    check_size(backbone, size, [stage])
    return [map_of(backbone, resized(each, size, max(backbone.strides)), [stage])[stage] for each in pictures]


def rows_of(maps: Sequence[Tensor]) -> Tensor:
    """(places, C) float64 of maps (C, h, w): all places of all maps, map after map, each in raster order."""
    return torch.cat([each.flatten(1).mT for each in maps]).double()


def enlarged(values: Tensor, height: int, width: int, how: str) -> Tensor:
    """(C, height, width) of (C, h, w): ``how`` is nearest, whose cells stay seen, or bilinear between their middles."""
    arguments = {"mode": "nearest-exact"} if how == "nearest" else {"mode": "bilinear", "align_corners": False}
    return interpolate(values[None], (height, width), **arguments)[0]


def cell_at(place: tuple[float, float], height: int, width: int) -> tuple[int, int]:
    """Row and column of the cell at ``place``, x and y in shares of the picture, of a map of height x width."""
    return min(height - 1, int(place[1] * height)), min(width - 1, int(place[0] * width))
