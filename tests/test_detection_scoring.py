"""Average precision against a naive one, written from its definition, on random detections."""

import math

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from densessl.detection.datasets import Objects
from densessl.detection.scoring import SCORES, as_coco, average_precision, detections

SIDE = 160
SIZES = {"ap": (0, 1e10), "ap_small": (0, 32**2), "ap_medium": (32**2, 96**2), "ap_large": (96**2, 1e10)}


class Drawn:
    """Random boxes, or ellipses in them, some of them crowds and some difficult; one class never occurs."""

    title, split, classes, colors, masks = "drawn", "val", ("a", "b", "never"), ((255, 0, 0),) * 3, True

    def __init__(self, seed: int, pictures: int = 6) -> None:
        rng = np.random.default_rng(seed)
        self.labelled = range(pictures)
        self.drawn = [objects(rng, int(rng.integers(0, 6))) for _ in range(pictures)]

    def __len__(self):
        return len(self.drawn)

    def size(self, index):
        return SIDE, SIDE

    def picture(self, index):
        return np.full((SIDE, SIDE, 3), 20 * index, np.uint8)

    def objects(self, index):
        return self.drawn[index]

    def name(self, index):
        return str(index)


def boxes_of(rng, count):
    start = rng.uniform(0, 100, (count, 2))
    return np.concatenate([start, np.minimum(start + rng.uniform(4, 150, (count, 2)), SIDE)], 1)


def ellipse(box):
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    left, top, right, bottom = box
    inside = ((columns - (left + right) / 2) / (right - left)) ** 2 + (
        (rows - (top + bottom) / 2) / (bottom - top)
    ) ** 2
    return inside <= 0.25


def code(mask):
    return rle.encode(np.asfortranarray(mask, np.uint8))


def objects(rng, count):
    boxes = boxes_of(rng, count)
    masks = [ellipse(box) for box in boxes]
    kind = rng.choice(3, count, p=(0.7, 0.15, 0.15))
    return Objects(
        boxes,
        rng.integers(1, 3, count),
        np.array([mask.sum() for mask in masks], np.float64),
        kind == 1,
        kind == 2,
        [code(mask) for mask in masks],
    )


def random_detections(data, seed):
    """Near objects and anywhere, with scores that tie, in pictures' order."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(len(data)):
        truth = data.objects(index)
        near = np.repeat(truth.boxes, 3, 0) + rng.normal(0, 5, (3 * len(truth.boxes), 4))
        boxes = np.concatenate([near, boxes_of(rng, 3)])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
        labels = np.concatenate([np.repeat(truth.labels, 3), rng.integers(1, 4, 3)])
        for place in rng.permutation(len(boxes)):
            left, top, right, bottom = boxes[place].tolist()
            label = int(labels[place]) if rng.random() < 0.9 else int(rng.integers(1, 4))
            rows.append(
                {
                    "image_id": index,
                    "category_id": label,
                    "score": float(rng.integers(1, 8)) / 8,
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": code(ellipse(boxes[place])),
                }
            )
    return rows


def overlap(found, truth, own):
    """Intersection over union, or with ``own`` over what was found; of boxes (4,) or masks."""
    if found.ndim == 1:
        across = min(found[2], truth[2]) - max(found[0], truth[0])
        down = min(found[3], truth[3]) - max(found[1], truth[1])
        both = max(0.0, across) * max(0.0, down)
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (found, truth)]
    else:
        both, areas = float((found & truth).sum()), [float(found.sum()), float(truth.sum())]
    return both / (areas[0] if own else areas[0] + areas[1] - both)


def naive(data, rows, kind, label, threshold, sizes):
    """One class's average precision at one threshold, for objects of an area within ``sizes``; None without any."""
    hits, positives = [], 0  # (score, hit) of all that counts
    for index in range(len(data)):
        truth = data.objects(index)
        shapes = truth.boxes if kind == "box" else truth.masks(SIDE, SIDE).astype(bool)
        targets = []  # shape, ignored, many may match it, crowd
        for shape, of, area, crowd, difficult in zip(
            shapes, truth.labels, truth.areas, truth.crowd, truth.difficult, strict=True
        ):
            if of == label:
                ignored = crowd or difficult or not sizes[0] <= area <= sizes[1]
                targets.append((shape, ignored, crowd or difficult, crowd))
                positives += not ignored
        targets.sort(key=lambda target: target[1])
        taken: set[int] = set()
        own = [row for row in rows if (row["image_id"], row["category_id"]) == (index, label)]
        for row in sorted(own, key=lambda row: -row["score"])[:100]:
            left, top, across, down = row["bbox"]
            shape = np.array([left, top, left + across, top + down])
            area = across * down
            if kind == "mask":
                shape = rle.decode(row["segmentation"]).astype(bool)
                area = shape.sum()
            best, at = threshold, None
            for place, (target, ignored, many, crowd) in enumerate(targets):
                if place in taken and not many:
                    continue
                if at is not None and ignored and not targets[at][1]:
                    break  # what counts comes before what is ignored
                if (value := overlap(shape, target, crowd)) >= best:
                    best, at = value, place
            if at is None:
                if sizes[0] <= area <= sizes[1]:
                    hits.append((row["score"], False))
                continue
            taken.add(at)
            if not targets[at][1]:
                hits.append((row["score"], True))
    if not positives:
        return None
    hits.sort(key=lambda hit: -hit[0])  # of equal ones the first picture's first
    points, right = [], 0
    for place, (_, hit) in enumerate(hits, 1):
        right += hit
        points.append((right / positives, right / place))
    levels = [i / 100 for i in range(101)]
    return sum(max((p for r, p in points if r >= level - 1e-12), default=0.0) for level in levels) / 101


def mean(values):
    have = [value for value in values if value is not None]
    return sum(have) / len(have) if have else math.nan


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_are_those_of_a_naive_implementation(seed, kind):
    data = Drawn(seed)
    rows = random_detections(data, seed)
    assert len({row["score"] for row in rows}) < len(rows) / 3
    found = average_precision(data, rows, kind)
    steps = [0.5 + 0.05 * i for i in range(10)]
    table = {
        (name, label, step): naive(data, rows, kind, label, step, sizes)
        for name, sizes in SIZES.items()
        for label in (1, 2, 3)
        for step in steps
    }
    want = {name: mean(table[name, label, step] for label in (1, 2, 3) for step in steps) for name in SIZES}
    want |= {f"ap{n}": mean(table["ap", label, step] for label in (1, 2, 3)) for n, step in ((50, 0.5), (75, steps[5]))}
    assert set(want) == set(SCORES)
    assert 0.02 < want["ap"] < want["ap50"] < 0.98
    for name, value in want.items():
        assert found["scores"][name] == pytest.approx(value, abs=1e-9, nan_ok=True), name
    for label, name in enumerate(data.classes, 1):
        each = mean(table["ap", label, step] for step in steps)
        assert found["class_ap"][name] == pytest.approx(each, abs=1e-9, nan_ok=True)
    assert math.isnan(found["class_ap"]["never"])


def truth_of(*kinds):
    """One picture with an object of class a from (10, 10) to (50, 50) for each word."""
    data = Drawn(0, 1)
    box = np.array([[10.0, 10, 50, 50]])
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:50, 10:50] = True
    boxes = np.concatenate([box + 55 * i * np.array([1, 0, 1, 0]) for i in range(len(kinds))])
    masks = [code(np.roll(mask, 55 * i, 1)) for i in range(len(kinds))]
    crowd, difficult = (np.array([kind == word for kind in kinds]) for word in ("crowd", "difficult"))
    data.drawn = [Objects(boxes, np.ones(len(kinds), int), np.full(len(kinds), 1600.0), crowd, difficult, masks)]
    return data


def seen(left, top, right, bottom, score=0.5):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top:bottom, left:right] = True
    bbox = [left, top, right - left, bottom - top]
    return {"image_id": 0, "category_id": 1, "score": score, "bbox": bbox, "segmentation": code(mask)}


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_cases_by_hand(kind):
    def ap(data, *rows):
        return round(average_precision(data, rows, kind)["scores"]["ap"], 9)

    one, right = truth_of("plain"), seen(10, 10, 50, 50, 0.9)
    assert ap(one, right) == 1
    assert ap(one) == 0
    assert ap(one, seen(10, 10, 50, 50, 0.8), right) == 1  # the second finds it again, after all recall is reached
    assert ap(one, seen(100, 100, 140, 140, 0.95), right) == 0.5
    assert ap(one, seen(10, 10, 50, 39)) == 0.5  # overlap 0.725 passes 0.5 to 0.7
    both = truth_of("plain", "difficult")
    assert ap(both, seen(65, 10, 105, 50, 0.95), seen(65, 10, 105, 50, 0.94), right) == 1  # neither hit nor miss
    assert ap(both, seen(65, 10, 105, 20, 0.95), right) == 0.5  # a part of a difficult object is a miss
    assert ap(truth_of("plain", "crowd"), seen(65, 10, 105, 20, 0.95), right) == 1  # but not of a crowd
    assert math.isnan(ap(truth_of("crowd"), right))


def test_detections_are_written_as_coco_does():
    data = truth_of("plain")
    masks = torch.zeros(2, 1, SIDE, SIDE)
    masks[0, 0, 10:50, 10:50] = 0.6
    masks[1, 0, 10:50, 10:50] = 0.5  # not above one half

    def detect(picture):
        assert picture.shape == (3, SIDE, SIDE)
        boxes = torch.tensor([[10.0, 10, 50, 50], [10, 10, 50, 50]])
        return {"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.75, 0.5]), "masks": masks}

    first, second = detections(detect, data, device=torch.device("cpu"))
    assert (first["image_id"], first["category_id"], first["score"], first["bbox"]) == (0, 1, 0.75, [10, 10, 40, 40])
    assert rle.area(first["segmentation"]) == 1600
    assert rle.area(second["segmentation"]) == 0
    for kind in ("box", "mask"):
        assert average_precision(data, [first, second], kind)["scores"]["ap"] == pytest.approx(1)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "scores": torch.zeros(0), "masks": masks[:0]}
    assert as_coco(0, nothing) == []
