"""COCO 2017 as semantic segmentation: its panoptic, instance or stuff labels, one label a pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic_core import from_json, to_json

from densessl.data.annotations import Annotation, read_instances
from densessl.errors import UserError
from densessl.segmentation.datasets.class_table import ClassTable, read_table
from densessl.segmentation.datasets.coco_annotations import draw, hold_categories, read_panoptic
from densessl.segmentation.datasets.files import IGNORE, read_codes, translate_codes
from densessl.segmentation.datasets.pairs import Pairs, lookup_of, require
from densessl.trees import incomplete

THINGS = 80  # the first of the panoptic classes
STUFF = 182  # the last of the label ids, which count from 1 where masks count from 0
COUNTS = {"train": 118_287, "val": 5000}


class COCO(Pairs):
    """Lin et al. 2014, in one of three forms, chosen by a word where more than one is there; titled coco_WORD.

    - ``panoptic``: 133 classes (Kirillov et al. 2019). Unlabelled pixels are ignored, crowds count as their class.
    - ``instances``: 80 classes and background. Of overlapping instances the smaller lies on top, since a large one is
      drawn through what stands before it; crowds, drawn roughly, are ignored where no instance is.
    - ``stuff``: the 171 classes of stuffthingmaps (Caesar et al. 2018), unlabelled pixels ignored.
    """

    words = ("panoptic", "instances", "stuff")
    layout = """
COCO/
  {train,val}2017/NAME.jpg                               or images/{train,val}2017/
  annotations/panoptic_{train,val}2017.json              with panoptic_{train,val}2017/NAME.png here or in annotations/
  or annotations/instances_{train,val}2017.json
  or stuffthingmaps/{train,val}2017/NAME.png             or annotations/{train,val}2017/
"""

    def __init__(self, path: str | Path, split: str, word: str = "") -> None:
        root, part = Path(path), f"{split}2017"
        places = {
            "panoptic": root / "annotations" / f"panoptic_{part}.json",
            "instances": root / "annotations" / f"instances_{part}.json",
            "stuff": _either(root / "stuffthingmaps" / part, root / "annotations" / part),
        }
        there = [form for form in places if places[form].exists()]
        if not word and len(there) > 1:
            raise UserError(
                f"{root}: labels of {len(there)} kinds; say which: {', '.join(f'{root}:{f}' for f in there)}"
            )
        if not there or word not in (*there, ""):
            missing = word or "panoptic, instances or stuff"
            raise incomplete(root, f"the {missing} labels of {part} are missing", self.layout)
        self.form = word or there[0]
        source, pictures = places[self.form], _either(root / part, root / "images" / part)

        table = read_table("coco_stuff" if self.form == "stuff" else "coco_panoptic")
        if self.form == "instances":
            labels = {category: label + 1 for category, label in table.labels.items() if label < THINGS}
            table = ClassTable(("background", *table.classes[:THINGS]), ((0, 0, 0), *table.colors[:THINGS]), labels)
        if self.form == "stuff":
            pairs = [(picture, source / f"{picture.stem}.png") for picture in sorted(pictures.glob("[!.]*.jpg"))]
        else:
            masks = _either(root / f"panoptic_{part}", root / "annotations" / f"panoptic_{part}")
            pairs, notes = [], []
            if self.form == "panoptic":
                for picture, mask, segments in read_panoptic(source, table.labels):
                    pairs.append((pictures / picture, masks / mask))
                    notes.append(to_json(segments))
            else:  # a picture without instances is background
                found = read_instances(source, published=True, shapes=True)
                hold_categories(source, found.ids, table.labels)
                for picture, height, width, objects in found.rows:
                    pairs.append((pictures / picture, source))
                    notes.append(to_json((height, width, objects)))
            # As text in one array: Python objects take several times that, again in each forked worker.
            self._notes, self._ends = np.frombuffer(b"".join(notes), np.uint8), np.cumsum([0, *map(len, notes)])
        require(root, pairs, source.name, self.layout)
        super().__init__(
            pairs,
            title=f"coco_{self.form}",
            split=split,
            classes=table.classes,
            colors=table.colors,
            lookup=lookup_of(table.labels if self.form == "stuff" else {i: i for i in range(len(table.classes))}),
            published=COUNTS.get(split),
        )

    @staticmethod
    def recognises(path: str | Path) -> bool:
        parts = [f"{kind}{split}2017" for kind in ("", "images/", "stuffthingmaps/") for split in ("train", "val")]
        parts += [f"annotations/{kind}_{split}2017.json" for kind in COCO.words[:2] for split in ("train", "val")]
        return any((Path(path) / part).exists() for part in parts)

    def recognise(self, counts: np.ndarray, holds: np.ndarray) -> str:
        """Other numbers of the stuff classes. Those of COCO have gaps, the same value in none of its numberings."""
        gaps = [value for value in range(1, STUFF + 1) if self.lookup[value] < 0]
        if self.form != "stuff" or not counts[gaps].any():
            return ""
        kind = "label ids, 0 to 182" if counts[len(self.classes) : IGNORE].any() else "train ids, 0 to 170"
        wrong = next(value for value in gaps if counts[value])
        return (
            f"the masks hold {wrong}, which stuffthingmaps never hold, so they are {kind}; "
            "the published masks, 0 to 181 and 255, are needed"
        )

    def values(self, index: int) -> np.ndarray:
        if self.form == "stuff":
            return super().values(index)
        file = self.pair(index)[1]
        note = from_json(self._notes[self._ends[index] : self._ends[index + 1]].tobytes())
        if self.form == "instances":
            height, width, objects = note
            return draw(file, height, width, [Annotation(*found) for found in objects])
        codes = read_codes(file)
        labels = translate_codes(codes, {0: IGNORE, **dict(note)})
        if labels.min() < 0:
            raise UserError(f"{file}: the segment {codes[labels < 0][0]} isn't in the JSON; do they belong together?")
        return labels.astype(np.uint8)


def _either(one: Path, other: Path) -> Path:
    return other if other.exists() and not one.exists() else one
