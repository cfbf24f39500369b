"""COCO's instances, and a folder of one's own whose boxes are in files of the same form."""

from __future__ import annotations

from pathlib import Path

from densessl.data.annotations import read_instances
from densessl.detection.datasets.annotated import Annotated
from densessl.errors import UserError
from densessl.trees import incomplete

CATEGORIES = 80
COUNTS = {"train": 118_287, "val": 5000}


class COCO(Annotated):
    """Lin et al. 2014, release 2017: 80 classes, boxes and masks. Crowds are not learned and not scored."""

    layout = """
COCO/
  {train,val}2017/NAME.jpg                     or images/{train,val}2017/
  annotations/instances_{train,val}2017.json
"""

    def __init__(self, path: str | Path, split: str) -> None:
        root, part = Path(path), f"{split}2017"
        file = root / "annotations" / f"instances_{part}.json"
        folder = root / part if (root / part).is_dir() else root / "images" / part
        for needed in (file, folder):
            if not needed.exists():
                raise incomplete(root, f"{needed.relative_to(root).as_posix()} is missing", self.layout)
        found = read_instances(file, published=True)
        if len(found.ids) != CATEGORIES:
            raise UserError(
                f"{file}: {len(found.ids)} categories, COCO has {CATEGORIES}; data of your own are a folder with "
                "annotations/train.json and val.json"
            )
        super().__init__(
            root,
            [(folder / row[0], *row[1:]) for row in found.rows],
            title="coco",
            split=split,
            classes=found.classes,
            source=file.name,
            layout=self.layout,
            published=COUNTS.get(split),
        )

    @staticmethod
    def recognises(path: str | Path) -> bool:
        parts = [
            part.format(split)
            for part in ("{}2017", "images/{}2017", "annotations/instances_{}2017.json")
            for split in ("train", "val")
        ]
        return any((Path(path) / part).exists() for part in parts)


class Folder(Annotated):
    """``images/{train,val}/`` and ``annotations/{train,val}.json`` in COCO's form; ``file_name`` may have sub-folders.

    ``area`` and ``segmentation`` may be missing; Mask R-CNN needs a segmentation of every object.
    """

    layout = """
FOLDER/
  images/train/NAME.jpg     images/val/NAME.jpg
  annotations/train.json    annotations/val.json    in the form of COCO's instances: images (id, file_name, width,
                            height), categories (id, name), annotations (image_id, category_id, bbox, segmentation)
"""

    def __init__(self, path: str | Path, split: str) -> None:
        root = Path(path)
        file, folder = root / "annotations" / f"{split}.json", root / "images" / split
        for needed in (file, folder):
            if not needed.exists():
                raise incomplete(root, f"{needed.relative_to(root).as_posix()} is missing", self.layout)
        found = read_instances(file)
        super().__init__(
            root,
            [(folder / row[0], *row[1:]) for row in found.rows],
            title=root.resolve().name,
            split=split,
            classes=found.classes,
            source=f"annotations/{file.name}",
            layout=self.layout,
        )

    @staticmethod
    def recognises(path: str | Path) -> bool:
        return any((Path(path) / part).exists() for part in ("annotations", "images"))
