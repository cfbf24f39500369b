"""A sheet of input, truth and detections side by side, with boxes and masks in the data set's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as rle
from torchvision.utils import draw_segmentation_masks

from densessl.detection.datasets import DetectionDataset
from densessl.detection.scoring import Detection

WIDTH, GAP, LINE = 400, 8, 20  # pixels: a column, the space between, a line of text
LEAST, BEST = 0.3, 3  # the score of a detection that is shown, and how many are shown whatever their score
COLUMNS = ("input", "truth", f"detections scored {LEAST} and more, or the best {BEST}")


def sheet(data: DetectionDataset, found: Mapping[int, Sequence[Detection]], title: str) -> Image.Image:
    """One row a picture, labelled columns; ``found`` are detections by the picture's index."""
    rows = [(data.name(index), _row(data, index, found[index])) for index in sorted(found)]
    page = Image.new(
        "RGB",
        (GAP + len(COLUMNS) * (WIDTH + GAP), 2 * LINE + sum(parts[0].height + LINE + GAP for _, parts in rows)),
        "white",
    )
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    draw.text((GAP, 3), title, "black", font)
    for column, text in enumerate(COLUMNS):
        draw.text((GAP + column * (WIDTH + GAP), LINE + 3), text, "black", font)
    top = 2 * LINE
    for name, parts in rows:
        for column, part in enumerate(parts):
            page.paste(part, (GAP + column * (WIDTH + GAP), top))
        draw.text((GAP, top + parts[0].height + 2), name, "dimgray", font)
        top += parts[0].height + LINE + GAP
    return page


def _row(data: DetectionDataset, index: int, found: Sequence[Detection]) -> list[Image.Image]:
    picture, objects = data.picture(index), data.objects(index)
    names = [data.classes[label - 1] for label in objects.labels]
    ignored = objects.crowd | objects.difficult
    names = [f"{name} (ignored)" if out else name for name, out in zip(names, ignored, strict=True)]
    masks = objects.masks(*picture.shape[:2]) if data.masks else None
    truth = drawn(picture, objects.boxes, names, [data.colors[label - 1] for label in objects.labels], masks)
    ranked = sorted(found, key=lambda row: -row["score"])
    shown = [row for place, row in enumerate(ranked) if place < BEST or row["score"] >= LEAST]
    boxes = np.array([row["bbox"] for row in shown], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    names = [f"{data.classes[row['category_id'] - 1]} {row['score']:.2f}" for row in shown]
    colors = [data.colors[row["category_id"] - 1] for row in shown]
    masks = (
        np.array([rle.decode(row["segmentation"]) for row in shown]) if shown and "segmentation" in shown[0] else None
    )
    return [drawn(picture, boxes[:0], [], [], None), truth, drawn(picture, boxes, names, colors, masks)]


def drawn(
    picture: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    masks: np.ndarray | None,
) -> Image.Image:
    """The picture (H, W, 3), WIDTH pixels wide, with boxes (N, 4), their names, and masks (N, H, W)."""
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    if masks is not None and len(masks):
        image = draw_segmentation_masks(image, torch.from_numpy(masks).bool(), alpha=0.5, colors=list(colors))
    height = max(1, round(WIDTH * picture.shape[0] / picture.shape[1]))
    page = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((WIDTH, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    for (left, top, right, bottom), name, color in zip(boxes * (WIDTH / picture.shape[1]), names, colors, strict=True):
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=2)
        draw.text((left + 4, top + 2), name, "white", font, stroke_width=1, stroke_fill="black")
    return page
