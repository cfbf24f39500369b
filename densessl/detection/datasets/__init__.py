"""Data sets of pictures with boxes, and masks where there are any, each in its own layout on disk."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densessl.detection.datasets.coco import COCO, Folder
from densessl.detection.datasets.objects import Objects as Objects
from densessl.detection.datasets.scenes import SceneObjects
from densessl.detection.datasets.voc import VOC
from densessl.trees import open_layout


class DetectionDataset(typing.Protocol):
    """What an evaluation reads. Labels count ``classes`` from 1."""

    title: str
    split: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    @property
    def masks(self) -> bool:
        """Whether every object has a shape."""

    @property
    def labelled(self) -> Sequence[int]:
        """The pictures with an object to learn from."""

    def __len__(self) -> int: ...

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a picture."""

    def picture(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8. Raises UserError."""

    def objects(self, index: int) -> Objects:
        """Raises UserError."""

    def name(self, index: int) -> str: ...


# name -> class(path, split), with ``recognises(path)``, tried in this order, and a ``layout`` for messages. One that
# has ``words`` takes one of them as a third argument: which of its lists.
DATASETS: dict[str, Any] = {"scenes": SceneObjects, "voc": VOC, "coco": COCO, "folder": Folder}


def open_dataset(path_or_name: str | Path, split: str) -> DetectionDataset:
    """The split ("train" or "val") of the data set at a path, its layout recognised, or of ``scenes``.

    ``PATH:WORD`` chooses between lists, as in ``VOCdevkit:07``. Raises UserError with the expected and the found tree
    where nothing, or not all, of a layout is there.
    """
    dataset: DetectionDataset = open_layout(DATASETS, path_or_name, split, "detection")
    return dataset
