"""The built-in made-up scenes as a detection data set: exact boxes and masks, nothing to download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pycocotools import mask as rle

from densessl.data.palette import palette
from densessl.data.scenes import Scenes
from densessl.data.textures import OBJECTS
from densessl.detection.datasets.objects import Objects

COUNTS = {"train": 400, "val": 100}


class SceneObjects:
    """Pictures drawn from a seed, 400 to train and 100 to score unless told otherwise.

    Boxes and masks are of what is seen of an object; what is nearly hidden is none.
    """

    layout = "scenes: the word, no files"
    title, masks = "scenes", True

    def __init__(
        self,
        path: str | Path = "scenes",
        split: str = "train",
        *,
        count: int | None = None,
        size: int = 160,
        seed: int = 0,
    ) -> None:
        self.scenes = Scenes(count or COUNTS.get(split, 1), size, seed, split)
        self.split = split
        self.classes: tuple[str, ...] = tuple(OBJECTS)
        self.colors = tuple(palette(i + 1) for i in range(len(self.classes)))
        self.labelled = range(len(self.scenes))  # there are always some

    @staticmethod
    def recognises(path: str | Path) -> bool:
        return str(path) == "scenes"

    def __len__(self) -> int:
        return len(self.scenes)

    def name(self, index: int) -> str:
        return f"{self.split}-{index:05d}"

    def size(self, index: int) -> tuple[int, int]:
        return self.scenes.size, self.scenes.size

    def picture(self, index: int) -> np.ndarray:
        return self.scenes.read(index)

    def objects(self, index: int) -> Objects:
        seen = self.scenes.objects(index)
        shapes = [shape for _, shape in seen]
        boxes = rle.toBbox(shapes).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [self.classes.index(name) + 1 for name, _ in seen]
        nothing = np.zeros(len(labels), bool)
        return Objects(boxes, np.array(labels, np.int64), rle.area(shapes).astype(float), nothing, nothing, shapes)
