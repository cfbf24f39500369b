"""The built-in made-up scenes as a segmentation data set: exact masks, nothing to download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densessl.data.palette import palette
from densessl.data.scenes import Scenes

COUNTS = {"train": 400, "val": 100}


class SceneMasks:
    """Pictures drawn from a seed, 400 to train and 100 to score unless told otherwise; nothing is ignored."""

    layout = "scenes: the word, no files"
    title = "scenes"

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
        self.classes: tuple[str, ...] = tuple(self.scenes.classes)
        self.colors = tuple(palette(i + 1) for i in range(len(self.classes)))

    @staticmethod
    def recognises(path: str | Path) -> bool:
        return str(path) == "scenes"

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.scenes.read(index), self.scenes.mask(index)

    def name(self, index: int) -> str:
        return f"{self.split}-{index:05d}"

    def check(self) -> None:
        """Nothing can be wrong."""
