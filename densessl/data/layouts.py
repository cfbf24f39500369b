"""The scenes as files, in the layouts that pretraining and the evaluations read."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from densessl.data.in_order import in_order
from densessl.data.new_folder import new_folder
from densessl.data.palette import palette
from densessl.data.scenes import Scenes
from densessl.data.shapes import counts
from densessl.data.textures import GROUNDS, OBJECTS

# VOC's readers know VOC's classes alone, so the objects of the scenes go by these names there, in their order.
VOC_NAMES = dict(zip(OBJECTS, ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"), strict=True))
VOC_QUALITY = 95  # VOC's pictures are JPEG


def write_scenes(
    out: Path, layout: str, count: int = 400, val: int | None = None, size: int = 160, seed: int = 0
) -> dict[str, int]:
    """``count`` pictures of train and ``val`` (default: a quarter) of val, none for ``pictures``; how many of each.

    Layouts: see LAYOUTS. Raises UserError.
    """
    counts = {"train": count}
    if layout != "pictures":
        counts["val"] = max(1, count // 4) if val is None else val
    with new_folder(out) as part:
        for split, number in counts.items():
            LAYOUTS[layout](part, split, number, partial(_scenes_to, split, size, seed))
    return counts


def _scenes_to(split: str, size: int, seed: int, i: int) -> Scenes:
    """Scenes that have an i-th one. Made for each, since Scenes keep what they have drawn."""
    return Scenes(i + 1, size, seed, split)


Scene = Callable[[int], Scenes]


def _pictures(root: Path, split: str, count: int, scene: Scene) -> None:
    def draw(i: int) -> None:
        _save(root / f"{split}-{i:05d}.png", scene(i).read(i))

    _each(draw, count, split)


def _folder(root: Path, split: str, count: int, scene: Scene) -> None:
    """images/SPLIT, masks/SPLIT, classes.txt."""

    def draw(i: int) -> None:
        one = scene(i)
        _save(root / "images" / split / f"{split}-{i:05d}.png", one.read(i))
        _save_labels(root / "masks" / split / f"{split}-{i:05d}.png", one.mask(i))

    _each(draw, count, split)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in Scenes.classes), encoding="utf-8")


def _coco(root: Path, split: str, count: int, scene: Scene) -> None:
    """images/SPLIT and annotations/SPLIT.json, whose shapes are COCO's run lengths."""
    names = list(OBJECTS)
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }

    def draw(i: int) -> None:
        one = scene(i)
        file = f"{split}-{i:05d}.png"
        _save(root / "images" / split / file, one.read(i))
        content["images"].append({"id": i, "file_name": file, "height": one.size, "width": one.size})
        for name, shape in one.objects(i):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": i,
                    "category_id": names.index(name) + 1,
                    "bbox": rle.toBbox(shape).astype(int).tolist(),
                    "area": int(rle.area(shape)),
                    "iscrowd": 0,
                    "segmentation": {"size": shape["size"], "counts": counts(shape["counts"])},
                }
            )

    _each(draw, count, split)
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _voc(root: Path, split: str, count: int, scene: Scene) -> None:
    """VOCdevkit/VOC2012 with masks and boxes; the grounds are its background, and classes.txt tells what is what."""
    base = root / "VOCdevkit" / "VOC2012"
    labels = np.array([0] * len(GROUNDS) + list(range(1, len(OBJECTS) + 1)), np.uint8)
    stems = [f"{split}-{i:05d}" for i in range(count)]

    def draw(i: int) -> None:
        one = scene(i)
        _save(base / "JPEGImages" / f"{stems[i]}.jpg", one.read(i), quality=VOC_QUALITY, subsampling=0)
        _save_labels(base / "SegmentationClass" / f"{stems[i]}.png", labels[one.mask(i)])
        tree = ElementTree.Element("annotation")
        _put(tree, {"folder": "VOC2012", "filename": f"{stems[i]}.jpg"})
        _put(ElementTree.SubElement(tree, "size"), {"width": one.size, "height": one.size, "depth": 3})
        _put(tree, {"segmented": 1})
        for name, shape in one.objects(i):
            entry = ElementTree.SubElement(tree, "object")
            _put(entry, {"name": VOC_NAMES[name], "difficult": 0})
            left, top, width, height = rle.toBbox(shape).astype(int).tolist()
            # VOC counts pixels from 1, the last ones inside.
            box = {"xmin": left + 1, "ymin": top + 1, "xmax": left + width, "ymax": top + height}
            _put(ElementTree.SubElement(entry, "bndbox"), box)
        file = base / "Annotations" / f"{stems[i]}.xml"
        file.parent.mkdir(exist_ok=True)
        ElementTree.ElementTree(tree).write(file)

    _each(draw, count, split)
    for part in ("Segmentation", "Main"):
        (base / "ImageSets" / part).mkdir(parents=True, exist_ok=True)
        (base / "ImageSets" / part / f"{split}.txt").write_text(
            "".join(f"{stem}\n" for stem in stems), encoding="utf-8"
        )
    told = "".join(f"{voc}: {name}\n" for name, voc in VOC_NAMES.items())
    (base / "classes.txt").write_text(f"background: {', '.join(GROUNDS)}\n{told}", encoding="utf-8")


LAYOUTS: dict[str, Callable[[Path, str, int, Scene], None]] = {
    "pictures": _pictures,
    "folder": _folder,
    "coco": _coco,
    "voc": _voc,
}


def _each(draw: Callable[[int], None], count: int, split: str) -> None:
    for _ in in_order(draw, count, 0, f"drawn, {split}"):
        pass


def _put(parent: ElementTree.Element, values: dict[str, Any]) -> None:
    for name, value in values.items():
        ElementTree.SubElement(parent, name).text = str(value)


def _save(file: Path, picture: np.ndarray, **options: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file, **options)


def _save_labels(file: Path, labels: np.ndarray) -> None:
    """A palette picture in Pascal VOC's colours."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    image.putpalette([part for label in range(256) for part in palette(label)])
    image.save(file)
