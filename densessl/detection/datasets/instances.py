"""COCO's file of instances: its pictures, categories and objects, every entry held against the others."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from densessl.detection.datasets.annotated import Annotation
from densessl.detection.datasets.objects import box_in, check_shape
from densessl.errors import UserError


class Instances(NamedTuple):
    """``rows`` are (file name, height, width, objects); labels count ``classes`` from 1, in the order of ``ids``."""

    ids: tuple[int, ...]
    classes: tuple[str, ...]
    rows: list[tuple[str, int, int, list[Annotation]]]


def read_instances(file: Path, *, published: bool = False) -> Instances:
    """Raises UserError naming the file and the entry.

    In ``published`` files, which have a few, boxes that reach out are cut, empty ones pass, to be left out of training,
    and polygons of no area are none; in anyone's own they are mistakes, like corners where COCO has width and height.
    """
    try:
        content = json.loads(file.read_bytes())
        images, annotations, categories = (content[key] for key in ("images", "annotations", "categories"))
        names = {c["id"]: str(c["name"]) for c in categories}
        sizes = {i["id"]: (str(i["file_name"]), _count(i["height"]), _count(i["width"])) for i in images}
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a file of COCO's instances: {type(error).__name__} {error}") from None
    if not names:
        raise UserError(f"{file}: there are no categories")
    for what, found, all_ in (("categories", names, categories), ("images", sizes, images)):
        if len(found) != len(all_):
            raise UserError(f"{file}: {len(all_) - len(found)} of the {what} have the id of another")
    if len({name for name, _, _ in sizes.values()}) != len(sizes):
        raise UserError(f"{file}: a file_name stands twice among the images")
    ids = tuple(sorted(names))
    labels = {category: label for label, category in enumerate(ids, 1)}
    objects: dict[Any, list[Annotation]] = defaultdict(list)
    for place, entry in enumerate(annotations):
        number = entry.get("id", f"at place {place}") if isinstance(entry, dict) else f"at place {place}"
        try:
            if entry["image_id"] not in sizes:
                raise UserError(f"its image_id {entry['image_id']!r} is none of the {len(sizes)} images")
            if entry["category_id"] not in labels:
                known = ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")
                raise UserError(f"its category_id {entry['category_id']!r} is none of the categories: {known}")
            _, height, width = sizes[entry["image_id"]]
            objects[entry["image_id"]].append(_annotation(entry, labels, height, width, published))
        except (UserError, ValueError) as error:
            raise UserError(f"{file}: annotation {number}: {error}") from None
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{file}: annotation {number} isn't as COCO has it: {type(error).__name__} {error}"
            ) from None
    return Instances(
        ids,
        tuple(names[i] for i in ids),
        [(name, height, width, objects.get(i, [])) for i, (name, height, width) in sizes.items()],
    )


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"a height or width of {value!r}")
    return value


def _annotation(entry: Any, labels: dict[Any, int], height: int, width: int, published: bool) -> Annotation:
    left, top, across, down = map(float, entry["bbox"])
    if across < 0 or down < 0 or (not published and 0 in (across, down)):
        raise UserError(f"its bbox {entry['bbox']} has no extent; COCO's boxes are x, y, width, height")
    try:
        box = box_in((left, top, left + across, top + down), width, height, clip=published)
    except UserError as error:
        raise UserError(f"{error}; COCO's boxes are x, y, width, height") from None
    shape = entry.get("segmentation") or None
    if published and isinstance(shape, list):  # less than three points have no area; four numbers would be a box
        shape = [p for p in shape if len(p) >= 6] or {"size": [height, width], "counts": [height * width]}
    if shape is not None:
        check_shape(shape, height, width)
    area = entry.get("area")
    if area is not None and not (math.isfinite(area) and area >= 0):
        raise UserError(f"its area is {area}")
    return Annotation(labels[entry["category_id"]], box, area, bool(entry.get("iscrowd", 0)), False, shape)
