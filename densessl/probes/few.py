"""A part of a data set with masks, so that a probe of a large one stays small."""

from __future__ import annotations

import numpy as np

from densessl.data.pixels import Pixels
from densessl.segmentation.datasets import SegmentationDataset, read_as
from densessl.segmentation.datasets.occurrence import tell_classes


class Few:
    """At most ``most`` pictures of ``data``, evenly spaced: a `SegmentationDataset` itself."""

    def __init__(self, data: SegmentationDataset, most: int) -> None:
        self._data, self._most = data, most
        self._rows = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(int)).tolist()
        self.title, self.split, self.classes, self.colors = data.title, data.split, data.classes, data.colors

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._data[self._rows[index]]

    def name(self, index: int) -> str:
        return self._data.name(self._rows[index])

    def read_as(self, pixels: Pixels) -> Few:
        return Few(read_as(self._data, pixels), self._most)

    def check(self) -> None:
        """Nothing: what is wrong is found when it is read, seconds later. The whole data set is not read for a part."""

    def read(self) -> None:
        """Read every picture and mask once. Raises UserError for what is wrong."""
        tell_classes(self, np.sum([np.bincount(self[i][1].ravel(), minlength=256) for i in range(len(self))], 0))
