"""A sheet of input, truth, prediction and error side by side, in the data set's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from densessl.data.contact import as_rgb
from densessl.data.palette import palette
from densessl.segmentation.datasets import SegmentationDataset
from densessl.segmentation.datasets.files import IGNORE

WIDTH, GAP, LINE = 320, 8, 20  # pixels: a column, the space between, a line of text
COLUMNS = ("input", "truth", "prediction", "error")
IGNORED = palette(IGNORE)  # cream, as Pascal VOC shows it
RIGHT, WRONG, UNCOUNTED = (255, 255, 255), (215, 25, 28), (150, 150, 150)  # of the column of errors


def sheet(data: SegmentationDataset, predictions: Mapping[int, np.ndarray], title: str) -> Image.Image:
    """One row a picture, labelled columns, the colours below; ``predictions`` are (H, W) labels by picture's index."""
    rows = [_row(data, index, predictions[index]) for index in sorted(predictions)]
    heights = [max(1, round(WIDTH * parts[0].height / parts[0].width)) for _, parts in rows]
    legend = (*zip(data.classes, data.colors, strict=True), ("ignored", IGNORED))
    legend += (("right", RIGHT), ("wrong", WRONG), ("not counted", UNCOUNTED))
    swatches = _places([name for name, _ in legend])
    width = GAP + len(COLUMNS) * (WIDTH + GAP)
    height = 2 * LINE + sum(h + LINE + GAP for h in heights) + (swatches[-1][1] + 2) * LINE
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    draw.text((GAP, 3), title, "black", font)
    for column, text in enumerate(COLUMNS):
        draw.text((GAP + column * (WIDTH + GAP), LINE + 3), text, "black", font)
    top = 2 * LINE
    for (name, parts), size in zip(rows, heights, strict=True):
        for column, part in enumerate(parts):
            method = Image.Resampling.NEAREST if column else Image.Resampling.BICUBIC
            page.paste(part.resize((WIDTH, size), method), (GAP + column * (WIDTH + GAP), top))
        draw.text((GAP, top + size + 2), name, "dimgray", font)
        top += size + LINE + GAP
    for (x, line), (name, color) in zip(swatches, legend, strict=True):
        y = top + line * LINE
        draw.rectangle((x, y + 3, x + 14, y + 16), color, "black")
        draw.text((x + 20, y + 2), name, "black", font)
    return page


def _row(data: SegmentationDataset, index: int, prediction: np.ndarray) -> tuple[str, list[Image.Image]]:
    """What stands below the pictures of a row, and the pictures."""
    image, mask = data[index]
    counted = mask != IGNORE
    share = f", {(prediction == mask)[counted].mean():.0%} of pixels right" if counted.any() else ""
    parts = as_rgb(image), coloured(mask, data), coloured(prediction, data), errors(mask, prediction)
    return data.name(index) + share, [Image.fromarray(part) for part in parts]


def coloured(mask: np.ndarray, data: SegmentationDataset) -> np.ndarray:
    """(H, W, 3) uint8 from labels."""
    colors = np.full((IGNORE + 1, 3), IGNORED, np.uint8)
    colors[: len(data.colors)] = data.colors
    return colors[mask]


def errors(mask: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 that shows where the prediction is wrong, and where nothing is counted."""
    kinds = np.where(mask == IGNORE, 2, mask != prediction)
    return np.array((RIGHT, WRONG, UNCOUNTED), np.uint8)[kinds]


def _places(names: Sequence[str]) -> list[tuple[int, int]]:
    """(x, line) of each name of the legend, in columns of one width."""
    font = ImageFont.load_default(13)
    step = 36 + round(max(font.getlength(name) for name in names))
    columns = max(1, (len(COLUMNS) * (WIDTH + GAP)) // step)
    return [(GAP + i % columns * step, i // columns) for i in range(len(names))]
