"""COCO's annotations as labels: the segments of its panoptic masks, and its instances drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from pycocotools import mask as rle

from densessl.data.annotations import WRONG, Annotation, by_id, known, read_content, refusal
from densessl.errors import UserError
from densessl.segmentation.datasets.files import IGNORE
from densessl.trees import few

Segments = list[tuple[int, int]]  # (segment id, label)


def hold_categories(file: Path, found: Iterable[object], labels: dict[int, int]) -> None:
    """Raises UserError where the ids of a file's categories are not those of ``labels``."""
    ids = set(found)
    if wrong := [f"{i} is missing" for i in labels.keys() - ids] + [
        f"{i} is none of them" for i in ids - labels.keys()
    ]:
        raise UserError(
            f"{file}: its {len(ids)} categories are not COCO's {len(labels)} ({few(wrong)}); for classes of your own "
            "write masks and a classes.txt"
        )


def read_panoptic(file: Path, labels: dict[int, int]) -> Iterator[tuple[str, str, Segments]]:
    """Picture, mask and segments of each annotation. Raises UserError naming the file and the entry."""
    content = read_content(file)
    hold_categories(file, by_id(file, content, "categories", lambda category: None), labels)
    names = by_id(file, content, "images", lambda image: _name(image["file_name"]))
    for place, entry in enumerate(content["annotations"]):
        try:
            picture, segments = known(entry, "image_id", names, "images"), []
            for segment in entry["segments_info"]:
                if type(segment["id"]) is not int:
                    raise UserError(f"a segment has the id {segment['id']!r}; a number is right")
                segments.append((segment["id"], known(segment, "category_id", labels, "categories")))
            yield picture, _name(entry["file_name"]), segments
        except WRONG as error:
            raise refusal(file, "annotation", place, entry, error) from None


def draw(file: Path, height: int, width: int, objects: Iterable[Annotation]) -> np.ndarray:
    """(height, width) labels of objects with shapes; crowds are ignored. Raises UserError for run lengths cut."""
    layers = []
    for found in objects:
        code = found.drawn(file, height, width)
        label = IGNORE if found.crowd else found.label
        layers.append((not found.crowd, -int(rle.area(code)), label, rle.decode(code).astype(bool)))
    labels = np.zeros((height, width), np.uint8)
    for _, _, label, inside in sorted(layers, key=lambda layer: layer[:2]):
        labels[inside] = label
    return labels


def _name(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"its file_name is {value!r}")
    return value
