"""The built-in made-up scenes as a segmentation data set: exact masks, nothing to download."""

from __future__ import annotations

import numpy as np

from densessl.data.scenes import Scenes
from densessl.segmentation.datasets.files import palette


class SceneMasks:
    """Pictures drawn from a seed; every pixel has a class, nothing is ignored."""

    layout = "scenes: the word, no files"
    title = "scenes"

    def __init__(self, split: str, *, count: int | None = None, size: int = 160, seed: int = 0) -> None:
        self.scenes = Scenes(count or COUNTS[split], size, seed, split)
        self.split = split
        self.classes: tuple[str, ...] = tuple(self.scenes.classes)
        self.colors = tuple(palette(i + 1) for i in range(len(self.classes)))

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.scenes.read(index), self.scenes.mask(index)

    def name(self, index: int) -> str:
        return f"{self.split}-{index:05d}"

    def check(self) -> None:
        """Nothing can be wrong."""


COUNTS = {"train": 400, "val": 100}
