"""Cityscapes with its fine labels: 34 label ids become the 19 classes that are scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densessl.errors import UserError
from densessl.segmentation.datasets.class_table import read_table
from densessl.segmentation.datasets.files import IGNORE
from densessl.segmentation.datasets.pairs import Pairs, lookup_of, pair_up
from densessl.trees import incomplete

# The table has no row for the license plate (id -1): it is never drawn, and -1 as an index would be entry 255.
TABLE = read_table("cityscapes")
COUNTS = {"train": 2975, "val": 500}


class Cityscapes(Pairs):
    """19 classes; the label ids that are not scored are ignored. Cordts et al. 2016.

    ``labelTrainIds`` (0 to 18, 255), which the authors' scripts make, are read where a split has no ``labelIds``.
    """

    layout = """
CITYSCAPES/
  leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png
  gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png       or, without those, NAME_gtFine_labelTrainIds.png
"""

    def __init__(self, path: str | Path, split: str) -> None:
        root = Path(path)
        if split == "test":
            raise UserError(
                f"{root}: gtFine/test marks only the own car and the picture's border and is no ground truth; "
                "val is the split that can be scored"
            )
        pictures, masks = root / "leftImg8bit" / split, root / "gtFine" / split
        kind = next((k for k in ("labelIds", "labelTrainIds") if any(masks.rglob(f"*_gtFine_{k}.png"))), None)
        if masks.is_dir() and kind is None:
            raise incomplete(
                root,
                f"gtFine/{split} has no *_labelIds.png; colours, instance ids and polygons are not read",
                self.layout,
            )
        own = {label: label for label in range(len(TABLE.classes))}
        super().__init__(
            pair_up(root, self.layout, (pictures, ("_leftImg8bit.png",)), (masks, (f"_gtFine_{kind}.png",))),
            title="cityscapes",
            split=split,
            classes=TABLE.classes,
            colors=TABLE.colors,
            lookup=lookup_of(TABLE.labels if kind == "labelIds" else own),
            published=COUNTS.get(split),
        )
        self.kind = kind

    def recognise(self, counts: np.ndarray, holds: np.ndarray) -> str:
        """Train ids under the name of label ids, and the other way round."""
        beyond = counts[len(TABLE.classes) : IGNORE].any()  # vegetation, sky, cars: no street is without them
        if self.kind == "labelIds" and not beyond:
            return (
                "the masks hold no value from 19 to 33, so labelIds.png has train ids, 0 to 18; their name is "
                "NAME_gtFine_labelTrainIds.png, and where they replaced the label ids, gtFine is to be unpacked anew"
            )
        if self.kind == "labelTrainIds" and beyond and not counts[max(TABLE.labels) + 1 : IGNORE].any():
            return (
                "the masks hold values from 19 to 33, so labelTrainIds.png has label ids, whose name is "
                "NAME_gtFine_labelIds.png"
            )
        return ""

    def name(self, index: int) -> str:
        return super().name(index).removesuffix("_leftImg8bit")

    @staticmethod
    def recognises(path: str | Path) -> bool:
        return any((Path(path) / part).exists() for part in ("leftImg8bit", "gtFine", "gtCoarse"))
