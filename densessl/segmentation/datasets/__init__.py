"""Data sets of pictures with label masks, each in its own layout on disk."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import numpy as np

from densessl.segmentation.datasets.files import incomplete
from densessl.segmentation.datasets.folder import Folder
from densessl.segmentation.datasets.scenes import SceneMasks
from densessl.segmentation.datasets.voc import VOC2012


class SegmentationDataset(typing.Protocol):
    """What an evaluation reads. Labels index ``classes`` and ``colors``; 255 in a mask is ignored."""

    title: str
    split: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H, W, 3) and mask (H, W), both uint8. Raises UserError."""

    def name(self, index: int) -> str: ...

    def check(self) -> None:
        """Raises UserError for a mask that is wrong."""


# Each has a ``layout`` for messages; those in files have ``recognises(path)`` and are tried in this order.
DATASETS: dict[str, Any] = {"voc2012": VOC2012, "folder": Folder, "scenes": SceneMasks}


def open_dataset(path_or_name: str | Path, split: str) -> SegmentationDataset:
    """The split ("train" or "val") of the data set at a path, its layout recognised, or of ``scenes``.

    Raises UserError with the expected and the found tree where nothing, or not all, of a layout is there.
    """
    if str(path_or_name) == "scenes":
        return SceneMasks(split)
    path = Path(path_or_name)
    for dataset in (VOC2012, Folder):
        if dataset.recognises(path):
            return dataset(path, split)
    layouts = "\nor\n".join(d.layout.strip("\n") for d in DATASETS.values())
    raise incomplete(path, "no segmentation data set that densessl reads", layouts)
