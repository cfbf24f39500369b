"""A folder of pictures and masks with a file of class names: the layout for anyone's own data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densessl.data.palette import palette
from densessl.errors import UserError
from densessl.files import read_utf8
from densessl.segmentation.datasets.files import ARRAYS, IGNORE
from densessl.segmentation.datasets.pairs import Pairs, lookup_of, pair_up
from densessl.trees import incomplete

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", *ARRAYS)
# A class of this name (in any case) is no class: its label is ignored, and the classes after it move up by one.
IGNORED_NAMES = ("unlabelled", "unlabeled", "void", "ignore", "ignored")


class Folder(Pairs):
    """``images/{train,val}/NAME.*`` and ``masks/{train,val}/NAME.png``; sub-folders are followed.

    Line n of ``classes.txt`` names label n, counted from 0. A class called unlabelled, unlabeled, void, ignore or
    ignored is left out of training and scores, like the value 255, which is always ignored. Pictures of other channels
    than colours, or of more bits, are TIFFs or .npy.
    """

    rgb = False

    layout = """
FOLDER/
  classes.txt            one class a line, the first is label 0
  images/train/NAME.jpg  images/val/NAME.jpg
  masks/train/NAME.png   masks/val/NAME.png    8 bits, value = label, 255 = ignored
"""

    def __init__(self, path: str | Path, split: str) -> None:
        root = Path(path)
        if not (root / "classes.txt").exists():
            raise incomplete(root, "classes.txt is missing", self.layout)
        classes, labels = _read_classes(root / "classes.txt")
        super().__init__(
            pair_up(root, self.layout, (root / "images" / split, PICTURES), (root / "masks" / split, (".png",))),
            title=root.resolve().name,
            split=split,
            classes=classes,
            colors=tuple(palette(i + 1) for i in range(len(classes))),  # from 1: 0 is black
            lookup=lookup_of(labels),
        )

    def recognise(self, counts: np.ndarray, holds: np.ndarray) -> str:
        """Masks that count from 1."""
        lines = int((self.lookup[:IGNORE] >= 0).sum())
        if np.flatnonzero(counts[:IGNORE]).max(initial=0) == lines:
            return (
                f"the masks hold {lines}, and classes.txt names labels 0 to {lines - 1}: if they count from 1, a first "
                "line void in classes.txt takes the place of 0"
            )
        return ""

    @staticmethod
    def recognises(path: str | Path) -> bool:
        path = Path(path)
        return any((path / part).exists() for part in ("classes.txt", "images", "masks"))


def _read_classes(file: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    lines = [line.strip() for line in read_utf8(file).rstrip().splitlines()]
    if not 0 < len(lines) <= IGNORE:
        raise UserError(f"{file}: {len(lines)} classes; 1 to {IGNORE} are possible")
    classes: list[str] = []
    labels = {}
    for value, name in enumerate(lines):
        if not name or name in classes:
            wrong = f"{name!r} stands twice" if name else "an empty line, which would shift the labels after it"
            raise UserError(f"{file}, line {value + 1}: {wrong}")
        if name.lower() in IGNORED_NAMES:
            labels[value] = IGNORE
        else:
            labels[value] = len(classes)
            classes.append(name)
    if not classes:
        raise UserError(f"{file}: every class is one to ignore")
    return tuple(classes), labels
