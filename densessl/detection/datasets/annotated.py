"""A data set that is pictures in files, and what was written about the objects in each."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from pydantic_core import from_json, to_json

from densessl.data.annotations import Annotation
from densessl.data.palette import palette
from densessl.detection.datasets.objects import Objects
from densessl.errors import UserError
from densessl.segmentation.datasets.files import read_picture, told_turn
from densessl.trees import few, incomplete

log = logging.getLogger("densessl")


class Annotated:
    """One picture an item; there is at least one, and one object at least.

    ``rows`` are (picture, height, width, objects), ``source`` the file that names them. Where there are not
    ``published`` pictures, that is said: scores of a part are no scores of the whole. Raises UserError for missing
    files.
    """

    def __init__(
        self,
        root: Path,
        rows: Iterable[tuple[Path, int, int, list[Annotation]]],
        *,
        title: str,
        split: str,
        classes: tuple[str, ...],
        source: str,
        layout: str,
        published: int | None = None,
    ) -> None:
        self.title, self.split, self.classes = title, split, classes
        self.colors = tuple(palette(i + 1) for i in range(len(classes)))
        self.source = source
        files: list[bytes] = []
        sizes, notes, labelled, shapes, crowds = [], [], [], [], 0
        found: set[int] = set()
        for file, height, width, objects in rows:
            narrow = [min(o.box[2] - o.box[0], o.box[3] - o.box[1]) < 1 for o in objects]
            crowds += sum(o.crowd for o in objects)
            if not all(o.crowd or thin for o, thin in zip(objects, narrow, strict=True)):
                labelled.append(len(files))
            shapes += [o.shape is not None for o in objects]
            found.update(o.label for o in objects)
            files.append(os.fsencode(file))
            sizes.append((height, width))
            notes.append(to_json(objects))
        if not files:
            raise incomplete(root, f"{source} names no pictures", layout)
        folders: dict[Path, set[str]] = {}
        missing = []
        for file in map(Path, map(os.fsdecode, files)):
            if file.parent not in folders:
                folders[file.parent] = set(os.listdir(file.parent)) if file.parent.is_dir() else set()
            if file.name not in folders[file.parent]:
                missing.append(f"{file.parent.name}/{file.name}")
        if missing:
            raise incomplete(root, f"{len(missing)} pictures of {source} are missing: {few(missing)}", layout)
        if not labelled:
            why = "it has no annotation" if not shapes else f"of its {len(shapes)} annotations {crowds} are crowds"
            if thin := len(shapes) - crowds:
                why += f", and {thin} are narrower than a pixel, as boxes from 0 to 1 are, where pixels are right"
            raise UserError(f"{root}: {source} has no object, there is nothing to learn or to score: {why}")
        # As bytes in one array: Python objects take several times that, again in each forked worker.
        self._files, self._sizes = np.array(files), np.array(sizes)
        self._notes, self._ends = np.frombuffer(b"".join(notes), np.uint8), np.cumsum([0, *map(len, notes)])
        self.labelled: Sequence[int] = labelled  # pictures with an object that is no crowd and as wide as a pixel
        self.masks = all(shapes)
        if absent := [name for label, name in enumerate(classes, 1) if label not in found]:
            log.warning("%s %s: no object is of %s, of %d classes", title, split, few(absent), len(classes))
        if published not in (None, len(files)):
            log.warning("%s: %d of the %d pictures of %s are here", title, len(files), published, split)

    def __len__(self) -> int:
        return len(self._files)

    def file(self, index: int) -> Path:
        return Path(os.fsdecode(self._files[index]))

    def name(self, index: int) -> str:
        return self.file(index).stem

    def size(self, index: int) -> tuple[int, int]:
        """Height, width."""
        height, width = self._sizes[index].tolist()
        return height, width

    def picture(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8. Raises UserError where it isn't as large as its boxes think."""
        picture = read_picture(self.file(index))
        if picture.shape[:2] != self.size(index):
            height, width = self.size(index)
            raise UserError(
                f"{self.file(index)}: the picture is {picture.shape[1]}x{picture.shape[0]} pixels"
                f"{told_turn(self.file(index))}, {self.source} says {width}x{height}; the boxes would not fit"
            )
        return picture

    def objects(self, index: int) -> Objects:
        """Raises UserError for run lengths that were cut."""
        notes = from_json(self._notes[self._ends[index] : self._ends[index + 1]].tobytes())
        found = [Annotation(*note) for note in notes]
        boxes = np.array([o.box for o in found], np.float64).reshape(-1, 4)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        shapes = None
        if self.masks:
            from pycocotools import mask as rle

            shapes = [o.drawn(self.source, *self.size(index)) for o in found]
            areas = rle.area(shapes).astype(np.float64) if shapes else areas
        given = [o.area for o in found]
        return Objects(
            boxes,
            np.array([o.label for o in found], np.int64),
            np.array([own if area is None else area for own, area in zip(areas.tolist(), given, strict=True)]),
            np.array([o.crowd for o in found], bool),
            np.array([o.difficult for o in found], bool),
            shapes,
        )
