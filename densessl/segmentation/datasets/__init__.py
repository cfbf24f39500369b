"""Data sets of pictures with label masks, each in its own layout on disk."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import numpy as np

from densessl.data.decoding import RGB
from densessl.data.pixels import Pixels
from densessl.errors import UserError
from densessl.reading import described
from densessl.segmentation.datasets.ade20k import ADE20K
from densessl.segmentation.datasets.camvid import CamVid
from densessl.segmentation.datasets.cityscapes import Cityscapes
from densessl.segmentation.datasets.coco import COCO
from densessl.segmentation.datasets.folder import Folder
from densessl.segmentation.datasets.scenes import SceneMasks
from densessl.segmentation.datasets.voc import VOC2012
from densessl.trees import open_layout


class SegmentationDataset(typing.Protocol):
    """What an evaluation reads. Labels index ``classes`` and ``colors``; 255 in a mask is ignored.

    One whose pictures can be read with other channels or values than RGB of 8 bits has a method ``read_as(pixels)`` as
    ``Pairs`` has.
    """

    title: str
    split: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H, W, C) uint8 or uint16 and mask (H, W) uint8. Raises UserError."""

    def name(self, index: int) -> str: ...

    def check(self) -> None:
        """Raises UserError for a mask that is wrong."""


def read_as(data: SegmentationDataset, pixels: Pixels) -> SegmentationDataset:
    """``data`` with pictures as ``pixels`` say, itself where that is plain RGB. Raises UserError where it can't."""
    if pixels == RGB:
        return data
    if not hasattr(data, "read_as"):
        raise UserError(f"{data.title} has RGB pictures of 8 bits; this backbone takes {described(pixels)}")
    changed: SegmentationDataset = data.read_as(pixels)
    return changed


# name -> class(path, split), with ``recognises(path)``, tried in this order, and a ``layout`` for messages. One that
# has ``words`` takes one of them as a third argument: which of its labels or lists.
DATASETS: dict[str, Any] = {
    "scenes": SceneMasks,
    "voc2012": VOC2012,
    "cityscapes": Cityscapes,
    "ade20k": ADE20K,
    "coco": COCO,
    "camvid": CamVid,
    "folder": Folder,
}


def open_dataset(path_or_name: str | Path, split: str) -> SegmentationDataset:
    """The split ("train" or "val") of the data set at a path, its layout recognised, or of ``scenes``.

    ``PATH:WORD`` chooses between the labels or lists of one data set, as in ``coco:panoptic``. Raises UserError with
    the expected and the found tree where nothing, or not all, of a layout is there.
    """
    dataset: SegmentationDataset = open_layout(DATASETS, path_or_name, split, "segmentation")
    return dataset
