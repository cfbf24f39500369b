"""ADE20K as the scene parsing challenge of 2016 published it: 150 classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densessl.errors import UserError
from densessl.segmentation.datasets.class_table import read_table
from densessl.segmentation.datasets.files import IGNORE
from densessl.segmentation.datasets.pairs import Pairs, lookup_of, pair_up

FOLDERS = {"train": "training", "val": "validation"}
COUNTS = {"train": 20_210, "val": 2000}
TABLE = read_table("ade20k")


class ADE20K(Pairs):
    """150 classes, values 1 to 150; 0, "other objects", is ignored, and so is 255. Zhou et al. 2017.

    The full release has 3,688 categories, and its files don't say which of them make the 150: it is refused.
    """

    layout = """
ADEChallengeData2016/
  images/{training,validation}/NAME.jpg
  annotations/{training,validation}/NAME.png             0 = ignored, 1 to 150 = classes
"""

    def __init__(self, path: str | Path, split: str) -> None:
        root = Path(path)
        if (root / "ADEChallengeData2016").is_dir():
            root = root / "ADEChallengeData2016"
        if _full(root):
            raise UserError(
                f"{root}: this is the full ADE20K, whose 3,688 categories don't say which of them make the 150 classes "
                "that are scored; ADEChallengeData2016 is needed"
            )
        folder = FOLDERS.get(split, split)
        pictures, masks = root / "images" / folder, root / "annotations" / folder
        super().__init__(
            pair_up(root, self.layout, (pictures, (".jpg",)), (masks, (".png",))),
            title="ade20k",
            split=split,
            classes=TABLE.classes,
            colors=TABLE.colors,
            lookup=lookup_of(TABLE.labels),
            published=COUNTS.get(split),
        )

    @staticmethod
    def recognises(path: str | Path) -> bool:
        path = Path(path)
        parts = [f"{kind}/{folder}" for kind in ("images", "annotations") for folder in FOLDERS.values()]
        parts += ["ADEChallengeData2016", "objectInfo150.txt"]
        return path.name == "ADEChallengeData2016" or any((path / part).exists() for part in parts) or _full(path)

    def recognise(self, counts: np.ndarray, holds: np.ndarray) -> str:
        """Masks that some converter shifted by one (0 to 149 and 255): each class would be the next."""
        last = len(TABLE.classes)
        if not counts[IGNORE] or counts[last]:
            return ""
        return (
            f"the masks hold {IGNORE} and no {last}, so their labels were shifted to 0 to {last - 1} already; the "
            f"published masks, 0 to {last}, are needed"
        )


def _full(root: Path) -> bool:
    return (root / "index_ade20k.pkl").exists() or (root / "images" / "ADE").exists()
