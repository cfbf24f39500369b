"""A figure: tiles in rows with what is said of them; drawn as one PNG here, as HTML by `page`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from densessl.data.contact import as_rgb, fitted
from densessl.visual.shades import Colour

GAP, LINE, MARGIN = 12, 20, 20  # pixels of a sheet: between tiles, of a line of text, around all
SIDE = 320  # pixels: the longest side of a tile, unless a figure says otherwise
INK, PALE = (25, 28, 33), (95, 102, 112)


class Tile(NamedTuple):
    """(h, w, 3) uint8, what it shows in words, and the label below it."""

    image: np.ndarray
    alt: str
    label: str


class Bar(NamedTuple):
    """A scale of colours (n, 3) uint8 and what its ends mean."""

    colours: np.ndarray
    low: str
    high: str
    title: str


class Table(NamedTuple):
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Figure(NamedTuple):
    """``name`` is that of its file. ``texts``: what is shown, what to look for, what not to conclude."""

    name: str
    title: str
    texts: Sequence[str]
    rows: Sequence[Sequence[Tile]]
    facts: Sequence[str] = ()  # a line each: numbers
    bar: Bar | None = None
    swatches: Sequence[tuple[Colour, str]] = ()
    tables: Sequence[Table] = ()
    side: int = SIDE  # pixels of a tile's longest side in the sheet


def as_shown(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """(h, w, 3) uint8 of a picture (h, w, C) of 8 or 16 bits, its longest side ``side``.

    Of one channel grey, of two red and green, of more the first three.
    """
    return fitted(as_rgb(picture), side, side)


def shown_tile(name: str, image: np.ndarray) -> Tile:
    return Tile(image, f"the picture {name}", name)


def cells(features: Tensor) -> str:
    """The size of a map (C, h, w), as in "14 x 19"."""
    return f"{features.shape[-2]} x {features.shape[-1]}"


# --- as one picture ---------------------------------------------------------------------------------------------------


def sheet(figure: Figure) -> Image.Image:
    """Title, tiles with their labels, scale and numbers, on white."""
    tiles = [[_within(tile.image, figure.side) for tile in row] for row in figure.rows]
    columns = max(map(len, tiles))
    widths = [max(row[i].shape[1] for row in tiles if i < len(row)) for i in range(columns)]
    widths = [max(width, min(figure.side, 120)) for width in widths]
    wide = max(2 * MARGIN + sum(widths) + GAP * (columns - 1), 640)
    small, large = ImageFont.load_default(14), ImageFont.load_default(20)
    title = _lines(figure.title, large, wide - 2 * MARGIN)
    notes = [line for fact in figure.facts for line in _lines(fact, small, wide - 2 * MARGIN)]
    head = MARGIN + 28 * len(title) + GAP
    high = head + sum(max(tile.shape[0] for tile in row) + LINE + GAP for row in tiles)
    extra = (2 * LINE + GAP) * (figure.bar is not None) + (LINE + GAP) * bool(figure.swatches)
    page = Image.new("RGB", (wide, high + extra + LINE * len(notes) + MARGIN), "white")
    draw = ImageDraw.Draw(page)
    for n, line in enumerate(title):
        draw.text((MARGIN, MARGIN + 28 * n), line, INK, large)
    top = head
    for row, images in zip(figure.rows, tiles, strict=True):
        left, tall = MARGIN, max(image.shape[0] for image in images)
        for tile, image, width in zip(row, images, widths, strict=False):
            page.paste(Image.fromarray(image), (left, top))
            draw.text((left, top + tall + 3), _cut(tile.label, small, width), PALE, small)
            left += width + GAP
        top += tall + LINE + GAP
    if figure.bar:
        top = _draw_bar(page, figure.bar, top, small)
    if figure.swatches:
        top = _draw_swatches(draw, figure.swatches, top, small)
    for n, line in enumerate(notes):
        draw.text((MARGIN, top + n * LINE), line, INK, small)
    return page


def _within(image: np.ndarray, side: int) -> np.ndarray:
    return fitted(image, side, side) if max(image.shape[:2]) > side else image


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _draw_bar(page: Image.Image, bar: Bar, top: int, font: Font) -> int:
    width, draw = min(320, page.width - 2 * MARGIN), ImageDraw.Draw(page)
    band = cv2.resize(bar.colours[None], (width, LINE - 6), interpolation=cv2.INTER_LINEAR)
    page.paste(Image.fromarray(band), (MARGIN, top))
    draw.rectangle((MARGIN, top, MARGIN + width - 1, top + LINE - 7), outline=PALE)
    for text, x, anchor in ((bar.low, 0, "la"), (bar.title, width // 2, "ma"), (bar.high, width, "ra")):
        draw.text((MARGIN + x, top + LINE - 2), _plain(text), INK, font, anchor)
    return top + 2 * LINE + GAP


def _draw_swatches(draw: ImageDraw.ImageDraw, swatches: Sequence[tuple[Colour, str]], top: int, font: Font) -> int:
    left = MARGIN
    for colour, text in swatches:
        draw.rectangle((left, top + 2, left + 14, top + 15), colour)
        draw.text((left + 19, top + 1), _plain(text), INK, font)
        left += 19 + round(font.getlength(_plain(text))) + GAP
    return top + LINE + GAP


def _plain(text: str) -> str:
    """What the font has: Latin letters."""
    return text.replace("\N{MINUS SIGN}", "-").encode("latin-1", "replace").decode("latin-1")


def _lines(text: str, font: Font, width: int) -> list[str]:
    lines = [""]
    for word in _plain(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _cut(text: str, font: Font, width: int) -> str:
    text = _plain(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"..{text}") > width:
        text = text[1:]
    return f"..{text}"
