"""A contact sheet: small pictures in a grid, each with its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from densessl.data.check import Survey
from densessl.data.decoding import RGB, Unreadable
from densessl.data.pictures import Pictures
from densessl.data.pixels import Pixels
from densessl.data.raster import Raster, upright
from densessl.data.stored import read_stored

SIDE, GAP, LINE, COLUMNS = 128, 6, 15, 10  # pixels of a picture, between them, of a line of text; pictures in a row
BAD = (200, 20, 30)


class Tile(NamedTuple):
    name: str
    picture: np.ndarray | None  # (h, w, C); None: unreadable
    fault: str = ""  # marked in red


def as_rgb(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) of 8 bits from 8 or 16: one channel as grey, two as red and green, of more the first three."""
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    missing = 3 - picture.shape[2]
    if missing == 2:
        return np.repeat(picture, 3, 2)
    return np.pad(picture, ((0, 0), (0, 0), (0, max(0, missing))))[..., :3]


def tiles(images: Pictures, found: Survey, count: int) -> list[Tile]:
    """About ``count`` pictures spread evenly over the collection, then a row of what is wrong and not among them.

    They are shown as the advice reads them, and misfits from the least to the most that they hold.
    """
    rows = np.unique(np.linspace(0, found.pictures - 1, min(count, found.pictures)).round().astype(int)).tolist()
    odd = set(found.misfits().tolist())
    wrong = list(found.corrupt)[:COLUMNS] + sorted(odd)[:COLUMNS]
    wrong += found.tiny[:COLUMNS].tolist() + found.duplicates[:COLUMNS, 0].tolist()
    rows += [row for row in dict.fromkeys(wrong) if row not in rows][:COLUMNS]
    small, first = set(found.tiny.tolist()), dict(found.duplicates.tolist())
    made = []
    for row in rows:
        fault, picture = found.corrupt.get(row, ""), None
        if not fault:
            try:
                picture = _shown(read_stored(images, row)[0], found)
            except Unreadable as error:  # since it was checked
                fault = error.reason
        if picture is not None and row in odd:
            fault = str(found.kind_of(row))
        elif picture is not None and row in small:
            fault = f"{picture.shape[1]} x {picture.shape[0]}"
        elif row in first:
            fault = f"= {os.path.basename(images.path(first[row]))}"
        made.append(Tile(os.path.basename(images.path(row)), picture, fault))
    return made


def _shown(raster: Raster, found: Survey) -> np.ndarray:
    pixels = found.advice.pixels if found.advice else RGB
    if pixels.misfit(raster.kind):
        pixels = Pixels(raster.kind.channels, percentiles=(0, 100))
    return as_rgb(upright(pixels.fitted(raster), raster.turn))


def contact_sheet(shown: Sequence[Tile]) -> Image.Image:
    """A grid of ten columns; names and faults are cut at the front to fit."""
    rows = -(-len(shown) // COLUMNS)
    high = SIDE + 2 * LINE + GAP
    page = Image.new("RGB", (GAP + min(COLUMNS, len(shown)) * (SIDE + GAP), GAP + rows * high), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(11)
    for number, (name, picture, fault) in enumerate(shown):
        left, top = GAP + number % COLUMNS * (SIDE + GAP), GAP + number // COLUMNS * high
        if picture is None:
            draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), (225, 225, 225))
        else:
            small = fitted(picture, SIDE, SIDE)
            down, across = (SIDE - small.shape[0]) // 2, (SIDE - small.shape[1]) // 2
            page.paste(Image.fromarray(small), (left + across, top + down))
        if fault:
            draw.rectangle((left - 2, top - 2, left + SIDE + 1, top + SIDE + 1), outline=BAD, width=2)
        draw.text((left, top + SIDE), _short(name, font), "black", font)
        draw.text((left, top + SIDE + LINE), _short(fault, font), BAD, font)
    return page


def fitted(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The whole (h, w, 3) picture, as large as fits into height x width."""
    scale = min(height / picture.shape[0], width / picture.shape[1])
    size = max(1, round(scale * picture.shape[1])), max(1, round(scale * picture.shape[0]))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _short(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    text = text.encode("latin-1", "replace").decode("latin-1")  # what the font has
    if font.getlength(text) <= SIDE:
        return text
    while font.getlength(f"..{text}") > SIDE:
        text = text[1:]
    return f"..{text}"
