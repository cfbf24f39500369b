"""COCO's annotation files: images, categories and objects, every entry held against the others."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json

from densessl.data.shapes import NUMBERS, box_in, check_shape, run_lengths
from densessl.errors import UserError


class Annotation(NamedTuple):
    """One object. ``shape`` is a list of polygons or run lengths as COCO has them, None where there is a box alone."""

    label: int  # from 1
    box: Sequence[float]  # left, top, right, bottom; empty where there is a shape alone
    area: float | None  # None: of the shape, or of the box
    crowd: bool = False
    difficult: bool = False
    shape: Any = None
    number: Any = None  # its id in the file

    def drawn(self, source: object, height: int, width: int) -> Any:
        """pycocotools' run lengths of the shape. Raises UserError for runs that were cut."""
        try:
            return run_lengths(self.shape, height, width)
        except ValueError as error:
            raise UserError(f"{source}: annotation {json.dumps(self.number)}: {error}") from None


class Instances(NamedTuple):
    """``rows`` are (file name, height, width, objects); labels count ``classes`` from 1, in the order of ``ids``."""

    ids: tuple[Any, ...]
    classes: tuple[str, ...]
    rows: list[tuple[str, int, int, list[Annotation]]]


def read_instances(file: Path, *, published: bool = False, shapes: bool = False) -> Instances:
    """The objects of a file of COCO's form.

    Args:
        file: with images, categories and annotations.
        published: boxes that reach out are cut, empty ones pass, to be left out of training, and polygons of less than
            three points are none: published files have a few. In anyone's own they are mistakes, like corners where
            COCO has width and height.
        shapes: every object has a shape, and may have no box. Otherwise it has a box, and may have no shape.

    Raises:
        UserError: Naming the file and the entry.
    """
    content = read_content(file)
    names = by_id(file, content, "categories", _name)
    sizes = by_id(file, content, "images", _size)
    if not names:
        raise UserError(f"{file}: there are no categories")
    for what, found in (("images", [name for name, _, _ in sizes.values()]), ("categories", [*names.values()])):
        if len(set(found)) != len(found):
            name, _ = Counter(found).most_common(1)[0]
            raise UserError(f"{file}: {name!r} stands twice among the {what}")
    ids = tuple(sorted(names))
    labels = {category: label for label, category in enumerate(ids, 1)}
    objects: dict[Any, list[Annotation]] = defaultdict(list)
    for place, entry in enumerate(content["annotations"]):
        try:
            _, height, width = known(entry, "image_id", sizes, "images")
            label = known(entry, "category_id", labels, "categories")
            objects[entry["image_id"]].append(_annotation(entry, label, height, width, published, shapes))
        except WRONG as error:
            raise refusal(file, "annotation", place, entry, error) from None
    rows = [(name, height, width, objects.get(i, [])) for i, (name, height, width) in sizes.items()]
    return Instances(ids, tuple(names[i] for i in ids), rows)


def _annotation(
    entry: dict[str, Any], label: int, height: int, width: int, published: bool, shapes: bool
) -> Annotation:
    crowd, area, shape = entry.get("iscrowd", 0), entry.get("area"), entry.get("segmentation")
    box: list[float] = []
    around = None
    if not shapes or entry.get("bbox") is not None:
        bbox = entry["bbox"]
        if not isinstance(bbox, list) or len(bbox) != 4 or not set(map(type, bbox)) <= NUMBERS:
            raise UserError(f"its bbox is {json.dumps(bbox)}; x, y, width, height are right, four numbers")
        left, top, across, down = bbox
        if across < 0 or down < 0 or (not published and 0 in (across, down)):
            raise UserError(f"its bbox {bbox} has no extent; COCO's boxes are x, y, width, height")
        around = (left, top, left + across, top + down)
        try:
            box = box_in(around, width, height, clip=published)
        except UserError as error:
            raise UserError(f"{error}; COCO's boxes are x, y, width, height") from None
    if crowd not in (0, 1):
        raise UserError(f"its iscrowd is {json.dumps(crowd)}; 0 or 1 is right, a number")
    if area is not None and (type(area) not in NUMBERS or not 0 <= area < math.inf):
        raise UserError(f"its area is {json.dumps(area)}; a number from 0 on is right")
    if shape == []:
        shape = None
    if shape is None and shapes:
        raise UserError("it has no segmentation")
    if published and isinstance(shape, list):  # less than three points have no area; four numbers would be a box
        shape = [p for p in shape if not isinstance(p, list) or len(p) >= 6]
        shape = shape or {"size": [height, width], "counts": [height * width]}
    if shape is not None:
        check_shape(shape, height, width, around)
    return Annotation(label, box, area, bool(crowd), False, shape, entry.get("id"))


# --- entries of any of COCO's files ---

WRONG = (KeyError, TypeError, ValueError, OverflowError)  # what an entry of another form raises


def read_content(file: Path) -> dict[str, Any]:
    """The file, with a list of objects each of images, categories and annotations. Raises UserError."""
    try:
        stored = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    try:
        content = from_json(stored)  # takes half the time of the json module, which reads more encodings
    except ValueError:
        try:
            content = json.loads(stored)
        except ValueError as error:
            raise UserError(f"{file}: not a file of COCO's: {error}") from None
    for key in ("images", "categories", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            there = isinstance(content, dict) and key in content
            wrong = f"{key} is {json.dumps(content[key])[:20]}" if there else f"it has no {key}"
            raise UserError(f"{file}: not a file of COCO's: {wrong}; a list of objects is right")
    return content


def by_id(file: Path, content: dict[str, Any], what: str, value: Callable[[Any], Any]) -> dict[Any, Any]:
    """Id -> the value of its entry. Raises UserError for ids that are none, of two types, or not unique."""
    found: dict[Any, Any] = {}
    kinds = set()
    one = {"images": "image", "categories": "category"}[what]
    for place, entry in enumerate(content[what]):
        try:
            kinds.add(type(entry["id"]))
            if not kinds <= {int} and kinds != {str}:
                raise UserError("ids have to be whole numbers, all of them, or texts")
            if entry["id"] in found:
                raise UserError(f"another of the {what} has its id")
            found[entry["id"]] = value(entry)
        except WRONG as error:
            raise refusal(file, one, place, entry, error) from None
    return found


def known(entry: dict[str, Any], key: str, ids: dict[Any, Any], what: str) -> Any:
    """What ``ids`` has for the id that an entry names. Raises UserError where it has nothing."""
    try:
        return ids[entry[key]]
    except (KeyError, TypeError):
        pass
    named = entry[key]
    some = ", ".join(map(json.dumps, sorted(ids)[:10])) + (", ..." if len(ids) > 10 else "")
    wrong = f"its {key} {json.dumps(named)} is none of the {len(ids)} {what}: {some}"
    if str(named) in map(str, ids):
        wrong += "; a number and a text are not the same"
    raise UserError(wrong)


def refusal(file: Path, what: str, place: int, entry: Any, error: Exception) -> UserError:
    """Says which entry of which file is wrong, by its id where it has one."""
    number = entry.get("id") if isinstance(entry, dict) else None
    which = f"{file}: {what} {f'at place {place}' if number is None else json.dumps(number)}"
    if not isinstance(entry, dict):
        return UserError(f"{which}: it is {json.dumps(entry)[:40]}, not an object with keys")
    if isinstance(error, KeyError):
        return UserError(f"{which}: it has no {error.args[0]}")
    return UserError(f"{which}: {error}")


def _name(category: Any) -> str:
    if not isinstance(category["name"], str | int):
        raise UserError(f"its name is {json.dumps(category['name'])}")
    return str(category["name"])


def _size(image: Any) -> tuple[str, int, int]:
    """File name, height, width."""
    name, height, width = image["file_name"], image["height"], image["width"]
    if not isinstance(name, str) or not name:
        raise UserError(f"its file_name is {json.dumps(name)}")
    for side in (height, width):
        if type(side) is not int or side < 1:
            raise UserError(f"a height or width of {json.dumps(side)}; a whole number of pixels is right")
    return name, height, width
