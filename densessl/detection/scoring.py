"""Detections held against the truth as COCO does, picture by picture shared out among the processes."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torch.utils.data import DataLoader

from densessl.detection.datasets import DetectionDataset
from densessl.detection.samples import ValidationSamples
from densessl.progress import progress
from densessl.training import distributed

SCORES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
KINDS = {"box": "bbox", "mask": "segm"}  # and what pycocotools calls them
Detection = dict[str, Any]  # image_id (the picture's index), category_id (the label), score, bbox, segmentation if any


class Evaluation(COCOeval):
    """COCO's, and VOC's difficult objects: ignored like crowds, but matched by intersection over union."""

    def computeIoU(self, imgId: int, catId: int) -> Any:
        difficult = [gt for gt in self._gts[imgId, catId] if gt["difficult"]]
        for gt in difficult:  # of a crowd any part would do
            gt["iscrowd"] = 0
        overlaps = super().computeIoU(imgId, catId)
        for gt in difficult:
            gt["iscrowd"] = 1
        return overlaps


def detections(
    detect: Callable[[Tensor], dict[str, Tensor]], data: DetectionDataset, *, device: torch.device, workers: int = 0
) -> list[Detection]:
    """Of all pictures, in their order; a call of all processes, which share them out. Raises UserError.

    ``detect`` takes a picture (3, H, W) on ``device`` and gives what torchvision's detectors give for it.
    """
    found = []
    samples = ValidationSamples(data, distributed.rank(), distributed.world_size())
    for index, picture in progress(DataLoader(samples, None, num_workers=workers), "validate"):
        found += as_coco(index, detect(picture.to(device)))
    return sorted(everyones(found), key=lambda d: d["image_id"])


def as_coco(index: int, found: dict[str, Tensor]) -> list[Detection]:
    """COCO's form of what a detector found in picture ``index``; masks are cut at one half."""
    boxes = found["boxes"].double()
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    rows: list[Detection] = [
        {"image_id": index, "category_id": label, "score": score, "bbox": box}
        for label, score, box in zip(found["labels"].tolist(), found["scores"].tolist(), boxes.tolist(), strict=True)
    ]
    if "masks" in found and rows:
        masks = (found["masks"][:, 0] > 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        for row, code in zip(rows, rle.encode(np.asfortranarray(masks)), strict=True):
            row["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}
    return rows


def everyones(rows: list[Any]) -> list[Any]:
    """What all processes have, in the order of their ranks, as JSON carries it."""
    if distributed.world_size() == 1:
        return rows
    text = torch.frombuffer(bytearray(json.dumps(rows).encode()), dtype=torch.uint8).to(distributed.message_device())
    sizes = distributed.gather(torch.tensor([len(text)], device=text.device)).tolist()
    padded = torch.nn.functional.pad(text, (0, max(sizes) - len(text)))
    texts = distributed.gather(padded[None]).cpu().numpy()
    return [row for size, text in zip(sizes, texts, strict=True) for row in json.loads(text[:size].tobytes())]


def average_precision(data: DetectionDataset, found: Sequence[Detection], kind: str) -> dict[str, dict[str, float]]:
    """COCO's scores of boxes or masks: ``scores``, the SCORES, and ``class_ap``. NaN where there is no object.

    The mean over 10 thresholds of overlap from 0.5 to 0.95, over 101 points of recall, and over the classes that occur;
    at most 100 detections of a picture. Small is below 32^2 pixels, large above 96^2 (Lin et al. 2014).
    """
    truth = {
        "images": [dict(zip(("height", "width"), data.size(i), strict=True), id=i) for i in range(len(data))],
        "categories": [{"id": label, "name": name} for label, name in enumerate(data.classes, 1)],
        "annotations": _annotations(data, kind),
    }
    own = "segmentation" if kind == "mask" else "bbox"
    rows = [{key: row[key] for key in ("image_id", "category_id", "score", own)} for row in found]
    for number, row in enumerate(rows, 1):
        area = rle.area(row[own]) if kind == "mask" else row[own][2] * row[own][3]
        row |= {"id": number, "area": float(area), "iscrowd": 0}
    with contextlib.redirect_stdout(io.StringIO()):  # it talks
        evaluation = Evaluation(_index(truth), _index(truth | {"annotations": rows}), KINDS[kind])
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # thresholds, recalls, classes, sizes; -1: no object
    everywhere = precision[..., 0]
    parts = (everywhere, everywhere[:1], everywhere[5:6], *(precision[..., size] for size in (1, 2, 3)))
    classes = zip(data.classes, np.moveaxis(everywhere, -1, 0), strict=True)
    return {
        "scores": {name: _mean(part) for name, part in zip(SCORES, parts, strict=True)},
        "class_ap": {name: _mean(part) for name, part in classes},
    }


def _annotations(data: DetectionDataset, kind: str) -> list[dict[str, Any]]:
    """Numbered from 1: pycocotools takes 0 for no match."""
    rows: list[dict[str, Any]] = []
    for index in range(len(data)):
        objects = data.objects(index)
        for place, (left, top, right, bottom) in enumerate(objects.boxes.tolist()):
            difficult = bool(objects.difficult[place])
            row = {
                "id": len(rows) + 1,
                "image_id": index,
                "category_id": int(objects.labels[place]),
                "bbox": [left, top, right - left, bottom - top],
                "area": float(objects.areas[place]),
                "iscrowd": int(difficult or objects.crowd[place]),
                "difficult": difficult,
            }
            if kind == "mask":
                assert objects.shapes is not None
                row["segmentation"] = objects.shapes[place]
            rows.append(row)
    return rows


def _index(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _mean(precision: np.ndarray) -> float:
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else math.nan
