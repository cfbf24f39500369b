"""Pascal VOC 2012 segmentation in its own layout, with the augmented training list where it is there."""

from __future__ import annotations

from pathlib import Path

from densessl.errors import UserError
from densessl.segmentation.datasets.files import Pairs, few, incomplete, lookup_of, palette

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus"),
    *("car", "cat", "chair", "cow", "diningtable", "dog", "horse"),
    *("motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class VOC2012(Pairs):
    """21 classes, background among them; the 255 border is ignored. Everingham et al. 2010.

    Split ``train`` is the augmented list (10,582 pictures: train plus the SBD masks of Hariharan et al. 2011 without
    VOC's val) where ``trainaug.txt`` and ``SegmentationClassAug`` exist, VOC's 1,464 pictures otherwise; ``split`` says
    which. A picture that VOC itself labelled keeps VOC's mask, unless the list names a mask in its second column.
    """

    layout = """
VOCdevkit/VOC2012/
  JPEGImages/NAME.jpg
  SegmentationClass/NAME.png
  ImageSets/Segmentation/train.txt  val.txt
  ImageSets/Segmentation/trainaug.txt with SegmentationClassAug/NAME.png   (optional)
"""

    def __init__(self, path: str | Path, split: str) -> None:
        root = _root(Path(path))
        lists = root / "ImageSets" / "Segmentation"
        augmented = (lists / "trainaug.txt").exists() and (root / "SegmentationClassAug").is_dir()
        name = "trainaug" if split == "train" and augmented else split
        for part in (root / "JPEGImages", root / "SegmentationClass", lists / f"{name}.txt"):
            if not part.exists():
                raise incomplete(root, f"{part.relative_to(root)} is missing", self.layout)
        pairs = _pairs(root, lists / f"{name}.txt", self.layout)
        if split == "train" and (lists / "val.txt").exists():
            both = {p.stem for p, _ in pairs} & {p.stem for p, _ in _read_list(root, lists / "val.txt")}
            if both:
                raise UserError(
                    f"{lists / name}.txt: {len(both)} of its pictures stand in val.txt too, so the score would be "
                    f"worthless: {few(both)}"
                )
        super().__init__(
            pairs,
            title="voc2012",
            split=name,
            classes=CLASSES,
            colors=tuple(palette(i) for i in range(len(CLASSES))),
            lookup=lookup_of({i: i for i in range(len(CLASSES))}),
        )

    @staticmethod
    def recognises(path: str | Path) -> bool:
        path = Path(path)
        parts = ("JPEGImages", "SegmentationClass", "ImageSets", "VOC2012", "VOCdevkit")
        return any((path / part).exists() for part in parts) or path.name in ("VOC2012", "VOCdevkit")


def _root(path: Path) -> Path:
    """The VOC2012 folder for itself, for VOCdevkit or for the folder that holds VOCdevkit."""
    for root in (path / "VOCdevkit" / "VOC2012", path / "VOC2012"):
        if root.is_dir():
            return root
    return path


def _pairs(root: Path, file: Path, layout: str) -> list[tuple[Path, Path]]:
    pairs = _read_list(root, file)
    if not pairs:
        raise UserError(f"{file}: the list is empty")
    have = {folder: _names(root / folder) for folder in {p.parent.name for pair in pairs for p in pair}}
    for what, column in (("pictures", 0), ("masks", 1)):
        missing = [pair[column] for pair in pairs if pair[column].name not in have[pair[column].parent.name]]
        if missing:
            names = few(f"{p.parent.name}/{p.name}" for p in missing)
            raise incomplete(root, f"{len(missing)} {what} of {file.name} are missing: {names}", layout)
    return pairs


def _read_list(root: Path, file: Path) -> list[tuple[Path, Path]]:
    """Bare stems, or a picture's and a mask's path, of which the last two parts count."""
    own = _names(root / "SegmentationClass")
    pairs: dict[str, tuple[Path, Path]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) > 2:
            raise UserError(
                f"{file}, line {number}: {len(columns)} columns; one name or a picture and a mask are right"
            )
        stem = Path(columns[0]).stem
        if stem in pairs:
            raise UserError(f"{file}, line {number}: {stem} stands twice")
        if len(columns) == 2:
            picture, mask = (root / Path(*Path(column).parts[-2:]) for column in columns)
        else:
            picture = root / "JPEGImages" / f"{stem}.jpg"
            folder = "SegmentationClass" if f"{stem}.png" in own else "SegmentationClassAug"
            mask = root / folder / f"{stem}.png"
        pairs[stem] = (picture, mask)
    return list(pairs.values())


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.is_dir() else set()
