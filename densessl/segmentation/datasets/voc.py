"""Pascal VOC 2012 segmentation in its own layout, with the augmented training list where it is there."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from densessl.data.palette import palette
from densessl.errors import UserError
from densessl.files import read_utf8
from densessl.segmentation.datasets.files import IGNORE, read_mask
from densessl.segmentation.datasets.pairs import Pairs, lookup_of, require
from densessl.trees import few, incomplete

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus"),
    *("car", "cat", "chair", "cow", "diningtable", "dog", "horse"),
    *("motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
COLORS = tuple(palette(i) for i in range(len(CLASSES)))
COUNTS = {"train": 1464, "trainaug": 10_582, "val": 1449}
SBD = Path("benchmark_RELEASE") / "dataset"


class VOC2012(Pairs):
    """21 classes, background among them; the 255 border is ignored. Everingham et al. 2010.

    The word ``trainaug`` or ``train`` chooses the training list. Published protocols use ``trainaug``: 10,582 pictures,
    all that VOC's train or SBD (Hariharan et al. 2011) labelled, without VOC's val. It is the default wherever there is
    any part of it, and the title is ``voc2012aug`` then. ``train`` is VOC's own 1,464. A picture that VOC labelled
    keeps VOC's mask, unless the list names another in its second column; SBD's masks have no border.
    """

    words = ("trainaug", "train")
    layout = """
VOCdevkit/VOC2012/
  JPEGImages/NAME.jpg
  SegmentationClass/NAME.png
  ImageSets/Segmentation/train.txt  val.txt
  for trainaug: ImageSets/Segmentation/trainaug.txt with SegmentationClassAug/NAME.png,
                or SBD as released, benchmark_RELEASE/dataset/{cls,train.txt,val.txt}, here or up to two folders above
"""

    def __init__(self, path: str | Path, split: str, word: str = "") -> None:
        root = _root(Path(path))
        lists, extra = root / "ImageSets" / "Segmentation", root / "SegmentationClassAug"
        sbd = next((root / up / SBD for up in (".", "..", "../..") if (root / up / SBD).is_dir()), None)
        parts = ((lists / "trainaug.txt").exists(), extra.is_dir())
        augmented = word == "trainaug" or (word != "train" and (any(parts) or sbd is not None))
        if augmented and not all(parts) and not sbd:
            raise incomplete(
                root,
                "trainaug needs both trainaug.txt and SegmentationClassAug, or SBD as released; with "
                f"{root}:train the 1,464 pictures of train.txt are taken",
                self.layout,
            )
        name = "trainaug" if split == "train" and augmented else split
        release = sbd if name == "trainaug" and not parts[0] else None
        for part in (lists / f"{'train' if release else name}.txt", lists / "val.txt", root / "JPEGImages"):
            if not part.exists():
                raise incomplete(root, f"{part.relative_to(root)} is missing", self.layout)
        val = _read_list(lists / "val.txt") if split == "train" else {}
        if release:  # by the definition of the list
            rows = _read_list(lists / "train.txt")
            more = chain(_read_list(release / "train.txt"), _read_list(release / "val.txt"))
            rows |= {stem: [stem] for stem in more if stem not in val}
        else:
            rows = _read_list(lists / f"{name}.txt")
        if both := rows.keys() & val.keys():
            raise UserError(
                f"{lists / name}.txt: {len(both)} of its pictures stand in val.txt too, so the score would be "
                f"worthless: {few(both)}"
            )
        masks = [(root / "SegmentationClass", ".png")]
        if name == "trainaug":  # the masks of val are VOC's alone: others lack the border
            masks += [(extra, ".png"), *([(sbd / "cls", ".mat")] if sbd else [])]
        pairs = [_pair(root, stem, columns, masks) for stem, columns in rows.items()]
        require(root, pairs, f"{name}.txt", self.layout)
        super().__init__(
            pairs,
            title="voc2012aug" if augmented else "voc2012",
            split=name,
            classes=CLASSES,
            colors=COLORS,
            lookup=lookup_of({i: i for i in range(len(CLASSES))}),
            published=COUNTS.get(name),
        )

    @staticmethod
    def recognises(path: str | Path) -> bool:
        path = Path(path)
        parts = ("JPEGImages", "SegmentationClass", "ImageSets", "VOC2012", "VOCdevkit")
        return any((path / part).exists() for part in parts) or path.name in ("VOC2012", "VOCdevkit")

    def values(self, index: int) -> np.ndarray:
        file = self.pair(index)[1]
        return read_sbd(file) if file.suffix == ".mat" else read_mask(file, COLORS)

    def recognise(self, counts: np.ndarray, holds: np.ndarray) -> str:
        """Numbers of objects, and colors that became grey."""
        needed = "the masks of SegmentationClass as published, palette PNGs, are needed"
        numbers = holds[:, 1:IGNORE]
        if len(holds) > 2 and numbers[:, 0].all() and numbers[:, 1].any() and (numbers[:, 1:] <= numbers[:, :-1]).all():
            return f"every mask counts from 1 on, as SegmentationObject numbers its objects; {needed}"
        greys = Image.fromarray(np.array([[palette(i) for i in (*range(len(CLASSES)), IGNORE)]], np.uint8)).convert("L")
        if counts[len(CLASSES) : IGNORE].any() and not np.delete(counts, np.asarray(greys).ravel()).any():
            return f"the masks hold the greys of VOC's colors, not their numbers: they were converted; {needed}"
        return ""


def read_sbd(file: Path) -> np.ndarray:
    """(H, W) uint8 labels of SBD's cls/NAME.mat. Raises UserError."""
    from scipy.io import loadmat

    try:
        return loadmat(file, variable_names=["GTcls"])["GTcls"][0, 0]["Segmentation"].astype(np.uint8)
    except Exception as error:  # what a broken file raises depends on where it is broken
        raise UserError(f"{file}: not a class mask of SBD (GTcls.Segmentation): {error}") from None


def _root(path: Path) -> Path:
    """The VOC2012 folder for itself, for VOCdevkit or for the folder that holds VOCdevkit."""
    for root in (path / "VOCdevkit" / "VOC2012", path / "VOC2012"):
        if root.is_dir():
            return root
    return path


def _read_list(file: Path) -> dict[str, list[str]]:
    """Stem -> the columns of its line: a bare stem, or the paths of a picture and its mask."""
    rows: dict[str, list[str]] = {}
    try:
        lines = read_utf8(file).splitlines()
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    for number, line in enumerate(lines, 1):
        columns = line.split()
        if len(columns) > 2:
            raise UserError(
                f"{file}, line {number}: {len(columns)} columns; one name or a picture and a mask are right"
            )
        if columns:
            stem = Path(columns[0]).stem
            if stem in rows:
                raise UserError(f"{file}, line {number}: {stem} stands twice")
            rows[stem] = columns
    if not rows:
        raise UserError(f"{file}: the list is empty")
    return rows


def _pair(root: Path, stem: str, columns: list[str], masks: list[tuple[Path, str]]) -> tuple[Path, Path]:
    """Of two columns the last two parts count; for a bare stem the first of the folders that has its mask."""
    if len(columns) == 2:
        picture, mask = (root / Path(*Path(column).parts[-2:]) for column in columns)
        return picture, mask
    candidates = [folder / f"{stem}{ending}" for folder, ending in masks]
    return root / "JPEGImages" / f"{stem}.jpg", next((c for c in candidates if c.exists()), candidates[-1])
