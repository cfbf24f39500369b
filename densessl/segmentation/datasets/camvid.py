"""CamVid with 11 classes: the grey masks of the SegNet authors, or the original 32 colours, merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densessl.errors import UserError
from densessl.segmentation.datasets.class_table import read_table
from densessl.segmentation.datasets.files import IGNORE, read_codes, translate_codes
from densessl.segmentation.datasets.pairs import Pairs, lookup_of, pair_up

MASKS = {"camvid": ("annot", (".png",)), "camvid_rgb": ("_labels", ("_L.png", ".png"))}
COUNTS = {"train": 367, "val": 101, "test": 233}  # of the grey masks; the colours come without a split
MOST_UNKNOWN = 0.05  # share of pixels of other colours; a few are strays of the original, many another code


class CamVid(Pairs):
    """11 classes, the unlabelled are ignored. Brostow et al. 2009; the 11 are those of Badrinarayanan et al. 2017.

    Titled ``camvid`` with grey masks (0 to 10, 11 ignored) and ``camvid_rgb`` with the original's colours, where
    colours that the 32 classes don't have are ignored. The two don't agree in every pixel, nor in size.
    """

    layout = """
CAMVID/
  {train,val}/NAME.png
  {train,val}annot/NAME.png                              grey, 0 to 10, 11 = ignored
  or {train,val}_labels/NAME_L.png                       the original's 32 colours
"""

    def __init__(self, path: str | Path, split: str) -> None:
        root = Path(path)
        title = next((t for t, (folder, _) in MASKS.items() if (root / f"{split}{folder}").is_dir()), "camvid")
        folder, endings = MASKS[title]
        table = read_table("camvid")
        super().__init__(
            pair_up(root, self.layout, (root / split, (".png",)), (root / f"{split}{folder}", endings)),
            title=title,
            split=split,
            classes=table.classes,
            colors=table.colors,
            lookup=lookup_of(table.labels if title == "camvid" else {i: i for i in range(len(table.classes))}),
            published=COUNTS.get(split) if title == "camvid" else None,
        )
        self.codes = read_table("camvid_rgb").labels if title == "camvid_rgb" else {}

    def values(self, index: int) -> np.ndarray:
        if not self.codes:
            return super().values(index)
        file = self.pair(index)[1]
        labels = translate_codes(read_codes(file), self.codes)
        unknown = (labels < 0).mean()
        if unknown > MOST_UNKNOWN:
            raise UserError(
                f"{file}: {unknown:.0%} of its pixels have a colour that is none of CamVid's 32; masks may neither be "
                "resized smoothly nor saved as JPEG"
            )
        return np.where(labels < 0, IGNORE, labels).astype(np.uint8)

    def recognise(self, counts: np.ndarray, holds: np.ndarray) -> str:
        """Masks that number the original's 32 classes."""
        if self.codes or not counts[12:32].any() or counts[32:IGNORE].any():
            return ""
        return (
            "the masks hold values from 12 to 31, so they number the 32 classes of the original; those of 11 classes, "
            "0 to 11, are needed, or the original's colors in {train,val}_labels"
        )

    @staticmethod
    def recognises(path: str | Path) -> bool:
        names = (f"{split}{folder}" for split in ("train", "val") for folder, _ in MASKS.values())
        return any((Path(path) / name).exists() for name in names)
