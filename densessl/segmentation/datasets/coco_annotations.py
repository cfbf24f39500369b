"""COCO's annotation files: what they say about each picture, and instances drawn as labels."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from densessl.errors import UserError
from densessl.segmentation.datasets.class_table import ClassTable
from densessl.segmentation.datasets.files import IGNORE


def read_annotations(file: Path, table: ClassTable) -> dict[str, Any]:
    """The whole file, its categories held against the table's. Raises UserError."""
    try:
        content = json.loads(file.read_bytes())
        found = {category["id"] for category in content["categories"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a file of COCO's: {type(error).__name__} {error}") from None
    if found != table.labels.keys():
        raise UserError(
            f"{file}: its {len(found)} categories are not COCO's {len(table.labels)}; for classes of your own write "
            "masks and a classes.txt"
        )
    return content


def panoptic(content: dict[str, Any], labels: dict[int, int]) -> Iterator[tuple[str, str, Any]]:
    """Picture, mask, and (segment id, label) of its segments."""
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for a in content["annotations"]:
        segments = [(segment["id"], labels[segment["category_id"]]) for segment in a["segments_info"]]
        yield names[a["image_id"]], a["file_name"], segments


def instances(content: dict[str, Any], labels: dict[int, int]) -> Iterator[tuple[str, str, Any]]:
    """Picture, no mask, and what ``draw`` needs; a picture without instances is background."""
    objects: dict[int, list[Any]] = defaultdict(list)
    for a in content["annotations"]:
        label = IGNORE if a["iscrowd"] else labels[a["category_id"]]
        objects[a["image_id"]].append((a["id"], label, a["segmentation"]))
    for image in content["images"]:
        yield (
            image["file_name"],
            "",
            {"height": image["height"], "width": image["width"], "objects": objects.get(image["id"], [])},
        )


def draw(file: Path, height: int, width: int, objects: Iterable[tuple[int, int, Any]]) -> np.ndarray:
    """(height, width) labels; an object is (annotation id, label, polygons or run lengths). Raises UserError."""
    layers = []
    for number, label, shape in objects:
        try:
            if isinstance(shape, list):  # fewer than three points have no area, and four numbers would be a box
                polygons = [polygon for polygon in shape if len(polygon) >= 6]
                code = rle.merge(rle.frPyObjects(polygons, height, width)) if polygons else None
            else:
                runs = shape["counts"]
                if shape["size"] != [height, width] or (isinstance(runs, list) and sum(runs) != height * width):
                    raise ValueError(f"its runs don't fill the picture of {width}x{height}")  # but with stale memory
                code = rle.frPyObjects(shape, height, width) if isinstance(runs, list) else shape
            if code is not None:
                layers.append((label != IGNORE, -int(rle.area(code)), label, rle.decode(code).astype(bool)))
        except Exception as error:  # whatever pycocotools raises
            raise UserError(f"{file}: the shape of annotation {number} can't be drawn: {error}") from None
    labels = np.zeros((height, width), np.uint8)
    for _, _, label, inside in sorted(layers, key=lambda layer: layer[:2]):
        labels[inside] = label
    return labels
