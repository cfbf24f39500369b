"""A confusion matrix as a picture whose class names can be read, however many there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FULL = np.array((8, 48, 107))  # dark blue; white is nothing
ABSENT = (225, 225, 225)
NUMBERS = 30  # classes up to which cells hold numbers
LONGEST = 32  # letters of a name
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
GAP, LINE = 8, 20  # pixels: around everything, a line of text
SCALE = (0, 1, 5, 10, 25, 50, 100)  # per cent, of the legend


def confusion_chart(confusion: Tensor, classes: Sequence[str], title: str) -> Image.Image:
    """(classes, classes) counts, rows truth, columns prediction, each row divided by its sum.

    Colours go with the square root, so that 1 % can be seen beside 100 %. Rows of classes that are not in the truth are
    grey. 171 classes make a picture of about 3000 pixels a side.
    """
    counts = confusion.double().numpy()
    total = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(total, 1)
    cell = 36 if len(classes) <= NUMBERS else 16
    font = ImageFont.load_default(12)
    names = [name if len(name) <= LONGEST else name[: LONGEST - 3] + "..." for name in classes]
    margin = GAP + round(max(font.getlength(name) for name in names))
    side, above = cell * len(classes), 2 * LINE + 2 * GAP
    left, top = GAP + margin, above + margin
    says = f"{title}\nrows truth, columns prediction, % of the row; grey: not in the truth"
    width = (
        max(
            left + side,
            *(GAP + round(font.getlength(line)) for line in says.splitlines()),
            left + len(SCALE) * 3 * LINE,
        )
        + GAP
    )
    page = Image.new("RGB", (width, top + side + 2 * LINE + GAP), "white")
    draw = ImageDraw.Draw(page)
    draw.multiline_text((GAP, GAP), says, "black", font)

    colors = np.where(total[:, :, None] > 0, _color(shares), ABSENT).astype(np.uint8)
    page.paste(Image.fromarray(colors.repeat(cell, 0).repeat(cell, 1)), (left, top))
    page.paste(_names(names, margin, cell, font, "right"), (GAP, top))
    page.paste(_names(names, margin, cell, font, "left").rotate(90, expand=True), (left, above))
    for i in range(0, len(classes) + 1, 1 if len(classes) <= NUMBERS else 5):
        at = i * cell
        draw.line((left, top + at, left + side, top + at), ABSENT)
        draw.line((left + at, top, left + at, top + side), ABSENT)
    if len(classes) <= NUMBERS:
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
            share, middle = shares[row, column], (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
            draw.text(middle, f"{100 * share:.0f}", "white" if share > 0.25 else "black", font, anchor="mm")
    for i, share in enumerate(SCALE):
        x, y = left + i * 3 * LINE, top + side + LINE
        draw.rectangle((x, y, x + 16, y + 16), tuple(_color(np.array(share / 100)).astype(int)), "gray")
        draw.text((x + 22, y + 1), f"{share} %", "black", font)
    return page


def _color(share: np.ndarray) -> np.ndarray:
    """(..., 3) from white to FULL."""
    return 255 + np.sqrt(share)[..., None] * (FULL - 255)


def _names(names: Sequence[str], width: int, cell: int, font: Font, side: str) -> Image.Image:
    """One name a row of cells, at the ``side`` "left" or "right" of a strip."""
    strip = Image.new("RGB", (width, cell * len(names)), "white")
    draw = ImageDraw.Draw(strip)
    for i, name in enumerate(names):
        x, anchor = (4, "lm") if side == "left" else (width - 4, "rm")
        draw.text((x, (i + 0.5) * cell), name, "black", font, anchor=anchor)
    return strip
